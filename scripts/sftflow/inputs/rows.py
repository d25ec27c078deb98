"""Files of dialogues, from bytes to rows: a file is read whole, or refused in one sentence.

What a file is, its content says; only CSV, which nothing marks, is known by its name. A line of
JSON lines that can't be read is one bad row among good ones. Whatever else stands where a row was
expected would lose rows that nobody counts, so the file is refused.
"""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from sftflow.core.cli import UserError
from sftflow.inputs.sharegpt import TURNS, BadRow, is_row, is_turn, is_turns, literal

Rows = Iterator[tuple[int, Any]]

SUFFIXES = tuple(
    f".{kind}{packed}"
    for kind in ("jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow")
    for packed in ("", ".gz")
)
# Files that lie beside the data in a repository, and hold none.
BESIDE = (
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json",
    "configuration.json", "cache-*.arrow",
)  # fmt: skip

LINES = "JSON lines"
LITERALS = "Python literals, one a line"
ARRAY = "a JSON array"
DIALOGUE = "a JSON array of turns"
LITERAL = "a Python literal"
ONE = "one JSON object"
WRAPPED = "a JSON object around a list of rows"
COLUMNS = "a JSON object of columns"
NAMED = "a JSON object of rows by name"
CSV = "CSV"
PARQUET = "Parquet"
ARROW = "Arrow"
EMPTY = "empty"
FILES = {
    LINES: "one dialogue a line; blank lines do not count",
    LITERALS: "as Python prints a dict: single quotes, None, True",
    ARRAY: "of rows; nothing may stand behind its end",
    DIALOGUE: "the file is one dialogue",
    LITERAL: "a list or dict as Python prints it, read as its JSON would be",
    ONE: "the file is one dialogue",
    WRAPPED: '`{"data": [...]}`, `{"train": [...]}` and the like, with one list of rows',
    COLUMNS: '`{"instruction": [...], "output": [...]}`, or numbered objects as pandas writes them',
    NAMED: '`{"0": {row}, "1": {row}}`',
    CSV: "`.csv` or `.tsv` with a header; turns as JSON in a column, or a question and its answer",
    PARQUET: "fields that a row lacks are null",
    ARROW: "a file or a stream, as `datasets` saves it",
    EMPTY: "no rows",
}

HEAD = 1 << 16  # bytes that are looked at to tell what a file is
TRIED = 100  # lines of which one must be whole
SPACE = re.compile(r"\s*")
BLANK = b"\xef\xbb\xbf \t\r\n"
BINARY = {
    b"PK\x03\x04": "is a zip archive or an Excel workbook: unpack it, or save it as CSV",
    b"BZh": "is packed with bzip2: unpack it",
    b"\xfd7zXZ": "is packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "is packed with zstd: unpack it",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"Rar!": "is a rar archive: unpack it",
    b"\x1f\x8b": "is packed with gzip twice: unpack it once",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run git lfs pull",
}
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # UTF-32's first: one of UTF-16's begins like it


def read(path: Path) -> tuple[str, Rows]:
    """(what the file is, a key of FILES; (number, row) for each row).

    A line that can't be read comes as its BadRow. Numbers start at 1: lines in JSON lines (blank
    ones do not count as rows), elements elsewhere. Raises UserError, also while rows are taken.
    """
    rows = recognised(path)
    return next(rows), rows


def recognised(path: Path) -> Iterator[Any]:
    """What the file is, then its rows."""
    try:
        with open(path, "rb") as file:
            form, rows = recognise(path, file)
            yield form
            yield from rows
    except (OSError, EOFError, ValueError, NotImplementedError, csv.Error, zlib.error) as error:
        why = (str(error).strip().splitlines() or [""])[0]
        refused(path, f"cannot be read to its end ({type(error).__name__}: {why}). Get it anew")


def refused(path: Path, why: str) -> NoReturn:
    raise UserError(f"{path}: {why}") from None


def recognise(path: Path, file: IO[bytes]) -> tuple[str, Rows]:
    if file.read(2) == b"\x1f\x8b":
        file = gzip.open(path)  # type: ignore[assignment]
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return PARQUET, enumerate(parquet_rows(file), start=1)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return ARROW, enumerate(arrow_rows(file, head), start=1)
    for magic, what in BINARY.items():
        if head.startswith(magic):
            refused(path, what)
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    if encoding:
        try:
            file = io.BytesIO(file.read().decode(encoding).encode())
        except ValueError as error:
            refused(path, f"begins as {encoding} and does not go on so ({error}): save it as UTF-8")
    elif b"\0" in head:
        refused(path, "holds bytes that are no text: no file of dialogues that is known")
    else:
        check_encoding(path, head)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        form, rows = CSV, csv_rows(path, file, "\t" if name.endswith(".tsv") else ",")
    else:
        form, rows = json_rows(path, file)
    return f"{form} in {encoding}" if encoding else form, rows


def check_encoding(path: Path, head: bytes) -> None:
    """Refuse a file that is not UTF-8 at all; a few bad lines among good ones are bad rows."""
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD)
        return
    lines = head.splitlines()[: -1 if len(head) == HEAD else None] or [head[:-4]]
    good = [line for line in lines if is_text(line, "utf-8")]
    if not all(map(bytes.isascii, good)) or 2 * len(good) >= len(lines):
        return
    chinese = all(is_text(line, "gb18030") for line in lines)
    refused(
        path,
        f"is not UTF-8{'; it reads as GB18030 (GBK)' if chinese else ''}. Convert it: iconv -f "
        f"{'GB18030' if chinese else 'ENCODING'} -t UTF-8 {path.name} > utf8-{path.name}",
    )


def is_text(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        refused(path, f"line {line} is not UTF-8 text ({error.reason})")


# --- JSON -----------------------------------------------------------------------------------------


def json_rows(path: Path, file: IO[bytes]) -> tuple[str, Rows]:
    """Lines, or one value: told apart by whether lines are whole by themselves."""
    lines = (line for line in file if line.strip(BLANK))
    first, second = next(lines, b""), next(lines, b"")
    if not first:
        return EMPTY, iter(())
    start = first.lstrip(BLANK)[:1]
    form = form_of(first) if second else None
    array = start == b"[" and b"{" in first
    if second and not form and not array and not first.rstrip().endswith(b","):
        others = [second, *itertools.islice(lines, TRIED)]
        form = next(filter(None, (form_of(line, is_row) for line in others)), None)
        if form and start == b"[" and isinstance(parse(first), BadRow):
            form = None  # whole lines inside an array
        if form and start == b"{":  # the first line is broken, or all of them are one object
            file.seek(0)
            with contextlib.suppress(UserError):
                return value_rows(path, decoded(path, file.read()))
    file.seek(0)
    if form:
        return form, by_line(path, file, form)
    return value_rows(path, decoded(path, file.read()))


def form_of(line: bytes, meant: Callable[[Any], bool] = lambda value: True) -> str | None:
    """What lines a file has if one is this; None if it is no object, or dialogue, by itself."""
    for form in (LINES, LITERALS):
        value = parse(line, form)
        if (isinstance(value, dict) or is_turns(value)) and meant(value):
            return form
    return None


def by_line(path: Path, file: IO[bytes], form: str) -> Rows:
    for number, line in enumerate(file, start=1):
        if not line.strip(BLANK):
            continue
        value = parse(line, form)
        if isinstance(value, BadRow) and (count := objects_in(line)) > 1:
            refused(path, f"line {number} holds {count} JSON objects: give each a line of its own")
        yield number, value


def parse(line: bytes, form: str = LINES) -> Any:
    """The value of a line, or why it has none. NaN stands for itself: it may not be used."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return BadRow("invalid UTF-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        value = literal(text.strip()) if form == LITERALS else None
        return value if isinstance(value, dict | list) else BadRow("invalid JSON")


def objects_in(line: bytes) -> int:
    """How many JSON objects a line is made of; 0 if it holds anything else."""
    try:
        text = line.decode("utf-8-sig").strip()
        count, place = 0, 0
        while text.startswith("{", place):
            _, end = json.JSONDecoder().raw_decode(text, place)
            count, place = count + 1, end + len(text[end:]) - len(text[end:].lstrip())
    except (ValueError, RecursionError):
        return 0
    return count if place == len(text) else 0


def value_rows(path: Path, text: str) -> tuple[str, Rows]:
    """The rows of a file that is one value."""
    place = len(text) - len(text.lstrip())
    if text.startswith("{", place):
        return object_rows(path, whole(path, text, place))
    if not text.startswith("[", place):
        refused(path, f"begins with {text[place : place + 20]!r}: no line of it is a JSON object")
    elements = array_elements(path, text, place + 1)
    try:
        first = list(itertools.islice(elements, 1))
    except UserError:
        value = literal(text.strip())
        if not isinstance(value, list):
            raise
        return LITERAL, enumerate([value] if is_turns(value) else value, start=1)
    if first and is_turn(first[0]):
        turns = first + list(elements)
        if is_turns(turns):
            return DIALOGUE, iter([(1, turns)])
        return ARRAY, enumerate(turns, start=1)
    return ARRAY, enumerate(itertools.chain(first, elements), start=1)


def whole(path: Path, text: str, place: int) -> Any:
    """The one JSON value that a text is."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        if isinstance(value := literal(text.strip()), dict):
            return value
        refused(path, f"no JSON: {error}")
    end = after_space(text, end)
    if end < len(text):
        line = text.count("\n", 0, end) + 1
        refused(
            path,
            f"a JSON value ends before line {line}, where {text[end : end + 20]!r} follows. Make "
            "it one array, or give each value one line (jq -c . FILE)",
        )
    return value


def after_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def array_elements(path: Path, text: str, place: int) -> Iterator[Any]:
    """The elements of one JSON array, one at a time: the text is in memory, the rows are not."""
    decode = json.JSONDecoder().raw_decode

    def stray(what: str) -> NoReturn:
        line = text.count("\n", 0, place) + 1
        column = place - text.rfind("\n", 0, place)
        found = repr(text[place : place + 20]) if place < len(text) else "the file ends"
        refused(
            path,
            f"no whole JSON array: line {line}, column {column}: {what}, and {found} is there. "
            "Repair it, or give one row a line (.jsonl)",
        )

    place = after_space(text, place)
    closed = text.startswith("]", place)
    while not closed:
        try:
            value, place = decode(text, place)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "pos", place)
            stray(f"a value was expected ({getattr(error, 'msg', error)})")
        yield value
        place = after_space(text, place)
        closed = text.startswith("]", place)
        if not closed:
            if not text.startswith(",", place):
                stray("a comma or the array's end was expected")
            place = after_space(text, place + 1)
    place = after_space(text, place + 1)
    if place < len(text):
        stray("the array has ended")


def object_rows(path: Path, value: dict) -> tuple[str, Rows]:
    """The rows that one object stands for: itself, or what it is around."""
    columns = columns_of(value)
    if columns:
        return COLUMNS, enumerate(columns, start=1)
    within = {key: held for key, held in value.items() if holds_rows(key, held)}
    if is_row(value) and not within:
        return ONE, iter([(1, value)])
    if len(within) == 1:
        return WRAPPED, enumerate(next(iter(within.values())), start=1)
    if len(within) > 1:
        refused(
            path,
            f"holds several lists of rows ({', '.join(within)}): save the one to train on as a "
            "file of its own",
        )
    if value and all(isinstance(row, dict) and is_row(row) for row in value.values()):
        return NAMED, enumerate(value.values(), start=1)
    keys = ", ".join(str(key)[:40] for key in list(value)[:10])
    refused(
        path,
        f"one JSON object with the keys {keys or '(none)'}: neither a dialogue, nor a list of rows "
        f"({', '.join(FILES)}; a dialogue has {', '.join(TURNS)}, or a question and its answer)",
    )


def holds_rows(key: str, held: Any) -> bool:
    """Whether a field of an object is a list of rows, not the turns of one."""
    if not isinstance(held, list) or not held:
        return False
    if key in TURNS:
        return all(isinstance(row, dict) and any(name in row for name in TURNS) for row in held)
    return all(map(is_row, held)) and not is_turns(held)


def columns_of(value: dict) -> list[dict] | None:
    """Rows from fields that each hold a value for every row; None if they do not."""
    held = list(value.values())
    if not is_row(value):
        return None
    if all(isinstance(column, dict) for column in held):
        names = [*held[0]]
        if not names or any([*column] != names for column in held):
            return None
        return [{key: value[key][name] for key in value} for name in names]
    if not all(isinstance(column, list) and len(column) == len(held[0]) for column in held):
        return None
    turns = [turn for key in TURNS for turn in value.get(key, ())]
    if not held[0] or any(isinstance(turn, dict) for turn in turns):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*held, strict=True)]


# --- tables ---------------------------------------------------------------------------------------


def csv_rows(path: Path, file: IO[bytes], delimiter: str) -> Rows:
    """The rows below a header; an empty cell is a field that the row lacks."""
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    header = next(lines, [])
    if len({*header}) < len(header):
        refused(path, f"two columns have one name: {', '.join(header)}")
    number = 0
    for cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            refused(
                path,
                f"line {lines.line_num}: {len(cells)} cells, but the header has {len(header)}",
            )
        row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
        yield (number := number + 1), row


def parquet_rows(file: IO[bytes]) -> Iterator[Any]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1024):
        yield from batch.to_pylist()


def arrow_rows(file: IO[bytes], head: bytes) -> Iterator[Any]:
    import pyarrow.ipc

    if head.startswith(b"ARROW1"):
        reader = pyarrow.ipc.open_file(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        batches = iter(pyarrow.ipc.open_stream(file))
    for batch in batches:
        yield from batch.to_pylist()
