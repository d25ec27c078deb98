"""The author's notes: each part in its section, and nothing in them does anything."""

import pytest
from markdown_it import MarkdownIt
from sftflow.core.cli import UserError
from sftflow.reporting import notes

PAGE = """# My study

Read this first.

## 5. Training

Loss fell **fast**.

### What I saw

- one

## 模型部署

Port 8000.

## Thanks

To all.
"""


def test_parts_go_where_they_belong():
    found = notes.merged(PAGE)
    assert found["5"] == "Loss fell **fast**.\n\n**What I saw**\n\n\n- one"
    assert found["7"] == "Port 8000."
    assert found["11"].startswith("Read this first.") and found["11"].endswith("To all.")
    assert "**Thanks**" in found["11"]


@pytest.mark.parametrize(
    ("heading", "number"),
    [("5", "5"), ("5. Anything", "5"), ("training", "5"), ("训练过程", "5"), ("99. x", None),
     ("Thanks", None)],
)  # fmt: skip
def test_sections_go_by_number_or_title(heading, number):
    assert notes.section(heading) == number


def test_what_a_fence_holds_is_no_heading_and_an_open_one_is_closed():
    found = notes.merged("## 5\n\n```bash\n## 6. not a section\n# a comment\n")
    assert list(found) == ["5"] and found["5"].endswith("```")


HOSTILE = """<script>alert(1)</script> <img src=http://evil/x> ![p](http://evil/p.png) ![q][r]

[r]: http://evil/q.png
[run](javascript:alert(1)) [file](/etc/passwd) [page](https://good.example) <http://evil>

A heading?
==========

another
---
\x1b[31mred \u202eltr <!-- open
"""


def test_nothing_in_them_does_anything():
    text = notes.merged(HOSTILE)["11"]
    assert "\x1b" not in text and "\u202e" not in text and "<script" not in text
    page = MarkdownIt("commonmark", {"html": True}).render(text)  # as the least careful reader
    assert "<script" not in page and "<img" not in page and "<h1" not in page and "<h2" not in page
    assert page.count("<a ") == 1 and 'href="https://good.example"' in page


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "notes.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"report\.notes"):
        notes.read(str(tmp_path / "notes.md"))
    assert notes.read(None) == {}
