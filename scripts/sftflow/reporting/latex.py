"""Tables in LaTeX, from the frames that the Markdown is made of: booktabs and siunitx, a longtable
for each piece, narrow enough for a page."""

import re
from collections.abc import Iterator
from itertools import count, takewhile

import pandas as pd
from sftflow.reporting.text import (
    KEYS,
    MISSING,
    NONE,
    OBEYED,
    UNITS,
    Table,
    against,
    foremost,
    numbers,
    pieces,
)

PREAMBLE = r"""% \usepackage{array,booktabs,longtable,siunitx}, with XeLaTeX or LuaLaTeX
% (Chinese: \usepackage[UTF8]{ctex}); then \input{this file}
"""
SIGNS = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
        "<": r"\textless{}", ">": r"\textgreater{}",
        "[": "{[}", "]": "{]}",  # else an option, where a row begins with it
        "\u00a0": "~", "\n": " ",
        "→": r"$\to$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "κ": r"$\kappa$",
        "◀": r"$\triangleleft$", "…": r"\dots{}",
    }
)  # fmt: skip
LINK = re.compile(r"^\[(.*)\]\(\.\./[^)]*\)$")
STRUCK = re.compile(r"~~(.*?)~~ stale")
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?")
ABOUT = {*KEYS, "Subject", "Run", "Step", "Dataset"}  # columns that say what a row is about
NOTHING = (NONE, MISSING, "")
PRINTED = 100  # rows of a table, and notes below it, that a paper may have
ROOM = 88  # characters of a line
LONG = 32  # more are set as a paragraph
MARKS = re.compile(r"\*\*|`")  # of Markdown, in notes of ours


def escaped(text: object) -> str:
    """A text as LaTeX, in which nothing is a command."""
    return OBEYED.sub("", str(text)).translate(SIGNS)


def render(table: Table) -> str:
    """What results/tables/<name>.tex holds."""
    numbered = count(1)
    parts = [PREAMBLE + f"% {' '.join(table.title.split())}"]
    for heading, frame in table.sections:
        if len(frame) > PRINTED:
            parts.append(f"% {len(frame) - PRINTED} more rows are in {table.name}.csv")
        for pair, cuts in pieces(foremost(frame, PRINTED)):
            about = [table.title, heading, against(pair) if pair else ""]
            caption = ": ".join(filter(None, about))
            for cut in cuts:
                for narrow in narrowed(cut):
                    parts.append(tabular(narrow, caption, f"tab:{table.name}-{next(numbered)}"))
    if table.notes:
        notes = (rf"  \item {escaped(MARKS.sub('', note))}" for note in table.notes[:PRINTED])
        parts.append("\n".join([r"\begin{itemize}", r"  \footnotesize", *notes, r"\end{itemize}"]))
    return "\n\n".join(parts) + "\n"


def narrowed(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Columns that fit a page at once, the first of them in each; without links, which lead to
    files that no paper has."""
    cells = frame.map(lambda cell: STRUCK.sub(r"\1 (stale)", LINK.sub(r"\1", str(cell))))
    kept = [name for name in cells if not cells[name].isin(["json", NONE]).all()]
    if cells.empty or len(kept) < 2:
        yield cells[kept]
        return
    about = [kept[0], *takewhile(ABOUT.__contains__, kept[1:])]
    used = start = sum(wide(cells[name]) for name in about)
    taken: list[str] = []
    for name in kept[len(about) :]:
        used += wide(cells[name])
        if taken and used > ROOM:
            yield cells[about + taken]
            taken, used = [], start + wide(cells[name])
        taken.append(name)
    yield cells[about + taken]


def wide(cells: pd.Series) -> int:
    """Characters that a column takes."""
    title = titled(cells.name).split("\n")
    return max(min(max(map(len, cells)), LONG), *map(len, title)) + 2


def titled(name: str) -> str:
    """A heading with its unit, in two lines where it is long."""
    unit = f" ({UNITS[name]})" if name in UNITS else ""
    title = " ".join(name.split()) + unit
    places = [place for place, sign in enumerate(title) if sign == " "]
    if len(title) < 12 or not places:
        return title
    middle = min(places, key=lambda place: abs(place - len(title) / 2))
    return f"{title[:middle]}\n{title[middle + 1 :]}"


def tabular(frame: pd.DataFrame, caption: str, label: str) -> str:
    if frame.empty:
        return f"% {' '.join(caption.split())}: none"
    titles = [stacked(titled(name)) for name in frame.columns]
    columns = [column(frame.iloc[:, place]) for place in range(len(titles))]
    shown = frame.set_axis(range(len(titles)), axis="columns")
    style = shown.style.hide(axis="index").format(
        {place: braced if kind.startswith("S") else escaped for place, kind in enumerate(columns)}
    )
    text = style.format_index(titles.__getitem__, axis="columns").to_latex(
        column_format="".join(columns),
        hrules=True,
        siunitx=True,
        environment="longtable",
        caption=escaped(caption),
        label=label,
    )
    return "{\\footnotesize\\setlength{\\tabcolsep}{4pt}\n" + text + "}"


def stacked(title: str) -> str:
    first, *second = map(escaped, title.split("\n"))
    return rf"\shortstack{{{first}\\{second[0]}}}" if second else first


def braced(cell: str) -> str:
    """In a column of numbers: siunitx takes what is in braces as a text."""
    return cell.replace(",", "") if NUMBER.fullmatch(cell) else "{" + escaped(cell) + "}"


def column(cells: pd.Series) -> str:
    """Numbers are aligned at their point, intervals to the right, long texts are paragraphs."""
    known = [cell for cell in cells if cell not in NOTHING]
    if known and all(NUMBER.fullmatch(cell) for cell in known):
        split = [cell.replace(",", "").partition(".")[::2] for cell in known]
        whole, part = (max(len(side) for side in sides) for sides in zip(*split, strict=True))
        return f"S[table-format={whole}{f'.{part}' if part else ''}]"
    if max(map(len, cells), default=0) > LONG:
        return r">{\raggedright\arraybackslash}p{0.28\linewidth}"
    return "r" if numbers(cells) else "l"
