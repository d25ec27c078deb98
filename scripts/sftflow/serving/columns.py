"""Text for a terminal: wide characters, columns that fill side by side, what a model thought."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
GAP = " │ "
NARROWEST = 30  # cells of a column that can still be read
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>\s*|\Z)", re.S)
_TAGS = "<think>", "</think>"

Line = tuple[bool, str]  # whether it was thought, and the text


def cells(text: str) -> int:
    """Cells of a terminal that a text takes: two for a Chinese character, none for an accent."""
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shown(text: str) -> str:
    """A model's text without what would move the cursor or change colours."""
    return _CONTROL.sub(lambda found: "    " if found[0] == "\t" else "", text)


def parted(text: str) -> list[Line]:
    """An answer as parts, (whether it was thought, text). Begun tags at its end are held back."""
    held = max((n for tag in _TAGS for n in range(1, len(tag)) if text.endswith(tag[:n])),
               default=0)  # fmt: skip
    text = text[: len(text) - held]
    parts, last = [], 0
    for found in _THOUGHT.finditer(text):
        parts += [(False, text[last : found.start()]), (True, found[1])]
        last = found.end()
    return [part for part in [*parts, (False, text[last:])] if part[1]]


def said(text: str) -> str:
    """What was said, without what was thought: what goes into the history."""
    return _THOUGHT.sub("", text)


def wrapped(text: str, width: int) -> list[Line]:
    """Lines of at most `width` cells; a word goes to the next line whole if it fits there."""
    lines: list[Line] = []
    for thought, part in parted(text):
        for line in shown(part).strip("\n").split("\n"):
            lines += [(thought, piece) for piece in _folded(line, width)]
    return lines


def _folded(line: str, width: int) -> list[str]:
    pieces, now, used, blank = [], "", 0, -1
    for char in line:
        if used + _cells(char) > width:
            cut = blank + 1 if blank >= 0 and char != " " else len(now)
            pieces.append(now[:cut].rstrip(" "))
            now = now[cut:] if char != " " or cut < len(now) else ""
            used, blank = cells(now), now.rfind(" ")
            if char == " ":
                continue
        if char == " " or _cells(char) == 2:
            blank = len(now)
        now += char
        used += _cells(char)
    return [*pieces, now]


class Columns:
    """Answers side by side. A row is final once every column has gone past it; those after it are
    drawn anew, and never more than fit the screen, since what has scrolled away can't be."""

    def __init__(self, write, width: int, height: int, number: int):
        self._write, self._room = write, max(2, height - 2)
        self.width = (width - len(GAP) * (number - 1)) // number
        self._printed = self._live = 0

    def head(self, names: Sequence[str]) -> None:
        names = [_folded(name, self.width)[0] for name in names]
        self._write(GAP.join(_padded((False, name), self.width) for name in names).rstrip() + "\n")
        self._write("─┼─".join("─" * self.width for _ in names) + "\n")

    def draw(self, texts: Sequence[str], ended: Iterable[bool]) -> None:
        """The answers as far as they have come, and which have ended."""
        columns = [wrapped(text, self.width) for text in texts]
        total = max(map(len, columns))
        settled = min(total if over else max(0, len(lines) - 1)
                      for lines, over in zip(columns, ended, strict=True))  # fmt: skip
        settled = max(settled, self._printed)
        rows = [GAP.join(_padded(line, self.width) for line in row).rstrip() + "\n"
                for row in itertools.zip_longest(*columns, fillvalue=(False, ""))]  # fmt: skip
        live = rows[settled : settled + self._room]
        up = f"\x1b[{self._live}A\r\x1b[J" if self._live else ""
        self._write(up + "".join(rows[self._printed : settled]) + "".join(live))
        self._printed, self._live = settled, len(live)


def _padded(line: Line, width: int) -> str:
    thought, text = line
    padding = " " * (width - cells(text))
    return (f"{DIM}{text}{PLAIN}" if thought and text else text) + padding
