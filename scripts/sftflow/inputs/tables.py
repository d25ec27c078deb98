"""Rows of a file, whatever it is: JSON, JSON lines, CSV, TSV, an Excel workbook, parquet, arrow.

What a file is, is told by its content, and by its name only where the content may be either. A file
is read whole, or refused with a UserError that says where.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sftflow.core.cli import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow")
DELIMITERS = ",;\t"
ZIP, OLD_EXCEL, GZIP = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b"


class Table(NamedTuple):
    """Rows, the place of each as people find it in the file, and what was assumed in reading."""

    rows: list[dict]
    places: list[str]  # "row 3 (line 5)"
    notes: list[str]


class Odd:
    """A cell that is not stored as it is shown: a date, 5 %. Only refused where it is asked."""

    def __init__(self, said: str, stored: object):
        self.said, self.stored = said, stored

    def __repr__(self) -> str:
        return self.said

    def __str__(self) -> str:
        return str(self.stored)


def is_table(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def stem(name: str) -> str:
    """ "sleep_val" of "own/sleep_val.csv.gz"."""
    base = PurePosixPath(name).name
    return PurePosixPath(base[:-3] if base.lower().endswith(".gz") else base).stem


def read(name: str, content: bytes) -> dict[str, Table]:
    """{name without suffix: table}; of a workbook with several sheets {sheet: table}."""
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot read {name}: {error}; is it whole?") from None
    if content.startswith(ZIP):
        return _workbook(name, content)
    if content.startswith(OLD_EXCEL):
        raise UserError(f"{name} is a workbook of Excel 2003 or older: save it as .xlsx")
    if content.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        table = _columns(name, content)
    else:
        said, notes = text(name, content)
        delimited = name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt"))
        if delimited and not re.match(r'\s*(\{\s*"|\[\s*\{)', said):
            table = delimited_rows(name, said, notes)
        else:
            table = _json(name, said, notes)
    return {stem(name): table}


def numbered(rows: list[dict], notes: Iterable[str] = ()) -> Table:
    return Table(rows, [f"row {number}" for number in range(1, len(rows) + 1)], list(notes))


# --- text -----------------------------------------------------------------------------------------


def text(name: str, content: bytes) -> tuple[str, list[str]]:
    """The text of a file, and what was assumed: Excel writes Chinese tables in GBK or UTF-16."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif content[:1] == b"\0" or content[1:2] == b"\0":
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding), [] if encoding == "utf-8-sig" else [f"read as {encoding}"]
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig" and (said := _chinese(content)) is not None:
            return said, ["not UTF-8: read as GB18030 (GBK)"]
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}, line {line}: not a text in {encoding.removesuffix('-sig').upper()}, nor one "
            "in Chinese GBK: save it as UTF-8"
        ) from None


def _chinese(content: bytes) -> str | None:
    """The text, if it is GB18030: nearly all of it common characters, or it is something else."""
    try:
        said = content.decode("gb18030")
    except UnicodeDecodeError:
        return None
    pairs = [char.encode("gb18030") for char in said if ord(char) > 127]
    common = sum(len(p) == 2 and 0xA1 <= p[0] <= 0xD7 and p[1] >= 0xA1 for p in pairs)
    return said if common >= 0.9 * len(pairs) else None


def delimited_rows(name: str, said: str, notes: list[str], header: Iterable[str] = ()) -> Table:
    """Rows of a CSV or TSV file; without `header` its first row names the columns."""
    stated = re.match(r"sep=(.)\r?\n", said)
    start = said[stated.end() :] if stated else said
    first = start.lstrip("\r\n").partition("\n")[0]
    delimiter = stated[1] if stated else max(DELIMITERS, key=first.count)
    if delimiter != "\t" and delimiter != "," and not header:
        notes = [*notes, f"cells are divided by {delimiter!r}"]
    lines = csv.reader(
        io.StringIO(said, newline=""), delimiter="," if header else delimiter, strict=True
    )
    names, line = list(header), 0
    rows: list[dict] = []
    places: list[str] = []
    try:
        for cells in lines:
            begins, line = line + 1, lines.line_num
            if (stated and begins == 1) or not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                _distinct(name, names)
                continue
            place = f"row {len(rows) + 1} (line {begins})"
            if len(cells) < len(names) or any(map(str.strip, cells[len(names) :])):
                raise UserError(
                    f"{name}, {place}: {len(cells)} cells, where "
                    f"{'the header has' if not header else 'there must be'} {len(names)}; "
                    "a cell that holds the delimiter stands in double quotes"
                )
            rows.append({n: cell for n, cell in zip(names, cells, strict=False) if n})
            places.append(place)
    except csv.Error as error:
        raise UserError(f"{name}, line {line + 1}: {error}: is each double quote closed?") from None
    return Table(rows, places, notes)


def _distinct(name: str, names: Iterable[str]) -> None:
    if twice := [one for one, count in Counter(names).items() if one and count > 1]:
        raise UserError(f"{name}: two columns are called {', '.join(map(repr, twice))}")


# --- JSON -----------------------------------------------------------------------------------------


def _json(name: str, said: str, notes: list[str]) -> Table:
    """Objects, one a line or however they are broken into lines; or one array of them."""
    values = list(_values(name, said))
    if len(values) == 1 and isinstance(values[0][1], list):
        rows, lines = values[0][1], []
    else:
        rows, lines = [value for _, value in values], [line for line, _ in values]
        if len(rows) == 1 and isinstance(rows[0], dict):
            rows = _nested(name, rows[0])
            lines = lines if len(rows) == 1 else []
    places = [f"row {n}" for n in range(1, len(rows) + 1)]
    for index, line in enumerate(lines):
        if line != index + 1:
            places[index] += f" (line {line})"
    for place, row in zip(places, rows, strict=True):
        if not isinstance(row, dict):
            raise UserError(f"{name}, {place}: is no object of named fields")
    return Table(rows, places, notes)


def _values(name: str, said: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each JSON value in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=lambda _: None)
    space, end, line, counted = re.compile(r"\s*"), 0, 1, 0
    while (start := space.match(said, end).end()) < len(said):  # type: ignore[union-attr]
        line, counted = line + said.count("\n", counted, start), start
        try:
            value, end = decoder.raw_decode(said, start)
        except (ValueError, RecursionError) as error:
            at = f"line {line}"
            if isinstance(error, json.JSONDecodeError):
                at = f"line {error.lineno}, column {error.colno}"
                error = ValueError(error.msg)
            raise UserError(f"{name}, {at}: not valid JSON ({error})") from None
        yield line, value


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"the field {twice[0]!r} twice")
    return found


def _nested(name: str, value: dict) -> list:
    """The rows of {"data": [{…}]}; a single row is itself; columns are refused."""
    lists = [inner for inner in value.values() if isinstance(inner, list)]
    tables = [inner for inner in lists if inner and isinstance(inner[0], dict)]
    if len(tables) == 1 and len(value) == 1:
        return tables[0]
    if value and all(isinstance(inner, list | dict) for inner in value.values()):
        keys = ", ".join(map(repr, list(value)[:5]))
        raise UserError(
            f"{name}: one object of {keys}, each with many values; "
            "write an array, or lines, with one object for each question"
        )
    return [value]


# --- columns and workbooks ------------------------------------------------------------------------


def _columns(name: str, content: bytes) -> Table:
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        source = pyarrow.BufferReader(content)
        if content.startswith(b"PAR1"):
            table = parquet.read_table(source)
        else:
            opened = ipc.open_file if content.startswith(b"ARROW1") else ipc.open_stream
            table = opened(source).read_all()
        _distinct(name, table.column_names)
        columns = {key: _whole(table.column(key).to_pylist()) for key in table.column_names}
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"cannot read {name}: {str(error).splitlines()[0]}") from None
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return numbered(rows)


def _whole(values: list) -> list:
    """No not-a-numbers; and whole numbers again, where only a missing one had made them floats."""
    kept = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    floats = [v for v in kept if v is not None]
    if len(floats) < len(kept) and all(isinstance(v, float) and v.is_integer() for v in floats):
        return [None if v is None else int(v) for v in kept]
    return kept


def _workbook(name: str, content: bytes) -> dict[str, Table]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{name} is an Excel workbook, and the environment has no openpyxl to read it with: "
            "sync envs/evalscope anew, or save it as CSV (UTF-8)"
        ) from None
    try:
        shown = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
        stored = openpyxl.load_workbook(io.BytesIO(content))
    except Exception as error:  # the library raises many types; each means "not a workbook"
        raise UserError(f"cannot read {name} as an Excel workbook: {error}") from None
    found = {}
    for sheet in shown.worksheets:
        if sheet.sheet_state == "visible" and sheet.max_row > 1:
            if sheet.merged_cells.ranges:
                which = ", ".join(sorted(map(str, sheet.merged_cells.ranges))[:5])
                raise UserError(
                    f"{name}, sheet {sheet.title}: cells {which} are merged, and only one of them "
                    "holds the text: unmerge them and fill each"
                )
            found[sheet.title] = _sheet(name, sheet, stored[sheet.title])
    if len(found) == 1:
        return {stem(name): next(iter(found.values()))}
    return found


def _sheet(name: str, shown: Any, stored: Any) -> Table:
    names: list[str] = []
    rows, places = [], []
    for line, (cells, formulas) in enumerate(
        zip(shown.iter_rows(), stored.iter_rows(), strict=True), start=1
    ):
        values = [_cell(*pair) for pair in zip(cells, formulas, strict=True)]
        if all(value in (None, "") for value in values):
            continue
        if not names:
            names = ["" if value is None else str(value).strip() for value in values]
            _distinct(f"{name}, sheet {shown.title}", names)
            continue
        rows.append({key: value for key, value in zip(names, values, strict=True) if key})
        places.append(f"row {len(rows)} (line {line} of sheet {shown.title})")
    return Table(rows, places, [])


def _cell(cell: Any, stored: Any) -> Any:
    """A cell as it is seen: 1 for 1.0, "50%" for 0.5 in that format; else Odd."""
    value, at = cell.value, cell.coordinate
    if stored.data_type == "f" and value is None:
        return Odd(f"a formula without its value in {at} (open and save it in Excel)", stored.value)
    if cell.data_type == "e":
        return Odd(f"the error {value} in {at}", value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    if not isinstance(value, int | float):
        return Odd(f"a date or time in {at} ({value})", value)
    form = cell.number_format
    if fixed := re.fullmatch(r"0(?:\.(0+))?(%?)", form):
        return f"{value:.{len(fixed[1] or '')}{fixed[2] or 'f'}}"
    if form not in ("General", "@"):
        return Odd(f"a number in the format {form!r} in {at} ({value})", value)
    return int(value) if float(value).is_integer() else value
