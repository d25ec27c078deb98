"""Sheets for human raters: CSV that Excel opens with Chinese in it, and what comes back of them.

Standard library only. A sheet is blind: it has numbers, texts and empty columns, and nothing that
says whose answer is whose; the key file does.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.jsonio import write_text

FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
CHOICES = {"A": "A", "B": "B", "C": "C", "TIE": "C", "=": "C", "平": "C", "平局": "C"}
YES_NO = {"Y": "Y", "YES": "Y", "1": "Y", "是": "Y", "N": "N", "NO": "N", "0": "N", "否": "N"}


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" \n").startswith(FORMULA) else text


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: harmless(str(cell)) for name, cell in row.items()})
    write_text(path, "\ufeff" + text.getvalue())


def read_sheet(path: Path, wanted: Sequence[str], known: dict[str, str]) -> dict[int, dict]:
    """{row: {column of `wanted`: what of `known` it holds, or "" where blank}}.

    As Excel saves it: UTF-8, UTF-16 or GBK; commas, semicolons or tabs. UserError for all else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path}: is an Excel workbook; save it as CSV (UTF-8) and read that")
    text = decoded(path, content)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
    if lacking := [name for name in ("row", *wanted) if name.lower() not in columns]:
        raise UserError(
            f"{path}: has no column {', '.join(map(repr, lacking))} (found: "
            f"{', '.join(filter(None, columns)) or 'nothing'}); keep the first line as it was"
        )
    found: dict[int, dict] = {}
    for line in table:
        number = (line[columns["row"]] or "").strip()
        if not number and not any(line[columns[name.lower()]] for name in wanted):
            continue  # an empty line, which Excel leaves
        at = f"{path}, row {number or '?'}"
        if not number.isascii() or not number.isdigit():
            raise UserError(f"{at}: is no row number; leave the first column as it was")
        if int(number) in found:
            raise UserError(f"{at}: is there twice; delete one of them")
        found[int(number)] = {}
        for name in wanted:
            cell = (line[columns[name.lower()]] or "").strip().strip("'").upper()
            if cell and cell not in known:
                valid = ", ".join(dict.fromkeys(known.values()))
                raise UserError(f"{at}, column '{name}': '{cell}' is none of {valid} (or empty)")
            found[int(number)][name] = known.get(cell, "")
    return found


def decoded(path: Path, content: bytes) -> str:
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if marked else ["utf-8-sig", "gb18030"]:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path}: is neither UTF-8 nor GBK; save it as CSV (UTF-8)")
