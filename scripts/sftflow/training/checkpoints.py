"""Checkpoints that are complete, and the weights of those that are kept for good.

The trainer deletes older checkpoints as it goes on. Of those that the config asks for
(`checkpoints` of a training) the weights get a second name first, in kept/<step> beside them, and
when the training has ended their place in trainings/<identity>/steps/<step>, with a manifest.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sftflow.core.jsonio import read_json, tree_digest, tree_files, write_json, write_record

COMPLETE = "complete.json"  # written beside a checkpoint's files once all of them are there
KEPT = "kept"
ADAPTER_FILES = ("adapter_*", "*.safetensors")
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")
NOT_WEIGHTS = {"args.json", "trainer_state.json", COMPLETE}


def file_sizes(folder: Path) -> dict[str, int]:
    """{path: bytes} of the files in a checkpoint, its marker apart."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE and not path.name.startswith(".")
    }


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every complete checkpoint below `folder`, oldest first.

    Complete: its marker exists and every file that it lists still has the size it had.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = read_json(path / COMPLETE)
        except (OSError, ValueError):
            continue
        if marker["files"].items() <= file_sizes(path).items():
            found.append((marker["step"], path))
    return sorted(found)


# --- kept for good -------------------------------------------------------------------------------


def asked_for(step: int, asked: str | Iterable[int] | None) -> bool:
    """Whether `checkpoints` of a training ("all", steps or None) asks for this step."""
    return asked == "all" or step in (asked or ())


def due(asked: str | Iterable[int], every: int, last: int) -> set[int]:
    """The steps that `checkpoints` of a training names ("all" or steps), which saves one at each
    `every` steps; its last one is kept in any case."""
    return set(range(every, last, every) if isinstance(asked, str) else asked)


def keep(checkpoint: Path, step: int) -> None:
    """Give the weights of a checkpoint a second name, before the trainer deletes the first."""
    target = checkpoint.parent / KEPT / str(step)
    fresh = target.with_name(f".{step}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path in weights(checkpoint, (*ADAPTER_FILES, *MODEL_FILES)):
        link(str(path), str(fresh / path.name))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def kept(folder: Path) -> dict[int, Path]:
    """{step: where its weights lie} of all that is still there below `folder`."""
    names = {int(path.name): path for path in (folder / KEPT).glob("[0-9]*")}
    return dict(sorted((names | dict(checkpoints(folder))).items()))


def weights(checkpoint: Path, patterns: Iterable[str]) -> list[Path]:
    found = {path for pattern in patterns for path in checkpoint.glob(pattern)}
    return sorted(path for path in found if path.name not in NOT_WEIGHTS)


def take_weights(checkpoint: Path, target: Path, base: str, full: bool) -> None:
    """Copy a checkpoint's weights: no optimizer state, no host paths.

    Not as links: whatever is written over the copy, the checkpoint can give the weights once more.
    """
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path in weights(checkpoint, MODEL_FILES if full else ADAPTER_FILES):
        shutil.copyfile(path, fresh / path.name)
    config = fresh / "adapter_config.json"
    if config.exists():
        # PEFT writes the path of this machine, and modules in the order of a set: equal trainings
        # are to have equal digests
        settings = read_json(config) | {"base_model_name_or_path": base}
        if isinstance(modules := settings.get("target_modules"), list):
            settings["target_modules"] = sorted(modules)
        write_json(config, settings)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def manifest(training: Path, step: int) -> Path:
    """Where the manifest of a kept checkpoint lies in the folder of its finished training."""
    return training / "steps" / str(step) / "adapter.json"


def store_steps(
    folder: Path, training: Path, what: dict, last: int, asked: str | Iterable[int] | None
) -> None:
    """Store every step that is asked for, still below `folder`, and not stored yet. The last step
    is the run's own adapter. `what` is a manifest's {run, form, training, base}."""
    for step, path in kept(folder).items():
        place = manifest(training, step)
        if step != last and asked_for(step, asked) and not place.exists():
            store_step(path, place, what | {"step": step})


def store_step(checkpoint: Path, record: Path, made: dict) -> None:
    """Put a checkpoint's weights beside their manifest, which says what they are: {run, form,
    training (its identity), step, base}."""
    folder = record.with_suffix("")
    take_weights(checkpoint, folder, made["base"]["model"], made["form"] == "full")
    files = tree_files(folder)
    write_record(record, {"schema": 1, **made, "files": files, "digest": tree_digest(files)})


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
