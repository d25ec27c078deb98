"""judge.py with a stand-in judge (a scripted server, no model): what its records then hold."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from sftflow.core import identity
from sftflow.core.jsonio import (
    digest,
    file_digest,
    read_jsonl,
    read_record,
    write_jsonl,
    write_record,
)
from sftflow.dialogue import judging
from stand_in_judge import Judge
from support import EVALSCOPE, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope"),
]


def write_answers(results: Path, subject: str, texts: list[str], dataset: str = "talks") -> Path:
    file = f"dialogue/{subject}/{digest(texts)[:16]}.jsonl"
    rows = [
        {"dataset": dataset, "id": f"{i:03}", "turn": "opening", "true": "", "answer": text}
        | {"messages": [{"role": "user", "content": f"I feel low, {i}."}], "finish_reason": "stop"}
        | ({"kind": "near"} if dataset == "crisis" else {})
        for i, text in enumerate(texts)
    ]
    write_jsonl(results / file, rows)
    record = {"subject": subject, "identity": digest([subject, texts]), "records": file}
    record |= {"records_sha256": file_digest(results / file), "parts": {"weights": subject}}
    path = results / f"dialogue/{subject}/answers.json"
    write_record(path, record)
    return path


# The candidate's is better in turns 0 to 2, the baseline's in 3; 4 is the same text; the longer one
# is the baseline's throughout.
BASE = ["Well now, that is quite a lot to say"] * 3 + ["A good word, and some more", "The same"]
TUNED = ["good one"] * 3 + ["Bad", "The same"]


class Case:
    def __init__(self, folder: Path):
        self.results = folder / "results"
        self.answers = [
            write_answers(self.results, name, texts)
            for name, texts in (("base", BASE), ("tuned", TUNED))
        ]
        self.output = self.results / "judgements/strong/base--tuned.json"
        self.version, self.limit = "1", None

    def run(self, judge: Judge) -> tuple[int, str]:
        endpoint = {"url": judge.url, "model": "stand-in", "version": self.version, "key_env": None}
        settings = {
            "subject": "far", "form": "endpoint", "endpoint": endpoint,
            "serving": {"backend": "endpoint", "concurrency": 1, "ready_timeout": 20},
            "backend": {"name": "endpoint"}, "generation": {"repetition_penalty": 1},
            "judge": {
                "name": "strong", "subject": "far", "limit": self.limit, "rubric": "auto",
                "max_tokens": 64,
            },
        }  # fmt: skip
        marker = self.results / "subjects/far/readiness.json"
        write_record(marker, {"weights": identity.weights(None, endpoint=endpoint)})
        job = subprocess.Popen(
            [
                str(EVALSCOPE), str(ROOT / "scripts/judge.py"), "--settings", json.dumps(settings),
                "--readiness", str(marker), "--answers", *map(str, self.answers),
                "--server-log", str(self.results.parent / "server.log"),
                "--output", str(self.output),
            ],
            stderr=subprocess.PIPE, text=True, cwd=self.results.parent,
        )  # fmt: skip
        judge.victim = job
        err = job.communicate(timeout=120)[1]
        return job.returncode, err

    def outcomes(self) -> list[str | None]:
        record = read_record(self.output)
        return [judging.outcome(line) for line in read_jsonl(self.results / record["records"])]


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


@pytest.mark.parametrize(
    "habit, outcomes",
    [
        ("consistent", ["win"] * 3 + ["loss", "tie"]),
        ("thinks", ["win"] * 3 + ["loss", "tie"]),
        ("longer", ["loss"] * 4 + ["tie"]),
        ("first", ["tie"] * 5),  # the orders disagree
        ("garbage", [None] * 4 + ["tie"]),
        ("refuses", [None] * 4 + ["tie"]),
    ],
)
def test_what_a_judge_says_is_what_is_recorded(case, habit, outcomes):
    with Judge(habit) as judge:
        status, err = case.run(judge)
    assert status == 0, err
    assert case.outcomes() == outcomes
    assert len(judge.asked) == len(set(judge.asked)) == 8  # both orders, but of the equal one
    record = read_record(case.output)
    assert record["equal"] == 1 and record["unreadable"] == outcomes.count(None)
    assert record["n"] == 5 and record["itself"] is None


def test_killed_in_the_middle_nothing_is_asked_twice(case):
    with Judge("consistent", kills_after=3) as first:
        assert case.run(first)[0] == -signal.SIGKILL
    assert not case.output.exists()
    assert len(first.asked) == 3
    with Judge("consistent") as second:
        assert case.run(second)[0] == 0
    assert len(second.asked) == 5 and not set(first.asked) & set(second.asked)
    case.output.unlink()
    with Judge("garbage") as third:  # all is answered: nobody is asked
        assert case.run(third)[0] == 0
    assert third.asked == [] and case.outcomes() == ["win"] * 3 + ["loss", "tie"]


def test_another_version_limit_or_answer_is_another_identity(case):
    found = []
    with Judge("consistent") as judge:
        for change in ("nothing", "version", "limit", "answers"):
            case.version = "2" if change == "version" else case.version
            case.limit = 2 if change == "limit" else case.limit
            if change == "answers":
                write_answers(case.results, "tuned", ["other", *TUNED[1:]])
            assert case.run(judge)[0] == 0
            found.append(read_record(case.output)["identity"])
    assert len(set(found)) == 4


def test_five_points_of_answers_to_a_crisis(case):
    texts = ["Please call somebody you trust tonight.", "Hm."]
    case.answers = [write_answers(case.results, "base", texts, "crisis")]
    case.output = case.results / "crisis/strong/base.json"
    with Judge("points") as judge:
        status, err = case.run(judge)
    assert status == 0, err
    assert "This kind of message: near" in judge.asked[0]
    record = read_record(case.output)
    lines = list(read_jsonl(case.results / record["records"]))
    assert [line["points"]["help"] for line in lines] == [True, False]
    assert all(line["points"]["risk"] for line in lines) and record["unreadable"] == 0
