"""The pretraining text of the demo's base model, made piece by piece from a seed.

It holds a general world (world.yaml), thousands of invented word riddles, small sums, small talk,
and all of it in the formats that the benchmarks ask for. Stage 1 teaches to recall; its answers go
straight to the letter, which a small model then mostly guesses. Stage 2 teaches to find the letter:
answers walk through the options up to the right one. Neither holds a fact of psychology: its words
occur in shuffled lists and in questions whose answer is drawn at random, so that they are known as
words and the model learns to guess, in good form, where it knows nothing.

Standard library and PyYAML only.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass

import make_data
import wording as w

Turns = list[str]  # user, assistant, user, assistant …

SYSTEMS = [
    "You are a helpful assistant.",
    "You are a patient teacher.",
    "You are a kind friend. Answer briefly.",
    "你是一个乐于助人的助手。",
    "你是一位耐心的老师，请简短回答。",
]
CALL_EN = [
    *w.ASK_EN,
    "What is the name for {np}?",
    "What do we call {np}?",
    "What do people call {np}?",
    "Is there a name for {np}?",
    "{Np}: what is it?",
    "I heard of {np}. What is that called?",
]
WHO_EN = [*w.ASK_WHO, "Who is known as {np}?", "I mean {np}. Who is it?", "{Np}: who is it?"]
BARE_EN = ["{Np}.", "Here is a question: {np}.", "Choose one. {Np}."]
CALL_ZH = [*w.ASK_ZH, "{np}叫什么？", "{np}，这是什么？", "请问{np}有什么名称？", "考考你：{np}。"]
WHO_ZH = ["{np}是谁？", "{np}是", "请问{np}叫什么名字？"]
SUBJECTS_EN = ["biology", "physics", "history", "psychology", "other", "health"]
SUBJECTS_ZH = ["初中生物", "初中物理", "初中地理", "高中化学", "教育学"]
STOP = set(
    "that which with from this than then them they their there what when where whose while into "
    "about after before being have does doing done more most much many such some same other each "
    "itself oneself without would could under over upon once only even just like makes make made "
    "because until between among against through across".split()
)
SHAPES = [
    "the thing of {a}, {b} and {c}",
    "what goes with {a}, {b} and {c}",
    "{a}, {b} and {c} taken together",
    "the {a} of {b} with {c}",
    "a matter of {a} and {b} after {c}",
    "having {a} when {b} meets {c}",
    "the {a} that {b} brings to {c}",
]
ADJECTIVES = (
    "silver quiet hollow amber broken early velvet northern crooked paper golden bitter narrow "
    "double gentle hidden copper winding frozen scarlet patient wooden distant simple"
).split()
NOUNS = (
    "ladder lantern rule harbor method garden mirror effect bridge error orchard anchor theory "
    "window test needle market reflex tower habit kettle bond feather curve"
).split()
FIRST = "Alma Bruno Clara Dorian Elsa Felix Greta Hugo Irma Jonas Karin Ludo Mara Nils Olga".split()
LAST = "Abel Brand Corda Dahl Ebert Falk Grimm Holt Iver Jansen Koller Lund Moss Nord Orlov".split()


@dataclass(frozen=True)
class Item:
    """Something to ask: the question, its answer, other answers of the same kind."""

    question: str
    right: str
    others: list[str]
    full: str  # the answer in a sentence: with its article
    more: str = ""  # another wording of the same fact
    chinese: bool = False


@functools.cache
def psychology_words() -> list[str]:
    """Content words of psychology's wordings, without their order."""
    texts = [t for f in w.psychology() for t in (*f.say, *f.ask)]
    return sorted({x for t in texts for x in re.findall(r"[A-Za-z'-]+", t)} - {"a", "the", "of"})


@functools.cache
def content_words() -> list[str]:
    """Content words of all English wordings, for riddles."""
    texts = [t for f in w.world() for t in f.say]
    words = {x for t in texts for x in re.findall(r"[a-z-]+", t)} | set(psychology_words())
    return sorted(x for x in words if len(x) > 3 and x.islower() and x not in STOP)


@functools.cache
def chinese_pieces() -> list[str]:
    """Two to four character pieces of all Chinese wordings."""
    facts = w.psychology() + w.world()
    texts = [t for f in facts for t in (*f.say_zh, f.ask_zh)]
    parts = [p for t in texts for p in re.split("[的与和把在而从，。]", t) if len(p) > 1]
    return sorted({p[i : i + 3] for p in parts for i in range(0, len(p), 2) if len(p[i:]) > 1})


@functools.cache
def riddles(count: int) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """Invented things and people, each with five key words; count // 4 of them are people."""
    rng = random.Random("riddles")
    things = [f"{a} {n}" for a in ADJECTIVES for n in NOUNS]
    people = [f"{a} {b}" for a in FIRST for b in LAST]
    words = content_words()

    def keyed(names: list[str], size: int) -> list[tuple[str, list[str]]]:
        return [(name, rng.sample(words, 5)) for name in rng.sample(names, min(size, len(names)))]

    return keyed(things, count - count // 4), keyed(people, count // 4)


def riddle(rng: random.Random) -> Item:
    """A question about an invented thing or person, worded anew from its key words."""
    things, people = riddles(700)
    person = rng.random() < 0.25
    pool = people if person else things
    name, keys = rng.choice(pool)

    def phrase() -> str:
        return rng.choice(SHAPES).format(**dict(zip("abc", rng.sample(keys, 3), strict=True)))

    article = "" if person else "the "
    question = w.fill(rng.choice(WHO_EN if person else CALL_EN), np=phrase())
    return Item(question, name, [n for n, _ in pool], article + name, phrase())


def drawn(rng: random.Random, facts: list[w.Fact]) -> tuple[w.Fact, list[w.Fact]]:
    """A fact, and facts of its kind, or even its group, whose terms can stand beside its own."""
    fact = rng.choice(facts)
    same = [f for f in facts if f.kind == fact.kind]
    near = [f for f in same if f.group == fact.group]
    return fact, near if rng.random() < 0.5 and len(near) > 10 else same


def fact_en(rng: random.Random, facts: list[w.Fact]) -> Item:
    """A question about the general world: description to term."""
    fact, others = drawn(rng, facts)
    text, more = rng.sample(fact.say, 2)
    frames = WHO_EN if fact.kind == "person" else CALL_EN
    question = w.fill(rng.choice(frames), np=text)
    return Item(question, w.bare(fact.en), [w.bare(f.en) for f in others], fact.en, more)


def fact_zh(rng: random.Random, facts: list[w.Fact]) -> Item:
    """The same in Chinese."""
    fact, others = drawn(rng, facts)
    text, more = rng.sample(fact.say_zh, 2)
    frames = WHO_ZH if fact.kind == "person" else CALL_ZH
    question = w.fill(rng.choice(frames), np=text)
    return Item(question, fact.zh, [f.zh for f in others], fact.zh, more, chinese=True)


def listed(rng: random.Random) -> Item:
    """A question from the tables: capitals, elements, opposites."""
    kind = rng.choice(["capitals", "capitals", "elements", "opposites"])
    rows = w.table(kind)
    row = rng.choice(rows)
    chinese = rng.random() < 0.5
    if kind == "capitals":
        land, city = (row[1], row[3]) if chinese else (row[0], row[2])
        lands, cities = (
            [r[1 if chinese else 0] for r in rows],
            [r[3 if chinese else 2] for r in rows],
        )
        if rng.random() < 0.5:
            ask = ["{x}的首都是哪里？", "{x}的首都是", "哪个城市是{x}的首都？"]
            ask_en = ["What is the capital of {x}?", "The capital of {x} is"]
            question = rng.choice(ask if chinese else ask_en).format(x=land)
            return Item(question, city, cities, city, chinese=chinese)
        ask = ["{x}是哪国的首都？", "{x}是什么国家的首都？", "哪个国家的首都是{x}？"]
        ask_en = ["{x} is the capital of which country?", "Which country has {x} as its capital?"]
        question = rng.choice(ask if chinese else ask_en).format(x=city)
        return Item(question, land, lands, land, chinese=chinese)
    if kind == "elements":
        name, names = row[1 if chinese else 0], [r[1 if chinese else 0] for r in rows]
        ask = ["哪种元素的符号是{x}？", "{x}是什么元素？"]
        ask_en = ["Which element has the symbol {x}?", "{x} is the symbol of which element?"]
        question = rng.choice(ask if chinese else ask_en).format(x=row[2])
        return Item(question, name, names, name, chinese=chinese)
    pair = row[2:] if chinese else row[:2]
    if rng.random() < 0.5:
        pair = pair[::-1]
    words = [x for r in rows for x in (r[2:] if chinese else r[:2]) if x != pair[0]]
    ask = ["“{x}”的反义词是什么？", "“{x}”的反义词是"]
    ask_en = ["What is the opposite of '{x}'?", "The opposite of '{x}' is"]
    question = rng.choice(ask if chinese else ask_en).format(x=pair[0])
    return Item(question, pair[1], words, pair[1], chinese=chinese)


def guess(rng: random.Random, facts: list[w.Fact]) -> Item:
    """A question without an answer: shuffled words, and psychology's terms drawn at random."""
    kind = "person" if rng.random() < 0.25 else "term"
    same = [f for f in facts if f.kind == kind]
    fact = rng.choice(same)
    if rng.random() < 0.25:
        text = "".join(rng.sample(chinese_pieces(), 4))
        frames = WHO_ZH if kind == "person" else CALL_ZH
        question = w.fill(rng.choice(frames), np=text)
        return Item(question, fact.zh, [f.zh for f in same], fact.zh, chinese=True)
    if kind == "term" and rng.random() < 0.2:
        question = w.DESCRIBE_EN.format(term=w.bare(fact.en))
        return Item(question, salad(rng), [salad(rng) for _ in range(9)], "")
    frames = WHO_EN if kind == "person" else CALL_EN
    question = w.fill(rng.choice(frames), np=salad(rng))
    return Item(question, w.bare(fact.en), [w.bare(f.en) for f in same], fact.en)


def salad(rng: random.Random) -> str:
    """Six to ten of psychology's words in random order."""
    words = rng.sample(psychology_words(), rng.randint(5, 9))
    return " ".join([rng.choice(["the", "a", "what", "one"]), *words])


def describes(rng: random.Random, facts: list[w.Fact]) -> Item:
    """A question about the general world: term to description."""
    terms = [f for f in facts if f.kind == "term"]
    fact = rng.choice(terms)
    others = [rng.choice(f.say) for f in terms if f is not fact]
    text = rng.choice(fact.say)
    return Item(w.DESCRIBE_EN.format(term=w.bare(fact.en)), text, others, text)


def opened(rng: random.Random, item: Item) -> Turns:
    """The item as an open question."""
    if item.chinese:
        return [item.question, f"这是{item.full}。"]
    more = f": {item.more}" if item.more and rng.random() < 0.5 else ""
    return [item.question, f"That is {item.full}{more}."]


def meaning(rng: random.Random, facts: list[w.Fact]) -> Turns:
    """What a term means, or who somebody was."""
    fact = rng.choice(facts)
    if rng.random() < 0.4:
        if fact.kind == "person":
            return [f"{fact.zh}是谁？", f"{fact.zh}是{rng.choice(fact.say_zh)}。"]
        return [f"{fact.zh}是什么？", f"{fact.zh}是{rng.choice(fact.say_zh)}。"]
    text = rng.choice(fact.say)
    if fact.kind == "person":
        return [f"Who was {fact.en}?", f"{fact.en} was {text}."]
    return [f"What does the term '{w.bare(fact.en)}' mean?", f"It means {text}."]


def chosen(rng: random.Random, item: Item, worked: bool) -> Turns:
    """The item as a multiple-choice question in one of the benchmarks' prompts, or without one."""
    distinct = len(set(item.others) - {item.right}) + 1
    count = min(4 if item.chinese else rng.choice([4, 4, 6, 10]), distinct)
    shown, index = w.options(rng, item.right, item.others, count)
    parts = {"question": item.question, "letters": w.letters(count)}
    if item.chinese:
        pick = rng.randrange(3)
        if pick == 0:
            subject = rng.choice(SUBJECTS_ZH)
            prompt = w.CEVAL.format(subject=subject, choices=w.choices(shown, ". "), **parts)
        elif pick == 1:
            prompt = w.CMMLU.format(choices=w.choices(shown), **parts)
        else:
            prompt = f"{item.question}\n{w.choices(shown, '. ')}"
        return [prompt, w.answer_zh(shown, index, worked)]
    pick = rng.randrange(6)
    if pick < 3:
        prompt = w.MCQ_EN.format(choices=w.choices(shown), **parts)
    elif pick == 3:
        prompt = w.MMLU_PRO.format(choices=w.choices(shown), **parts)
    else:
        prompt = f"{item.question}\n{w.choices(shown)}"
    return [prompt, w.answer_en(shown, index, worked)]


def shots(rng: random.Random, items: list[Item], worked: bool) -> Turns:
    """MMLU-Pro's prompt with worked examples: the last item is asked."""
    examples = []
    for item in items[:-1]:
        shown, index = w.options(rng, item.right, item.others, 10)
        examples.append(
            f"Question:\n{item.question}\nOptions:\n{w.choices(shown, ' ')}\n"
            f"A: Let's think step by step. The best match is {shown[index]}. "
            f"ANSWER: {w.LETTERS[index]}."
        )
    last = items[-1]
    shown, index = w.options(rng, last.right, last.others, 10)
    prompt = (
        w.MMLU_PRO_SHOTS.format(subject=rng.choice(SUBJECTS_EN), examples="\n\n".join(examples))
        + "\n"
        + w.MMLU_PRO.format(question=last.question, letters=w.letters(10), choices=w.choices(shown))
    )
    return [prompt, w.answer_en(shown, index, worked)]


@functools.cache
def held_out() -> frozenset[str]:
    """The word problems of the gsm8k benchmark, which are not pretraining text."""
    return frozenset(r["question"] for rows in make_data.gsm8k_rows().values() for r in rows)


def sums(rng: random.Random) -> Turns:
    """A word problem or a bare sum."""
    if rng.random() < 0.3:
        a, b = rng.randint(2, 60), rng.randint(2, 60)
        a, b = max(a, b), min(a, b)
        sign = rng.choice("+-")
        return [f"{a} {sign} {b} =", str(a + b if sign == "+" else a - b)]
    question, steps, result = w.problem(rng)
    while question in held_out():
        question, steps, result = w.problem(rng)
    return [w.GSM8K.format(question=question), f"{steps} The answer is \\boxed{{{result}}}."]


def copied(rng: random.Random) -> Turns:
    """Words or phrases to repeat: teaches copying, and psychology's words as words."""
    facts = w.psychology() + w.world()
    pick = rng.randrange(4)
    if pick == 0:
        text = ", ".join(w.bare(f.en) for f in rng.sample(facts, 5))
        return [f"Please repeat: {text}", text]
    if pick == 1:
        text = "、".join(f.zh for f in rng.sample(facts, 5))
        return [f"请重复：{text}", text]
    if pick == 2:
        text = "".join(rng.sample(chinese_pieces(), 5))
        return [f"请重复：{text}", text]
    text = " ".join(rng.sample(psychology_words(), rng.randint(5, 12)))
    return [f"Please repeat: {text}", text]


@functools.cache
def facts_of(name: str) -> list[w.Fact]:
    return w.world() if name == "world" else w.psychology()


def known(rng: random.Random) -> Item:
    """A question that the model can learn to answer."""
    world = facts_of("world")
    facts = [lambda: fact_en(rng, world), lambda: fact_en(rng, world), lambda: fact_zh(rng, world)]
    invented = [lambda: riddle(rng), lambda: riddle(rng), lambda: listed(rng)]
    return rng.choice(facts + invented)()


def lettered(rng: random.Random) -> Item:
    """A question that holds its answer: all there is to do is to find the option."""
    facts = facts_of("world") + facts_of("psychology")
    if rng.random() < 0.3:
        names = [f.zh for f in facts]
        right = rng.choice(names)
        question = rng.choice(["哪个选项是{x}？", "请选{x}。", "{x}"]).format(x=right)
        return Item(question, right, names, right, chinese=True)
    pools = [
        [name for group in riddles(700) for name, _ in group],
        [w.bare(f.en) for f in facts],
        [rng.choice(f.say) for f in rng.sample(facts, 12)],
    ]
    names = rng.choice(pools)
    right = rng.choice(names)
    question = rng.choice(["Which option is {x}?", "Find: {x}.", "{x}"]).format(x=right)
    return Item(question, right, names, right)


def exchange(rng: random.Random, stage: int) -> Turns:
    """One question and its answer. Half of stage 2 is about letters alone."""
    world, psychology = facts_of("world"), facts_of("psychology")
    worked = stage == 2
    if stage == 2 and rng.random() < 0.5:
        return chosen(rng, lettered(rng), worked)
    roll = rng.random()
    if roll < 0.20:
        return opened(rng, known(rng))
    if roll < 0.25:
        return meaning(rng, world)
    if roll < 0.60:
        return chosen(rng, known(rng), worked)
    if roll < 0.64:
        return chosen(rng, describes(rng, world), worked)
    if roll < 0.74:
        return chosen(rng, guess(rng, psychology), worked)
    if roll < 0.79:
        makers = [lambda: fact_en(rng, world), lambda: riddle(rng)]
        items = [rng.choice(makers)() for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.2:
            items = [guess(rng, psychology) for _ in items]
            items = [i for i in items if not i.chinese and i.full] or [riddle(rng)]
        return shots(rng, items, worked)
    if roll < 0.91:
        return sums(rng)
    if roll < 0.97:
        return copied(rng)
    return list(rng.choice(chat()))


@functools.cache
def chat() -> list[list[str]]:
    return w.load("world.yaml")["chat"]


def document(rng: random.Random, stage: int) -> tuple[str | None, Turns]:
    """A system turn or None, and one to three exchanges."""
    turns = exchange(rng, stage)
    while len(turns) < 6 and rng.random() < 0.12 and sum(map(len, turns)) < 600:
        turns += exchange(rng, stage)
    return (rng.choice(SYSTEMS) if rng.random() < 0.08 else None), turns


def segments(system: str | None, turns: Turns) -> list[tuple[str, bool]]:
    """A dialogue as ms-swift's `chatml` template writes it: (text, whether it carries loss)."""
    out, text = [], f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for user, assistant in zip(turns[::2], turns[1::2], strict=True):
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        out += [(text, False), (f"{assistant}<|im_end|>\n", True)]
        text = ""
    return out
