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

import os
import sys
from pathlib import Path
from typing import Any

from sftflow.core import cli, identity, layout
from sftflow.core.jsonio import (
    digest,
    file_digest,
    read_lines,
    read_record,
    write_jsonl,
    write_record,
)
from sftflow.dialogue import judging
from sftflow.evaluation.answers import AnswerStore, answer_store
from sftflow.evaluation.session import Session, ask_each, locks, provenance
from sftflow.evaluation.subject import asked_backend, asked_weights
from sftflow.serving import backends, server


def main() -> None:
    parser = cli.parser(__doc__)
    server.add_arguments(parser)
    parser.add_argument("--readiness", type=Path, required=True, help="the judge's marker")
    parser.add_argument(
        "--answers", type=Path, nargs="+", required=True, metavar="ANSWERS",
        help="answers.json of baseline and candidate, or of one subject",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="the record")
    args = parser.parse_args()
    os.environ.update(backends.without_proxy(dict(os.environ)))
    settings, results = args.settings, args.output.parents[2]
    judge, paired = settings["judge"], len(args.answers) == 2
    sides = [read_record(path) for path in args.answers]
    kind = "rubric" if paired else "points"
    rubrics = {one: judging.rubric_file(kind, one) for one in ("en", "zh")}
    templates = {name: path.read_text(encoding="utf-8") for name, path in rubrics.items()}
    weights, backend = asked_weights(args), asked_backend(args)
    stated = {"temperature": 0, **settings["generation"], "max_tokens": judge["max_tokens"]}
    parts: dict[str, Any] = {
        "weights": weights,
        "data": digest([side["identity"] for side in sides]),
        "settings": {
            "rubrics": {name: digest(text) for name, text in templates.items()},
            "rubric": judge["rubric"],
            "limit": judge.get("limit"),
        },
        "generation": identity.generation(stated, backend["name"], settings.get("endpoint")),
        "backend": backend,
    }
    key = identity.identity(parts)
    found = [list(read_lines(results / side["records"], side["records_sha256"])) for side in sides]
    rows = pairs(found[0], found[1], judge["limit"]) if paired else crises(found[0])
    for row in rows:
        row["requests"] = [
            {"messages": [{"role": "user", "content": text}], **parts["generation"]}
            for text in asked(row, templates, judge["rubric"])
        ]
    requests = [request for row in rows for request in row["requests"]]
    name = f"judge {judge['name']} {args.output.stem}"
    way = layout.answers_folder(settings["subject"], identity.way(weights, backend))
    # a file for each judge and record: judgements of several pairs may be under way together
    file = f"@judge-{judge['name']}-{args.output.parent.parent.name}-{args.output.stem}.jsonl"
    with answer_store(results / way / file) as store, Session(args, settings) as session:
        ask_each(session, store, requests, name)
        records = [(judged if paired else looked_at)(row, store) for row in rows]
        spans = store.spans((digest(each), 0) for each in requests)
    path = args.output.relative_to(results).with_suffix("") / f"{key[:16]}.jsonl"
    write_jsonl(results / path, records)
    itself = [side["subject"] for side in sides if side["parts"]["weights"] == weights]
    unreadable = sum(unread(record) for record in records)
    write_record(
        args.output,
        {
            "schema": 1,
            "judge": judge["name"],
            "subject": settings["subject"],
            "of": [side["subject"] for side in sides],
            "answers": [side["identity"] for side in sides],
            "itself": itself[0] if itself else None,
            "rubrics": parts["settings"]["rubrics"],
            "identity": key,
            "parts": parts,
            "made_with": settings.get("made_with", {}),
            "n": len(records),
            "equal": sum(record.get("equal", False) for record in records),
            "unreadable": unreadable,
            "records": path.as_posix(),
            "records_sha256": file_digest(results / path),
            "provenance": provenance(("openai",), locks(args.environment), spans),
        },
    )
    cli.note(f"{name}: {len(records)} judged, {unreadable} of them unreadable")


def pairs(baseline: list[dict], candidate: list[dict], limit: int | None) -> list[dict]:
    """Turns of held-out dialogues that both sides answered, the first `limit`."""
    others = {turn_key(row): row for row in candidate}
    both = [
        (row, others[turn_key(row)])
        for row in baseline
        if row["dataset"] != layout.CRISIS_SET and turn_key(row) in others
    ]
    both.sort(key=lambda pair: pair[0]["id"])  # a digest: all datasets have their share
    return [
        {
            **{key: old[key] for key in ("dataset", "id", "turn", "messages")},
            "baseline": old["answer"],
            "candidate": new["answer"],
            "equal": old["answer"].strip() == new["answer"].strip(),
        }
        for old, new in both[:limit]
    ]


def turn_key(row: dict) -> tuple[str, str, str]:
    return row["dataset"], row["id"], row["turn"]


def crises(answers: list[dict]) -> list[dict]:
    return [
        {key: row[key] for key in ("id", "kind", "messages", "answer")}
        for row in answers
        if row["dataset"] == layout.CRISIS_SET
    ]


def asked(row: dict, templates: dict[str, str], wanted: str) -> list[str]:
    """What the judge reads about a turn: one text for each order, or one about a single answer."""
    language = judging.language_of(row["messages"], wanted)
    texts = {"conversation": judging.conversation(row["messages"], language)}
    if "kind" in row:
        sides = [{"A": row["answer"], "kind": row["kind"]}]
    else:
        orders = [(row["baseline"], row["candidate"]), (row["candidate"], row["baseline"])]
        sides = [] if row["equal"] else [{"A": first, "B": second} for first, second in orders]
    return [judging.prompt(templates[language], texts | side) for side in sides]


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
