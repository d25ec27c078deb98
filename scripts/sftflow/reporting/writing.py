"""The files of a table: Markdown for people, CSV for programs, LaTeX for papers."""

import re

import pandas as pd
from sftflow.core.jsonio import write_text
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import latex
from sftflow.reporting.text import OBEYED, Table, render


def write(table: Table, results: Results) -> None:
    forms = {"md": render(table), "csv": csv(table.data), "tex": latex.render(table)}
    for form, content in forms.items():
        write_text(results.path(PATHS.table, table=table.name, form=form), content)


def csv(data: pd.DataFrame) -> str:
    """Numbers unrounded; texts without what a spreadsheet or a terminal would obey."""
    texts = data.select_dtypes(["object", "str"])
    return data.assign(**{name: texts[name].map(plain) for name in texts}).to_csv(index=False)


FORMULA = re.compile(r"\s*[=+@-](?![\d.]+$)")  # where a spreadsheet would begin to compute


def plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if FORMULA.match(value) else "") + OBEYED.sub("", value)
