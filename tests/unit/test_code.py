"""Which code a result depends on: what its program imports, by no list that somebody keeps."""

import ast

import pytest
from sftflow.core import code
from support import ROOT
from test_layout import MODULES, reached


@pytest.mark.parametrize("program", ["plan", "tables", "report", "score", "contamination"])
def test_whatever_a_program_imports_counts(program):
    """A table must be made again when what computes it changes."""
    expected = {MODULES[name] for name in reached(program) if MODULES[name].name != "__init__.py"}
    assert code.imported(ROOT / "scripts" / f"{program}.py") == expected


def test_an_import_counts_wherever_it_stands():
    """In a function, a branch, a clause: what is loaded late decides as well."""
    for file in ROOT.glob("scripts/**/*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        every = {node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))}
        assert every <= set(code._statements(tree)), file


def test_a_plan_depends_on_what_a_training_costs_and_is_known_by():
    files = {path.stem for path in code.imported(ROOT / "scripts/plan.py")}
    assert {"plan", "cost", "estimate", "settings", "identity", "jobs", "stats"} <= files
