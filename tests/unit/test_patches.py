"""A patch that does not fit leaves what it would have changed, and says why."""

import sys
import tomllib
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet
from sftflow.training import patches
from sftflow.training.patches import Patch, apply
from support import ROOT


def stock(self, batch, *, padding=None):
    return "stock"


@pytest.fixture
def library(monkeypatch):
    """A stand-in for ms-swift 4.6.2 with something to be patched."""
    made = ModuleType("library")
    made.Template = type("Template", (), {"collate": stock})
    monkeypatch.setitem(sys.modules, "library", made)
    monkeypatch.setattr(patches, "version", {"ms-swift": "4.6.2", "torch": "2.12.0+cu130"}.get)
    return made


def change(library) -> str:
    library.Template.collate = lambda self, batch: "changed"
    return "made"


def patch(target="library.Template.collate", takes="self batch", function=change) -> Patch:
    return Patch("packed", {target: takes}, ("ms-swift", "torch"), function)


def test_tested_versions_are_changed(library):
    made, record = apply(patch(), library)
    assert made == "made" and library.Template().collate(None) == "changed"
    assert record == {
        "name": "packed",
        "target": ["library.Template.collate"],
        "tested": {"ms-swift": "~=4.6.0", "torch": ">=2.11,<2.14"},
        "found": {"ms-swift": "4.6.2", "torch": "2.12.0+cu130"},
        "applied": True,
        "why": "",
    }


def fails(library):
    raise AttributeError("no attribute 'rows'")


def does_not_suit(library):
    raise patches.Unfit("rows are padded")


@pytest.mark.parametrize(
    ("versions", "given", "why"),
    [
        ({"ms-swift": "4.7.0"}, {}, "ms-swift 4.7.0 is not among the tested versions, ~=4.6.0"),
        ({"ms-swift": "4.7.0.dev0"}, {}, "ms-swift 4.7.0.dev0 is not among"),
        ({"torch": "2.10.0"}, {}, "torch 2.10.0 is not among the tested versions, >=2.11,<2.14"),
        ({"torch": "an odd one"}, {}, "torch an odd one is not among"),
        ({"ms-swift": None}, {}, "ms-swift is not installed"),
        ({}, {"target": "library.Template.gather"}, "library.Template.gather is missing"),
        ({}, {"target": "no_such_library.collate"}, "no_such_library.collate is missing"),
        ({}, {"takes": "self rows"}, "library.Template.collate does not take self, rows"),
        ({}, {"takes": "self"}, "library.Template.collate does not take self"),
        ({}, {"target": "library.__name__"}, "library.__name__ does not take self, batch"),
        ({}, {"function": fails}, "AttributeError: no attribute 'rows'"),
        ({}, {"function": does_not_suit}, "rows are padded"),
    ],
)
def test_whatever_does_not_fit_stays_stock(library, monkeypatch, versions, given, why):
    known = {"ms-swift": "4.6.2", "torch": "2.12.0"} | versions

    def version(name: str) -> str:
        if known[name] is None:
            raise patches.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(patches, "version", version)
    made, record = apply(patch(**given), library)
    assert made is None and library.Template.collate is stock
    assert not record["applied"] and record["why"].startswith(why)


def test_versions_alone_say_so_without_any_import(monkeypatch):
    monkeypatch.setattr(patches, "version", lambda name: "4.6.1" if name == "ms-swift" else "6.0")
    assert patches.untested(patches.packed_rows).startswith("transformers 6.0 is not among")
    assert "torch" not in sys.modules


def test_every_patch_says_what_it_brings():
    declared = [one for one in vars(patches).values() if isinstance(one, Patch)]
    assert len(declared) > 10
    for one in declared:
        assert one.change.__doc__ and one.targets and set(one.packages) <= set(patches.TESTED)


def test_the_locked_versions_are_among_the_tested():
    """Who updates a pin has to look at the patches, and to widen TESTED."""
    lock = tomllib.loads((ROOT / "envs" / "swift" / "uv.lock").read_text(encoding="utf-8"))
    locked = {package["name"]: package["version"] for package in lock["package"]}
    for name, tested in patches.TESTED.items():
        assert locked[name] in SpecifierSet(tested), name
