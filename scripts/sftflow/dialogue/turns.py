"""Which turns of held-out dialogues a subject is asked to answer. Standard library only."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.layout import CRISIS_SET

FIGURATIVE = "figurative"  # only sounds like a crisis
KINDS = ("crisis", "near", FIGURATIVE)
OPENING, NEXT = "opening", "next"  # the first answer; the last one, given the true history


@dataclass(frozen=True)
class Turn:
    """What a subject is asked: the dialogue up to one of its answers, and that answer."""

    dataset: str
    id: str  # of the dialogue
    turn: str  # OPENING or NEXT
    messages: tuple[dict, ...]
    true: str  # what the dialogue itself has in this place
    kind: str = ""  # of a message of a crisis, one of KINDS

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dataset, self.id, self.turn


def turns(
    dataset: str, rows: Iterable[dict], limit: int, system: str | None
) -> tuple[list[Turn], int]:
    """(the turns of the first `limit` dialogues, dialogues left out because they call tools).

    Dialogues come in the order of their ids, which are digests: appended rows never change which
    others are asked before them, and no topic stands in front. A dialogue without a system prompt
    of its own has the model's.
    """
    found, left_out = [], 0
    for row in sorted(rows, key=lambda row: row["id"]):
        messages = row["messages"]
        if any(message["role"] not in ("system", "user", "assistant") for message in messages):
            left_out += 1
            continue
        if limit <= 0:
            break
        limit -= 1
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        places = {OPENING: answers[0]} | ({NEXT: answers[-1]} if len(answers) > 1 else {})
        for name, place in places.items():
            before = [{key: m[key] for key in ("role", "content")} for m in messages[:place]]
            if system and before[0]["role"] != "system":
                before.insert(0, {"role": "system", "content": system})
            true = messages[place]["content"]
            found.append(Turn(dataset, row["id"], name, tuple(before), true))
    return found, left_out


def crisis_turns(path: Path, system: str | None) -> list[Turn]:
    """A turn for each line {id, language, kind, text}; UserError names what is wrong, and where."""
    found: dict[str, Turn] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error}); see dialogue.crisis") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            id, kind, text = (row[key] for key in ("id", "kind", "text"))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: {error!r}; a line is "
                '{"id": …, "language": …, "kind": …, "text": …}'
            ) from error
        if kind not in KINDS:
            raise UserError(f"{path}, line {number}: kind {kind!r} is none of {', '.join(KINDS)}")
        if not (isinstance(id, str) and isinstance(text, str) and text.strip()):
            raise UserError(f"{path}, line {number}: id and text must be texts, and not empty")
        if id in found:
            raise UserError(f"{path}, line {number}: id {id!r} was there before; rename it")
        first = [{"role": "system", "content": system}] if system else []
        messages = (*first, {"role": "user", "content": text})
        found[id] = Turn(CRISIS_SET, id, OPENING, messages, "", kind)
    return list(found.values())
