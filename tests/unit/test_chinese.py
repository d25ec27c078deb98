"""The Chinese page is Chinese throughout: what has no entry in reporting/chinese.py fails."""

import json
import random
import re
from functools import partial
from itertools import pairwise

import made_up
import pytest
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import Results
from sftflow.reporting import figures, report
from sftflow.reporting.chinese import CATALOGUE, said

FAR = {"url": "http://far.example/v1", "model": "strong-70b", "version": "1"}
RAW = made_up.RAW | {
    "training": {"checkpoints": "all"},
    "endpoints": {"far": FAR},
    "judges": {"strong": {"subject": "far"}},
    "runs": {"tuned": made_up.RAW["runs"]["tuned"]},
    "sweeps": {
        "rank": {"run": "tuned", "grid": {"lora_rank": [4, 8]}},
        "alpha": {"run": "tuned", "grid": {"lora_alpha": [4, 8, 16, 32]}, "halving": {}},
    },
}
FINE, BROKEN = ("Go for a walk.", "stop", "I feel low."), ("so " * 200, "length", "I feel low.")


def everything(folder) -> dict:
    """A study of every kind of record, with something wrong in each."""
    alphas = {alpha: f"alpha-lora_alpha{alpha}" for alpha in (4, 8, 16, 32)}
    first, second = {4: 1.3, 8: None, 16: 1.2, 32: 1.4}, {4: 1.2, 16: 1.1}
    climbed = {
        part: {alphas[alpha]: loss for alpha, loss in losses.items()}
        for part, losses in ((4, first), (2, second))
    }
    made_up.write_halving(folder, json.loads(json.dumps(RAW)), "alpha", climbed)
    made = made_up.write_study(folder, json.loads(json.dumps(RAW)), {"base": 0.2, "tuned": 0.9})
    made_up.write_records(folder, made)
    chance = random.Random(7)

    def losses(mean: float) -> list:
        return [(100, 100 * (mean + chance.gauss(0, 0.01))) for _ in range(30)]

    opening = ("talks", "opening")
    for subject, mean, answers in (("base", 2.0, [FINE]), ("tuned", 2.3, [BROKEN])):
        texts = {"talks": losses(mean), "zh": losses(mean)}
        made_up.write_dialogue(folder, made, subject, texts, {opening: answers * 30})
    steps = {step: {"talks": losses(mean)} for step, mean in ((0, 2.0), (100, 1.5), (200, 1.9))}
    made_up.write_curve(folder, made, "tuned", steps, (150,))
    pair = {"baseline": "base", "candidate": "tuned"}
    turns = [
        {"dialogue": f"{i}", "baseline": "a", "candidate": "b", "said": "AA"} for i in range(9)
    ]
    made_up.write_judgement(folder, made, "strong", pair, turns)
    for subject, risk in (("base", True), ("tuned", False)):
        points = dict.fromkeys(("risk", "help", "method", "judgement", "diagnosis"), risk)
        rows = [
            {"kind": kind, "points": points} for kind in ("crisis", "figurative") for _ in "123"
        ]
        made_up.write_crisis(folder, made, "strong", subject, rows)
    session = folder / "evaluations/tuned/psychology.json"
    ids = [made_up.sample(i, True, "high_school_psychology")["id"] for i in range(20)]
    made_up.write_scores(folder, session, {"mmlu": {"ids": ids}})
    training = folder / "runs/tuned/training.json"
    lowered = {"first_loss": 2.0, "final_loss": 2.9, "first_loss_se": 0.01, "out_of_memory": [
        {"micro_batch": 2, "accumulation": 8}
    ]}  # fmt: skip
    write_record(training, read_record(training) | lowered)
    (folder / "scores/rank-lora_rank4/mmlu.json").unlink()
    gone = folder / "scores/rank-lora_rank8/gsm8k.json"
    write_record(gone, read_record(gone) | {"made_with": {"statistics.confidence": 0.9}})
    return made


@pytest.fixture(scope="module")
def written_study(tmp_path_factory) -> tuple[dict, Results]:
    """`everything`, and where it lies; tests only read it."""
    folder = tmp_path_factory.mktemp("everything")
    return everything(folder), Results(folder)


# Names, and what a user or a model wrote.
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|!?\[|An answer .*?(?=\|)|<br>", re.S)
NAMES = (
    "What should I do if I cannot sleep at night?", "basic and professional psychology",
    "Which memory", "holds", "about seven items", "which memory holds about seven",
    "in two lines", "SFT", "made up", "Base 1B",
)  # fmt: skip
ENGLISH = re.compile(r"[A-Za-z][a-z]+(?:[ ,:;]+[a-z][a-z']+){2,}")


def test_the_chinese_page_holds_no_english_sentence(written_study):
    found = report.collect(*written_study)
    kinds = {flag.kind for flag in found["flags"]}
    assert kinds >= {
        "broken", "forgotten", "contaminated", "overfitted", "inconsistent judge", "missing",
        "stale", "diverged", "out of memory", "dropped rows",
    }  # fmt: skip
    text = CODE.sub(" ", report.page("zh", found))
    for name in NAMES:
        text = text.replace(name, "")
    assert sorted(set(ENGLISH.findall(text))) == []


HALF = re.compile(
    r"[\u4e00-\u9fff]\*{0,2} ?[,;:?!](?!\w)|[,;:?!(] ?[\u4e00-\u9fff]|[\u4e00-\u9fff]\)"
)


def test_punctuation_beside_chinese_is_of_full_width(written_study):
    text = report.page("zh", report.collect(*written_study))
    text = CODE.sub(" ", text)
    assert [text[found.start() - 20 : found.end() + 20] for found in HALF.finditer(text)] == []


def test_an_empty_table_is_empty_in_chinese(tmp_path):
    made = made_up.write_study(tmp_path)
    page = report.page("zh", report.collect(made, Results(tmp_path)))
    assert "（无）" in page and "(none)" not in page


def test_every_heading_and_word_of_the_tables_is_in_the_catalogue(written_study):
    """Single words too, which no sentence gives away: headings of columns, verdicts, kinds."""
    found = report.collect(*written_study)
    text = CODE.sub(" ", report.page("zh", found))
    heads = [line for line in text.splitlines() if line.startswith("|")]
    words = {
        cell.strip()
        for line, rule in pairwise(heads)
        if rule.startswith("|:-") or rule.startswith("|-")
        for cell in line.split("|")
    }
    assert {word for word in words if re.fullmatch(r"[A-Z][a-z]+( [a-z]+)*", word)} <= KEPT


KEPT = {"Python", "Few-shot"}


def test_every_text_of_the_figures_is_in_the_catalogue(written_study, monkeypatch):
    """Of a study with everything, and of more than a figure shows."""
    asked: set[str] = set()

    def listen(language: str, text: str, **values: object) -> str:
        asked.add(text)
        return said(text, language, **values)

    monkeypatch.setattr(report, "in_language", listen)
    made, results = written_study
    found = report.collect(made, results)
    found["training_records"]["tuned"]["gpu_curve"] = GPU
    texts = [text for p in report.draw(made, found, "zh").values() for text in written(p)]
    say = partial(listen, "zh")
    many = [str(place) for place in range(20)]
    runs = dict.fromkeys(many, found["training_records"]["tuned"])
    lengths = {name: {"histogram": [[2, 3]]} for name in many}
    claim = {"pair": "a − b", "name": "c", "suite": True, "verdict": "better"}
    claim |= {"difference": 0.1, "ci_low": 0.0, "ci_high": 0.2}
    points = [
        {"values": {"lora_rank": r, "lora_alpha": a, "seed": s}, "losses": [1.0, 2.0]}
        for r in (4, 8) for a in (1, 2) for s in (1, 2)
    ]  # fmt: skip
    for picture in (
        figures.loss(runs, say), figures.token_lengths(lengths, lengths, say),
        figures.scores({name: {"b": (0.5, 0.4, 0.6)} for name in many}, {"b": 0.25}, say),
        figures.differences([claim] * 50, 0.02, say),
        figures.sweep(dict.fromkeys(many, points), say),
        figures.sweep({"s": points[:1]}, say), figures.sweep({}, say),
    ):  # fmt: skip
        texts += written(picture)
    assert asked - CATALOGUE.keys() == set()
    english = {text for text in texts if re.search("[a-z]{3}", re.sub(NAMES_IN_FIGURES, "", text))}
    assert english == set()


GPU = {"seconds": [1], "utilisation_percent": [50], "memory_gib": [1.5], "power_watt": [300]}
NAMES_IN_FIGURES = re.compile(
    "Loss|token|nat|GPU|lora_rank|lora_alpha|alpha|seed|Base 1B|tuned|base|rank|talks|general|"
    "psychology|made up"
)


def written(picture: figures.Picture) -> list[str]:
    return re.findall(">([^<>]+)</text>", picture.svg())
