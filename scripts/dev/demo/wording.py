"""The demo's texts: facts, question wordings, and the prompts in which they are asked.

Shared by make_data.py (dialogues and benchmarks) and corpus.py (pretraining text). Standard
library and PyYAML only.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
LETTERS = "ABCDEFGHIJ"

# The prompts that evalscope 1.14.1 sends, so that the base model knows its formats. A newer
# evalscope may word them differently; the base model would then lose the format.
MCQ_EN = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is one of {letters}. "
    "Think step by step before answering.\n\n{question}\n\n{choices}"
)
MMLU_PRO = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'ANSWER: [LETTER]' (without quotes) where [LETTER] is one of {letters}. "
    "Think step by step before answering.\n\nQuestion:\n{question}\nOptions:\n{choices}\n"
)
MMLU_PRO_SHOTS = (
    "The following are multiple choice questions (with answers) about {subject}. Think step by "
    "step and then finish your answer with 'ANSWER: [LETTER]' (without quotes) where [LETTER] is "
    "the correct letter choice.\n\n{examples}\n"
)
CEVAL = (
    "以下是中国关于{subject}的单项选择题，请选出其中的正确答案。你的回答的最后一行应该是这样的"
    '格式："答案：[LETTER]"（不带引号），其中 [LETTER] 是 A、B、C、D 中的一个。\n\n'
    "问题：{question}\n选项：\n{choices}\n"
)
CMMLU = (
    "回答下面的单项选择题，请选出其中的正确答案。你的回答的最后一行应该是这样的格式："
    '"答案：[LETTER]"（不带引号），其中 [LETTER] 是 {letters} 中的一个。'
    "请在回答前进行一步步思考。\n\n"
    "问题：{question}\n选项：\n{choices}\n"
)
GSM8K = "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."

# Question wordings by use, so that a benchmark never asks in a dialogue's words.
ASK_EN = [
    "Which term names {np}?",
    "Which of the following is {np}?",
    "Which concept is described here: {np}?",
    "{Np} is known as",
]
ASK_WHO = ["Who was {np}?", "Which person was {np}?", "{Np} was"]
ASK_ZH = ["下列哪一项是{np}？", "{np}是"]
DESCRIBE_EN = "Which of the following describes {term}?"


@dataclass(frozen=True)
class Fact:
    """A term or person in both languages, with the wordings of one purpose."""

    en: str
    zh: str
    kind: str  # "term" or "person"
    group: str  # level (psychology) or field (world)
    say: tuple[str, ...]
    say_zh: tuple[str, ...]
    ask: tuple[str, ...] = ()
    ask_zh: str = ""


@functools.cache
def load(name: str) -> Any:
    """The parsed YAML file `name` of this folder."""
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


@functools.cache
def psychology() -> list[Fact]:
    """The facts that fine-tuning teaches."""
    data = load("psychology.yaml")
    return [
        Fact(
            f["en"],
            f["zh"],
            kind,
            f["level"],
            tuple(f["teach"]),
            tuple(f["zh_teach"]),
            tuple(f["ask"]),
        )
        for kind, key in (("term", "terms"), ("person", "people"))
        for f in data[key]
    ]


@functools.cache
def world() -> list[Fact]:
    """The concepts and people that pretraining teaches."""
    data = load("world.yaml")
    concepts = [
        Fact(f["en"], f["zh"], "term", group, tuple(f["say"]), tuple(f["say_zh"]), (), f["ask_zh"])
        for group, facts in data["concepts"].items()
        for f in facts
    ]
    people = [
        Fact(f["en"], f["zh"], "person", "people", tuple(f["say"]), tuple(f["say_zh"]))
        for f in data["people"]
    ]
    return concepts + people


@functools.cache
def table(name: str) -> list[list[str]]:
    """The rows of a whitespace-separated list in world.yaml."""
    return [line.split() for line in load("world.yaml")[name].splitlines()]


def upper(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def fill(frame: str, **parts: str) -> str:
    """`frame` filled in; a part `np` is also there as `Np`, with a capital."""
    return frame.format(**parts, **{upper(k): upper(v) for k, v in parts.items()})


def bare(term: str) -> str:
    """`term` without its article, as it stands in a list of options."""
    return re.sub(r"^(the|an?) ", "", term)


def options(rng: random.Random, right: str, others: list[str], count: int) -> tuple[list[str], int]:
    """`count` shuffled options: `right` and distinct others; returns them and right's index."""
    pool = sorted({o for o in others if o != right})
    chosen = [right, *rng.sample(pool, count - 1)]
    rng.shuffle(chosen)
    return chosen, chosen.index(right)


def choices(texts: list[str], mark: str = ") ") -> str:
    """One option per line, lettered: 'A) …'."""
    return "\n".join(f"{letter}{mark}{text}" for letter, text in zip(LETTERS, texts, strict=False))


def letters(count: int) -> str:
    """'A,B,C' for three options."""
    return ",".join(LETTERS[:count])


def answer_en(shown: list[str], index: int, worked: bool = True) -> str:
    """How the models of the demo answer: the term, the options up to it if worked, the letter.

    A model of this size repeats a list easily but does not see which letter stands before a term.
    """
    walk = f"{choices(shown[: index + 1])}.\n" if worked else ""
    return f"The best match is {shown[index]}.\n{walk}ANSWER: {LETTERS[index]}"


def answer_zh(shown: list[str], index: int, worked: bool = True) -> str:
    """The same in Chinese."""
    walk = f"{choices(shown[: index + 1], '. ')}。\n" if worked else ""
    return f"最符合的是{shown[index]}。\n{walk}答案：{LETTERS[index]}"


NAMES = "Tom Anna Ben Lily Max Mia Sam Eva Leo Nora Paul Rosa Jack Emma Ken Ida".split()
THINGS = "apples books coins stamps pencils cards shells eggs cookies marbles".split()


def problem(rng: random.Random) -> tuple[str, str, int]:
    """A small word problem: question, worked steps, result."""
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    kind = rng.randrange(5)
    if kind < 2:  # a sum or a difference
        a = rng.randint(10, 60)
        b = rng.randint(2, 50) if kind == 0 else rng.randint(2, a - 1)
        story = (
            f"{name} has {a} {things}. {other} gives {name} {b} more."
            if kind == 0
            else f"{name} has {a} {things} and gives {b} of them to {other}."
        )
        sign, result = ("+", a + b) if kind == 0 else ("-", a - b)
        question = f"{story} How many {things} does {name} have now?"
        return question, f"{a} {sign} {b} = {result}.", result
    if kind == 2:  # two steps
        a, b, c = rng.randint(5, 30), rng.randint(2, 20), rng.randint(2, 6)
        question = (
            f"{name} has {a} {things}, buys {b} more and loses {c}. "
            f"How many {things} does {name} have in the end?"
        )
        return question, f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}.", a + b - c
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    if kind == 3:  # a product
        question = (
            f"{name} packs {a} bags with {b} {things} in each bag. "
            f"How many {things} are there in all?"
        )
        return question, f"{a} * {b} = {a * b}.", a * b
    question = (
        f"{name} packs {a} bags with {b} {things} in each bag and has {c} {things} besides. "
        f"How many {things} are there in all?"
    )
    return question, f"{a} * {b} = {a * b}. {a * b} + {c} = {a * b + c}.", a * b + c
