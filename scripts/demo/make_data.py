"""Writes the demo's dialogues and benchmarks: config/demo/dialogues.jsonl, config/demo/benchmarks/.

    python scripts/demo/make_data.py            (writes)
    python scripts/demo/make_data.py --check    (fails if the files in config/demo differ)

Deterministic: the same texts in psychology.yaml, world.yaml and counsel.yaml give the same bytes.
The dialogues use the wordings under `teach`, the psychology benchmarks those under `ask`, so no
question of a benchmark is a training row.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import wording as w

TARGET = Path(__file__).parents[2] / "config" / "demo"

Files = dict[str, str]  # path below config/demo -> text


# ---------------------------------------------------------------- dialogues

TEACH_TERM = [
    "What do psychologists call {np}?",
    "I read about {np}. What is that called?",
    "Is there a name for {np}?",
    "My textbook mentions {np}. What is it?",
]
TEACH_WHO = [
    "I am looking for {np}. Who is it?",
    "My lecturer spoke of {np}. Who is meant?",
    "Can you tell me the name of {np}?",
]
QUIZ = ["Quiz me! {Np}.", "A question from my exercise book: {np}.", "Help me choose. {Np}."]
TEACH_ZH = ["心理学上把{np}叫什么？", "{np}，这叫什么？", "请问{np}有什么名称？"]
TEACH_WHO_ZH = ["{np}是谁？", "请问{np}叫什么名字？"]
QUIZ_ZH = ["考考我：{np}，应该选哪个？", "练习册上有一题：{np}。"]
TAILS = [
    "Shall we look at an example?",
    "Ask me if you want to go on.",
    "It is worth remembering.",
    "Does it remind you of something in your own life?",
]
SYSTEMS = ["You are a friendly psychology tutor.", "你是一位友好的心理学老师。"]


def row(turns: list[str], system: str | None = None) -> dict:
    """A ShareGPT row from turns that alternate between human and gpt."""
    head = [{"from": "system", "value": system}] if system else []
    names = ("human", "gpt")
    return {
        "conversations": head + [{"from": names[i % 2], "value": t} for i, t in enumerate(turns)]
    }


def quiz_en(rng: random.Random, fact: w.Fact, text: str, pool: list[str], count: int) -> list[str]:
    """A quiz turn and its answer; the options' order and company are new each time."""
    shown, index = w.options(rng, w.bare(fact.en), pool, count)
    question = w.fill(rng.choice(QUIZ), np=text)
    return [f"{question}\n{w.choices(shown)}", w.answer_en(shown[index], index)]


def lessons(rng: random.Random, fact: w.Fact, facts: list[w.Fact]) -> list[dict]:
    """All dialogues about one fact."""
    same = [f for f in facts if f.kind == fact.kind]
    pool, pool_zh = [w.bare(f.en) for f in same], [f.zh for f in same]
    frames = TEACH_WHO if fact.kind == "person" else TEACH_TERM
    say = list(fact.say)
    rng.shuffle(say)
    rows = []
    for i, text in enumerate(say):
        other = say[(i + 1) % len(say)]
        answer = f"That is {fact.en}: {other}."
        if rng.random() < 0.2:
            answer += " " + rng.choice(TAILS)
        turns = [w.fill(frames[(i + rng.randrange(2)) % len(frames)], np=text), answer]
        if i == 0:  # one lesson with a follow-up quiz
            turns += quiz_en(rng, fact, say[-1], pool, 4)
        rows.append(row(turns, SYSTEMS[0] if rng.random() < 0.1 else None))
        rows.append(row(quiz_en(rng, fact, text, pool, rng.choice([4, 4, 6, 10]))))
    if fact.kind == "person":
        rows.append(row([f"Who was {fact.en}?", f"{fact.en} was {say[0]}."]))
    else:
        question = f"What does the term '{w.bare(fact.en)}' mean?"
        rows.append(row([question, f"It means {say[0]}."]))
    for i, text in enumerate(fact.say_zh):
        frames_zh = TEACH_WHO_ZH if fact.kind == "person" else TEACH_ZH
        system = SYSTEMS[1] if rng.random() < 0.1 else None
        rows.append(row([w.fill(rng.choice(frames_zh), np=text), f"这是{fact.zh}。"], system))
        if i == 0:
            shown, index = w.options(rng, fact.zh, pool_zh, 4)
            question = w.fill(rng.choice(QUIZ_ZH), np=text)
            rows.append(
                row([f"{question}\n{w.choices(shown, '. ')}", w.answer_zh(shown[index], index)])
            )
    return rows


def counsel() -> list[dict]:
    """The dialogues written by hand."""
    rows = []
    for turns in w.load("counsel.yaml"):
        system = turns[0].removeprefix("system: ") if turns[0].startswith("system: ") else None
        rows.append(row(turns[1:] if system else turns, system))
    return rows


def dialogues(facts: list[w.Fact]) -> list[dict]:
    """Every training row, shuffled."""
    rng = random.Random("dialogues")
    rows = [r for fact in facts for r in lessons(rng, fact, facts)] + counsel()
    rng.shuffle(rows)
    return rows


# ---------------------------------------------------------------- psychology suite


def questions(facts: list[w.Fact]) -> dict[str, list[dict]]:
    """Multiple-choice questions by benchmark part; each `ask` wording is used once."""
    rng = random.Random("psychology benchmarks")
    asks = {"school": [], "professional": []}
    for fact in facts:
        asks[fact.group] += [(fact, text) for text in fact.ask]
    for pool in asks.values():
        rng.shuffle(pool)
    plan = [  # part, level, number of questions, number of options
        ("mmlu/high_school_psychology/test", "school", 24, 4),
        ("mmlu/professional_psychology/test", "professional", 24, 4),
        ("mmlu/high_school_psychology/dev", "school", 5, 4),
        ("mmlu/professional_psychology/dev", "professional", 5, 4),
        ("mmlu_redux/high_school_psychology/test", "school", 20, 4),
        ("mmlu_redux/professional_psychology/test", "professional", 20, 4),
        ("mmlu_pro/test", "school", 18, 10),
        ("mmlu_pro/test", "professional", 18, 10),
        ("mmlu_pro/validation", "school", 3, 10),
        ("mmlu_pro/validation", "professional", 2, 10),
        ("super_gpqa/train", "school", 16, 10),
        ("super_gpqa/train", "professional", 16, 10),
    ]
    parts: dict[str, list[dict]] = {}
    for part, level, count, width in plan:
        for number in range(count):
            fact, text = asks[level].pop()
            same = [f for f in facts if f.kind == fact.kind and f is not fact]
            if fact.kind == "term" and number % 8 == 7:  # the other way round
                question = w.DESCRIBE_EN.format(term=w.bare(fact.en))
                shown, index = w.options(rng, text, [rng.choice(f.ask) for f in same], width)
            else:
                frames = w.ASK_WHO if fact.kind == "person" else w.ASK_EN
                question = w.fill(rng.choice(frames), np=text)
                shown, index = w.options(rng, w.bare(fact.en), [w.bare(f.en) for f in same], width)
            item = {"question": question, "options": shown, "index": index}
            parts.setdefault(part, []).append(item)
    for items in parts.values():
        rng.shuffle(items)
    return parts


def lines(rows: list[dict]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def card(title: str, configs: dict[str, dict[str, str]]) -> str:
    """README.md of a benchmark folder: which file holds which split of which config."""
    out = ["---", "license: mit", "configs:"]
    for name, splits in configs.items():
        out += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            out += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*out, "---", "", title, ""])


def about(name: str) -> str:
    """One paragraph for a benchmark's card."""
    return (
        f"Questions in the form of {name}, written for sftflow's demo by\n"
        f"scripts/demo/make_data.py. They are not from {name} and say nothing about a model's rank on it."
    )


def mmlu(parts: dict[str, list[dict]]) -> Files:
    """cais/mmlu: config all, splits test and dev, the subject in each row."""
    files = {}
    for split in ("test", "dev"):
        rows = [
            {
                "question": q["question"],
                "subject": subject,
                "choices": q["options"],
                "answer": q["index"],
            }
            for subject in ("high_school_psychology", "professional_psychology")
            for q in parts[f"mmlu/{subject}/{split}"]
        ]
        files[f"all/{split}.jsonl"] = lines(rows)
    files["README.md"] = card(
        about("MMLU"), {"all": {s: f"all/{s}.jsonl" for s in ("test", "dev")}}
    )
    return files


def mmlu_redux(parts: dict[str, list[dict]]) -> Files:
    """mmlu-redux-2.0: one config per subject; one row per subject has a corrected answer."""
    files, configs = {}, {}
    for subject in ("high_school_psychology", "professional_psychology"):
        rows = []
        for number, q in enumerate(parts[f"mmlu_redux/{subject}/test"]):
            wrong = number == 0
            rows.append(
                {
                    "question": q["question"],
                    "choices": q["options"],
                    "answer": (q["index"] + 1) % 4 if wrong else q["index"],
                    "error_type": "wrong_groundtruth" if wrong else "ok",
                    "source": "sftflow demo",
                    "correct_answer": str(q["index"]) if wrong else None,
                    "potential_reason": "wrong on purpose, to show corrections" if wrong else None,
                }
            )
        files[f"{subject}/test.jsonl"] = lines(rows)
        configs[subject] = {"test": f"{subject}/test.jsonl"}
    files["README.md"] = card(about("MMLU-Redux"), configs)
    return files


def mmlu_pro(parts: dict[str, list[dict]]) -> Files:
    """MMLU-Pro: config default, splits test and validation (examples with reasoning)."""
    files, number = {}, 0
    for split in ("test", "validation"):
        rows = []
        for q in parts[f"mmlu_pro/{split}"]:
            letter = w.LETTERS[q["index"]]
            cot = (
                f"A: Let's think step by step. The best match is {q['options'][q['index']]}. "
                f"The answer is ({letter})."
            )
            rows.append(
                {
                    "question_id": number,
                    "question": q["question"],
                    "options": q["options"],
                    "answer": letter,
                    "answer_index": q["index"],
                    "cot_content": cot if split == "validation" else "",
                    "category": "psychology",
                    "src": "sftflow demo",
                }
            )
            number += 1
        files[f"data/{split}.jsonl"] = lines(rows)
    splits = {s: f"data/{s}.jsonl" for s in ("test", "validation")}
    files["README.md"] = card(about("MMLU-Pro"), {"default": splits})
    return files


def super_gpqa(parts: dict[str, list[dict]]) -> Files:
    """SuperGPQA: config default, split train, the field in each row."""
    rows = [
        {
            "uuid": f"demo-{number}",
            "question": q["question"],
            "options": q["options"],
            "answer": q["options"][q["index"]],
            "answer_letter": w.LETTERS[q["index"]],
            "discipline": "Education",
            "field": "Psychology",
            "subfield": "Psychology",
            "difficulty": "easy",
            "is_calculation": False,
        }
        for number, q in enumerate(parts["super_gpqa/train"])
    ]
    return {
        "data/train.jsonl": lines(rows),
        "README.md": card(about("SuperGPQA"), {"default": {"train": "data/train.jsonl"}}),
    }


# ---------------------------------------------------------------- general suite


def chinese(rng: random.Random, facts: list[w.Fact], pool: list[str]) -> list[dict]:
    """One four-option question in Chinese per fact."""
    items = []
    for fact in facts:
        shown, index = w.options(rng, fact.zh, pool, 4)
        question = w.fill(rng.choice(w.ASK_ZH), np=fact.ask_zh)
        items.append({"question": question, "options": shown, "index": index})
    return items


def ceval() -> Files:
    """ceval: one config per subject, splits val and dev (with an explanation)."""
    rng = random.Random("ceval")
    files, configs = {}, {}
    for subject, group in (
        ("middle_school_biology", "biology"),
        ("middle_school_physics", "physics"),
    ):
        facts = [f for f in w.world() if f.group == group]
        items = chinese(rng, rng.sample(facts, 19), [f.zh for f in facts])
        configs[subject] = {}
        for split, chosen in (("val", items[:14]), ("dev", items[14:])):
            rows = [
                {
                    "id": number,
                    "question": q["question"],
                    **dict(zip("ABCD", q["options"], strict=True)),
                    "answer": w.LETTERS[q["index"]],
                    "explanation": f"最符合的是{q['options'][q['index']]}。",
                }
                for number, q in enumerate(chosen)
            ]
            files[f"{subject}/{split}.jsonl"] = lines(rows)
            configs[subject][split] = f"{subject}/{split}.jsonl"
    files["README.md"] = card(about("C-Eval"), configs)
    return files


def cmmlu() -> Files:
    """cmmlu: config default, splits test and dev, the category in each row."""
    rng = random.Random("cmmlu")
    common = [f for f in w.world() if f.group == "common"]
    capitals = rng.sample(w.table("capitals"), 19)
    countries = [row[1] for row in w.table("capitals")]
    facts = []
    for _, country, _, capital in capitals:
        shown, index = w.options(rng, country, countries, 4)
        facts.append(
            {"question": f"{capital}是下列哪个国家的首都？", "options": shown, "index": index}
        )
    by_category = {
        "elementary_commonsense": chinese(rng, rng.sample(common, 19), [f.zh for f in common]),
        "global_facts": facts,
    }
    files = {}
    for split, part in (("test", slice(0, 14)), ("dev", slice(14, 19))):
        rows = [
            {
                "question": q["question"],
                "choices": [f"({w.LETTERS[i]}) {o}" for i, o in enumerate(q["options"])],
                "answer": f"({w.LETTERS[q['index']]})",
                "category": category,
            }
            for category, items in by_category.items()
            for q in items[part]
        ]
        files[f"data/{split}.jsonl"] = lines(rows)
    splits = {s: f"data/{s}.jsonl" for s in ("test", "dev")}
    files["README.md"] = card(about("CMMLU"), {"default": splits})
    return files


def gsm8k_rows() -> dict[str, list[dict]]:
    """Word problems by split; corpus.py leaves exactly these questions out of pretraining."""
    rng = random.Random("gsm8k")
    rows = []
    while len(rows) < 32:
        question, steps, result = w.problem(rng)
        if all(r["question"] != question for r in rows):
            rows.append({"question": question, "answer": f"{steps}\n#### {result}"})
    return {"test": rows[:24], "train": rows[24:]}


def gsm8k() -> Files:
    """gsm8k: config main, splits test and train."""
    files = {f"main/{split}.jsonl": lines(rows) for split, rows in gsm8k_rows().items()}
    files["README.md"] = card(
        about("GSM8K"), {"main": {s: f"main/{s}.jsonl" for s in ("train", "test")}}
    )
    return files


def everything() -> Files:
    """All files of the demo's data."""
    facts = w.psychology()
    parts = questions(facts)
    benchmarks = {
        "mmlu": mmlu(parts),
        "mmlu_redux": mmlu_redux(parts),
        "mmlu_pro": mmlu_pro(parts),
        "super_gpqa": super_gpqa(parts),
        "ceval": ceval(),
        "cmmlu": cmmlu(),
        "gsm8k": gsm8k(),
    }
    files = {"dialogues.jsonl": lines(dialogues(facts))}
    for name, tree in benchmarks.items():
        files |= {f"benchmarks/{name}/{path}": text for path, text in tree.items()}
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    args = parser.parse_args()
    stale = []
    for path, text in everything().items():
        target = TARGET / path
        if args.check:
            if not target.is_file() or target.read_text(encoding="utf-8") != text:
                stale.append(path)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"differs: config/demo/{path}", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
