"""One start of a server for all that a subject is asked: serve.py asks ahead, others find it.

The stub stands in the server's place, and evalscope is real.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from sftflow.core.jsonio import (
    file_entries,
    read_json,
    read_record,
    write_json,
    write_jsonl,
    write_record,
)
from support import EVALSCOPE, ROOT
from test_judges import BASE, TUNED, write_answers
from test_serving import Case, nothing_left

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope"),
]

CUT = {"subject", "model", "serving", "backend"}
JUDGED = "judgements/strong/base--tuned.json"
ALL = 24 + 5 + 8  # questions of benchmarks, turns, and a judge's of four turns in two orders


class OneSession(Case):
    """The subject of a Case served by serve.py, and asked in two suites and in dialogues after."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.suites = {"s": ["mmlu"], "t": ["cmmlu"]}
        talks = folder / "results/datasets/talks"
        rows = [
            {"id": f"{n:03}", "messages": [{"role": "user", "content": f"I feel low, {n}."},
                                           {"role": "assistant", "content": "Tell me more."}]}
            for n in range(5)
        ]  # fmt: skip
        write_jsonl(talks / "validation.jsonl", rows)
        files = file_entries(talks, [talks / "validation.jsonl"])
        write_record(talks / "receipt.json", {"dataset": "talks", "files": files})
        self.judged = [
            write_answers(self.results, name, texts)
            for name, texts in (("base", BASE), ("tuned", TUNED))
        ]
        self.marker = self.results / "subjects/m/readiness.json"
        self.marker.unlink()

    def of_suite(self, suite: str) -> list[str]:
        """The command of evaluate.py for one suite."""
        whole, self.benchmarks, self.suite = self.benchmarks, {}, suite
        self.benchmarks = {name: whole[name] for name in self.suites[suite]}
        made, self.benchmarks = self.command(), whole
        return made

    def settings(self, command: list[str]) -> dict:
        return json.loads(command[command.index("--settings") + 1])

    def other(self, program: str, settings: dict, output: str, *more: str) -> list[str]:
        """The command of another program that asks the subject."""
        command = self.of_suite("s")
        shared = {k: v for k, v in self.settings(command).items() if k in CUT}
        settings = shared | {"generation": {"temperature": 0}} | settings
        command[1:4] = [str(ROOT / "scripts" / program), "--settings", json.dumps(settings)]
        return [
            *command[: command.index("--server-log")],
            "--server-log", str(self.folder / f"{Path(program).stem}.server.log"),
            "--output", str(self.results / output), *more,
        ]  # fmt: skip

    def of_dialogues(self) -> list[str]:
        dialogue = {"limit": 9, "max_tokens": 16, "crisis": None}
        receipt = str(self.results / "datasets/talks/receipt.json")
        output = "dialogue/m/answers.json"
        more = ("--datasets", receipt)
        return self.other("answer_dialogues.py", {"dialogue": dialogue}, output, *more)

    def of_judge(self) -> list[str]:
        judge = {"name": "strong", "limit": None, "rubric": "auto", "max_tokens": 16}
        output, answers = JUDGED, map(str, self.judged)
        return self.other("judge.py", {"judge": judge}, output, "--answers", *answers)

    def jobs(self) -> list[list[str]]:
        return [self.of_suite("s"), self.of_suite("t"), self.of_dialogues(), self.of_judge()]

    def to_serve(self, *more: str) -> list[str]:
        """The command of serve.py that asks ahead whatever the jobs ask."""
        ahead = []
        for command, flag, rule in zip(
            self.jobs(),
            ("--benchmarks", "--benchmarks", "--datasets", "--answers"),
            ("evaluate_suite", "evaluate_suite", "answer_dialogues", "judge_pair"),
            strict=True,
        ):
            files = command[command.index(flag) + 1 :]
            output = command[command.index("--output") + 1]
            ahead.append({"rule": rule, "settings": self.settings(command), "output": output,
                          "inputs": dict.fromkeys(files, 0)})  # fmt: skip
        write_json(self.folder / "ahead.json", ahead)
        command = self.other("serve.py", {"form": "base", "chosen": "", "prompts": ["Hello"]}, "")
        return [
            *command[: command.index("--output")],
            "--chat", str(self.marker.with_name("chat.json")),
            "--ahead", str(self.folder / "ahead.json"), *more,
        ]  # fmt: skip

    def begin(self, command: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            command, env=self.environment(), text=True, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, command: list[str]) -> tuple[int, str]:
        """Exit status, and all that it says."""
        job = self.begin(command)
        said = job.communicate(timeout=300)[0]
        return job.returncode, said

    def served_later(self) -> list[str]:
        """Which jobs after serve.py have started a server."""
        logs = self.folder.glob("*.server.log")
        return sorted({path.name.partition(".")[0] for path in logs} - {"serve"})

    def told(self) -> set[str]:
        """Of which jobs the session told that they need no card: all is answered."""
        marks = self.folder.glob(".snakemake/sftflow/asked/*")
        return {str(Path(read_json(mark)).relative_to(self.results)) for mark in marks}

    def scored(self) -> dict[str, tuple]:
        """{benchmark: (identity, score, samples without times)}."""
        found = {}
        for suite in self.suites:
            self.suite = suite
            entries = read_json(self.output)["benchmarks"]
            for name, samples in self.samples().items():
                found[name] = (entries[name]["identity"], entries[name]["evalscope"], samples)
        return found


@pytest.fixture
def session(tmp_path) -> OneSession:
    return OneSession(tmp_path)


def test_one_start_answers_everything_and_scores_are_those_of_jobs_alone(session, tmp_path):
    status, said = session.finish(session.to_serve())
    assert status == 0, said
    asked = session.asked()
    assert len(session.answered()) == ALL and len(asked) == len(set(asked))
    suites = {"evaluations/m/s.json", "evaluations/m/t.json"}
    assert session.told() == suites | {"dialogue/m/answers.json", JUDGED}
    proven = read_record(session.marker)  # as if it had been on a node with a GPU
    card = {"hardware": proven["hardware"] | {"gpus": ["H100"]}}
    write_record(session.marker, {k: v for k, v in proven.items() if k != "sha256"} | card)
    for command in session.jobs():
        status, said = session.finish(command)
        assert status == 0, said
    assert session.asked() == asked and session.served_later() == []
    made = ("evaluations/m/s.json", "dialogue/m/answers.json", JUDGED)
    s, *others = (read_record(session.results / path) for path in made)
    for record in (s["benchmarks"]["mmlu"], *others):
        assert record["provenance"]["hardware"]["gpus"] == ["H100"]
    (tmp_path / "alone").mkdir()
    alone = OneSession(tmp_path / "alone")
    alone.suites = {"s": ["mmlu", "cmmlu"]}
    write_record(alone.marker, {"weights": read_record(session.marker)["weights"]})
    for command in (alone.of_suite("s"), alone.of_dialogues()):
        assert alone.finish(command)[0] == 0
    assert alone.served_later() == ["answer_dialogues", "s"]
    alone.suite = "s"
    assert read_json(alone.output)["benchmarks"]["mmlu"]["provenance"]["hardware"]["gpus"] == []
    assert alone.scored() == session.scored()
    one, other = (
        read_record(case.results / "dialogue/m/answers.json") for case in (alone, session)
    )
    assert one["identity"] == other["identity"] and one["turns"] == other["turns"]


def test_killed_while_it_asks_ahead_nothing_is_asked_twice(session):
    session.stub["delay"] = 0.4
    job = session.begin(session.to_serve())
    end = time.monotonic() + 120
    while len(session.answered()) < 7:
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    nothing_left(session.folder)
    ready = read_record(session.marker)["at"]  # it was written before anything was asked
    kept, asked = session.answered(), session.asked()
    assert 7 <= len(kept) < ALL
    del session.stub["delay"]
    assert session.finish(session.to_serve())[0] == 0
    assert not kept & set(session.asked()[len(asked) :]) and len(session.answered()) == ALL
    assert read_record(session.marker)["at"] >= ready


def test_what_fails_or_is_not_there_is_left_to_its_own_job(session):
    """Readiness stands, and the others are asked."""
    session.stub |= {"refuse": "Question 3 of anatomy"}
    command = session.to_serve()
    ahead = read_json(session.folder / "ahead.json")
    ahead[1]["inputs"] = dict.fromkeys(ahead[1]["inputs"], time.time() + 1000)  # to be made anew
    write_json(session.folder / "ahead.json", ahead)
    status, said = session.finish(command)
    assert status == 0 and session.marker.exists()
    assert "s.json is left to its own job: mmlu: the server refused" in said
    (answers,) = (session.results / "evaluations/m/answers").iterdir()
    assert len((answers / "@dialogue.jsonl").read_bytes().splitlines()) == 5
    assert (answers / "s.jsonl").exists() and not (answers / "t.jsonl").exists()
    assert session.told() == {"dialogue/m/answers.json", JUDGED}
    status, said = session.finish(session.of_suite("s"))
    assert status == 1 and "mmlu: the server refused a question" in said
    assert session.served_later() == ["s"]


def test_an_end_of_the_server_or_of_the_time_costs_no_readiness(session):
    session.stub |= {"die_after": 18}
    status, said = session.finish(session.to_serve())
    assert status == 0 and "no more is asked here: the server ended" in said
    assert "illegal memory access" in said and session.marker.exists()
    kept, asked = session.answered(), session.asked()
    assert session.told() == set()
    del session.stub["die_after"]
    status, said = session.finish(session.to_serve("--minutes", "0.001"))
    assert status == 0 and "the time of this job is nearly over" in said
    assert session.answered() == kept and not kept & set(session.asked()[len(asked) :])
