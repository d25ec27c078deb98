"""What imports what: arrows go down only, and an environment declares what its programs import."""

import ast
import re
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from support import ROOT

SCRIPTS = ROOT / "scripts"

# Package: the packages that it may import besides itself. Programs may import all of them.
ARROWS = {
    "core": set(),
    "kernels": set(),
    "config": {"core"},
    "inputs": {"core"},
    "models": {"core"},
    "training": {"core", "kernels"},
    "serving": {"core", "training"},  # for the patches
    "evaluation": {"core", "serving"},
    "dialogue": {"core", "evaluation", "kernels", "training"},  # evaluation: without reasoning
    "scoring": {"core", "evaluation"},  # of samples
    "reporting": {"core", "config", "dialogue", "scoring", "training"},
}
# Tables are made on any machine: they may ask what a training costs, but nothing that trains,
# serves, asks or computes on a GPU.
NOT_FOR_TABLES = re.compile(
    r"sftflow\.(training\.(plugin|patches)|serving|evaluation\.(session|harness)"
    r"|dialogue\.likelihood"
    r"|kernels\.(?!limits$))"
)
# Not the standard library, but imported only where a GPU may be, or something is locked.
CORE_LIBRARIES = {
    "sftflow.core.gpu": {"filelock", "pynvml"},
    "sftflow.core.worker": {"filelock"},
}

# What no rule starts, and what does not run in the workflow's own environment.
STARTED_ELSEWHERE = {
    "by_hand": "evalscope",
    "dev.demo.pretrain": "swift",
    "dev.swift_names": "swift",
    "sftflow.serving.swift_deploy": "swift",
    "sftflow.serving.vllm_serve": "vllm",
    "sftflow.training.plugin": "swift",
}
# Declared, and imported by no script: Snakemake's plugin, and what pandas and `snakemake --report`
# import.
NOT_IMPORTED = {"snakemake-executor-plugin-slurm", "tabulate", "pygments"}
# Distributions whose modules have other names.
DISTRIBUTIONS = {
    "cudnn": "nvidia-cudnn-frontend",
    "markdown_it": "markdown-it-py",
    "pynvml": "nvidia-ml-py",
    "swift": "ms-swift",
    "yaml": "pyyaml",
}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in SCRIPTS.rglob("*.py")}
PROGRAMS = {name for name in MODULES if "." not in name and name != "sftflow"}


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of scripts/, and top-level names of others, that a module imports, also in functions.

    The programs under dev/demo import each other from the folder where they lie.
    """
    found = set()
    beside = name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # only the kernels may be taken elsewhere as they are
            assert not node.level or package(name) == "kernels", f"{name} imports relatively"
            parts = name.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parts, *filter(None, [node.module])])
            names = [[f"{origin}.{alias.name}", origin] for alias in node.names]
        else:
            continue
        for candidates in names:
            own = [n for c in candidates for n in (c, f"{beside}.{c}") if n in MODULES]
            found.add(own[0] if own else candidates[0].partition(".")[0])
    return frozenset(found - sys.stdlib_module_names)


def reached(start: str) -> set[str]:
    """`start`, and every module of scripts/ that is imported from there on."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports(name) & MODULES.keys()
    return seen


def libraries(start: str) -> set[str]:
    """Top-level names of everything else that is imported from there on."""
    return set(chain.from_iterable(map(imports, reached(start)))) - MODULES.keys()


def environments() -> dict[str, str]:
    """{program, or module that is started as one: the environment whose Python starts it}."""
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    by_rule = re.findall(r'"\$SFTFLOW" (\w+) (\w+)\.py', rules)
    assert len(by_rule) > 10, "the rules name a program's environment in another way"
    by_hand = dict.fromkeys(PROGRAMS | {n for n in MODULES if n.startswith("dev.")}, "workflow")
    return by_hand | STARTED_ELSEWHERE | {program: env for env, program in by_rule}


def declared(environment: str) -> set[str]:
    """Names of the packages that an environment's pyproject.toml asks for."""
    folder = ROOT if environment == "workflow" else ROOT / "envs" / environment
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]}


def distribution(library: str) -> str:
    return DISTRIBUTIONS.get(library, library.replace("_", "-"))


def package(name: str) -> str | None:
    """The package of sftflow that a module belongs to."""
    return name.split(".")[1] if name.startswith("sftflow.") else None


def test_arrows_go_down_only():
    list(TopologicalSorter(ARROWS).static_order())  # CycleError if the table itself leads round
    for name in filter(package, MODULES):
        used = filter(package, imports(name))
        allowed = ARROWS[package(name)] | {package(name)}
        assert [other for other in used if package(other) not in allowed] == [], name


def test_core_needs_the_standard_library_only():
    others = {n: imports(n) - MODULES.keys() for n in MODULES if package(n) == "core"}
    assert {name: used for name, used in others.items() if used} == CORE_LIBRARIES


def test_nothing_imports_a_program():
    assert [(name, other) for name in MODULES for other in imports(name) & PROGRAMS] == []


def test_tables_need_nothing_that_trains_serves_or_asks():
    for name in MODULES:
        if package(name) in ("reporting", "scoring"):
            assert list(filter(NOT_FOR_TABLES.match, sorted(reached(name)))) == [], name


@pytest.mark.parametrize("environment", ["evalscope", "swift", "workflow"])
def test_what_is_imported_is_declared(environment):
    starts = [name for name, env in environments().items() if env == environment]
    used = set().union(*map(libraries, starts))
    undeclared = {name for name in used if distribution(name) not in declared(environment)}
    assert undeclared == set()


def test_what_is_declared_is_imported():
    used = {distribution(name) for name in set().union(*map(imports, MODULES))}
    assert declared("workflow") - used == NOT_IMPORTED


def test_every_module_is_used():
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    by_rules = {
        f"{package}.{name}" if f"{package}.{name}" in MODULES else package
        for package, names in re.findall(r"^from (sftflow[\w.]*) import (.+)$", rules, re.MULTILINE)
        for name in names.split(", ")
    }
    used = set().union(*map(reached, environments().keys() | by_rules & MODULES.keys()))
    assert sorted(name for name in MODULES if name not in used and name != "sftflow") == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "envs/README.md"])
def test_pages_for_developers_name_what_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|smk|j2))`", text)
    paths += re.findall(r"\]\(([\w./-]+)[)#]", text)
    assert paths
    places = (ROOT, SCRIPTS / "sftflow", (ROOT / page).parent)
    named = [path for path in paths if not path.startswith("tables/")]  # an output
    assert [path for path in named if not any((p / path).exists() for p in places)] == []
