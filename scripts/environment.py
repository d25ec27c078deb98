"""Make one tool environment ready and record what is in it.

in:   envs/<env>/ with pyproject.toml and uv.lock
      settings  {"software"}: managed (default): `uv sync` the environment, exactly as locked;
                active: inspect the Python that is active (container, module, conda) as it is
out:  --output  <results>/environments/<env>.json: {schema, env, software, made_with, python,
                packages {name: version}, lock (sha256 of uv.lock | null)}; without it, the
                environment is synced and nothing written down
env:  the workflow's own; standard library alone.
net:  only where uv's cache does not hold a package yet.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sftflow.core import cli, environments, jsonio, process
from sftflow.core.cli import UserError

# Where the path holds two copies of a package, distributions() lists both, and version() is that of
# the first, which is imported. "" is the folder that this starts in: no tool imports from there.
INSPECT = """
import json, platform, sys
from importlib.metadata import distributions, version
sys.path[:] = filter(None, sys.path)
names = {d.metadata["Name"] for d in distributions()} - {None}
packages = {name.lower().replace("_", "-"): version(name) for name in names}
print(json.dumps({"python": platform.python_version(), "packages": dict(sorted(packages.items()))}))
"""


INTERVAL = 5.0  # seconds between two lines that say how much there is
SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def sync(project: Path, folder: Path) -> Path:
    """Bring the environment in `folder` to the project's lock; give its interpreter."""
    if shutil.which("uv") is None:
        raise UserError(
            "uv is not installed, and it builds the tool environments: `pip install uv`, "
            "or set `software: active` to use the Python environment that is active"
        )
    command = ["uv", "sync", "--frozen", "--no-dev", "--project", str(project)]
    check_lock(project)
    # A virtual environment that is active (the workflow's own) is not the one to sync.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["UV_PROJECT_ENVIRONMENT"] = str(folder.resolve())
    if watched(command, environment, project.name):
        raise UserError(
            f"`{' '.join(command)}` failed; its output is above. Without network, fill uv's cache "
            "first on a machine that has it (UV_CACHE_DIR), or set `software: active`"
        )
    return folder / "bin/python"


def watched(command: list[str], environment: dict[str, str], name: str) -> int:
    """Run uv, and say how much of what it has to download is there; what it says goes to stderr."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        child = process.start(command, environment, said.name)
        told, spoken = "", time.monotonic()
        while True:
            ended = child.poll() is not None
            sys.stderr.write(new := said.read())
            told += new
            if ended:
                return child.returncode
            done, wanted = downloads(told)
            if wanted and time.monotonic() - spoken >= INTERVAL:
                spoken = time.monotonic()
                cli.note(
                    f"environment {name}  {done / 1e9:.1f} of {wanted / 1e9:.1f} GB downloaded"
                )
            time.sleep(0.1)


def downloads(said: str) -> tuple[float, float]:
    """(what has come, what is wanted so far) in bytes; small files uv does not name."""
    sizes = {
        name: float(size) * SIZES[unit]
        for name, size, unit in re.findall(r"^Downloading (\S+) \(([\d.]+)(\w+)\)", said, re.M)
    }
    come = re.findall(r"^ Downloaded (\S+)", said, re.M)
    return sum(sizes.get(name, 0.0) for name in come), sum(sizes.values())


def check_lock(project: Path) -> None:
    """A lock that no longer fits pyproject.toml would be installed silently by --frozen.

    A lock that fits is recognised without network and without cache, so --offline is safe.
    """
    if not (project / "uv.lock").is_file():
        raise UserError(f"{project}/uv.lock is missing: `uv lock --project {project}`")
    command = ["uv", "lock", "--check", "--offline", "--project", str(project)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise UserError(
            f"{project}/uv.lock is out of date: run `uv lock --project {project}` and commit it"
        )


def inspect(python: Path | str) -> dict:
    """{python, packages} of an interpreter, as installed and not as locked."""
    done = subprocess.run([python, "-c", INSPECT], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{python} does not start: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--env", required=True, help="its name: the folder below envs/")
    parser.add_argument(
        "--settings", type=cli.settings, default={"software": "managed"}, help="file with JSON"
    )
    parser.add_argument("--project", type=Path, help="default: envs/<env>")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    project = args.project or environments.project(args.env)
    managed = args.settings["software"] == "managed"
    python: Path | str
    if managed:
        python = sync(project, environments.folder(project))
    else:
        python = environments.interpreter(args.env, "active")
    if args.output is None:
        return
    record = {
        "schema": 1,
        "env": args.env,
        "software": args.settings["software"],
        "made_with": args.settings.get("made_with", {}),
        **inspect(python),
        "lock": jsonio.file_digest(project / "uv.lock") if managed else None,
    }
    jsonio.write_record(args.output, record)
    cli.note(
        f"environment {args.env}: Python {record['python']}, {len(record['packages'])} packages"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
