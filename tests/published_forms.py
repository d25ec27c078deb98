"""Made-up questions in the published forms that `sftflow.inputs.converted` reads."""

import json
from pathlib import Path

FIVE = {"A": "松", "B": "橡", "C": "榆", "D": "梣", "E": ""}


def exam(answer: str | None, **options: str) -> dict:
    row = {"subject_name": "树", "question_type": "single", "question": "哪种树？"}
    row |= {"options": FIVE | options, "explanation": "", "id": "1"}
    return row if answer is None else row | {"answer": answer}


SCENE = {"scenario": "下雨了。", "subject": "小林", "language": "zh", "qid": "1"}
EA = {**SCENE, "choices": ["走", "停"], "label": "停"}
EU = {
    **SCENE, "emotion_choices": ["喜", "怒"], "emotion_label": "喜",
    "cause_choices": ["雨", "风", "雪"], "cause_label": "雪",
}  # fmt: skip
SAFE = {"id": 1, "question": "怎么办？", "options": ["倾诉", "独处"], "answer": 1}
MADE = {
    "cpsyexam": {
        "dev/KG-GEE-树-单项选择题.json": [exam("B"), exam("AC"), exam("B", D="松")],
        "dev/KG-GEE-树-多项选择题.json": [exam("A,C")],
        "dev/CA-林-单项选择题.json": [exam("D", E="桦")],
        "dev/CA-林-多项选择题.json": [exam("AB")],
        "test/CA-林-单项选择题.json": [exam(None)],
    },
    "emobench": {
        "data/EA.jsonl": [EA, EA | {"language": "en", "scenario": "Rain."}],
        "data/EU.jsonl": [EU, EU | {"language": "en"}],
    },
    "safety_bench": {
        "data/zh_subset/test.jsonl": [
            SAFE | {"category": "Mental Health"},
            SAFE | {"category": "Mental Health", "answer": 2},
            SAFE | {"category": "Physical Health"},
        ]
    },
}


def write(top: Path, form: str) -> Path:
    for name, rows in MADE[form].items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(lines if name.endswith("l") else json.dumps(rows), encoding="utf-8")
    return top
