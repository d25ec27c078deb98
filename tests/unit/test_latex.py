"""Tables as LaTeX: every cell a text, every number a number, and what is balanced in LaTeX is."""

import re

import made_up
import pandas as pd
import pytest
from sftflow.core.layout import Results, table_names
from sftflow.reporting import latex, tables, text
from sftflow.reporting.text import Table

HOSTILE = r"\input{/etc/passwd} $x_1^2$ & 50 % of #3 ~ {a} \write18{id} [b]" + "\n\x1b[31m\u202e"


def rows(table: str) -> list[str]:
    """Lines of a longtable that hold cells."""
    body = table.partition(r"\endlastfoot")[2].partition(r"\end{longtable}")[0]
    return [line for line in body.splitlines() if line.strip()]


def columns(table: str) -> int:
    """Of the column format, however each of them is written."""
    kinds = table.partition(r"\begin{longtable}{")[2].partition("\n")[0]
    kinds = re.sub(r">\{[^}]*\}p\{[^}]*\}", "p", kinds)
    return len(re.sub(r"\[[^]]*\]|\}$", "", kinds))


def balanced(page: str) -> None:
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", page):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    bare = re.sub(r"\\[{}\\]", "", "\n".join(re.sub(r"(?<!\\)%.*", "", page).splitlines()))
    assert not opened and bare.count("{") == bare.count("}")


def test_every_table_is_whole_in_latex(tmp_path):
    study = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, study)
    names = table_names(study["evaluate"]["suites"])
    labels = []
    for table in tables.build(study, Results(tmp_path), {}, names):
        page = latex.render(table)
        balanced(page)
        labels += re.findall(r"\\label\{(.*?)\}", page)
        for piece in page.split(r"\begin{longtable}")[1:]:
            piece = r"\begin{longtable}" + piece
            assert r"\toprule" in piece and r"\bottomrule" in piece and r"\caption{" in piece
            assert rows(piece)
            for row in rows(piece):
                assert len(re.findall(r"(?<!\\)&", row)) + 1 == columns(piece), row
        assert "](" not in page and "~~" not in page
    assert len(labels) == len(set(labels)) > 10


def test_a_text_is_no_command():
    frame = pd.DataFrame({HOSTILE: [HOSTILE, HOSTILE], "n": [1, 2]})
    page = latex.render(Table("t", "T", "", [(HOSTILE, frame)], frame, [HOSTILE]))
    balanced(page)
    page = page.partition("\n\n")[2]  # without what it needs, a comment
    commands = set(re.findall(r"\\([a-zA-Z]+)", page.replace(r"\\", "")))
    assert not commands & {"input", "write", "x"}
    assert "\x1b" not in page and "\u202e" not in page
    assert (
        r"\textbackslash{}input\{/etc/passwd\} \$x\_1\textasciicircum{}2\$ \& 50 \% of \#3" in page
    )


def test_numbers_are_aligned_and_what_is_none_is_braced():
    frame = pd.DataFrame(
        {"Run": ["a", "b"], "Steps": ["1,234", text.NONE], "Accuracy": ["5.0 [4.1, 5.9]"] * 2}
    )
    page = latex.render(Table("t", "T", "", [("", frame)], frame))
    assert "{lS[table-format=4]r}" in page
    assert r"a & 1234 & 5.0~{[}4.1, 5.9{]} \\" in page.replace("5.0 {", "5.0~{")
    assert "b & {—}" in page and r"{\shortstack{Accuracy\\(%)}}" not in page
    assert r"\shortstack{Accuracy\\(\%)}" in page


def test_verdict_and_difference_stand_in_one_piece(tmp_path):
    study = made_up.write_study(tmp_path)
    (table,) = tables.build(study, Results(tmp_path), {}, ["comparison"])
    first = latex.render(table).split(r"\begin{longtable}")[1]
    assert "Verdict" in first and "Difference" in first


@pytest.mark.parametrize(
    ("half", "most", "digits"),
    [(20.4, 1, 0), (10, 1, 0), (9.9, 1, 1), (0.31, 1, 1), (0.031, 4, 3), (0.0, 4, 4)],
)
def test_digits_are_those_that_the_interval_bears(half, most, digits):
    assert text.decimals(half, most) == digits
