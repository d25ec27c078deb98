"""Secrets in the shell of every test, which no file and no tool may hold.

conftest.py sets them before any test is read, and asks after each test whether one has leaked:
into a file that the test, or what it started, wrote, or into the environment of a training, a
server or the like, as long as it lived for half a second.
"""

import os
import re
import secrets
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import sleep, time  # which a test may replace in its module

from sftflow.core import process
from support import ROOT

NAMES = ("HF_TOKEN", "OPENAI_API_KEY", "SWANLAB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_SECRET")
SHELL = {name: f"canary{secrets.token_hex(12)}" for name in NAMES}
NEEDED = {"track.py": "SWANLAB_API_KEY"}  # by SwanLab's process
# Guarded as a tool, but ours (or uv, whose index may want any key): they have the user's shell.
OURS = {path.name for path in (ROOT / "scripts").glob("*.py")} - NEEDED.keys() | {"uv"}
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}
SMALL = 8_000_000  # bytes


def in_files(
    folders: Iterable[Path], since: float, values: Mapping[str, str] = SHELL
) -> Iterator[str]:
    """Small files, written since a time, that hold one; each is named without its value."""
    wanted = {name: value.encode() for name, value in values.items()}
    for parent, below, names in (step for folder in folders for step in os.walk(folder)):
        below[:] = {*below} - {".venv", "__pycache__"}
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):  # gone meanwhile, a socket, not ours
                if path.suffix in WEIGHTS or path.is_symlink() or not path.is_file():
                    continue
                about = path.stat()
                if about.st_ctime < since or about.st_size > SMALL:
                    continue
                text = path.read_bytes()
                yield from (f"{path} holds {name}" for name in wanted if wanted[name] in text)


def in_tools(values: Mapping[str, str] = SHELL) -> Iterator[str]:
    """Tools under a guard (core/process.py), and what they started, that hold one right now."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[1:3] != ["-I", "-S"] or not words[3].endswith("/core/process.py"):
                continue
            command = [os.path.basename(word) for word in words[5:]]
            if OURS & {*command[:2]} or "-c" in command:  # the last: of a test
                continue
            tool = next((word for word in command if word.endswith(".py")), command[0])
            for pid in process.descendants(int(entry.name)):
                held = Path(f"/proc/{pid}/environ").read_bytes()
                for name, value in values.items():
                    if value.encode() in held and NEEDED.get(tool) != name:
                        yield f"{tool} is given {name}"


class Watch:
    """Of one test after the other: what it starts, and which canary has leaked."""

    def __init__(self, base: Path):
        self.base = base.resolve()
        self.began, self.told, self.given = time(), "", set[str]()
        sys.addaudithook(self._heard)
        threading.Thread(target=self._look, daemon=True).start()

    def _heard(self, event: str, about: tuple) -> None:
        if event == "subprocess.Popen":
            _, command, cwd, _ = about
            words = [command] if isinstance(command, str | bytes | os.PathLike) else command
            self.told += " ".join(os.fsdecode(word) for word in [*words, cwd or os.getcwd(), ""])

    def _look(self) -> None:
        while True:
            if self.told:  # nothing is started by most tests
                self.given.update(set(in_tools()))
            sleep(0.5)

    def leaked(self, *folders: Path) -> list[str]:
        """Since the last call, in `folders` and in those that processes were started in or told."""
        below = re.findall(rf"{re.escape(str(self.base))}/[^/\s\"']+", self.told)
        found = sorted({*in_files({*folders, *map(Path, below)}, self.began - 1), *self.given})
        self.forget()
        return found

    def forget(self) -> None:
        """What was started so far, and what has leaked."""
        self.began, self.told = time(), ""
        self.given.clear()
