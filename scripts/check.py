"""Check configs, without Snakemake: every error, or how large the study is.

    uv run python scripts/check.py my_study.yaml
    uv run python scripts/check.py my_study.yaml more.yaml --config software=active

in:   config files, later ones on top of earlier ones as with Snakemake's --configfile, and --config
      key=value on top of all; sources are looked up from the working directory, as in a run
out:  a line for each error and warning, or "sound: 2 models, 1 run, ..."; exit status 1 or 0
env:  jsonschema and yaml (the workflow's own environment, or any other that has both)
"""

import argparse
import functools
import sys
from pathlib import Path

import yaml
from sftflow.config.reading import merge, read_all
from sftflow.config.resolve import load, warnings
from sftflow.core import cli

COUNTED = (
    "models",
    "datasets",
    "runs",
    "contenders",
    "endpoints",
    "benchmarks",
    "suites",
    "comparisons",
)


def setting(text: str) -> dict:
    """Argparse type: key=value. Inside a map every value stays a text, as with Snakemake."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form key=value")
    for kind in (int, float, {"True": True, "False": False}.__getitem__):
        try:
            return {key: kind(value)}
        except (ValueError, KeyError):
            pass
    try:
        return {key: yaml.load(value, Loader=yaml.BaseLoader) if value else None}
    except yaml.YAMLError:
        return {key: value}


def size(study: dict) -> str:
    """What a resolved config holds, as in "2 models, 1 run"."""
    counts = {kind: len(study[kind]) for kind in COUNTED}
    told = [f"{n} {kind if n != 1 else kind[:-1]}" for kind, n in counts.items() if n]
    return ", ".join(told) or "an empty study"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="YAML or JSON")
    parser.add_argument(
        *("--config", "-C"),
        nargs="+",
        default=[],
        type=setting,
        metavar="KEY=VALUE",
        help="as Snakemake's --config",
    )
    parser.add_argument(
        "--cluster", action="store_true", help="jobs go to other machines; this needs no GPU"
    )
    args = parser.parse_args()
    maps, errors = read_all(args.configs)
    raw = functools.reduce(merge, [*maps, *args.config])
    study = load(raw, errors, here=True, gpus=not args.cluster)
    for line in warnings(study):
        cli.note(f"warning: {line}")
    cli.note(f"sound: {size(study)}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
