"""Programs that a person starts with a subject's name: what it is, and where its weights lie."""

import argparse
import functools
import json
import os
import shlex
from pathlib import Path
from typing import NoReturn

from sftflow.config import halving, jobs
from sftflow.config.names import nearest
from sftflow.config.reading import merge, read_all
from sftflow.config.resolve import load
from sftflow.core import environments
from sftflow.core.cli import UserError
from sftflow.core.handover import HOME
from sftflow.core.identity import BACKENDS
from sftflow.core.jsonio import read_json
from sftflow.core.layout import PATHS, Results, adapter_of, weights_of

LOGS = Path("logs")


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Which study it is."""
    parser.add_argument(
        "--results", type=Path, help="folder of all outputs (default: the config's, or results)"
    )
    parser.add_argument(
        *("--configfile", "--configfiles"),
        nargs="+",
        type=Path,
        metavar="CONFIG",
        help="the study's config files; default: the study that lies in --results",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which study it is, and in which form a run is served."""
    add_study_arguments(parser)
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="serve a run's adapter on its base, also where the study serves it merged",
    )


def results_of(args: argparse.Namespace) -> Path:
    """The folder that is named, else the one that the config files put the outputs into."""
    if args.results is None and args.configfile:
        maps, _ = read_all(args.configfile)
        named = (functools.reduce(merge, maps).get("pathvars") or {}).get("results")
        return Path(named or "results")
    return args.results or Path("results")


def study_of(args: argparse.Namespace) -> dict:
    """The study in the results folder, or of the config files. UserError where there is none."""
    args.results = results_of(args)
    if args.configfile:
        maps, errors = read_all(args.configfile)
        going_on = functools.partial(halving.going_on, args.results)
        return load(functools.reduce(merge, maps), errors, going_on=going_on)
    path = args.results / PATHS.study
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}, which says what the study is: name its config with --configfile, "
            "or its results folder with --results. `snakemake plan` writes that file, too"
        ) from None


def told(args: argparse.Namespace, study: dict, name: str, program: str) -> dict:
    """What one subject is: its settings, as the readiness job is told them, and its files.

    {settings, log, readiness, and as they are needed: environment, weights, weights_folder,
    adapter, adapter_folder}. UserError where something is not made yet.
    """
    if name not in study["subjects"]:
        raise UserError(f"there is no subject '{name}'{nearest(name, study['subjects'])}")
    entry = study["subjects"][name]
    form = entry["form"]
    if args.adapter and entry["kind"] == "run":
        if study["runs"][name]["training"]["tuner_type"] == "full":
            raise UserError(f"{name} is trained in full and has no adapter: leave out --adapter")
        form = "adapter"
    results = Results(args.results)
    files = {kind: results.folder / path for kind, path in weights_of(entry, form).items()}
    env = BACKENDS[entry["serving"]["backend"]].environment
    if env:
        files["environment"] = results.path(PATHS.environment, env=env)
    _refuse_missing(args, entry, form, files)
    readiness = results.path(PATHS.readiness, subject=name)
    return {
        "settings": jobs.settings(study, "serve_subject", name) | {"form": form},
        "log": str(LOGS / program / f"{name}.log"),
        "readiness": str(readiness),
        **{kind: str(path) for kind, path in files.items()},
    }


def start(study: dict, *arguments: str, settings: dict) -> NoReturn:
    """Become by_hand.py in evalscope's environment, where the library is that asks.

    The settings go by a file without a name: a command line is everybody's to read.
    """
    file = os.memfd_create("settings", 0)  # 0: it stays open in what this becomes
    with open(file, "w", encoding="utf-8", closefd=False) as handed:
        json.dump(settings, handed)
    python = environments.interpreter("evalscope", study["software"])
    program = str(HOME / "scripts/by_hand.py")
    os.execv(python, [python, program, *arguments, "--settings", f"/proc/self/fd/{file}"])


def _refuse_missing(args: argparse.Namespace, entry: dict, form: str, files: dict) -> None:
    records = [files[kind] for kind in ("weights", "adapter", "environment") if kind in files]
    missing = [str(path) for path in records if not path.exists()]
    folders = [files[kind] for kind in ("weights_folder", "adapter_folder") if kind in files]
    missing += [str(path) for path in folders if not missing and not path.is_dir()]
    if not missing:
        return
    configs = ["--configfile", *map(str, args.configfile)] if args.configfile else []
    command = shlex.join(["uv", "run", "snakemake", *missing, "--cores", "all", *configs])
    adapter = args.results / adapter_of(entry)[0]
    instead = ""
    if form == "merged" and adapter.exists():
        instead = ". Its adapter is there: --adapter serves that on its base"
    raise UserError(f"{', '.join(missing)}: not made yet. Make it with: {command}{instead}")
