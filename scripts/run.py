"""Start a program of the workflow in its environment, with the settings of its job as a file.

    run ENVIRONMENT PROGRAM [ARGUMENT...]

    run swift train.py --settings results/settings/train_run/tiny-sft.json --train …

ENVIRONMENT is workflow, swift, evalscope or vllm. Of an argument RESULTS/settings/RULE/NAME….json
the file is written first: what config/jobs.py says that this job is told. RESULTS/study.json is the
whole study. RESULTS/settings/ahead/SUBJECT.json, after --ahead, is what the session that proves a
subject asks ahead (config/asking.py). With `software: active` every tool is in the Python that is
active.

The log of an earlier attempt is kept (keep_earlier). Merged weights that a program is to use, and
that were dropped or deleted, are merged again first.
"""

import contextlib
import os
import sys
from pathlib import Path

from filelock import FileLock
from sftflow.config import asking, jobs
from sftflow.core import cli, environments, process
from sftflow.core.cli import UserError, note
from sftflow.core.handover import HOME, study_of
from sftflow.core.jsonio import read_json, write_json
from sftflow.core.layout import PATHS
from sftflow.core.manifests import lost

KEPT_LOGS = 3  # of earlier attempts


def main() -> None:
    env, program, *arguments = sys.argv[1:]
    keep_earlier()
    python = sys.executable
    if "--settings" in arguments:
        path = Path(arguments[arguments.index("--settings") + 1])
        results, rule, names = address(path)
        study = study_of(results)
        write_if_other(path, jobs.settings(study, rule, *names) if rule else study)
        if "--ahead" in arguments:
            told = asking.ahead(study, names[0], str(results))
            write_if_other(Path(arguments[arguments.index("--ahead") + 1]), told)
        if "--manifest" in arguments:
            merge_again(Path(arguments[arguments.index("--manifest") + 1]), results, study)
        if env != "workflow":
            python = environments.interpreter(env, study["software"])
    os.execv(python, [python, str(HOME / "scripts" / program), *arguments])


def keep_earlier(log: int = 2) -> None:
    """What an earlier attempt wrote into the job's log stays: as <log>.1, before it <log>.2 …

    Snakemake deletes a log before it starts the job again. So each gets a second, hidden name.
    """
    path = Path(os.path.realpath(f"/proc/self/fd/{log}"))
    alias = path.with_name(f".{path.name}")
    if path.suffix != ".log" or not path.is_file():
        return
    with contextlib.suppress(OSError):  # a disk without links, or a full one
        if alias.exists() and not alias.samefile(path):
            for number in range(KEPT_LOGS, 1, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{path}.{number - 1}", f"{path}.{number}")
            os.replace(alias, f"{path}.1")
        os.link(path, alias)


def address(path: Path) -> tuple[Path, str | None, list[str]]:
    """results/settings/evaluate_suite/tiny/general.json -> (results, rule, [tiny, general]).

    results/study.json is the whole study: no rule.
    """
    if path.name == "study.json":
        return path.parent, None, []
    parts = path.with_suffix("").parts
    place = len(parts) - 1 - parts[::-1].index("settings")
    return Path(*parts[:place]), parts[place + 1], list(parts[place + 2 :])


def merge_again(manifest: Path, results: Path, study: dict) -> None:
    """Make a run's merged weights once more where some are missing. UserError if that fails."""
    if manifest.name != "merged.json" or not lost(manifest):
        return
    run = manifest.parent.name
    note(f"merge {run}  its merged weights are not here, and are made again")
    settings = results / PATHS.settings.format(rule="merge_run", name=run)
    write_if_other(settings, jobs.settings(study, "merge_run", run))
    base = results / PATHS.model.format(model=study["runs"][run]["model"])
    command: list[str | Path] = [
        environments.interpreter("swift", study["software"]), HOME / "scripts/merge.py", "--again",
        "--settings", settings, "--adapter", results / PATHS.adapter.format(run=run),
        "--manifest", base, "--output", manifest.parent,
    ]  # fmt: skip
    with FileLock(manifest.with_name(".merged.lock")):  # another job of the run may need them, too
        if process.start(command).wait():
            raise UserError(f"the merged weights of {run} could not be made again: see above")


def write_if_other(path: Path, settings: dict | list) -> None:
    try:
        same = read_json(path) == settings
    except (OSError, ValueError):
        same = False
    if not same:
        write_json(path, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main))
