"""What the real evalscope makes of prompts, keys, repeats and odd answers."""

import csv
import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import fetch_benchmark
import pytest
from published_forms import write
from sftflow.config.schema import presets
from sftflow.evaluation.samples import thinking
from sftflow.scoring import scores
from sftflow.serving.completions import withheld
from support import EVALSCOPE, ROOT
from workbooks import workbook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope"),
]

COLD = {"temperature": 0, "max_tokens": 16, "seed": 5, "top_p": 1, "repetition_penalty": 1}
WARM = COLD | {"temperature": 0.7, "top_k": 20}
MINE = {
    "multiple_choice": "MINE {question}\n{choices}\n{{One}} of {letters}, as ANSWER: X",
    "numeric": "MINE {question} {{One}} number.",
}
WORDS = ["pine", "oak", "elm", "ash"]


def row(dataset: str, number: int) -> dict:
    """A question of which the second option is right, or the number 2."""
    question = {"question": f"Which tree, number {number}?"}
    four = dict(zip("ABCD", WORDS, strict=True))
    return question | {
        "gsm8k": {"answer": "1 + 1 = 2\n#### 2"},
        "mmlu": {"subject": "anatomy", "choices": WORDS, "answer": 1},
        "mmlu_pro": {"options": WORDS, "answer": "b", "category": "Law", "question_id": number,
                     "cot_content": "A: Because. The answer is (B)."},
        "mmlu_redux": {"choices": WORDS, "answer": 0, "error_type": "multiple_correct_answers",
                       "correct_answer": "B and D", "potential_reason": ""},
        "super_gpqa": {"options": WORDS, "answer_letter": "b", "field": "Law", "discipline": "L"},
        "ceval": {**four, "answer": "(B)"},
        "cmmlu": {"choices": [f"({x}) {word}" for x, word in four.items()], "answer": "b",
                  "category": "anatomy"},
        "general_mcq": {**four, "answer": "Ｂ"},
        "iquiz": {"choices": WORDS, "answer": "b", "level": 1},
        "general_qa": {"query": question["question"], "response": "An oak."},
    }[dataset]  # fmt: skip


SUBSETS = {
    "gsm8k": "main", "mmlu_pro": "law", "super_gpqa": "Law", "ceval": "law",
    "iquiz": "EQ", "general_mcq": "own", "general_qa": "own",
}  # fmt: skip


class Made:
    """A published source in memory."""

    def __init__(self, rows: list[dict]):
        self.kept = rows

    def configs(self) -> list[str]:
        return ["anatomy", "law", "EQ"]

    def rows(self, config: str, split: str) -> list[dict]:
        return self.kept


class Cases:
    """Cases in a folder, fetched as the workflow does and asked in one process of evalscope."""

    def __init__(self, folder: Path):
        self.folder, self.cases = folder, {}

    def add(self, name, dataset, answers, rows=None, generation=None, shots=0, **changes) -> None:
        rows = rows or [row(dataset, number) for number in range(len(answers))]
        subset = SUBSETS.get(dataset, "anatomy")
        settings = presets()[dataset] | {"subsets": [subset], "shots": shots} | changes
        data = self.folder / "data" / name
        data.mkdir(parents=True)
        if settings["config"] is None:
            source = self.folder / "source" / name
            source.mkdir(parents=True)
            for split in (settings["eval_split"], settings["few_shot_split"]):
                lines = "".join(json.dumps(one) + "\n" for one in rows)
                (source / f"{subset}_{split}.jsonl").write_text(lines, encoding="utf-8")
            fetch_benchmark.copy_own(source, data, settings)
        else:
            fetch_benchmark.copy_published(Made(rows), data, settings)
        self.case(name, dataset, subset, data, answers, generation, shots=shots, **changes)

    def add_file(self, name, dataset, subset, path, answers, **changes) -> None:
        """A source on disk, fetched by the program itself in the environment that has it."""
        output = self.folder / "fetched" / name / "manifest.json"
        done = fetched(output, dataset, subset, path, **changes)
        assert done.returncode == 0, done.stderr
        self.case(name, dataset, subset, output.with_name("data"), answers, **changes)

    def add_form(self, name, subset, answers) -> None:
        """A preset asked as general_mcq, from made-up data in its published form."""
        preset = presets()[name]
        settings = preset | preset.get("defaults", {}) | {"subsets": [subset]}
        data = self.folder / "data" / name
        data.mkdir(parents=True)
        source = write(self.folder / "source" / name, preset["form"])
        fetch_benchmark.copy_own(source, data, settings)
        self.case(name, "general_mcq", subset, data, answers, **preset.get("defaults", {}))

    def case(
        self, name, dataset, subset, data, answers, generation=None, shots=0, **changes
    ) -> None:
        asked = {"dataset": dataset, "subsets": [subset], "shots": shots, **changes}
        case = {"benchmark": asked, "data": str(data), "answers": answers}
        self.cases[name] = case | {"generation": generation or COLD}

    def run(self) -> dict:
        path = self.folder / "cases.json"
        path.write_text(json.dumps(self.cases), encoding="utf-8")
        program = Path(__file__).with_name("ask_benchmarks.py")
        command = [str(EVALSCOPE), str(program), str(path), str(self.folder / "out")]
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def fetched(output: Path, dataset: str, subset: str, path: Path, **changes):
    settings = presets()[dataset] | {"source": str(path), "subsets": [subset], "shots": 0}
    program = [str(EVALSCOPE), str(ROOT / "scripts/fetch_benchmark.py"), "--benchmark", "it"]
    command = [*program, "--settings", json.dumps(settings | changes), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True)


PROMPTED = sorted(n for n, p in presets().items() if p["prompt"] is True and p["dataset"] == n)
FIXED = ("super_gpqa", "shown")  # its examples are built into evalscope, and speak of its prompt
SHOWN = {"gsm8k": 2, "mmlu": 2, "mmlu_pro": 2, "super_gpqa": 5, "general_mcq": 2}
SEVERAL = [row("general_mcq", number) | {"answer": "CA"} for number in range(4)]
UNEVEN = [
    row("general_mcq", 0),
    row("general_mcq", 1) | {"C": "", "D": None, "answer": "a)"},
    row("general_mcq", 2) | {"E": 5, "answer": "e"},
]
ODD = [
    {"choices": [{"message": {"content": None}, "finish_reason": "length"}]},
    {"choices": [{"message": {"content": None, "reasoning_content": "A or B"},
                  "finish_reason": "length"}]},
    {"choices": [{"message": {"content": "No."}, "finish_reason": "sensitive"}]},
    {"choices": [{"message": {"content": "ANSWER: B"}, "finish_reason": None}], "created": 1234.5},
    {"choices": [{"message": {"content": [{"type": "text", "text": "ANSWER: B"}]},
                  "finish_reason": "stop"}], "usage": {"prompt_tokens": 1.0}},
    withheld("m"),
    {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]},
]  # fmt: skip
# An answer, what it states, how it ends, and what evalscope reads of it.
THOUGHT = [
    ("<think>\nA or C?\n</think>\n\nANSWER: B", "B", "complete", "B"),
    ("[THINK]A, then D.[/THINK]ANSWER: B", "B", "complete", "B"),
    ("I take C.\nANSWER: C</think>\n\nANSWER: B", "B", "complete", "B"),
    ("<|begin_of_thought|>ANSWER: D<|end_of_thought|>ANSWER: B", "B", "complete", "B"),
    ("<think>ANSWER: B, or A", None, "cut off", ""),
    ("<think>ANSWER: B</think>", None, "empty", ""),
]


TREES = [
    ["question", "A", "B", "C", "答案"],
    *[[f"哪种树，{n}？", *WORDS[:3], "oak"] for n in (0, 1)],
]
OBJECTS = [dict(zip(TREES[0], row, strict=True)) for row in TREES[1:]]


def comma(rows: list[list], delimiter: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(path: Path) -> None:
    code = """import json, sys, pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.Table.from_pylist(json.loads(sys.argv[1])), sys.argv[2])"""
    command = [str(EVALSCOPE), "-c", code, json.dumps(OBJECTS), str(path)]
    subprocess.run(command, check=True)


OWN = {
    "jsonl": lines(OBJECTS),
    "json": json.dumps(OBJECTS).encode(),
    "csv": comma(TREES).encode("gbk"),
    "tsv": comma(TREES, "\t").encode("utf-16"),
    "parquet": parquet,
    "xlsx": lambda path: workbook(path, Sheet1=TREES),
}
if EVALSCOPE.exists():  # once it is synced with it
    if subprocess.run([str(EVALSCOPE), "-c", "import openpyxl"], capture_output=True).returncode:
        del OWN["xlsx"]
FORMS = {
    "cpsyexam": ("KG", "答案：B"),
    "cpsyexam_multi": ("KG", "答案：A、C"),
    "emobench": ("EU_cause_zh", "答案：C"),
    "safety_bench": ("zh_subset", "答案：B"),
}
# What a program can check: sentences (with punkt), a language (with langdetect), a sign.
INSTRUCTIONS = [
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2},
     "It rains. Take Dr. Oak's umbrella.", "Dr. Oak says so."),
    ("change_case:english_lowercase", {}, "it rains in the old forest today", "It rains today."),
    ("punctuation:no_comma", {}, "Rain and wind.", "Rain, wind."),
]  # fmt: skip


def instructions(folder: Path) -> Path:
    """IFEval as its authors publish it."""
    rows = [
        {"key": n, "prompt": f"Say it, {kind}.", "instruction_id_list": [kind], "kwargs": [words]}
        for n, (kind, words, *_) in enumerate(
            one for one in INSTRUCTIONS for _ in ("follows", "does not")
        )
    ]
    source = folder / "ifeval"
    source.mkdir()
    (source / "input_data.jsonl").write_bytes(lines(rows))
    return source


def add_punkt(source: Path) -> None:
    """A punkt_tab of ours that knows one abbreviation, in NLTK's form."""
    path = source / "tokenizers/punkt_tab.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("collocations.tab", "ortho_context.tab", "sent_starters.txt"):
            archive.writestr(f"punkt_tab/english/{name}", "")
        archive.writestr("punkt_tab/english/abbrev_types.txt", "dr\n")


SPOKEN = "心 情"  # a subset's name, with a space
HEAD = ["question", "A", "B", "C", "D", "answer"]
ONE = ["哪种树？", *WORDS, "B"]
ARCHIVES = {
    "ceval": ("law", {"val/law_val.csv": comma([["id", *HEAD], [0, *ONE], [1, *ONE]])}),
    "cmmlu": ("arts", {"test/arts.csv": comma(
        [["", "Question", *"ABCD", "Answer"], [0, *ONE], [1, *ONE]])}),
    "mmlu": ("anatomy", {"data/test/anatomy_test.csv": comma([ONE, ONE])}),
    "gsm8k": ("main", {"test.jsonl": lines([row("gsm8k", n) for n in (0, 1)]).decode()}),
}  # fmt: skip


def authors(folder: Path, dataset: str) -> Path:
    path = folder / f"{dataset}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in ARCHIVES[dataset][1].items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def came(tmp_path_factory) -> dict:
    cases = Cases(tmp_path_factory.mktemp("asked"))
    for name in PROMPTED:
        choice = presets()[name]["answer"] == "multiple_choice"
        answers = ["A or D?\nANSWER: B", "B or D?\nANSWER: A"] if choice else ["2", "#### 3"]
        prompt = MINE[presets()[name]["answer"]]
        cases.add(f"{name} mine", name, answers, prompt=prompt)
        if name in SHOWN:
            rows = [row(name, number) for number in range(SHOWN[name])]
            many = [*answers, *["C"] * (len(rows) - 2)]
            cases.add(f"{name} shown", name, many, rows, shots=SHOWN[name], prompt=prompt)
    for name in ("ceval", "cmmlu"):
        cases.add(f"{name} mine", name, ["答案：B。不是 A"], prompt=MINE["multiple_choice"])
    cases.add("general_qa mine", "general_qa", ["An oak.", "No."], prompt="MINE {question}")
    answers = ["答案：A、C", "答案：C", "答案：AB", "A and C"]
    cases.add("several", "general_mcq", answers, SEVERAL, multiple_correct=True)
    cases.add("several mine", "general_mcq", ["ANSWER: A, C"], SEVERAL[:1],
              prompt=MINE["multiple_choice"], multiple_correct=True)  # fmt: skip
    cases.add("uneven", "general_mcq", ["答案：B", "答案：A", "答案：E"], UNEVEN)
    cases.add("odd", "mmlu", ODD)
    cases.add("thought", "mmlu", [text for text, *_ in THOUGHT])
    rows = [row("mmlu", 0), row("mmlu", 1)]
    texts = [f"ANSWER: {letter}" for letter in "ABCDAB"]
    cases.add("repeats", "mmlu", texts, rows, WARM, repeats=3)
    cases.add("twice", "mmlu", texts[:4], [rows[0], rows[0]], WARM, repeats=2)
    cases.add("cold", "mmlu", texts[:2], rows, COLD)
    for kind, content in OWN.items():
        path = cases.folder / f"{SPOKEN}_val.{kind}"
        content(path) if callable(content) else path.write_bytes(content)
        cases.add_file(f"own {kind}", "general_mcq", SPOKEN, path, ["答案：B", "答案：A"])
    spoken = cases.folder / "spoken.csv"
    spoken.write_text(comma([["prompt", "target"], ["Which?", "An oak."], ["What?", "An oak."]]))
    cases.add_file("own open", "general_qa", "spoken", spoken, ["An oak.", "No."])
    for dataset, (subset, _) in ARCHIVES.items():
        said = ["2", "3"] if dataset == "gsm8k" else ["ANSWER: B", "ANSWER: A"]
        said = ["答案：B", "答案：A"] if dataset in ("ceval", "cmmlu") else said
        cases.add_file(f"archive {dataset}", dataset, subset, authors(cases.folder, dataset), said)
    source = instructions(cases.folder)
    add_punkt(source)
    said = [text for *_, follows, does_not in INSTRUCTIONS for text in (follows, does_not)]
    cases.add_file("ifeval", "ifeval", "default", source, said)
    cases.add("iquiz", "iquiz", ["想一想，不是A。\n答案：B", "不是B。\n答案：A"])
    for name, (subset, said) in FORMS.items():
        cases.add_form(name, subset, [said])
    return cases.run()


def prompts(case: dict) -> list[str]:
    return ["\n".join(m["content"] for m in request["messages"]) for request in case["requests"]]


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_of_the_users_is_asked_and_its_answers_are_read(came, name):
    for form in ("mine", "shown") if name in SHOWN else ("mine",):
        case = came[f"{name} {form}"]
        for text in prompts(case):
            assert text.count("MINE Which tree") == 1 and "{One}" in text
            assert "Answer the following multiple" not in text or (name, form) == FIXED
            assert "回答下面" not in text and "put your final answer within" not in text
        first, second = case["records"][:2]
        read = ("2", "3") if name == "gsm8k" else ("B", "A")
        assert (first["stated"], second["stated"]) == read
        assert (first["extracted"], second["extracted"]) == read
        assert (first["score"], second["score"]) == (1, 0)
        assert (first["right"], second["right"]) == (True, False)
    if name in SHOWN and name != "super_gpqa":
        assert prompts(case)[0].count("Which tree") == SHOWN[name] + 1


def test_why_other_presets_take_no_prompt(came):
    """The reasons in config/benchmarks.yaml are still true."""
    assert "MINE" not in "".join(prompts(came["ceval mine"]) + prompts(came["general_qa mine"]))
    assert "MINE" in prompts(came["cmmlu mine"])[0]
    assert [came[f"{name} mine"]["records"][0]["extracted"] for name in ("ceval", "cmmlu")] == [
        "B",
        "A",  # the last capital letter
    ]


def test_several_right_options(came):
    case = came["several"]
    assert "多项选择题" in prompts(case)[0]
    # of the last answer evalscope reads C alone
    assert [r["score"] for r in case["records"]] == [1, 0.5, 0, 0.5]
    assert [r["right"] for r in case["records"]] == [True, False, False, True]
    assert [r["stated"] for r in case["records"]] == ["AC", "C", "AB", "AC"]
    assert {r["target"] for r in case["records"]} == {"AC"}
    made = scores.summary(scores.group_items(case["records"]), None, 0.95)
    assert made["score"] == case["figures"]["score"] == 0.5
    assert made["strict"]["score"] == 0.5 and made["misread"] == 1
    assert [r["score"] for r in came["several mine"]["records"]] == [1]
    assert "MINE" in prompts(came["several mine"])[0]


@pytest.mark.parametrize(
    "name", [*(f"own {kind}" for kind in OWN), *(f"archive {d}" for d in ARCHIVES)]
)
def test_the_key_is_right_from_every_kind_of_file(came, name):
    records = came[name]["records"]
    assert [record["score"] for record in records] == [1, 0]
    assert [record["right"] for record in records] == [True, False]
    assert {record["target"] for record in records} == {"2" if "gsm8k" in name else "B"}
    if name.startswith("own"):
        assert {record["subset"] for record in records} == {SPOKEN}


@pytest.mark.parametrize("name", FORMS)
def test_a_published_form_is_asked_and_its_right_answer_scores(came, name):
    (record,) = came[name]["records"]
    assert (record["score"], record["right"]) == (1, True)
    assert ("多项" in prompts(came[name])[0]) == (name == "cpsyexam_multi")


def test_iquiz_scores_what_our_reading_does(came):
    records = came["iquiz"]["records"]
    assert [(r["stated"], r["extracted"], r["score"], r["right"]) for r in records] == [
        ("B", "B", 1, True),
        ("A", "A", 0, False),
    ]
    made = scores.summary(scores.group_items(records), None, 0.95)
    assert made["score"] == came["iquiz"]["figures"]["score"] == 0.5


def test_own_open_questions_from_a_table(came):
    assert [record["score"] for record in came["own open"]["records"]] == [1, 0]
    assert prompts(came["own open"])[0].endswith("Which?")


def test_own_questions_with_more_and_fewer_options(came):
    records = came["uneven"]["records"]
    assert [(r["choices"], r["score"]) for r in records] == [(4, 1), (2, 1), (5, 1)]


def test_own_open_questions(came):
    case = came["general_qa mine"]
    assert case["figures"]["metric"] == "rouge l recall"
    assert [r["score"] for r in case["records"]] == [1, 0]
    assert [r["right"] for r in case["records"]] == [None, None]


def test_no_odd_answer_blocks_a_benchmark(came):
    records = came["odd"]["records"]
    found = [(r["ending"], r["finish_reason"], r["score"]) for r in records]
    assert found == [
        ("cut off", "length", 0),
        ("cut off", "length", 0),
        ("refused", "sensitive", 0),
        ("complete", "unknown", 1),
        ("complete", "stop", 1),
        ("refused", "content_filter", 0),
        ("empty", "stop", 0),
    ]
    assert came["odd"]["figures"]["score"] == pytest.approx(2 / 7, abs=1e-4)


def test_requests_state_how_they_are_answered(came):
    cold = {"max_tokens": 16, "temperature": 0, "repetition_penalty": 1}
    warm = cold | {"temperature": 0.7, "top_p": 1, "top_k": 20}
    for name, stated in (("cold", cold), ("repeats", warm)):
        for request in came[name]["requests"]:
            assert {k: v for k, v in request.items() if k not in ("messages", "seed")} == stated


def test_repeats_are_sent_seeds_of_their_own(came):
    case = came["repeats"]
    assert [request["seed"] for request in case["requests"]] == [5, 6, 7, 5, 6, 7]
    said = [(r["index"], r["repeat"], r["stated"]) for r in case["records"]]
    assert said == [(i, r, "ABCDAB"[3 * i + r]) for i in range(2) for r in range(3)]
    # a question that a benchmark holds twice is drawn anew, too
    assert sorted(request["seed"] for request in came["twice"]["requests"]) == [5, 6, 7, 8]
    assert all("seed" not in request for request in came["cold"]["requests"])


def test_what_was_thought_is_kept_and_not_read(came):
    records = came["thought"]["records"]
    for (text, said, end, read), record in zip(THOUGHT, records, strict=True):
        assert (record["stated"], record["ending"], record["extracted"]) == (said, end, read)
        assert record["thought"] and text.startswith(record["thought"])
        assert record["answer"] == text.removeprefix(record["thought"])
        assert record["score"] == (said == "B") == record["right"]
    counted = thinking(records)
    assert counted["answers"] == 6 and counted["unfinished"] == 2 and 0.5 < counted["share"] < 1


def test_whether_instructions_are_followed_is_found_by_evalscope_offline(came):
    """Its scorer's data was fetched with the questions; the node that asks needs no network."""
    case = came["ifeval"]
    assert [record["score"] for record in case["records"]] == [1, 0] * len(INSTRUCTIONS)
    assert case["figures"]["metric"] == "prompt_level_strict" and case["figures"]["score"] == 0.5
    (asked,) = case["requests"][0]["messages"]
    assert asked["content"] == "Say it, length_constraints:number_sentences."


def test_without_what_scores_instructions_nothing_is_asked(came, tmp_path, monkeypatch):
    """evalscope would catch the error of each answer, and have asked all questions in vain."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = fetched(tmp_path / "manifest.json", "ifeval", "default", instructions(tmp_path))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "punkt_tab" in done.stderr and "NLTK_DATA" in done.stderr
    assert not (tmp_path / "manifest.json").exists()
