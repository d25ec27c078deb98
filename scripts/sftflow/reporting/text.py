"""How tables look: numbers as a reader reads them, pipe tables, one page per table."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"

NONE = "—"  # has no meaning here, or could not be computed
MISSING = "missing"
STALE = "stale"
MOST = 500  # rows of a table, and notes below it, that a page holds; the .csv has every row
WIDE = 6  # so many subjects still stand side by side as columns
TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what a reader's browser would take for markup
AGAINST = "{candidate} against {baseline}"
MORE_COLUMNS = "More columns"


@dataclass(frozen=True)
class Words:
    """A language: how a text of ours is said in it, and how a table is."""

    say: Callable[..., str]
    table: Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class Table:
    """What results/tables/<name>.md, .csv and .tex hold."""

    name: str
    title: str
    text: str
    sections: list[tuple[str, pd.DataFrame]]
    data: pd.DataFrame  # the same numbers, unrounded, for the .csv
    notes: list[str] = field(default_factory=list)


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def decimals(half_width: float, most: int) -> int:
    """So many that two digits of an interval's half-width are shown, and at most `most`."""
    half_width = round(half_width, 9)
    if not half_width:
        return most
    return max(0, min(most, 1 - math.floor(math.log10(half_width))))


def with_interval(share: float | None, interval: Iterable[float] | None) -> str:
    """`55 [34, 74]`, in percent."""
    if share is None:
        return NONE
    if interval is None:
        return percent(share)
    low, high = interval
    digits = decimals(50 * (high - low), 1)
    texts = (f"{100 * each:.{digits}f}" for each in (share, low, high))
    return "{} [{}, {}]".format(*texts)


def points(difference: float | None, interval: Iterable[float] | None) -> str:
    """`+12.0 [+3.1, +20.4]`, in percentage points."""
    return changed(difference, interval, 100, 1)


def loss_change(difference: float | None, interval: Iterable[float] | None) -> str:
    """`-0.370 [-0.479, -0.261]`, in nats per token."""
    return changed(difference, interval, 1, 4)


def changed(
    difference: float | None, interval: Iterable[float] | None, scale: int, most: int
) -> str:
    """A difference with its interval, to as many digits as the interval bears."""
    if difference is None:
        return NONE
    if interval is None:
        return signed(scale * difference, most)
    low, high = interval
    digits = decimals(scale * (high - low) / 2, most)
    texts = (signed(scale * each, digits) for each in (difference, low, high))
    return "{} [{}, {}]".format(*texts)


def signed(value: float, digits: int) -> str:
    """What would round to 0 and is not 0 keeps its sign: verdicts hang on it."""
    if 1e-5 < abs(value) < 0.5 * 10**-digits:
        return f"{value:+.1g}"
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: never -0.0


def interval_of(row: dict, name: str = "ci") -> tuple[float, float] | None:
    """Of a raw row, whose columns are `name`_low and `name`_high."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def known_to(value: float | None, error: float | None, most: int = 4) -> str:
    """A mean, to as many digits as its standard error bears."""
    return number(value, decimals(error, most) if error else most)


def significant(value: float, digits: int = 4) -> str:
    """`1.638`, `20,065`: to so many digits, whole ones always."""
    return number(value, max(0, digits - len(str(int(value)))))


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    if value is None:
        return NONE
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")


def duration(seconds: float | None) -> str:
    """`1:02:03`, `12.3 s` below a minute, `1.23 s` below ten seconds."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def gibibytes(size: float | None) -> str:
    """`1.31 GiB`, `12.4 MiB` below a tenth."""
    if size is None:
        return NONE
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def pick(record: dict | None, path: str) -> Any:
    """Value at a dotted path, or None."""
    for key in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


# What a heading states after the name of its column. What stands in the cells is not repeated.
UNITS = {
    name: unit
    for unit, names in {
        "%": (
            "Accuracy", "Strict", "SE", "Macro-F1", "Unstated", "Misread", "Truncated", "Empty",
            "If stated", "Clean", "Chance", "Published", "Baseline score", "Candidate score",
            "Micro mean", "Macro mean", "Mean", "Lowest to highest", "SE of one score (sampling)",
            "Token accuracy", "Padded", "Carry loss", "FLOP utilisation", "Share", "Covered",
            "Win rate", "Win rate at equal length", "Alike in both orders", "First place wins",
            "Holds", "Agree", "Any fault", "Cut off", "Loops", "Markers", "Other language",
            "Refusals", "Repeated 4-grams", "Distinct-1", "Distinct-2",
        ),
        "points": (
            "Difference", "Difference, clean", "Detectable", "Macro difference", "Half-width",
            "SD between seeds",
        ),
        "nats/token": (
            "First loss", "Final loss", "Validation loss", "Validation loss before", "Loss before",
            "Loss after", "Loss difference", "Held-out loss", "Above the lowest", "Loss there",
            "Served loss",
        ),
    }.items()
    for name in names
}  # fmt: skip


def with_units(frame: pd.DataFrame, shown: pd.DataFrame, say: Callable) -> pd.DataFrame:
    """A table as it is shown in a language, with the units of its columns in their headings."""
    columns = []
    for name, title in zip(frame.columns, shown.columns, strict=True):
        unit = say(UNITS[name]) if name in UNITS else ""
        known = not unit or unit in title
        columns.append(title if known else say("{name} ({unit})", name=title, unit=unit))
    return shown.set_axis(columns, axis="columns")


def english(text: str, **values: object) -> str:
    return text.format(**values) if values else text


ENGLISH = Words(english, lambda frame: with_units(frame, frame, english))


def label(study: dict, kind: str, name: str) -> str:
    """What a person reads for a benchmark, subject or run: its label; the name of what has none, as
    a recipe of several seeds, or is gone from the config."""
    return study[kind].get(name, {}).get("label") or name


def headings(study: dict, kind: str, names: Iterable[str]) -> dict[str, str]:
    """Labels that serve as column headings: with the name where two labels are the same."""
    labels = {name: label(study, kind, name) for name in names}
    count = Counter(labels.values())
    return {name: text if count[text] == 1 else f"{text} ({name})" for name, text in labels.items()}


def link(path: str, text: str = "json") -> str:
    """Link from results/tables/ to another output."""
    return f"[{text}](../{path})"


def confidence_text(study: dict) -> str:
    return f"{100 * study['statistics']['confidence']:g} %"


# Columns that say whether something changed, and what says so.
VERDICTS = (
    "Verdict", "Knowledge", "Held-out dialogues", "Preference", "Forgetting", "Safety", "Behaviour",
)  # fmt: skip
CHANGED = re.compile(r"(?<!not )\b(?:worse|better)\b")


def foremost(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Of many rows those to read first: changed or flagged, then others, then what is missing."""
    if len(frame) <= most:
        return frame

    empty = pd.Series("", index=frame.index)
    changed = frame.get("Flags", empty).isin([NONE, ""]).to_numpy() ^ True
    for name in frame.columns.intersection(VERDICTS):
        changed |= frame[name].astype(str).str.contains(CHANGED).to_numpy()
    weights = np.where(changed, 0, np.where((frame == MISSING).any(axis=1), 2, 1))
    return frame.iloc[np.argsort(weights, kind="stable")[:most]]


PAIR = ["Baseline", "Candidate"]
KEYS = ("Suite", "Benchmark", "Subset", "Text", "Judge", "Point")  # what a row is about
FIRST = 8  # columns that a page of paper or a small screen shows whole


def by_pair(frame: pd.DataFrame) -> list[tuple[tuple[str, str] | None, pd.DataFrame]]:
    """A table of few comparisons as one for each, to stand under its pair; else as it is."""
    if not {*PAIR} <= set(frame.columns):
        return [(None, frame)]
    pairs = len(frame[PAIR].drop_duplicates())
    if pairs > WIDE or pairs == len(frame) > 1:
        return [(None, frame)]
    return [(pair, mine.drop(columns=PAIR)) for pair, mine in frame.groupby(PAIR, sort=False)]


def folded(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """What a reader looks for, up to the verdict and n; and what is left of a wide table."""
    columns = list(frame.columns)
    if len(columns) <= FIRST or "Verdict" not in columns or PAIR[0] in columns:
        return [frame]
    end = columns.index("Verdict") + (2 if "n" in columns else 1)
    keys = [name for name in columns[:end] if name in KEYS]
    return [frame[columns[:end]], frame[keys + columns[end:]]]


EMPTY = "(none)"


def pieces(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str] | None, list[pd.DataFrame]]]:
    """A table as it is shown: for each pair what is looked for first, and the rest of it."""
    for pair, mine in by_pair(frame):
        yield pair, folded(mine)


def told(frame: pd.DataFrame, level: int, words: Words = ENGLISH) -> str:
    """A table for a reader, in Markdown: each pair under its heading, the rest of a wide table
    after what is looked for first."""
    parts = []
    for pair, (first, *rest) in pieces(frame):
        if pair:
            parts.append(f"{'#' * level} {against(pair, words)}")
        if first.empty:
            parts.append(words.say(EMPTY))
            continue
        parts.append(markdown(words.table(first)))
        for each in rest:
            parts += [f"*{words.say(MORE_COLUMNS)}*", markdown(words.table(each))]
    return "\n\n".join(parts)


def against(pair: tuple[str, str], words: Words = ENGLISH) -> str:
    """The heading of a comparison."""
    baseline, candidate = map(inert, pair)
    return words.say(AGAINST, baseline=baseline, candidate=candidate)


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table, numbers to the right. Cells keep their text: a bar or a line break would end
    them, a tag vanish."""
    if frame.empty:
        return EMPTY
    cells = frame.map(_cell).rename(columns=_cell)
    aligned = ["right" if numbers(cells.iloc[:, i]) else "left" for i in range(cells.shape[1])]
    return cells.to_markdown(index=False, disable_numparse=True, colalign=aligned)


NUMBER = re.compile(  # 12, 1.3 GiB, +1.0 [-2.0, 3.0], 3 → 4, [20.0](file)
    r"\[?[-+~<]*\s?[\d.,:]{1,12}(\]\(.*|\s?(%|s|GiB|MiB|→|±|/|\[|\(×).*)?$"
)
INTERVAL = re.compile(r" (\[[-+\d., ]+\])")


def numbers(cells: Iterable[str]) -> bool:
    """Whether these cells are numbers, as far as there is something in them."""
    known = [cell for cell in cells if cell not in (NONE, MISSING, "", "缺失")]
    return bool(known) and all(NUMBER.match(cell) for cell in known)


# What nobody sees, and terminals, spreadsheets or the order of the text obey: control characters,
# marks of direction.
OBEYED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def _cell(value: object) -> str:
    text = str(value)
    if text.isalnum():
        return text
    text = INTERVAL.sub(lambda found: "\u00a0" + found[1].replace(" ", "\u00a0"), text)
    text = harmless(text).replace("\\|", "\\\\|").replace("|", "\\|")
    return FOREIGN.sub("]\\(", text).replace("\n", "<br>")


FOREIGN = re.compile(r"\]\((?!\.\./)")  # a link to anything but an output of ours


def harmless(text: str) -> str:
    """Without tags, pictures, and what is obeyed unseen."""
    return TAG.sub("&lt;", OBEYED.sub("", text)).replace("![", "!\\[")


def inert(text: str) -> str:
    """Somebody's words within a line of Markdown: no tag, link, picture or code."""
    return harmless(" ".join(text.split())).replace("`", "'").replace("](", "]\\(")


def render(table: Table) -> str:
    parts = [f"# {table.title}", table.text]
    for heading, frame in table.sections:
        parts += [f"## {heading}"] if heading else []
        parts.append(told(foremost(frame, MOST), 3))
        if len(frame) > MOST:
            parts.append(
                f"… {len(frame) - MOST:,} more rows, of {len(frame):,}. What has changed or is "
                f"flagged comes first, what is missing last; `{table.name}.csv` has all."
            )
    if table.notes:
        more = [f"… {len(table.notes) - MOST:,} more notes"] if len(table.notes) > MOST else []
        parts.append("\n".join(f"- {note}" for note in [*table.notes[:MOST], *more]))
    return "\n\n".join(parts) + "\n"


def flat(record: dict, prefix: str = "") -> dict:
    """Nested scalars by dotted name; lists (curves) are left to the JSON file."""
    result: dict = {}
    for key, value in record.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            result[prefix + key] = value
    return result
