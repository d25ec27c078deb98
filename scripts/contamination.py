"""Find the benchmark questions that a dataset's training dialogues hold.

in:   --dataset-receipt  <results>/datasets/<dataset>/receipt.json, train.jsonl beside it
      --benchmarks  <results>/benchmarks/<benchmark>/manifest.json of every benchmark that will be
                    asked (data/ lies beside each)
      settings      {"zh_ngram": 13 (characters), "en_ngram": 8 (words), "threshold": 0.7}
out:  --output      <results>/datasets/<dataset>/contamination.json: {schema, dataset, settings,
                   made_with, dialogues (count), benchmarks {benchmark: {n, overlapping, share,
                   ids [of the overlapping questions, as in samples.jsonl],
                   examples [{id, subset, coverage, question, dialogue, passage}]}}}
env:  envs/evalscope, which loads the questions exactly as it will ask them.

A question (its text; with its options where the text alone is shorter than one n-gram) counts as
overlapping when at least `threshold` of its n-grams occur in the dialogues, in any message.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sftflow.core import cli, jsonio, manifests
from sftflow.core.progress import Progress
from sftflow.inputs import contamination

EXAMPLES = 5


def asked(manifest: dict, data: Path, lengths: dict[str, int]) -> list[contamination.Question]:
    """Every question of a benchmark, as evalscope reads it from disk."""
    from sftflow.evaluation import harness

    benchmark = {"dataset": manifest["dataset"], "subsets": manifest["subsets"], "shots": 0}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = harness.task(benchmark, data, "none", {}, Path(folder))
        with harness.own_cache():
            loaded, _ = harness.get_benchmark(manifest["dataset"], config).load()
    return [
        contamination.Question(
            harness.question_id(subset, sample), subset, question_text(sample, lengths)
        )
        for subset, samples in loaded.items()
        for sample in samples
    ]


def question_text(sample: Any, lengths: dict[str, int]) -> str:
    """The question; with its options if it is shorter than one n-gram by itself."""
    stem = sample.input
    if not isinstance(stem, str):
        stem = "\n".join(str(message.content) for message in stem)
    kind = contamination.language(stem)
    if len(contamination.normal(stem, kind)) < lengths[kind]:
        return "\n".join([stem, *(sample.choices or [])])
    return stem


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    dialogues = args.dataset_receipt.with_name("train.jsonl")
    lengths = {"zh": settings["zh_ngram"], "en": settings["en_ngram"]}
    index = contamination.Index(lengths)
    questions = {}
    for path in args.benchmarks:
        manifest = manifests.verified(path)
        data = manifests.folder_of(path, manifest)
        questions[manifest["benchmark"]] = asked(manifest, data, lengths)
    for question in (each for several in questions.values() for each in several):
        index.add(question)

    manifests.verified(args.dataset_receipt)
    size = dialogues.stat().st_size
    progress = Progress(f"contamination {dataset}", size, "bytes")
    read = done = 0
    for row in jsonio.read_jsonl(dialogues):
        for message in row["messages"]:
            index.search(row["id"], message["content"])
            done += len(message["content"].encode())
        read += 1
        progress.update(min(done, size - 1))
    record = {
        "schema": 1,
        "dataset": dataset,
        "settings": {key: settings[key] for key in ("zh_ngram", "en_ngram", "threshold")},
        "made_with": settings.get("made_with", {}),
        "dialogues": read,
        "benchmarks": {
            name: contamination.summarise(several, index, settings["threshold"], EXAMPLES)
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
