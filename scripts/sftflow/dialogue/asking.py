"""What subjects are asked in held-out dialogues, and judges about their answers."""

from pathlib import Path
from typing import Any

from sftflow.core import identity, layout, manifests
from sftflow.core.jsonio import digest, file_digest, read_jsonl, read_lines, read_record
from sftflow.dialogue import judging
from sftflow.dialogue.turns import Turn, crisis_turns, turns
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.session import Session, ask_each
from sftflow.evaluation.subject import Subject


class Dialogues:
    """Turns of held-out dialogues, and messages of a crisis.

    receipts: datasets/<dataset>/receipt.json; validation.jsonl lies beside each.
    """

    file = "@dialogue"  # no suite can be called so

    def __init__(self, subject: Subject, receipts: list[Path]):
        chosen, self.subject = subject.settings["dialogue"], subject
        self.turns: list[Turn] = []
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        for path in receipts:
            name = manifests.verified(path)["dataset"]
            rows = read_jsonl(path.with_name("validation.jsonl"))
            found, self.left_out[name] = turns(name, rows, chosen["limit"], subject.system)
            self.counts[name] = len(found)
            self.turns += found
        data: list = [turn.key for turn in self.turns]
        if chosen["crisis"]:
            path = layout.local_source(chosen["crisis"])
            found = crisis_turns(path, subject.system)
            self.counts[layout.CRISIS_SET] = len(found)
            self.turns += found
            data.append(file_digest(path))
        stated = subject.settings["generation"] | {"max_tokens": chosen["max_tokens"]}
        self.parts: dict[str, Any] = {
            "weights": subject.weights,
            "data": digest(data),
            "settings": {"system": subject.system},
            "generation": subject.generation(stated),
            "backend": subject.backend,
        }
        self.requests = [
            {"messages": list(turn.messages), **self.parts["generation"]} for turn in self.turns
        ]

    def ask(self, session: Session, store: AnswerStore) -> None:
        ask_each(session, store, self.requests, f"dialogue {self.subject.name}")


class Judgement:
    """Of two subjects' answers, each turn in both orders; or of one's to messages of a crisis.

    answers: dialogue/<subject>/answers.json of baseline and candidate, or of one. record: path of
    what comes of it.
    """

    def __init__(self, subject: Subject, answers: list[Path], record: Path):
        judge, results = subject.settings["judge"], subject.results
        self.paired = len(answers) == 2
        self.sides = [read_record(path) for path in answers]
        kind = "rubric" if self.paired else "points"
        rubrics = {one: judging.rubric_file(kind, one) for one in ("en", "zh")}
        templates = {name: path.read_text(encoding="utf-8") for name, path in rubrics.items()}
        stated = {
            "temperature": 0,
            **subject.settings["generation"],
            "max_tokens": judge["max_tokens"],
        }
        self.parts: dict[str, Any] = {
            "weights": subject.weights,
            "data": digest([side["identity"] for side in self.sides]),
            "settings": {
                "rubrics": {name: digest(text) for name, text in templates.items()},
                "rubric": judge["rubric"],
                "limit": judge.get("limit"),
            },
            "generation": subject.generation(stated),
            "backend": subject.backend,
        }
        self.identity = identity.identity(self.parts)
        found = [
            list(read_lines(results / side["records"], side["records_sha256"]))
            for side in self.sides
        ]
        self.rows = pairs(found[0], found[1], judge["limit"]) if self.paired else crises(found[0])
        for row in self.rows:
            row["requests"] = [
                {"messages": [{"role": "user", "content": text}], **self.parts["generation"]}
                for text in told(row, templates, judge["rubric"])
            ]
        self.requests = [request for row in self.rows for request in row["requests"]]
        self.label = f"judge {judge['name']} {record.stem}"
        # a file for each judge and record: judgements of several pairs may be under way together
        self.file = f"@judge-{judge['name']}-{record.parent.parent.name}-{record.stem}"

    def ask(self, session: Session, store: AnswerStore) -> None:
        ask_each(session, store, self.requests, self.label)


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


def told(row: dict, templates: dict[str, str], wanted: str) -> list[str]:
    """What the judge reads about a turn: one text for each order, or one about a single answer."""
    language = judging.language_of(row["messages"], wanted)
    texts = {"conversation": judging.conversation(row["messages"], language)}
    if "kind" in row:
        sides = [{"A": row["answer"], "kind": row["kind"]}]
    else:
        orders = [(row["baseline"], row["candidate"]), (row["candidate"], row["baseline"])]
        sides = [] if row["equal"] else [{"A": first, "B": second} for first, second in orders]
    return [judging.prompt(templates[language], texts | side) for side in sides]
