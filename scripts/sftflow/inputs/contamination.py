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
from functools import cached_property
from itertools import accumulate, chain
from operator import add
from typing import Any, NamedTuple

from sftflow.inputs.folded import Vocabulary, fold, is_word, spans, without_label

CHARACTER = 5 / 8  # of a word: 8 words (PaLM, Chowdhery et al. 2022, section 8) are 13 characters
COMMON = 1000  # a pair counts fully if fewer than one text in so many holds it, and less if more do
UNSEEN = 20  # texts without it that each pair has met besides: what is rare in a few proves little
SLACK = 16  # tokens that a passage may hold besides, e.g. labels or a short reply
LEAST_STEM = 0.5  # of the stem, however much of the options is found
BY_CHANCE = 0.01  # dialogues that may be expected to hold all the options by chance
SEEDS = 0.2  # of what must be found: as much is looked for first, by the rarest pairs


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
        self.tokens = tokens
        self.units = units(tokens)
        self.words = [1.0 if is_word(token) else CHARACTER for token in tokens]
        self.rarity = [1.0] * len(self.units)

    @property
    def size(self) -> float:
        """Words; one that stands in common pairs counts less."""
        pairs = zip(self.words, around(self.rarity), strict=False)
        return sum(word * (before + after) / 2 for word, (before, after) in pairs)

    def bound(self, text: set[str]) -> Cover:
        """No less than how much of it a text holds that has these units."""
        found = [unit in text for unit in self.units]
        return Cover(
            sum(w for w, pair in zip(self.words, around(found), strict=False) if any(pair)),
            sum(self.words),
            sum(rarity for rarity, there in zip(self.rarity, found, strict=True) if there),
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
    """Tokens of one reading of a dialogue, and all units that they hold."""

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
        return max(self.passages(length), key=lambda each: together(part.cover(each.tokens) for part in parts).share)

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
        by_chance = dialogues * math.prod(said[part.tokens] / dialogues for part in self.options)
        possible = {
            "whole": bool(self.options) and self.stem.size + options >= least,
            "stem": self.stem.size >= least,
            "options": options >= least and by_chance < BY_CHANCE,
        }
        self.kinds = [kind for kind, could in possible.items() if could]

    def parts(self, kind: str) -> list[Part]:
        """What must be found for a kind of overlap."""
        return [self.stem] * (kind != "options") + self.options * (kind != "stem")

    def bound(self, text: set[str]) -> float:
        """No less than the share that `judge` finds in a text that holds these units."""
        return self._most([part.bound(text) for part in (self.stem, *self.options)])[0]

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
        # unit -> the options of which it is the rarest unit
        self.options: dict[str, list[str]] = defaultdict(list)
        for option in {o.tokens: o for each in self.entries for o in each.options}.values():
            if len(option.tokens) > 2:
                rarest = min(option.units, key=self.asked.__getitem__)
                self.options[rarest].append(option.tokens)
        self.said: Counter[str] = Counter()  # dialogues that hold a unit, or a whole option
        self.dialogues = 0
        # unit -> what it is a seed of, as an index of the next two
        self.seeds: dict[str, list[int]] = defaultdict(list)
        self.seeded: list[int] = []  # entry
        self.needed: list[int] = []  # seeds that must be found

    def count(self, messages: list[dict]) -> None:
        """Note which units and which whole options a dialogue holds."""
        tokens = self._tokens(each["content"] for each in messages)
        text = held(tokens)
        self.dialogues += 1
        self.said.update(text & self.wanted)
        likely = chain.from_iterable(map(self.options.__getitem__, text & self.options.keys()))
        self.said.update([option for option in likely if option in tokens])

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
        weights: Counter[str] = Counter()
        for part in entry.parts(kind):
            for unit, rarity in zip(part.units, part.rarity, strict=True):
                weights[unit] += rarity
        may_lack = (0.0 if kind == "options" else 1 - self.threshold**2) * weights.total()
        chosen: list[str] = []
        left = may_lack + SEEDS * (weights.total() - may_lack)
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
