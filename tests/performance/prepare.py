"""How long 100,000 dialogues (about 120 MB) take to prepare, and how much memory.

    python tests/performance/prepare.py [--rows 100000] [--python envs/evalscope/.venv/bin/python]

The goal: at most 90 s and 1 GiB on 2 cores. Exits with status 1 beyond it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from sftflow.core.jsonio import tree_digest, tree_files, write_record

SECONDS, MEBIBYTES = 90, 1024
CHARACTERS = "我最近总是感到焦虑该怎么办心理学情绪压力睡眠朋友家人工作学习希望帮助方法建议呼吸放松"
WORDS = "anxiety sleep friend family work study hope help method advice breathe relax often".split()


def dialogue(chance: random.Random) -> dict:
    """About 1,200 bytes: four turns, Chinese or English."""
    chinese = chance.random() < 0.5

    def text(units: int) -> str:
        return "".join(chance.choices(CHARACTERS, k=units)) + "。" if chinese else " ".join(
            chance.choices(WORDS, k=units // 2)
        )  # fmt: skip

    turns = [("human", 30), ("gpt", 130), ("human", 30), ("gpt", 160)]
    return {"conversations": [{"from": who, "value": text(units)} for who, units in turns]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--python", default=sys.executable, help="interpreter to measure with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name), random.Random(0)
        (folder / "source").mkdir()
        with open(folder / "source" / "rows.jsonl", "w", encoding="utf-8") as file:
            for _ in range(args.rows):
                file.write(json.dumps(dialogue(chance), ensure_ascii=False) + "\n")
        size = (folder / "source" / "rows.jsonl").stat().st_size / 1e6
        files = tree_files(folder / "source")
        origin = {"source": "made up", "revision": None}
        origin |= {"files": files, "digest": tree_digest(files)}
        write_record(folder / "source.json", origin)
        settings = {"on_bad_rows": "drop", "max_bad_share": 0.01, "validation_share": 0.05}
        outputs = {"train": "train.jsonl", "validation": "validation.jsonl", "receipt": "r.json"}
        command = [
            args.python, SCRIPTS / "prepare_dataset.py", "--dataset", "made-up",
            "--source", folder / "source.json",
            "--settings", json.dumps(settings | {"split_seed": 42}),
            *(part for key, path in outputs.items() for part in (f"--{key}", folder / path)),
        ]  # fmt: skip
        begun = time.monotonic()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
    peak = usage.ru_maxrss / 1024
    print(f"{args.rows} dialogues, {size:.0f} MB: {seconds:.1f} s, {peak:.0f} MiB")
    return int(status != 0 or seconds > SECONDS or peak > MEBIBYTES)


if __name__ == "__main__":
    sys.exit(main())
