"""What goes into a forward pass, which texts are asked for, and what is kept of them."""

import itertools
import json
from array import array

import likelihood
import pytest
from likelihood import Records, passages, summary
from sftflow.core.cli import UserError
from sftflow.dialogue.likelihood import Tokens, encoder, packs
from support import ROOT

KEY = ("talks", "a")


def tokens(length: int) -> Tokens:
    return Tokens(array("i", range(length)), bytes([0] + [1] * (length - 1)))


@pytest.mark.parametrize("padded", [True, False])
def test_every_text_is_in_one_pass_and_no_pass_is_too_large(padded):
    lengths = [3, 50, 7, 7, 120, 1, 49, 30]
    found = packs(lengths, 100, padded)
    assert sorted(itertools.chain(*found)) == list(range(8))
    size = (lambda p: max(p) * len(p)) if padded else sum
    sizes = [size([lengths[place] for place in pack]) for pack in found]
    assert sizes[0] == 120  # longer than any pass: alone
    assert max(sizes[1:]) <= 100
    assert len(found) == (4 if padded else 3)


def test_no_text_needs_no_pass():
    assert packs([], 100, True) == []


class Template:
    """As ms-swift's, but with a token per character; only an answer carries loss."""

    class tokenizer:
        def __init__(self, text):
            self.input_ids = [ord(letter) for letter in text]

    def encode(self, row):
        parts = [(m["role"] == "assistant", ord(c)) for m in row["messages"] for c in m["content"]]
        return {"input_ids": [i for _, i in parts], "labels": [i if a else -100 for a, i in parts]}


def test_what_counts_of_a_text():
    """Of a dialogue what the template labels, of a passage all, but never a first token."""
    encode = encoder(Template())
    says = lambda role, content: {"role": role, "content": content}  # noqa: E731
    asked = encode({"messages": [says("user", "ab"), says("assistant", "cd")], "id": "x"})
    assert (list(asked.ids), list(asked.counts)) == ([97, 98, 99, 100], [0, 0, 1, 1])
    assert list(encode({"messages": [says("assistant", "cd")]}).counts) == [0, 1]
    passage = encode("abc")
    assert (list(passage.counts), passage.counted) == ([0, 1, 1], 2)


def test_a_neutral_text_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffOne passage.\n\n  Another. \r\nOne passage.\n", encoding="utf-8")
    name, found = passages("en", str(file))
    assert name == "neutral-en"
    assert [text.content for text in found.values()] == ["One passage.", "Another."]


@pytest.mark.parametrize(
    "content, message",
    [
        (b" \n\n", "is empty: a neutral text has one passage per line"),
        ("好\n坏\n".encode("gb18030"), r"mine.txt:1 is not UTF-8"),
        (b"fine\nna\xefve\n", r"mine.txt:2 is not UTF-8"),
        (None, "cannot read .*mine.txt: No such file"),
    ],
)
def test_a_neutral_text_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        passages("zh", str(tmp_path / "mine.txt"))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_shipped_passages(language):
    _, found = passages(language, str(ROOT / f"config/neutral/{language}.txt"))
    assert len(found) == 60
    for text in found.values():
        size = len(text.content) if language == "zh" else len(text.content.split())
        assert (80 <= size <= 200) if language == "zh" else (40 <= size <= 100), text.where


def test_a_row_that_the_template_refuses_is_named():
    def encode(_):
        raise ValueError("no such role")

    text = likelihood.Text("validation.jsonl:7", {"messages": []})
    with pytest.raises(UserError, match=r"validation\.jsonl:7: .*ValueError: no such role"):
        list(likelihood.encoded([text], encode))


def test_a_line_cut_by_a_kill_is_dropped_and_a_changed_one_named(tmp_path):
    file = tmp_path / "x.jsonl"
    Records(file).add([(KEY, tokens(4), 1.5), (("talks", "b"), tokens(2), 0.5)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert list(Records(file).rows) == [KEY]
    file.write_bytes(whole.replace(b"1.5", b"2.5"))
    with pytest.raises(UserError, match="line 1: the digest does not fit"):
        Records(file)


def test_what_is_too_long_is_left_out_until_it_fits(tmp_path):
    records = Records(tmp_path / "x.jsonl")
    records.add([(KEY, tokens(9), None), (("talks", "b"), tokens(5), 2.0)])
    assert [records.open(KEY, longest) for longest in (8, 9)] == [False, True]
    assert records.open(("talks", "new"), 8)
    rows = records.tidy([("talks", "b"), KEY], 8)
    entry = summary("talks", "dialogue", rows)
    assert (entry["n"], entry["left_out"], entry["tokens"], entry["loss"]) == (1, 1, 4, 0.5)
    assert entry["perplexity"] == pytest.approx(1.6487212707)
    assert [row["nll"] for row in records.tidy([("talks", "b")], 4)] == [None]
    (line,) = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "b"  # what nobody asks for is gone


def test_no_text_has_no_loss():
    entry = summary("talks", "dialogue", [])
    assert (entry["n"], entry["tokens"], entry["loss"], entry["perplexity"]) == (0, 0, None, None)


def test_what_can_change_a_number_is_in_the_identity():
    settings = {
        "model": {"name": "m", "model_type": "llama", "template": "chatml", "system": None},
        "serving": {"torch_dtype": "auto"},
    }
    config = {"dtype": "bfloat16"}
    parts = likelihood.deciding(settings, "w", config, "cpu")
    assert parts["torch_dtype"] == "bfloat16"
    stated = settings | {"serving": {"torch_dtype": "bfloat16", "gpus": 2}}
    assert likelihood.deciding(stated, "w", config, "cpu") == parts
    others = [
        likelihood.deciding(settings, "other", config, "cpu"),
        likelihood.deciding(settings, "w", config, "cuda"),
        likelihood.deciding(settings, "w", {"dtype": "float16"}, "cpu"),
    ] + [
        likelihood.deciding(settings | {"model": settings["model"] | change}, "w", config, "cpu")
        for change in ({"template": "internlm2"}, {"model_type": "qwen3"}, {"system": "Be kind."})
    ]
    assert parts not in others
    assert likelihood.deciding(settings, "w", config, "cpu")["code"] == parts["code"]
