"""The image and the recipe for apptainer hold the same: what a cluster runs is what docker runs."""

import re
import subprocess

import pytest
import yaml
from support import ROOT

HOME = "/opt/sftflow"
DOCKERFILE = (ROOT / "containers/Dockerfile").read_text("utf-8")
RECIPE = (ROOT / "containers/apptainer.def").read_text("utf-8")


def section(name: str) -> list[str]:
    """The lines of a section of the recipe."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", RECIPE, re.M | re.S)
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def below(paths: list[str]) -> set[str]:
    """Tracked files at or below these paths; each must hold some."""
    found = set()
    for path in paths:
        listed = subprocess.run(
            ["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\n")
        assert listed[0], f"{path} is not in the repository"
        found |= set(filter(None, listed))
    return found


def test_both_hold_the_same_files():
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    image = below([path for paths in copied for path in paths])
    pairs = [line.split() for line in section("files")]
    assert all(target == f"{HOME}/{source}" for source, target in pairs)
    recipe = below([source for source, _ in pairs])
    assert image - recipe == {"envs/README.md"}, "an environment that the recipe has not"
    assert not recipe - image


@pytest.mark.parametrize(
    "needed", ["Snakefile", "rules", "scripts", "config", "profiles", "uv.lock"]
)
def test_what_a_study_needs_is_in_the_recipe(needed):
    assert needed in [line.split()[0] for line in section("files")]


def test_both_make_the_same_environments():
    """Words of a shell, whatever joins them there: && in one, lines in the other."""
    runs = re.findall(r"^RUN (.*?[^\\])$", DOCKERFILE, re.M | re.S)
    docker = re.split(r"&&|;|\n", "\n".join(runs).replace("\\\n", " "))
    ours = re.split(r";|\n", "\n".join(section("post")))
    commands = [{" ".join(each.split()) for each in side} for side in (docker, ours)]
    commands = [{re.sub(r"^do\b ?", "", each) for each in side} - {"", "done"} for side in commands]
    alone = {f"cd {HOME}", "export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy"}
    assert commands[1] - commands[0] == alone and commands[0] <= commands[1]
    environments = re.search(r"for env in (.+?)[;\n]", RECIPE)[1].split()
    assert set(environments) == {path.parent.name for path in (ROOT / "envs").glob("*/uv.lock")}


def test_the_public_ci_builds_both():
    steps = yaml.safe_load((ROOT / ".github/workflows/containers.yml").read_text("utf-8"))["jobs"]
    said = str(steps)
    assert "docker build -t sftflow -f containers/Dockerfile" in said
    assert "apptainer build sftflow.sif containers/apptainer.def" in said
