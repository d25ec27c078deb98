"""Find the benchmark questions that a dataset's training dialogues hold.

in:   --dataset-receipt  <results>/datasets/<dataset>/receipt.json, train.jsonl beside it
      --benchmarks  <results>/benchmarks/<benchmark>/manifest.json of every benchmark that will be
                    asked (data/ lies beside each)
      settings      {"threshold": 0.8, "min_words": 4}
out:  --output      <results>/datasets/<dataset>/contamination.json: {schema, dataset, settings,
                   made_with, dialogues (count), measured [what planted leaks showed of this
                   search at the default settings], benchmarks {benchmark: {n, overlapping, share,
                   kinds {stem, whole, options: count}, uncheckable (count),
                   ids [of the overlapping questions, as in samples.jsonl],
                   examples [{id, subset, kind, coverage, question, dialogue, passage}]}}}
env:  envs/evalscope, which loads the questions exactly as it will ask them.

What counts as an overlap: sftflow/inputs/contamination.py.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sftflow.core import cli, jsonio, manifests
from sftflow.core.progress import Progress
from sftflow.inputs import contamination

EXAMPLES = 5


def asked(manifest: dict, data: Path) -> list[contamination.Question]:
    """Every question of a benchmark, as evalscope reads it from disk."""
    from sftflow.evaluation import harness

    benchmark = {"dataset": manifest["dataset"], "subsets": manifest["subsets"], "shots": 0}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = harness.task(benchmark, data, "none", {}, Path(folder))
        with harness.own_cache():
            loaded, _ = harness.get_benchmark(manifest["dataset"], config).load()
    return [
        contamination.Question(
            harness.question_id(subset, sample), subset, stem(sample), tuple(sample.choices or ())
        )
        for subset, samples in loaded.items()
        for sample in samples
    ]


def stem(sample: Any) -> str:
    """The question without its options."""
    if isinstance(sample.input, str):
        return sample.input
    return "\n".join(str(message.content) for message in sample.input)


class Dialogues:
    """The dialogues of a file, which is read twice."""

    def __init__(self, path: Path, dataset: str):
        self.path, self.size, self.number = path, path.stat().st_size, 0
        self._progress = Progress(f"contamination {dataset}", 2 * self.size, "bytes")
        self._done = 0

    def __call__(self) -> Iterator[dict]:
        self.number = 0
        for row in jsonio.read_jsonl(self.path):
            yield row
            self.number += 1
            self._done += sum(len(message["content"].encode()) for message in row["messages"])
            self._progress.update(min(self._done, 2 * self.size - 1))


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--dataset-receipt",
        type=Path,
        required=True,
        help="receipt.json; train.jsonl lies beside it",
    )
    parser.add_argument("--benchmarks", type=Path, nargs="*", default=[], help="manifests")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    find(args)


def find(args: argparse.Namespace) -> None:
    settings = args.settings
    dataset = jsonio.read_record(args.dataset_receipt)["dataset"]
    questions = {}
    for path in args.benchmarks:
        manifest = manifests.verified(path)
        data = manifests.folder_of(path, manifest)
        questions[manifest["benchmark"]] = asked(manifest, data)

    manifests.verified(args.dataset_receipt)
    dialogues = Dialogues(args.dataset_receipt.with_name("train.jsonl"), dataset)
    everything = [question for several in questions.values() for question in several]
    entries = iter(
        contamination.find(everything, dialogues, settings["threshold"], settings["min_words"])
    )
    record = {
        "schema": 1,
        "dataset": dataset,
        "settings": {key: settings[key] for key in ("threshold", "min_words")},
        "made_with": settings.get("made_with", {}),
        "dialogues": dialogues.number,
        "measured": contamination.MEASURED,
        "benchmarks": {
            name: contamination.summarise(several, list(islice(entries, len(several))), EXAMPLES)
            for name, several in questions.items()
        },
    }
    jsonio.write_record(args.output, record)
    found = {name: entry["overlapping"] for name, entry in record["benchmarks"].items()}
    text = ", ".join(f"{name} {n}" for name, n in found.items() if n)
    cli.note(
        f"contamination {dataset}: {sum(found.values())} of "
        f"{sum(map(len, questions.values()))} questions overlap{f' ({text})' if text else ''}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
