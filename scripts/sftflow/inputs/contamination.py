"""Which benchmark questions the training dialogues hold, word for word or nearly so.

A question is looked for in one dialogue at a time: its stem in one passage and its options in one,
the two apart, so that labels and order don't matter. A passage is at most some twice as long as
what is looked for; it may go on in the next turn, or in the next turn of the same side.

How much of a text a passage holds is the smaller of two shares (`Cover`), of

- its words that stand in pieces of the passage, at least two tokens each. A copy comes in few
  pieces, so each further one costs a token: one changed word costs two, a mosaic of phrases much.
- its pairs of neighbouring tokens in those pieces, by rarity: what many questions or dialogues
  share ("which of the following is", the terms of a field) says little, and two questions of one
  template differ in what is rare. The root is taken, as a changed token breaks two pairs.

Three kinds of overlap count, each from the threshold on:

  stem     the stem, if it says enough
  whole    stem and options together, if they say enough together
  options  every option, word for word, if no dialogue would hold them all by chance

How much something says is its length in words, less where many texts hold it: the whole of it for
a copy word for word, its pairs for a near one. A question that says too little for any of the kinds
is uncheckable, and counts as clean.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, compress, starmap
from operator import add, or_
from typing import Any, NamedTuple

from sftflow.inputs.folded import Vocabulary, fold, is_word, spans, without_label

CHARACTER = 5 / 8  # of a word: 8 words (PaLM, Chowdhery et al. 2022, section 8) are 13 characters
COMMON = 1000  # a pair counts fully if fewer than one text in so many holds it, and less if more do
UNSEEN = 20  # texts without it that each pair has met besides: what is rare in a few proves little
SLACK = 16  # tokens that a passage may hold besides, e.g. labels or a short reply
LEAST_STEM = 0.5  # of the stem, however much of the options is found
BY_CHANCE = 0.01  # dialogues that would hold all the options, if each came by itself
SEEDS = 0.2  # of what must be found: as much is looked for first, by the rarest pairs

# What was found of made-up leaks, and of questions that nobody leaked, at the default settings
# (tests/unit/planted_leaks.py). A test holds it, and the table states it.
MEASURED: dict[str, Any] = {
    "planted": 760,
    "recall": {
        "verbatim": 1.0,
        "short stem": 1.0,
        "reordered": 1.0,
        "one word changed": 1.0,
        "split over turns": 1.0,
        "traditional": 1.0,
        "options only": 1.0,
        "case, width, punctuation": 1.0,
        "in a longer text": 1.0,
        "translated": 0.0,
    },
    "clean": 400,
    "false_positives": 0.0,
}


@dataclass(frozen=True)
class Question:
    """One question as it stands in the benchmark's data; `identity` as in samples.jsonl."""

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
        self.tokens = tokens
        self.units = units(tokens)
        self.words = [1.0 if is_word(token) else CHARACTER for token in tokens]
        self.rarity = [1.0] * len(self.units)
        self.rare = 1.0  # of the whole of it

    @property
    def says(self) -> tuple[float, float]:
        """How many words it counts as: as a whole, and by its pairs."""
        pairs = zip(self.words, around(self.rarity), strict=False)
        by_pairs = sum(word * (before + after) / 2 for word, (before, after) in pairs)
        return sum(self.words) * self.rare, by_pairs

    def bound(self, text: set[str]) -> Cover:
        """No less than how much of it a text holds that has these units."""
        # Most of a search is spent here, hence without loops of Python.
        found = [*map(text.__contains__, self.units)]
        return Cover(
            sum(compress(self.words, starmap(or_, around(found)))),
            sum(self.words),
            sum(compress(self.rarity, found)),
            sum(self.rarity),
        )

    def cover(self, text: str) -> Cover:
        """How much of it a text holds, in as few pieces as possible; each but one costs a token."""
        words = rarity = 0.0
        start = further = 0
        while start < len(self.tokens):
            end = start + 1
            while end < len(self.tokens) and self.tokens[start : end + 1] in text:
                end += 1
            if end > start + 1:
                words += sum(self.words[start + further : end])
                rarity += sum(self.rarity[start : end - 1])
                further = 1
            start = end
        if len(self.tokens) == 1 and self.tokens in text:
            words, rarity = self.words[0], self.rarity[0]
        return Cover(words, sum(self.words), rarity, sum(self.rarity))


def around(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    """For each token what is said of the pair before and the pair after it."""
    return zip([*values[:1], *values], [*values, *values[-1:]], strict=True)


class Passage(NamedTuple):
    """Tokens of one of a dialogue's readings, and the place of the first."""

    reading: int
    start: int
    tokens: str


class Dialogue:
    """A dialogue to look in."""

    def __init__(self, messages: list[dict], vocabulary: Vocabulary):
        self.messages, self.vocabulary = messages, vocabulary
        self.tokens = "".join(vocabulary.read(each["content"]) for each in messages)
        self.held = held(self.tokens)
        self._passages: dict[int, list[Passage]] = {}

    @cached_property
    def readings(self) -> list[list[str]]:
        """The texts of turns that follow each other: of all turns, and of each side alone."""
        turns = [(each["role"], each["content"]) for each in self.messages]
        sides = [[own for own in turns if own[0] == role] for role in dict(turns)]
        readings = [turns, *(side for side in sides if 1 < len(side) < len(turns))]
        return [[text for _, text in reading] for reading in readings]

    @cached_property
    def read(self) -> list[str]:
        """The tokens of each of the readings."""
        sides = ["".join(map(self.vocabulary.read, texts)) for texts in self.readings[1:]]
        return [self.tokens, *sides]

    def passages(self, length: int) -> list[Passage]:
        """Overlapping passages; whatever has `length` tokens lies whole in one of them."""
        step = SLACK * (length // SLACK + 2)  # few different ones, as each is cut once
        if step not in self._passages:
            self._passages[step] = [
                Passage(number, start, tokens)
                for number, reading in enumerate(self.read)
                for start in range(0, max(1, len(reading) - step), step)
                for tokens in [reading[start : start + 2 * step]]
            ]
        return self._passages[step]

    def best(self, parts: list[Part]) -> Passage:
        """The passage that holds most of the parts together."""
        length = sum(len(part.tokens) for part in parts)
        return max(
            self.passages(length),
            key=lambda each: together(part.cover(each.tokens) for part in parts).share,
        )

    def quote(self, passage: Passage, parts: list[Part]) -> str:
        """The folded text of a passage from the first to the last token of the parts."""
        wanted = {unit for part in parts for unit in part.units}
        tokens = passage.tokens
        found = [i for i in range(len(tokens)) if {tokens[i], tokens[i : i + 2]} & wanted]
        text = fold("\n".join(self.readings[passage.reading]))
        places = spans(text)[passage.start : passage.start + len(tokens)]
        last = places[min(found[-1] + 1, len(places) - 1)]
        return text[places[found[0]][0] : last[1]]


class Entry:
    """A question that is looked for: its parts, what could count, and the best match so far."""

    def __init__(self, question: Question, vocabulary: Vocabulary):
        self.stem = Part(vocabulary.learn(question.stem))
        options = [vocabulary.learn(without_label(option)) for option in question.options]
        self.options = [Part(tokens) for tokens in options if tokens]
        self.all = (self.stem, *self.options)
        self.units = {unit for part in self.all for unit in part.units}
        self.kinds: list[str] = []  # of overlap that could count
        self.nearly: set[str] = set()  # those of them that need not be word for word
        self.match: Match | None = None

    def weigh(
        self, rarity: dict[str, float], said: Counter[str], dialogues: int, least: float
    ) -> None:
        """Settle which kinds of overlap could count; said: dialogues that hold a unit."""
        for part in self.all:
            part.rarity = [rarity[unit] for unit in part.units]
            part.rare = rarity.get(part.tokens, 0.0)
        by_chance = dialogues * math.prod(said[part.tokens] / dialogues for part in self.options)
        possible = ["whole", "stem", "options"] if self.options else ["stem"]
        says = {
            kind: tuple(map(sum, zip(*(part.says for part in self.parts(kind)), strict=True)))
            for kind in possible
        }
        self.kinds = [kind for kind in possible if says[kind][0] >= least]
        if by_chance >= BY_CHANCE and "options" in self.kinds:
            self.kinds.remove("options")
        self.nearly = {kind for kind in self.kinds if says[kind][1] >= least}

    def parts(self, kind: str) -> list[Part]:
        """What must be found for a kind of overlap."""
        return [self.stem] * (kind != "options") + self.options * (kind != "stem")

    def bound(self, text: set[str]) -> float:
        """No less than the share that `judge` finds in a text that holds these units."""
        return self._most([part.bound(text) for part in self.all])[0]

    def judge(self, stem: str, options: str) -> tuple[float, str]:
        """(share, kind) of the overlap that is the most, where these are the best passages."""
        covers = [self.stem.cover(stem), *(option.cover(options) for option in self.options)]
        return self._most(covers)

    def _most(self, covers: list[Cover]) -> tuple[float, str]:
        stem = covers[0].share
        shares = {
            "whole": together(covers).share if stem >= LEAST_STEM else 0.0,
            "stem": stem,
            "options": float(all(option.share == 1 for option in covers[1:])),
        }
        counted = [
            (shares[kind] if kind in self.nearly or shares[kind] == 1 else 0.0, kind)
            for kind in self.kinds
        ]
        return max(counted, key=lambda each: each[0])


class Index:
    """All questions, and by which units each is looked for.

    The dialogues are read twice: `count` each of them, `weigh` once, then `search` each.
    """

    def __init__(self, questions: Iterable[Question], threshold: float, least: float):
        """threshold: share of a question, above 0; least: words that it must have."""
        self.threshold, self.least = threshold, least
        self.vocabulary = Vocabulary()
        self.entries = [Entry(question, self.vocabulary) for question in questions]
        self.wanted = frozenset(chain.from_iterable(entry.units for entry in self.entries))
        wholes = [{part.tokens for part in entry.all if part.tokens} for entry in self.entries]
        # questions that hold a unit, or a whole stem or option
        self.asked = Counter(
            chain.from_iterable(
                entry.units | own for entry, own in zip(self.entries, wholes, strict=True)
            )
        )
        # unit -> the stems and options of which it is the rarest unit
        self.wholes: dict[str, list[str]] = defaultdict(list)
        for whole in sorted(set().union(*wholes) - self.wanted):
            self.wholes[min(units(whole), key=self.asked.__getitem__)].append(whole)
        self.said: Counter[str] = Counter()  # dialogues that do
        self.dialogues = 0
        # unit -> what it is a seed of, as an index of the next two
        self.seeds: dict[str, list[int]] = defaultdict(list)
        self.seeded: list[int] = []  # entry
        self.needed: list[int] = []  # seeds that must be found

    def count(self, messages: list[dict]) -> None:
        """Note which units, and which whole stems and options, a dialogue holds."""
        tokens = self._tokens(each["content"] for each in messages)
        text = held(tokens)
        self.dialogues += 1
        self.said.update(text & self.wanted)
        likely = chain.from_iterable(map(self.wholes.__getitem__, text & self.wholes.keys()))
        self.said.update([whole for whole in likely if whole in tokens])

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
        for number, entry in enumerate(self.entries):
            entry.weigh(rarity, self.said, dialogues, self.least)
            for kind in entry.kinds:
                chosen, needed = self._seeds(entry, kind)
                for unit in chosen:
                    self.seeds[unit].append(len(self.seeded))
                self.seeded.append(number)
                self.needed.append(needed)
        self.wanted = frozenset(self.seeds)

    def _seeds(self, entry: Entry, kind: str) -> tuple[list[str], int]:
        """(the rarest units of what must be found for a kind, how many of them must be)."""
        weights: dict[str, float] = defaultdict(float)
        for part in entry.parts(kind):
            for unit, rarity in zip(part.units, part.rarity, strict=True):
                weights[unit] += rarity
        total = sum(weights.values())
        # a share is at most the root of the rarity that is found
        may_lack = 0.0 if kind == "options" else (1 - self.threshold**2) * total
        chosen: list[str] = []
        left = may_lack + SEEDS * (total - may_lack)
        for unit in sorted(weights, key=lambda unit: (self.said[unit], unit)):
            if left > 0:
                chosen.append(unit)
                left -= weights[unit]
        lacking = accumulate(sorted(weights[unit] for unit in chosen))
        return chosen, max(1, len(chosen) - sum(sum_ <= may_lack for sum_ in lacking))

    def search(self, identity: str, messages: list[dict]) -> None:
        """Look for every question in one dialogue."""
        dialogue = Dialogue(messages, self.vocabulary)
        seeds = map(self.seeds.__getitem__, dialogue.held & self.wanted)
        found = Counter(chain.from_iterable(seeds))
        needed = self.needed
        likely = [which for which, n in found.items() if n >= needed[which]]
        for number in sorted({self.seeded[which] for which in likely}):
            entry = self.entries[number]
            least = entry.match.share if entry.match else self.threshold - 1e-9
            if entry.bound(dialogue.held) > least:
                stem, options = (dialogue.best(parts) for parts in ([entry.stem], entry.options))
                share, kind = entry.judge(stem.tokens, options.tokens)
                if share > least:
                    parts = (options, entry.options) if kind == "options" else (stem, [entry.stem])
                    entry.match = Match(share, kind, identity, dialogue.quote(*parts))


def rare(share: float) -> float:
    """How much a unit says that this share of all texts holds: 0 (all of them) to 1."""
    return min(1.0, -math.log(share) / math.log(COMMON)) if share > 0 else 1.0


def find(
    questions: list[Question],
    dialogues: Callable[[], Iterable[dict]],
    threshold: float,
    least: float,
) -> list[Entry]:
    """One entry for each question; `dialogues` gives {id, messages} anew each of two times."""
    index = Index(questions, threshold, least)
    for dialogue in dialogues():
        index.count(dialogue["messages"])
    index.weigh()
    for dialogue in dialogues():
        index.search(dialogue["id"], dialogue["messages"])
    return index.entries


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
