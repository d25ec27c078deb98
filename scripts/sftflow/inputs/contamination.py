"""Which benchmark questions the training dialogues hold, word for word or nearly so.

A question is looked for in one dialogue at a time: its stem in one passage and its options in one,
the two apart, so that labels and order don't matter. A passage is at most some twice as long as
what is looked for; it may go on in the next turn, or in the next turn of the same side.

How much of a text a passage holds is the smaller of two shares (`Cover.share`). One counts tokens
that stand in a run of at least two, so a changed word costs one word. The other counts pairs of
neighbouring tokens by their rarity: what many questions or dialogues share ("which of the following
is", the names of a field) says little, and two questions of one template differ in what is rare. A
changed token breaks two pairs, so the root of this share is on the scale of the first.

Three kinds of overlap count, each from the threshold on:
  stem     the stem, if it is long enough
  whole    stem and options together, if they are long enough together
  options  every option, if they are long enough and no dialogue would hold them all by chance
A question too short for all of them is uncheckable, and counts as clean.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import add
from typing import Any, NamedTuple

from sftflow.inputs.folded import Vocabulary, fold, is_word, spans, without_label

CHARACTER = 5 / 8  # of a word: 8 words (PaLM, Chowdhery et al. 2022, section 8) are 13 characters
COMMON = 100  # a pair counts fully if fewer than one text in so many holds it, and less if more do
UNSEEN = 20  # texts without it that each pair has met besides: what is rare in a few proves little
SLACK = 16  # tokens that a passage may hold besides, e.g. labels or a short reply
LEAST_STEM = 0.5  # of the stem, however much of the options is found
BY_CHANCE = 0.01  # dialogues that may be expected to hold all the options by chance
SEEDS = 0.5  # of a text's pairs, the rarest: where none of them stand nobody needs to look


@dataclass(frozen=True)
class Question:
    """One question as it stands in the benchmark's data."""

    identity: str
    subset: str
    stem: str
    options: tuple[str, ...] = ()


class Match(NamedTuple):
    """Where most of a question was found; the passage is folded text."""

    share: float
    kind: str
    dialogue: str
    passage: str


class Cover(NamedTuple):
    """How much of a text was found, and how much there is: words, and rarity of pairs."""

    words: float = 0.0
    all_words: float = 0.0
    rarity: float = 0.0
    all_rarity: float = 0.0

    @property
    def share(self) -> float:
        """0 to 1."""
        if not self.rarity:
            return 0.0
        return min(self.words / self.all_words, math.sqrt(self.rarity / self.all_rarity))


def together(covers: Iterable[Cover]) -> Cover:
    return Cover(*map(sum, zip(*covers, strict=True)))


def units(tokens: str) -> list[str]:
    """Each pair of neighbouring tokens; a single token where there is but one."""
    return list(map(add, tokens, tokens[1:])) or [*tokens]


def held(tokens: str) -> set[str]:
    """All units that a text can be asked for."""
    return {*map(add, tokens, tokens[1:]), *tokens}


class Part:
    """A stem or an option: its tokens and pairs, and how rare each pair is (0 to 1)."""

    def __init__(self, tokens: str):
        self.length = len(tokens)
        self.units = units(tokens)
        self.words = [1.0 if is_word(token) else CHARACTER for token in tokens]
        self.rarity = [1.0] * len(self.units)

    @property
    def size(self) -> float:
        """Words; one that stands in common pairs counts less."""
        pairs = zip(self.words, around(self.rarity), strict=False)
        return sum(word * (before + after) / 2 for word, (before, after) in pairs)

    def cover(self, text: set[str]) -> Cover:
        """How much of it stands in a text, of which `text` is what it holds."""
        found = [unit in text for unit in self.units]
        return Cover(
            sum(w for w, pair in zip(self.words, around(found), strict=False) if any(pair)),
            sum(self.words),
            sum(rarity for rarity, there in zip(self.rarity, found, strict=True) if there),
            sum(self.rarity),
        )


def around(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    """For each token what is said of the pair before and the pair after it."""
    return zip([*values[:1], *values], [*values, *values[-1:]], strict=True)


class Passage(NamedTuple):
    """Tokens of one reading of a dialogue, and all units that they hold."""

    reading: int
    start: int
    end: int
    held: set[str]


class Dialogue:
    """The tokens of a dialogue's turns as they follow each other: all of them, each side's alone."""

    def __init__(self, messages: list[dict], vocabulary: Vocabulary):
        turns = [(each["role"], each["content"]) for each in messages]
        sides = [[own for own in turns if own[0] == role] for role in dict(turns)]
        readings = [turns, *(side for side in sides if 1 < len(side) < len(turns))]
        self.texts = [[text for _, text in reading] for reading in readings]
        self.tokens = ["".join(map(vocabulary.read, texts)) for texts in self.texts]
        self.held = held(self.tokens[0])
        self._passages: dict[int, list[Passage]] = {}

    def passages(self, length: int) -> list[Passage]:
        """Overlapping passages; whatever has `length` tokens lies whole in one of them."""
        step = SLACK * (length // SLACK + 2)  # few different ones, as each is cut once
        if step not in self._passages:
            self._passages[step] = [
                Passage(number, start, start + 2 * step, held(tokens[start : start + 2 * step]))
                for number, tokens in enumerate(self.tokens)
                for start in range(0, max(1, len(tokens) - step), step)
            ]
        return self._passages[step]

    def best(self, parts: list[Part]) -> Passage:
        """The passage that holds most of the parts together."""
        length = sum(part.length for part in parts)
        return max(self.passages(length), key=lambda each: together(part.cover(each.held) for part in parts).share)

    def quote(self, passage: Passage, parts: list[Part]) -> str:
        """The folded text of a passage from the first to the last token of the parts."""
        wanted = {unit for part in parts for unit in part.units}
        tokens = self.tokens[passage.reading][passage.start : passage.end]
        found = [i for i in range(len(tokens)) if {tokens[i], tokens[i : i + 2]} & wanted]
        text = fold("\n".join(self.texts[passage.reading]))
        places = spans(text)[passage.start : passage.end]
        last = places[min(found[-1] + 1, len(places) - 1)]
        return text[places[found[0]][0] : last[1]]


class Entry:
    """A question that is looked for: its parts, what could count, and the best match so far."""

    def __init__(self, question: Question, vocabulary: Vocabulary):
        self.stem = Part(vocabulary.learn(question.stem))
        options = [vocabulary.learn(without_label(option)) for option in question.options]
        self.options = [Part(tokens) for tokens in options if tokens]
        self.units = {unit for part in (self.stem, *self.options) for unit in part.units}
        self.kinds: list[str] = []
        self.match: Match | None = None

    def weigh(
        self, rarity: dict[str, float], said: Counter[str], dialogues: int, least: float
    ) -> None:
        """Settle which kinds of overlap could count; said: dialogues that hold a unit."""
        for part in (self.stem, *self.options):
            part.rarity = [rarity[unit] for unit in part.units]
        options = sum(part.size for part in self.options)
        by_chance = dialogues * math.prod(
            min(said[unit] for unit in part.units) / dialogues for part in self.options
        )
        possible = {
            "whole": bool(self.options) and self.stem.size + options >= least,
            "stem": self.stem.size >= least,
            "options": options >= least and by_chance < BY_CHANCE,
        }
        self.kinds = [kind for kind, could in possible.items() if could]

    def judge(self, stem: set[str], options: set[str]) -> tuple[float, str]:
        """(share, kind) of the overlap that is the most, where a text holds these units."""
        covers = [self.stem.cover(stem), *(option.cover(options) for option in self.options)]
        shares = {
            "whole": together(covers).share if covers[0].share >= LEAST_STEM else 0.0,
            "stem": covers[0].share,
            "options": min((each.share for each in covers[1:]), default=0.0),
        }
        return max(((shares[kind], kind) for kind in self.kinds), key=lambda each: each[0])


class Index:
    """All questions, and by which units each is looked for.

    The dialogues are read twice: `count` each of them, `weigh` once, then `search` each.
    """

    def __init__(self, questions: Iterable[Question], threshold: float, least: float):
        """threshold: share of a question, above 0; least: words that it must have."""
        self.threshold, self.least = threshold, least
        self.vocabulary = Vocabulary()
        self.entries = [Entry(question, self.vocabulary) for question in questions]
        self.asked = Counter(chain.from_iterable(entry.units for entry in self.entries))
        self.wanted = frozenset(self.asked)
        self.said: Counter[str] = Counter()  # dialogues that hold a unit
        self.dialogues = 0
        # unit -> what it is a seed of: 2i is the stem of entry i, 2i + 1 are its options
        self.seeds: dict[str, list[int]] = defaultdict(list)
        self.needed: list[int] = []  # seeds that must be found, of each of them

    def count(self, messages: list[dict]) -> None:
        """Note which units a dialogue holds."""
        self.dialogues += 1
        self.said.update(held(self._tokens(each["content"] for each in messages)) & self.wanted)

    def _tokens(self, texts: Iterable[str]) -> str:
        return "".join(map(self.vocabulary.read, texts))

    def weigh(self) -> None:
        """Settle what each unit says, from all that was counted."""
        dialogues, questions = self.dialogues + UNSEEN, len(self.entries) + UNSEEN
        rarity = {
            # one of the texts that hold it is the question itself, or its copy
            unit: rare(max((self.said[unit] - 1) / dialogues, (n - 1) / questions))
            for unit, n in self.asked.items()
        }
        for entry in self.entries:
            entry.weigh(rarity, self.said, dialogues, self.least)
            for parts in ([entry.stem], entry.options):
                found = {unit for part in parts for unit in part.units if entry.kinds}
                rarest = sorted(found, key=lambda unit: (self.said[unit], unit))
                chosen = rarest[: max(4, math.ceil(SEEDS * len(rarest)))]
                for unit in chosen:
                    self.seeds[unit].append(len(self.needed))
                self.needed.append(max(1, len(chosen) // 4))
        self.wanted = frozenset(self.seeds)

    def search(self, identity: str, messages: list[dict]) -> None:
        """Look for every question in one dialogue."""
        dialogue = Dialogue(messages, self.vocabulary)
        seeds = map(self.seeds.__getitem__, dialogue.held & self.wanted)
        found = Counter(chain.from_iterable(seeds))
        for number in sorted({part // 2 for part, n in found.items() if n >= self.needed[part]}):
            entry = self.entries[number]
            least = entry.match.share if entry.match else self.threshold - 1e-9
            if entry.judge(dialogue.held, dialogue.held)[0] > least:
                stem, options = (dialogue.best(parts) for parts in ([entry.stem], entry.options))
                share, kind = entry.judge(stem.held, options.held)
                if share > least:
                    parts = (options, entry.options) if kind == "options" else (stem, [entry.stem])
                    entry.match = Match(share, kind, identity, dialogue.quote(*parts))


def rare(share: float) -> float:
    """How much a unit says that this share of all texts holds: 0 (all of them) to 1."""
    return min(1.0, -math.log(share) / math.log(COMMON)) if share > 0 else 1.0


def summarise(questions: list[Question], entries: list[Entry], shown: int) -> dict:
    """{n, overlapping, share, kinds, uncheckable, ids, examples} of one benchmark."""
    found = [(q, e.match) for q, e in zip(questions, entries, strict=True) if e.match]
    found.sort(key=lambda each: (-each[1].share, each[0].identity))
    return {
        "n": len(questions),
        "overlapping": len(found),
        "share": round(len(found) / len(questions), 4) if questions else None,
        "kinds": dict(Counter(match.kind for _, match in found)),
        "uncheckable": sum(not entry.kinds for entry in entries),
        "ids": sorted({question.identity for question, _ in found}),
        "examples": [
            {
                "id": question.identity,
                "subset": question.subset,
                "kind": match.kind,
                "coverage": round(match.share, 4),
                "question": "\n".join([question.stem, *question.options])[:300],
                "dialogue": match.dialogue,
                "passage": match.passage[:300],
            }
            for question, match in found[:shown]
        ],
    }
