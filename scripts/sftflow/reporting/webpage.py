"""The report as one HTML page with every language: contents, tables that sort, filter and fold,
dark, phone, print. It needs no other file, no network and no library (templates/report.js, .css).
"""

import base64
import re
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from sftflow.reporting import browser
from sftflow.reporting.chinese import said
from sftflow.reporting.text import MORE_COLUMNS

NAMES = {"zh": "中文", "en": "English"}
CONTENTS, FILTER = "Contents", "Filter rows"


@dataclass(frozen=True)
class Heading:
    """A section of the page: its place (`zh-9-3`), its level, and what it is called."""

    place: str
    level: int
    text: str


def html(pages: dict[str, str], pictures: dict[str, dict[str, str]], shown: browser.Shown) -> str:
    """Markdown is rendered without raw HTML, so answers of a model that contain markup stay text.
    Scores and differences lead to the answers, as far as they are shown: the page travels without
    the files of results/."""
    bodies, contents = {}, {}
    for language, text in pages.items():
        body, contents[language] = rendered(text, language)
        bodies[language] = browser.lead(embed(body, pictures[language]), shown, language)
    words = {
        language: {text: said(text, language) for text in (CONTENTS, FILTER)} for language in pages
    }
    return browser.alone("report", bodies=bodies, contents=contents, names=NAMES, words=words)


def rendered(text: str, language: str) -> tuple[str, list[Heading]]:
    """HTML, and its headings. Each cell names its column, as a phone shows it."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    tokens = parser.parse(text)
    headings: list[Heading] = []
    columns: list[str] = []
    table, cells = Token("table", "", 0), 0
    for token in tokens:
        make_harmless(token.children or [])
    for token, inside in pairwise([*tokens, Token("end", "", 0)]):
        if token.type == "heading_open" and token.tag in ("h2", "h3"):
            heading = Heading(place(language, inside, headings), int(token.tag[1]), plain(inside))
            headings.append(heading)
            token.attrSet("id", heading.place)
        elif token.type == "table_open":
            table, columns = token, []
        elif token.type == "thead_close" and len(columns) > 2:
            table.attrSet("class", "wide")
        elif token.type == "tr_open":
            cells = 0
        elif token.type in ("th_open", "td_open"):
            if "right" in str(token.attrs.pop("style", "")):
                token.attrSet("class", "number")
            if token.type == "th_open":
                columns.append(plain(inside))
            else:
                token.attrSet("data-label", columns[cells])
                cells += 1
    body = parser.renderer.render(tokens, parser.options, {})
    return body.replace("&lt;br&gt;", "<br>"), headings


OURS = ("../", "#")  # where links and pictures of a report's own lead


def make_harmless(tokens: list[Token]) -> None:
    """What a label or an answer of a model would link to, or show from elsewhere, is its text."""
    foreign: list[bool] = []  # of the links that are open
    for token in tokens:
        if token.type == "image" and not str(token.attrs["src"]).startswith(OURS):
            token.type = "text"
        elif token.type == "link_open":
            foreign.append(not str(token.attrs["href"]).startswith(OURS))
            if foreign[-1]:
                token.tag, token.attrs = "span", {}
        elif token.type == "link_close" and foreign.pop():
            token.tag = "span"


def plain(inside: Token) -> str:
    return "".join(child.content for child in inside.children or [])


def place(language: str, inside: Token, before: list[Heading]) -> str:
    """By its number, so that a link to it outlives a new section elsewhere."""
    number = re.match(r"[\d.]*\d", plain(inside))
    return f"{language}-{number[0].replace('.', '-') if number else f'h{len(before)}'}"


FOLDED = re.compile(
    rf"<p><em>({'|'.join(said(MORE_COLUMNS, each) for each in NAMES)})</em></p>"
    r'\s*(<div class="table".*?</div>)',
    re.S,
)


def embed(body: str, pictures: dict[str, str]) -> str:
    """Put the figures into the page, tables into boxes that scroll, and what is left of a wide one
    out of sight until it is asked for."""
    for path, svg in pictures.items():
        data = base64.b64encode(svg.encode()).decode()
        body = body.replace(f"../{path}", f"data:image/svg+xml;base64,{data}")
    body = body.replace("<table", '<div class="table" tabindex="0"><table')
    body = body.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    return FOLDED.sub(r"<details><summary>\1</summary>\2</details>", body)
