"""Measure how a subject's answers behave: those to held-out dialogues, and those to benchmarks.

in:   --answers      <results>/dialogue/<subject>/answers.json, its records beside it
      --evaluations  <results>/evaluations/<subject>/<suite>.json …, samples below the same results
out:  --output       <results>/dialogue/<subject>/behaviour.json: {schema, subject, identity (of the
                     dialogue answers), sources {what: identity}, groups [{name, turn, n, <share or
                     mean of each measure>}], records (path below results/), records_sha256}
      records        one answer a line: {group, turn, id, <measures>} (sftflow.dialogue.behaviour)
env:  any Python from 3.11 on; standard library alone.

A group is a dataset's openings, its next turns, or a benchmark. `id` names the dialogue or the
question, so that two subjects' answers can be paired.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from sftflow.core import cli
from sftflow.core.jsonio import file_digest, read_lines, read_record, write_jsonl, write_record
from sftflow.dialogue import behaviour


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="answers.json")
    parser.add_argument(
        "--evaluations", type=Path, nargs="*", default=[], help="<subject>/<suite>.json"
    )
    parser.add_argument("--output", type=Path, required=True, help="behaviour.json")
    args = parser.parse_args()
    results = args.output.parents[2]
    answers = read_record(args.answers)
    sources = {"dialogue": answers["identity"]}
    lines = read_lines(results / answers["records"], answers["records_sha256"])
    rows = list(of_dialogues(lines))
    for path in args.evaluations:
        for name, entry in read_record(path)["benchmarks"].items():
            sources[name] = entry["identity"]
            lines = read_lines(results / entry["samples"], entry["samples_sha256"])
            rows += of_benchmark(name, lines)
    records = f"dialogue/{answers['subject']}/behaviour.jsonl"
    write_jsonl(results / records, rows)
    write_record(
        args.output,
        {
            "schema": 1,
            "subject": answers["subject"],
            "identity": answers["identity"],
            "parts": answers["parts"],
            "made_with": answers["made_with"],
            "sources": sources,
            "groups": behaviour.summary(rows),
            "records": records,
            "records_sha256": file_digest(results / records),
        },
    )
    cli.note(f"behaviour {answers['subject']}: {len(rows)} answers looked at")


def of_dialogues(records: Iterator[dict]) -> Iterator[dict]:
    for record in records:
        yield {
            "group": record["dataset"],
            "turn": record["turn"],
            "id": record["id"],
            **behaviour.measures(
                record["answer"], record["finish_reason"], record["messages"][-1]["content"]
            ),
        }


def of_benchmark(name: str, samples: Iterator[dict]) -> Iterator[dict]:
    for sample in samples:
        yield {
            "group": name,
            "turn": "benchmark",
            "id": f"{sample['id']}:{sample['repeat']}",
            **behaviour.measures(
                sample["answer"], sample["finish_reason"], sample["prompt"][-1]["content"]
            ),
        }


if __name__ == "__main__":
    sys.exit(cli.run(main))
