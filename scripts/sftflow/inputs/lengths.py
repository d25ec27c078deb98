"""How a run's dialogues fit its model: token lengths, what is too long, what is padding.

`encode(messages, tools)` below is anything that gives a dialogue's tokens as bytes, one a token: 1
where the token carries loss, else 0. In a run it is ms-swift's own template, so that its counts are
the trainer's.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sftflow.core.jsonio import digest

Encode = Callable[[list[dict], str | None], bytes]

TOO_LONG = "longer than max_length"
NO_ANSWER = "no answer within max_length"
EXCHANGE = "an exchange longer than max_length"
NO_LOSS = "no token carries loss"


@dataclass
class Outcome:
    """What becomes of one row: the rows to train on with their tokens, or the reason for none."""

    kept: list[tuple[dict, int, int]] = field(default_factory=list)  # row, tokens, with loss
    reason: str | None = None
    refusal: str | None = None  # what the template said
    how: str | None = None  # "truncated" or "split"
    lost: int = 0  # exchanges left out of a split dialogue


def outcome(row: dict, encode: Encode, longest: int, too_long: str) -> Outcome:
    tokens = encode(row["messages"], row.get("tools"))
    if not any(tokens):
        return Outcome(reason=NO_LOSS)
    if len(tokens) <= longest:
        return Outcome([(row, len(tokens), sum(tokens))])
    if too_long == "drop":
        return Outcome(reason=TOO_LONG)
    if too_long == "truncate":
        loss = sum(tokens[:longest])
        return (
            Outcome([(row, longest, loss)], how="truncated") if loss else Outcome(reason=NO_ANSWER)
        )
    kept = [(part, len(tokens), sum(tokens)) for part, tokens in split(row, encode, longest)]
    if not kept:
        return Outcome(reason=EXCHANGE)
    left = sum(len(exchanges(part["messages"])[1]) for part, _, _ in kept)
    return Outcome(kept, how="split", lost=len(exchanges(row["messages"])[1]) - left)


def exchanges(messages: list[dict]) -> tuple[list[dict], list[list[dict]]]:
    """(the system message if any, the dialogue in pieces that each start with a user turn)."""
    system = [message for message in messages if message["role"] == "system"]
    pieces: list[list[dict]] = []
    for message in messages[len(system) :]:
        if message["role"] == "user":
            pieces.append([])
        pieces[-1].append(message)
    return system, pieces


def split(row: dict, encode: Encode, longest: int) -> Iterator[tuple[dict, bytes]]:
    """A dialogue that is too long as several that fit, cut before user turns.

    Each keeps the system message. Gives (row, its tokens). An exchange that is too long by itself
    is left out, and so is what follows the last answer of a part that is learnt.
    """
    system, pieces = exchanges(row["messages"])

    def part(messages: list[dict], tokens: bytes) -> Iterator[tuple[dict, bytes]]:
        end = learnt(messages)
        if end < len(messages):  # a template would teach how a masked last answer ends
            tokens = encode(system + messages[:end], row.get("tools")) if end else b""
        if any(tokens):
            made = {key: value for key, value in row.items() if key != "id"}
            made["messages"] = system + messages[:end]
            yield made | {"id": digest(made)}, tokens

    taken: list[dict] = []
    tokens = b""
    for piece in pieces:
        longer = encode(system + taken + piece, row.get("tools"))
        if len(longer) > longest and taken:
            yield from part(taken, tokens)
            taken, tokens, longer = [], b"", encode(system + piece, row.get("tools"))
        if len(longer) <= longest:
            taken, tokens = taken + piece, longer
    yield from part(taken, tokens)


def learnt(messages: list[dict]) -> int:
    """How many messages from the start end in the last answer that is learnt; 0 if none is."""
    taught = (
        end
        for end, message in enumerate(messages, start=1)
        if message["role"] in ("assistant", "tool_call") and "loss" not in message
    )
    return max(taught, default=0)


def padded_share(lengths: Sequence[int], batch: int, seed: int, grouped: bool) -> float:
    """Share of the positions of an epoch that are padding, in batches padded to their longest row.

    grouped: batches of similar length, as transformers' LengthGroupedSampler forms them (sorted
    within groups of 50 batches). An estimate: the trainer's own shuffle is another one.
    """
    order = list(lengths)
    random.Random(seed).shuffle(order)
    if grouped:
        group = 50 * batch
        parts = [sorted(order[i : i + group], reverse=True) for i in range(0, len(order), group)]
        order = [length for part in parts for length in part]
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    positions = sum(max(part) * len(part) for part in batches)
    return 1 - sum(order) / positions if positions else 0.0
