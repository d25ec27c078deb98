"""docs/accepted/benchmarks.md says what the code does: its examples are run, its lists compared."""

import json
import re

import fetch_benchmark
import pytest
from sftflow.config.schema import presets
from sftflow.core.cli import UserError
from sftflow.inputs import authors, own, tables, trees
from support import ROOT

PAGE = (ROOT / "docs/accepted/benchmarks.md").read_text("utf-8")
OPTIONS = {"A": "pine", "B": "oak", "C": "elm"}


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose header begins with `head`."""
    table = PAGE[PAGE.index(f"| {head}") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_each_authors_form_is_the_one_looked_for():
    told = {codes(name)[0]: codes(form)[0] for name, form, _ in rows("benchmark |")}
    assert told.keys() == authors.LAYOUTS.keys()
    for name, form in told.items():
        assert authors.looked_for({}, presets()[name]).startswith(f"looked for {form},"), name


def test_every_suffix_and_packed_form_is_told():
    assert {code for name, _ in rows("file |") for code in codes(name)} == set(tables.SUFFIXES)
    short = {".tgz", ".tbz2", ".txz"}  # of .tar.gz and so on
    assert {name for name in codes(PAGE) if name in trees.PACKED} == set(trees.PACKED) - short


def test_every_word_is_told():
    told = {name: codes(words.partition(";")[0]) for name, words in rows("field |")}
    assert told == {name: list(words) for name, words in own.WORDS.items()}


def cases() -> list[tuple]:
    found = []
    for several, head in ((False, "answers of a file |"), (True, "answers, several right |")):
        for given, become, refused in rows(head):
            for example in codes(given):
                wanted = json.loads(codes(become)[0]) if become else None
                found.append((several, json.loads(example), wanted, refused))
    return found


@pytest.mark.parametrize(("several", "answers", "become", "refused"), cases())
def test_each_example_of_an_answer(several, answers, become, refused):
    settings = presets()["general_mcq"] | {"multiple_correct": several}
    given = [{"question": "Which?", **OPTIONS, "answer": answer} for answer in answers]

    def keys() -> list:
        table = own.in_our_words(tables.numbered(given), settings, "f")
        return [row["answer"] for row in fetch_benchmark.checked(table.rows, settings, "f")]

    if become is None:
        with pytest.raises(UserError, match=f"f, row 1: .*{re.escape(refused)}"):
            keys()
    else:
        assert keys() == become


def test_what_the_errors_say_is_in_the_code():
    inputs = ROOT / "scripts/sftflow/inputs"
    code = "".join(path.read_text("utf-8") for path in sorted(inputs.glob("*.py")))
    code += (ROOT / "scripts/fetch_benchmark.py").read_text("utf-8")
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    for what, told in rows("what |"):
        for text in codes(told):
            assert text in code, what
