"""Which turns of held-out dialogues a subject is asked to answer. Standard library only."""

from collections.abc import Iterable
from dataclasses import dataclass

OPENING, NEXT = "opening", "next"  # the first answer; the last one, given the true history


@dataclass(frozen=True)
class Turn:
    """What a subject is asked: the dialogue up to one of its answers, and that answer."""

    dataset: str
    id: str  # of the dialogue
    turn: str  # OPENING or NEXT
    messages: tuple[dict, ...]
    true: str  # what the dialogue itself has in this place

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
