"""The author's own notes: a file in Markdown, each part of it in the section that it is about."""

import re
from functools import cache
from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.reporting.text import OBEYED, TAG, TEMPLATES

OTHERS = "11"  # the section of what names none
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
FENCE = re.compile(r" {0,3}(```+|~~~+)")
ELSEWHERE = re.compile(r"\]\((?!https?://)")  # a link to no page: a script, or a file
DEFINITION = re.compile(r"^( {0,3})\[(?=[^]]*\]:)")  # of a link that stands elsewhere
RULE = re.compile(r" {0,3}[-=]+\s*$")  # would make a heading of the line above


def read(path: str | None) -> dict[str, str]:
    """{number of a section: what the notes say there}. UserError for what is no text."""
    if path is None:
        return {}
    try:
        return merged(Path(path).expanduser().read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"report.notes: {path} can't be read as UTF-8: {error}") from None


@cache
def titles() -> dict[str, str]:
    """{heading of the report, in either language: number of its section}"""
    pages = [path.read_text("utf-8") for path in sorted(TEMPLATES.glob("report.*.md.j2"))]
    found = re.findall(r"^## (\d+)\. (.+)$", "\n".join(pages), re.M)
    return {title.casefold(): number for number, title in found}


def section(heading: str) -> str | None:
    """`5. Training`, `5`, `Training` and `训练过程` -> "5"; None for a heading of none."""
    known = titles()
    number = re.match(r"\d+", heading)
    title = re.sub(r"^\d+[.、]?\s*", "", heading)
    return number[0] if number and number[0] in known.values() else known.get(title.casefold())


def merged(text: str) -> dict[str, str]:
    parts: dict[str, list[str]] = {}
    place, fence = OTHERS, ""
    for line in OBEYED.sub("", text.replace("\r\n", "\n")).split("\n"):
        mark = FENCE.match(line)
        heading = None if fence else HEADING.match(line)
        if heading and len(heading[1]) == 1:
            continue  # the title of the file
        if heading and len(heading[1]) == 2 and (named := section(heading[2])):
            place = named
            continue
        if fence or mark:
            parts.setdefault(place, []).append(line)
            if mark and (not fence or mark[1].startswith(fence)):
                fence = "" if fence else mark[1]
            continue
        if heading and len(heading[1]) == 2:  # of none of the sections
            place = OTHERS
        parts.setdefault(place, []).append(harmless(line, heading))
    if fence:
        parts[place].append(fence)
    return {place: found for place, lines in parts.items() if (found := "\n".join(lines).strip())}


def harmless(line: str, heading: re.Match | None) -> str:
    """A line of Markdown that shows, and does nothing; headings below those of the report."""
    if RULE.match(line):
        return ""
    text = f"**{heading[2]}**\n" if heading else line
    text = TAG.sub("&lt;", text).replace("![", "!\\[")
    text = ELSEWHERE.sub(r"]\\(", text).replace("][", "]\\[")
    return DEFINITION.sub(r"\1\\[", text)
