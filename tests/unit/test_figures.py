"""The report's pictures: what they show, whatever there is to show."""

from sftflow import figures

TURNS = {"talks": {"histogram": [[2, 60], [3, 0], [4, 40]]}}
TOKENS = {"tuned": {"histogram": [[32, 10], [48, 70], [64, 20]]}}


def test_lengths_are_shown_in_turns_and_in_tokens():
    picture = figures.token_lengths(TOKENS, TURNS)
    for text in ("Turns per dialogue", "Tokens per dialogue", "talks", "tuned"):
        assert f">{text}</text>" in picture
    assert picture == figures.token_lengths(TOKENS, TURNS)


def test_no_receipts_yet_is_said():
    assert figures.token_lengths({}, {}).count("no data yet") == 2
