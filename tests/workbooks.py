"""Excel workbooks written by hand, cell by cell, as Excel stores them (no library writes here)."""

import zipfile
from html import escape
from pathlib import Path
from typing import NamedTuple

NS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
STYLES = {"": 0, "date": 1, "0%": 2, "0.00": 3, "money": 4}  # cell formats, in this order


class Cell(NamedTuple):
    """Anything but a text or a plain number."""

    value: object = None
    style: str = ""
    formula: str = ""
    kind: str = "n"  # of Excel: n, e (an error), b (a truth value)


def _cell(at: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f'<c r="{at}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
    cell = value if isinstance(value, Cell) else Cell(value)
    formula = f"<f>{cell.formula}</f>" if cell.formula else ""
    stored = "" if cell.value is None else f"<v>{cell.value}</v>"
    return f'<c r="{at}" s="{STYLES[cell.style]}" t="{cell.kind}">{formula}{stored}</c>'


def _sheet(rows: list[list], merged: str) -> str:
    lines = [
        f'<row r="{n}">'
        + "".join(_cell(f"{chr(65 + i)}{n}", v) for i, v in enumerate(row))
        + "</row>"
        for n, row in enumerate(rows, start=1)
    ]
    merges = f'<mergeCells count="1"><mergeCell ref="{merged}"/></mergeCells>' if merged else ""
    return f"<worksheet {NS}><sheetData>{''.join(lines)}</sheetData>{merges}</worksheet>"


STYLED = f"""<styleSheet {NS}>
<numFmts count="1"><numFmt numFmtId="164" formatCode="#,##0 &quot;元&quot;"/></numFmts>
<fonts><font/></fonts>
<fills><fill><patternFill patternType="none"/></fill></fills>
<borders><border/></borders>
<cellStyleXfs><xf/></cellStyleXfs>
<cellXfs>{"".join(f'<xf numFmtId="{number}"/>' for number in (0, 14, 9, 2, 164))}</cellXfs>
</styleSheet>"""
PARTS = "application/vnd.openxmlformats-officedocument.spreadsheetml"
KINDS = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
{}</Types>"""


def workbook(path: Path, hidden: tuple = (), merged: str = "", **sheets: list[list]) -> Path:
    """A workbook of `sheets`, their rows as lists of cells; those in `hidden` are not shown."""
    number = dict(enumerate(sheets, start=1))
    parts = {"workbook": "sheet.main", "styles": "styles"}
    parts |= {f"s{n}": "worksheet" for n in number}
    kinds = "".join(
        f'<Override PartName="/xl/{part}.xml" ContentType="{PARTS}.{kind}+xml"/>'
        for part, kind in parts.items()
    )
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="r{n}" '
        f'state="{"hidden" if name in hidden else "visible"}"/>'
        for n, name in number.items()
    )
    files = {
        "[Content_Types].xml": KINDS.format(kinds),
        "_rels/.rels": _relations({"w": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook {NS} xmlns:r="{REL}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(
            {f"r{n}": ("worksheet", f"s{n}.xml") for n in number} | {"y": ("styles", "styles.xml")}
        ),
        "xl/styles.xml": STYLED,
    } | {f"xl/s{n}.xml": _sheet(sheets[name], merged) for n, name in number.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _relations(targets: dict[str, tuple[str, str]]) -> str:
    lines = [
        f'<Relationship Id="{key}" Type="{REL}/{kind}" Target="{target}"/>'
        for key, (kind, target) in targets.items()
    ]
    top = "http://schemas.openxmlformats.org/package/2006/relationships"
    return f'<Relationships xmlns="{top}">{"".join(lines)}</Relationships>'
