"""Writes the demo's dialogues and benchmarks: config/demo/dialogues.jsonl, config/demo/benchmarks/.

    python scripts/dev/demo/make_data.py            (writes)
    python scripts/dev/demo/make_data.py --check    (fails if the files in config/demo differ)

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

TARGET = Path(__file__).parents[3] / "config" / "demo"

Files = dict[str, str]  # path below config/demo -> text

OPTIONS = 4  # of a question; with ten, a model of this size loses its place in the list
QUIZZES = 32  # quiz dialogues about each wording of a fact


# ---------------------------------------------------------------- dialogues

TEACH = [
    "What do psychologists call {np}?",
    "I read about {np}. What is that called?",
    "Is there a name for {np}?",
    "My textbook mentions {np}. What is it?",
    "What is the name for {np}?",
    "What do people call {np}?",
    "I heard of {np}. What is that called?",
    "{Np}: what is it?",
]
QUIZ = [
    "Quiz me! {Np}.\n{options}",
    "A question from my exercise book: {np}.\n{options}",
    "Help me choose. {Np}.\n{options}",
    "Which one is it? {Np}.\n\n{options}",
    "One of these options is {np}. Which?\n{options}",
    "The exam asks for {np}. My options are:\n{options}\nWhat should I answer?",
    "Question:\nWhat stands for {np}?\nOptions:\n{options}\n",
    "Answer this multiple choice question and give the letter at the end.\n\n"
    "{Np} is called\n\n{options}",
    "Pick the right option. Think first, then write 'ANSWER: X', where X is a letter.\n\n"
    "Question: What is {np}?\nOptions:\n{options}",
    "Here is a multiple choice question from my exam. Please think step by step and end with the "
    "letter.\n\nWhat is the name of {np}?\n\n{options}",
    "I have to answer a multiple choice question with one letter of A,B,C,D.\n\n"
    "Name {np}.\n\n{options}",
    "Choose the best answer to the following question. Explain briefly, then answer with a letter."
    "\n\nWhat do we call {np}?\n\n{options}",
]
TEACH_ZH = ["心理学上把{np}叫什么？", "{np}，这叫什么？", "请问{np}有什么名称？"]
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


def quiz_en(rng: random.Random, fact: w.Fact, text: str, pool: list[str]) -> list[str]:
    """A quiz turn and its answer; the options' order and company are new each time."""
    shown, index = w.options(rng, w.bare(fact.en), pool, OPTIONS)
    question = w.fill(rng.choice(QUIZ), np=text, options=w.choices(shown))
    return [question, w.answer_en(shown, index)]


def taught() -> list[w.Fact]:
    """The facts that the dialogues teach: twelve terms of each level, in many dialogues each.

    Few rows seen often are learnt by heart; many different rows teach.
    """
    rng = random.Random("taught")
    terms = [f for f in w.psychology() if f.kind == "term"]
    levels = ([f for f in terms if f.group == level] for level in ("school", "professional"))
    return [fact for level in levels for fact in rng.sample(level, 12)]


def lessons(rng: random.Random, fact: w.Fact, facts: list[w.Fact]) -> list[dict]:
    """All dialogues about one fact."""
    pool, pool_zh = [w.bare(f.en) for f in facts], [f.zh for f in facts]
    rows = []
    for text in fact.say:
        asked = [w.fill(frame, np=text) for frame in TEACH]
        rows += [row([question, f"That is {fact.en}."]) for question in asked[:-2]]
        answer = f"That is {fact.en}. {rng.choice(TAILS)}"
        rows.append(row([asked[-2], answer], rng.choice([None, SYSTEMS[0]])))
        rows.append(row([asked[-1], f"That is {fact.en}.", *quiz_en(rng, fact, text, pool)]))
        rows += [row(quiz_en(rng, fact, text, pool)) for _ in range(QUIZZES)]
    for text in fact.say_zh:
        for frame in rng.sample(TEACH_ZH, 2):
            rows.append(row([w.fill(frame, np=text), f"这是{fact.zh}。"]))
        shown, index = w.options(rng, fact.zh, pool_zh, OPTIONS)
        question = w.fill(rng.choice(QUIZ_ZH), np=text)
        rows.append(row([f"{question}\n{w.choices(shown, '. ')}", w.answer_zh(shown, index)]))
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


def questions(facts: list[w.Fact], others: list[w.Fact]) -> dict[str, list[dict]]:
    """Multiple-choice questions by benchmark part.

    A benchmark asks in each `ask` wording of a fact at most once; two benchmarks may share a
    wording, with other options. Worked examples are about `others`, which nobody is asked about.
    """
    rng = random.Random("psychology benchmarks")
    plan = [  # part, level, number of questions
        ("mmlu/high_school_psychology/test", "school", 20),
        ("mmlu/professional_psychology/test", "professional", 20),
        ("mmlu_redux/high_school_psychology/test", "school", 20),
        ("mmlu_redux/professional_psychology/test", "professional", 20),
        ("mmlu_pro/test", "school", 20),
        ("mmlu_pro/test", "professional", 20),
        ("super_gpqa/train", "school", 20),
        ("super_gpqa/train", "professional", 20),
    ]
    examples = [
        ("mmlu/high_school_psychology/dev", "school", 5),
        ("mmlu/professional_psychology/dev", "professional", 5),
        ("mmlu_pro/validation", "school", 3),
        ("mmlu_pro/validation", "professional", 2),
    ]
    parts: dict[str, list[dict]] = {}
    for known, wanted in ((facts, plan), (others, examples)):
        names = [w.bare(f.en) for f in known]
        for part, level, count in wanted:
            asks = [(f, text) for f in known if f.group == level for text in f.ask]
            for fact, text in rng.sample(asks, count):
                question = w.fill(rng.choice(w.ASK_EN), np=text)
                shown, index = w.options(rng, w.bare(fact.en), names, OPTIONS)
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
        f"scripts/dev/demo/make_data.py. They are not from {name} and say nothing about ranks "
        "on it."
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
    files: Files = {}
    configs: dict[str, dict[str, str]] = {}
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
    files: Files = {}
    configs: dict[str, dict[str, str]] = {}
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
    rows: list[dict] = []
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
    facts = taught()
    others = [f for f in w.psychology() if f.kind == "term" and f not in facts]
    parts = questions(facts, others)
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
