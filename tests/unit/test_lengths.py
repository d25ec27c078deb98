"""What a run trains on: counted by the trainer's own template, and nothing lost unseen."""

import pytest
from sftflow.inputs import lengths


def encode(messages: list[dict], tools: str | None) -> bytes:
    """A template that is easy to count: a token per character, those of answers carry loss."""
    return b"".join(
        bytes([message["role"] == "assistant"]) * len(message["content"]) for message in messages
    )


def dialogue(*lengths: int, system: int = 0) -> dict:
    roles = ["user", "assistant"] * (len(lengths) // 2)
    turns = [{"role": r, "content": "x" * n} for r, n in zip(roles, lengths, strict=True)]
    first = [{"role": "system", "content": "s" * system}] if system else []
    return {"messages": first + turns, "id": "whole"}


def sizes(outcome: lengths.Outcome) -> list[tuple[int, int]]:
    return [(tokens, loss) for _, tokens, loss in outcome.kept]


@pytest.mark.parametrize("too_long", ["drop", "truncate", "split"])
def test_what_fits_is_kept_as_it_is(too_long):
    row = dialogue(5, 5)
    outcome = lengths.outcome(row, encode, 10, too_long)
    assert outcome == lengths.Outcome([(row, 10, 5)])


def test_drop_leaves_out_and_says_so():
    assert lengths.outcome(dialogue(6, 5), encode, 10, "drop").reason == lengths.TOO_LONG


def test_truncate_counts_what_is_left_and_drops_where_no_answer_is():
    outcome = lengths.outcome(dialogue(6, 9), encode, 10, "truncate")
    assert sizes(outcome) == [(10, 4)] and outcome.how == "truncated"
    assert lengths.outcome(dialogue(10, 9), encode, 10, "truncate").reason == lengths.NO_ANSWER


def test_split_keeps_every_exchange_that_fits_with_its_system_prompt():
    row = dialogue(1, 3, 1, 2, 2, 5, 1, 1, system=2)
    outcome = lengths.outcome(row, encode, 10, "split")
    assert sizes(outcome) == [(9, 5), (9, 5), (4, 1)] and outcome.how == "split"
    assert all(part["messages"][0]["role"] == "system" for part, _, _ in outcome.kept)
    spoken = [m for part, _, _ in outcome.kept for m in part["messages"][1:]]
    assert spoken == row["messages"][1:] and outcome.lost == 0
    assert len({part["id"] for part, _, _ in outcome.kept} | {"whole"}) == 4


def test_split_counts_the_exchanges_that_fit_nowhere():
    outcome = lengths.outcome(dialogue(1, 1, 9, 9, 1, 1), encode, 10, "split")
    assert sizes(outcome) == [(2, 1), (2, 1)] and outcome.lost == 1
    assert lengths.outcome(dialogue(9, 9), encode, 10, "split").reason == lengths.EXCHANGE


def test_split_leaves_out_what_is_not_learnt_at_the_end_of_a_part():
    """A template teaches how the last answer of a row ends, masked or not."""
    row = dialogue(1, 3, 1, 3, 1, 3, 1, 3)
    for place in (3, 5):
        row["messages"][place]["loss"] = False

    def masked(messages: list[dict], tools: str | None) -> bytes:
        return b"".join(
            bytes([m["role"] == "assistant" and "loss" not in m]) * len(m["content"])
            for m in messages
        )

    outcome = lengths.outcome(row, masked, 8, "split")
    assert [len(part["messages"]) for part, _, _ in outcome.kept] == [2, 4]
    assert sizes(outcome) == [(4, 3), (8, 3)] and outcome.lost == 1
    for place in (1, 7):
        row["messages"][place]["loss"] = False
    assert lengths.outcome(row, masked, 8, "split").reason == lengths.NO_LOSS


def test_an_exchange_with_tools_is_not_torn():
    call, result = {"role": "tool_call", "content": "ccc"}, {"role": "tool", "content": "rrr"}
    exchange = [{"role": "user", "content": "uu"}, call, result, dialogue(1, 2)["messages"][1]]
    row = {"messages": exchange * 2, "id": "whole"}
    outcome = lengths.outcome(row, encode, 12, "split")
    assert [part["messages"] for part, _, _ in outcome.kept] == [exchange, exchange]


def test_padding_is_less_in_batches_of_similar_length():
    rows = [10, 100] * 200
    shuffled, grouped = (lengths.padded_share(rows, 4, 42, grouped) for grouped in (False, True))
    assert grouped < 0.02 < 0.3 < shuffled < 0.5
    assert lengths.padded_share(rows, 4, 42, False) == shuffled
    assert (
        lengths.padded_share([7] * 10, 4, 42, False) == lengths.padded_share([], 4, 42, False) == 0
    )
