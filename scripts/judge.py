"""Let a judge compare two subjects' answers, or look at one's to a crisis (evalscope's
environment).

in:   --answers   dialogue/<subject>/answers.json of baseline and candidate: each turn that both
                  answered, both orders. Of one subject: its answers to messages of a crisis
      --readiness the judge's marker, and its weights' flags, as evaluate.py has them
      settings    {"subject" (who judges), "form", "model"|"endpoint", "serving", "backend",
                   "generation", "judge": {"name", "limit", "rubric", "max_tokens"}, "pair"}
out:  --output    <results>/judgements/<judge>/<baseline>--<candidate>.json, or
                  <results>/crisis/<judge>/<subject>.json: {schema, judge, subject (who judges),
                  of [subject], answers [their identities], itself (of whom the judge has the
                  weights; else null), rubrics {language: sha256}, identity, parts, made_with, n,
                  equal, unreadable, records (path below results/), records_sha256, provenance}
      records     one turn a line. Of a pair: {dataset, id, turn, messages, baseline, candidate,
                  equal, games [{first, said, finish_reason, verdict: A|B|C|null}]}; of one subject:
                  {id, kind, messages, answer, said, finish_reason, points {name: holds}|null}
env:  envs/evalscope (openai).

Every judgement is kept as it comes, by its request, beside the judge's other answers: nothing is
asked twice, and with nothing left to ask no server starts. Equal answers are a tie without asking;
what can't be read is counted, and never guessed.
"""

import sys
from pathlib import Path

from sftflow.core import cli
from sftflow.core.jsonio import digest, file_digest, write_jsonl, write_record
from sftflow.dialogue import judging
from sftflow.dialogue.asking import Judgement
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.session import Session
from sftflow.evaluation.subject import Subject, parser


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--answers", type=Path, nargs="+", required=True, metavar="ANSWERS",
        help="answers.json of baseline and candidate, or of one subject",
    )  # fmt: skip
    args = flags.parse_args()
    settings, subject = args.settings, Subject.asked(args)
    asked = Judgement(subject, args.answers, args.output)
    with subject.store(asked.file) as store, Session(args, settings) as session:
        asked.ask(session, store)
        records = [(judged if asked.paired else looked_at)(row, store) for row in asked.rows]
        spans = store.spans((digest(each), 0) for each in asked.requests)
    results = subject.results
    path = args.output.relative_to(results).with_suffix("") / f"{asked.identity[:16]}.jsonl"
    write_jsonl(results / path, records)
    sides = asked.sides
    itself = [side["subject"] for side in sides if side["parts"]["weights"] == subject.weights]
    unreadable = sum(unread(record) for record in records)
    write_record(
        args.output,
        {
            "schema": 1,
            "judge": settings["judge"]["name"],
            "subject": subject.name,
            "of": [side["subject"] for side in sides],
            "answers": [side["identity"] for side in sides],
            "itself": itself[0] if itself else None,
            "rubrics": asked.parts["settings"]["rubrics"],
            "identity": asked.identity,
            "parts": asked.parts,
            "made_with": settings.get("made_with", {}),
            "n": len(records),
            "equal": sum(record.get("equal", False) for record in records),
            "unreadable": unreadable,
            "records": path.as_posix(),
            "records_sha256": file_digest(results / path),
            "provenance": session.provenance(("openai",), spans),
        },
    )
    cli.note(f"{asked.label}: {len(records)} judged, {unreadable} of them unreadable")


def said(store: AnswerStore, request: dict) -> dict:
    answer = store.get(digest(request), 0)
    assert answer is not None
    choice = answer["response"]["choices"][0]
    text = choice["message"].get("content") or ""
    return {"said": text, "finish_reason": choice["finish_reason"]}


def judged(row: dict, store: AnswerStore) -> dict:
    games = []
    for first, request in zip(judging.ORDERS, row.pop("requests"), strict=False):
        game = {"first": first, **said(store, request)}
        games.append(game | {"verdict": judging.verdict(game["said"], game["finish_reason"])})
    return {**row, "games": games}


def looked_at(row: dict, store: AnswerStore) -> dict:
    (request,) = row.pop("requests")
    answer = said(store, request)
    return {**row, **answer, "points": judging.points(answer["said"], answer["finish_reason"])}


def unread(record: dict) -> bool:
    return judging.outcome(record) is None if "games" in record else record["points"] is None


if __name__ == "__main__":
    sys.exit(cli.run(main))
