"""docs/accepted/datasets.md says what the code does."""

import json
import re

from sftflow.inputs import rows, sharegpt
from support import ROOT

PAGE = (ROOT / "docs/accepted/datasets.md").read_text(encoding="utf-8")


def table(section: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_every_form_of_file_and_every_reason_is_told_and_no_other():
    assert dict(table("Files")) == rows.FILES
    assert dict(table("Reasons")) == sharegpt.REASONS
    assert all(suffix in PAGE for suffix in rows.SUFFIXES)


def test_every_example_becomes_what_the_page_says():
    examples = table("Rows")
    assert len(examples) >= 12
    for form, written, becomes in examples:
        wanted = {"same_speaker": "join"} if form.startswith("same_speaker") else {}
        made = sharegpt.normalise(json.loads(written.strip("`")), **wanted).row
        said = [
            f"{m['role']}{' (loss: false)' if 'loss' in m else ''}: {m['content']}"
            for m in made["messages"]
        ]
        said += [f"tools: {made['tools']}"] if "tools" in made else []
        assert becomes.strip("`") == " ⏎ ".join(said).replace("\n", "⏎"), form


def test_fields_that_the_page_names_are_those_of_the_code():
    named = set(re.findall(r"`(\w+)`", PAGE.split("## Rows")[1]))
    assert {*sharegpt.LOSS, *sharegpt.REASONING, *sharegpt.TOOLS, *sharegpt.SYSTEM} <= named
