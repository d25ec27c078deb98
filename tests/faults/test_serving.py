"""Evaluation under faults: what has been answered is never asked again, and scores come out equal.

evalscope is real throughout. Most tests put a stub in the server's place, which counts questions;
the last ones start ms-swift's server on the demo's model.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import environment
import pytest
from sftflow.core import identity, process
from sftflow.core.jsonio import digest, read_json, read_jsonl, tree_digest, tree_files, write_record
from sftflow.evaluation.answers import answer_store
from sftflow.serving import backends, server
from support import EVALSCOPE, ROOT, SWIFT, with_openai

with_openai()

STUB = Path(__file__).with_name("stub_server.py")
PACKAGES = {"ms-swift": "0", "torch": "0", "transformers": "0"}
SERVING = {"backend": "transformers", "concurrency": 4, "ready_timeout": 300, "device": "cpu"}
MODEL = {"model_type": "llama", "template": "chatml", "torch_dtype": "float32", "system": None}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope"),
]


class Case:
    """A results folder with one subject and some benchmarks, and evaluate.py to run in it."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results"
        self.log = folder / "questions.jsonl"
        self.stub: dict = {"log": str(self.log)}
        self.env: dict = {}
        self.benchmarks: dict = {}
        self.generation: dict = {"temperature": 0, "max_tokens": 16}
        self.suite = "s"
        self.serving = dict(SERVING)
        self.endpoint: dict | None = None
        self.model = dict(MODEL)
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n')
        self.python.chmod(0o755)
        self.weights = self.results / "models/m/weights"
        self.weights.mkdir(parents=True)
        (self.weights / "model.safetensors").write_text("weights")
        (self.weights / "config.json").write_text('{"dtype": "float32"}')
        self.note_weights()
        self.add("mmlu", "subject", {"a": 9, "b": 7})
        self.add("cmmlu", "category", {"c": 8})
        write_record(
            self.results / "environments/swift.json",
            {"env": "swift", "lock": None, "packages": PACKAGES},
        )

    def note_weights(self) -> None:
        files = tree_files(self.weights)
        about = {"model": "m", "files": files, "digest": tree_digest(files)}
        write_record(self.weights.parent / "manifest.json", about)
        marker = {"weights": identity.weights(about)}
        write_record(self.results / "subjects/m/readiness.json", marker)

    def add(
        self, name: str, key: str, subsets: dict[str, int], words: str = "Question", dataset=None
    ) -> None:
        """A benchmark in the form that evalscope's `dataset` (by default `name`) has on disk."""
        dataset = dataset or name
        names = {"mmlu": ("agronomy", "anatomy"), "cmmlu": ("agronomy",)}[dataset]
        subsets = dict(zip(names, subsets.values(), strict=True))
        data = self.results / "benchmarks" / name / "data"
        data.mkdir(parents=True, exist_ok=True)
        rows = [
            {"question": f"{words} {number} of {subset}?", key: subset}
            | (
                {"choices": ["w", "x", "y", "z"], "answer": number % 4}
                if dataset == "mmlu"
                else {"choices": ["(A) w", "(B) x", "(C) y", "(D) z"], "answer": "(B)"}
            )
            for subset, count in subsets.items()
            for number in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (data / "test.jsonl").write_text(lines)
        config = "all" if dataset == "mmlu" else "default"
        (data / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
            "  - split: test\n    path: test.jsonl\n---\n"
        )
        files = tree_files(data)
        about = {
            "benchmark": name,
            "subsets": subsets,
            "files": files,
            "digest": tree_digest(files),
        }
        write_record(data.parent / "manifest.json", about)
        self.benchmarks[name] = {"dataset": dataset, "subsets": list(subsets), "shots": 0}

    def command(self) -> list[str]:
        settings = {
            "subject": "m",
            "suite": self.suite,
            **({"endpoint": self.endpoint} if self.endpoint else {"model": self.model}),
            "serving": self.serving,
            "backend": {"name": self.serving["backend"]}
            | {key: self.model[key] for key in ("thinking",) if key in self.model},
            "benchmarks": {
                name: benchmark | {"generation": self.generation}
                for name, benchmark in self.benchmarks.items()
            },
        }
        manifests = [str(self.results / f"benchmarks/{b}/manifest.json") for b in self.benchmarks]
        manifest = self.weights.parent / "manifest.json"
        environment = self.results / "environments/swift.json"
        local = ["--weights", str(self.weights), "--manifest", str(manifest),
                 "--environment", str(environment), "--python", str(self.python)]  # fmt: skip
        return [
            str(EVALSCOPE), str(ROOT / "scripts/evaluate.py"), "--settings", json.dumps(settings),
            *([] if self.endpoint else local),
            "--readiness", str(self.results / "subjects/m/readiness.json"),
            "--server-log", str(self.server_log),
            "--output", str(self.output), "--benchmarks", *manifests,
        ]  # fmt: skip

    @property
    def output(self) -> Path:
        return self.results / f"evaluations/m/{self.suite}.json"

    @property
    def server_log(self) -> Path:
        return self.folder / f"{self.suite}.server.log"

    def environment(self) -> dict[str, str]:
        given = {"STUB": json.dumps(self.stub), "SFTFLOW_PASS": "STUB"}
        return {**os.environ, **given, **self.env}

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(), env=self.environment(), text=True, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self) -> tuple[int, str, str]:
        job = self.start()
        out, err = job.communicate(timeout=600)
        return job.returncode, out, err

    def asked(self) -> list[str]:
        return [row["key"] for row in read_jsonl(self.log)] if self.log.exists() else []

    def answered(self) -> set[str]:
        """Keys of all stored answers; a torn last line is none."""
        keys = set()
        for path in self.output.parent.glob("answers/*/*.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                keys.add(json.loads(line)["key"])
        return keys

    def samples(self) -> dict[str, list[dict]]:
        """Sample-level records without their times."""
        entries = read_json(self.output)["benchmarks"]
        return {
            name: [
                {key: value for key, value in row.items() if key != "seconds"}
                for row in read_jsonl(self.results / entry["samples"])
            ]
            for name, entry in entries.items()
        }


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The records of a session that ran through."""
    case = Case(tmp_path_factory.mktemp("whole"))
    status, _, err = case.run()
    assert status == 0, err
    assert len(case.asked()) == len(set(case.asked())) == 24
    return case.samples()


def alive(folder: Path) -> list[int]:
    """Processes that mention this test's folder in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text and process._stat(int(entry.name)):
                found.append(int(entry.name))
    return found


def nothing_left(folder: Path, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while left := alive(folder):
        assert time.monotonic() < end, f"left after {seconds} s: {left}"
        time.sleep(0.2)


def test_a_second_session_asks_nothing_and_starts_nothing(case, whole):
    assert case.run()[0] == 0
    first, asked = case.output.read_bytes(), case.asked()
    case.output.unlink()
    case.server_log.unlink()
    status, out, _ = case.run()
    assert status == 0 and "all answered before" in out
    assert case.output.read_bytes() == first
    # records lost, answers kept: scored again, without a server
    for path in case.output.parent.glob("*/*/samples.jsonl"):
        path.unlink()
    assert case.run()[0] == 0
    assert case.samples() == whole
    assert case.asked() == asked and not case.server_log.exists()


def test_other_weights_and_other_data_are_asked_anew(case):
    assert case.run()[0] == 0
    before = case.asked()
    (case.weights / "model.safetensors").write_text("trained again")
    case.note_weights()
    assert case.run()[0] == 0
    assert len(case.asked()) == 2 * len(before)
    case.add("cmmlu", "category", {"c": 8}, words="Changed question")
    assert case.run()[0] == 0
    assert len(case.asked()) == 2 * len(before) + 8


def test_an_added_benchmark_is_asked_alone(case, whole):
    later = case.benchmarks.pop("cmmlu")
    assert case.run()[0] == 0
    entry = read_json(case.output)["benchmarks"]["mmlu"]
    assert len(case.asked()) == 16
    case.benchmarks["cmmlu"] = later
    assert case.run()[0] == 0
    assert len(case.asked()) == 24 and case.samples() == whole
    assert read_json(case.output)["benchmarks"]["mmlu"] == entry


def asks(case: Case, count: int) -> None:
    """A run that ends well and asks so many questions; a server is started for those alone."""
    before = len(case.asked())
    case.server_log.unlink(missing_ok=True)
    status, _, err = case.run()
    assert status == 0, err
    assert len(case.asked()) - before == count
    assert case.server_log.exists() == (count > 0)


def test_a_larger_limit_and_one_more_subset_ask_the_rest(case, whole):
    case.benchmarks["mmlu"] |= {"limit": 3, "subsets": ["agronomy"]}
    asks(case, 3 + 8)
    case.benchmarks["mmlu"]["limit"] = 5
    asks(case, 2)
    case.benchmarks["mmlu"]["subsets"] = ["agronomy", "anatomy"]
    asks(case, 5)
    del case.benchmarks["mmlu"]["limit"]
    asks(case, 4 + 2)
    assert case.samples() == whole
    case.benchmarks["mmlu"]["limit"] = 5
    asks(case, 0)


def test_what_decides_a_draw_counts_only_where_something_is_drawn(case):
    case.generation |= {"seed": 1, "top_p": 1}
    asks(case, 24)
    manifest = case.output.read_bytes()
    case.generation |= {"seed": 2, "top_p": 0.5}
    asks(case, 0)
    assert case.output.read_bytes() == manifest
    case.generation["temperature"] = 0.7
    asks(case, 24)
    case.generation["seed"] = 3
    asks(case, 24)
    case.generation["top_p"] = 0.4
    asks(case, 24)
    case.generation["seed"] = 2  # with this top_p it is new; with the other one it is known
    case.generation["top_p"] = 0.5
    asks(case, 0)


def test_benchmarks_that_hold_the_same_questions_share_answers_and_no_folder(case, whole):
    case.add("twin", "subject", {"a": 9, "b": 7}, dataset="mmlu")
    case.add("half", "subject", {"a": 4, "b": 3}, dataset="mmlu")
    asks(case, 24)
    samples, entries = case.samples(), read_json(case.output)["benchmarks"]
    assert samples["mmlu"] == samples["twin"] == whole["mmlu"] and len(samples["half"]) == 7
    assert entries["mmlu"]["identity"] == entries["twin"]["identity"]
    assert len({entry["samples"] for entry in entries.values()}) == 4
    for name, entry in entries.items():
        assert entry["samples"] == f"evaluations/m/{name}/{entry['identity'][:16]}/samples.jsonl"
        report = case.results / f"dashboard/m--{name}/reports/m"
        assert read_json(next(report.glob("*.json")))["metrics"]
    # renamed, and moved to another suite
    case.benchmarks = {"other": case.benchmarks.pop("mmlu")}
    case.add("other", "subject", {"a": 9, "b": 7}, dataset="mmlu")
    case.suite = "t"
    asks(case, 0)
    assert case.samples()["other"] == whole["mmlu"]


def test_a_question_that_is_refused_fails_every_benchmark_that_holds_it(case):
    case.add("twin", "subject", {"a": 9, "b": 7}, dataset="mmlu")
    case.stub |= {"refuse": "Question 3 of anatomy"}
    status, _, err = case.run()
    assert status == 1 and "2 of 3 benchmarks failed" in err
    assert "  mmlu: the server refused" in err and "  twin: the server refused" in err


def test_two_suites_at_once(case, whole):
    """Nobody waits for the other, and no line of either is lost."""
    case.stub["delay"] = 0.5
    case.add("twin", "subject", {"a": 9, "b": 7}, dataset="mmlu")
    benchmarks = case.benchmarks
    jobs = []
    for suite, names in {"s": ("mmlu",), "t": ("cmmlu", "twin")}.items():
        case.suite, case.benchmarks = suite, {name: benchmarks[name] for name in names}
        jobs.append(case.start())
    for job in jobs:
        _, err = job.communicate(timeout=300)
        assert job.returncode == 0, err
    assert case.samples() == {"cmmlu": whole["cmmlu"], "twin": whole["mmlu"]}
    case.suite = "s"
    assert case.samples() == {"mmlu": whole["mmlu"]}
    assert set(case.asked()) == case.answered() and len(case.answered()) == 24
    # what either of them was told, a third one knows
    case.suite, case.benchmarks = "u", benchmarks
    for path in case.output.parent.glob("*/*/entry.json"):
        path.unlink()
    asks(case, 0)
    assert case.samples() == whole | {"twin": whole["mmlu"]}


def test_an_edited_answer_is_one_error(case, whole):
    asks(case, 24)
    [path] = case.output.parent.glob("answers/*/*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:6], lines[6].replace("ANSWER: ", "ANSWER: not "), *lines[7:]]))
    case.benchmarks["mmlu"]["limit"] = 5
    asked = case.asked()
    status, _, err = case.run()
    assert status == 1 and case.asked() == asked
    assert f"{path}, line 7: the digest does not fit" in err and "Traceback" not in err
    path.write_text("".join(lines[:6] + lines[7:]))
    case.benchmarks["mmlu"]["limit"] = None
    for entry in case.output.parent.glob("*/*/entry.json"):
        entry.unlink()
    asks(case, 1)
    assert case.samples() == whole


def test_what_an_older_version_stored_stops_no_benchmark(case, whole):
    """Odd forms are read as what they are; what holds no answer is asked again."""
    assert case.run()[0] == 0
    (path,) = case.output.parent.glob("answers/*/*.jsonl")
    keys = sorted(case.answered())
    said = {"content": ["ANSWER: ", {"type": "text", "text": "B"}]}
    odd = [
        {"model": "m", "created": 1.5, "choices": [{"message": said, "finish_reason": None}]},
        {"model": "m", "error": {"message": "busy"}},
        {},
        None,
    ]
    with answer_store(path) as store:
        for key, response in zip(keys, odd, strict=False):
            store.add(key, 0, response, 0.1)
    shutil.rmtree(case.output.parent / "mmlu")
    shutil.rmtree(case.output.parent / "cmmlu")
    before = len(case.asked())
    status, _, err = case.run()
    assert status == 0, err
    assert case.asked()[before:] and set(case.asked()[before:]) == set(keys[1:4])


@pytest.mark.parametrize("refusal", [400, 500])
def test_a_failing_benchmark_does_not_stop_its_sibling(case, whole, refusal):
    case.stub |= {"refuse": "Question 3 of anatomy", "status": refusal}
    status, _, err = case.run()
    assert status == 1 and not case.output.exists()
    message = err[err.rindex("\nerror: ") :]
    assert "1 of 2 benchmarks failed" in message
    assert f"mmlu: the server refused a question: HTTP {refusal}" in message
    assert "cmmlu" not in message
    kept, asked = case.answered(), case.asked()
    assert len(kept) >= 8
    del case.stub["refuse"]
    assert case.run()[0] == 0
    assert not kept & set(case.asked()[len(asked) :])
    assert case.samples() == whole


def test_unknown_subset_is_an_error(case):
    case.benchmarks["cmmlu"]["subsets"] = ["no_such_subset"]
    status, _, err = case.run()
    assert status == 1 and "cmmlu" in err[err.rindex("\nerror: ") :]
    assert "no_such_subset" in err[err.rindex("\nerror: ") :]


def test_readiness_of_other_weights_is_refused(case):
    write_record(case.results / "subjects/m/readiness.json", {"weights": digest("others")})
    status, _, err = case.run()
    assert status == 1 and "serve the subject again" in err


def test_server_that_dies_and_is_resumed(case, whole):
    case.stub |= {"die_after": 9, "delay": 0.05}
    begun = time.monotonic()
    status, _, err = case.run()
    assert status == 1 and time.monotonic() - begun < 120
    message = err[err.rindex("\nerror: ") :]
    assert "the server ended" in message and "illegal memory access" in message
    nothing_left(case.folder)
    kept, asked = case.answered(), case.asked()
    assert 1 <= len(kept) < 24
    del case.stub["die_after"]
    assert case.run()[0] == 0
    assert not kept & set(case.asked()[len(asked) :])
    assert case.samples() == whole


def test_server_that_never_comes_up(case):
    case.stub["exit"] = 5
    status, _, err = case.run()
    assert status == 1 and "ValueError: no such model" in err
    nothing_left(case.folder)


def test_wrong_server(case):
    case.stub["name"] = "other"
    status, _, err = case.run()
    assert status == 1 and "it is not the one that was meant" in err
    assert case.asked() == []


def test_proxies(case, whole):
    nobody = "http://127.0.0.1:9"
    case.env = {name: nobody for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY")}
    case.env |= {"no_proxy": "example.org", "NO_PROXY": "example.org"}
    assert case.run()[0] == 0
    assert case.samples() == whole


@contextlib.contextmanager
def elsewhere(case, monkeypatch):
    """The stub as somebody else's server, which is the case's subject."""
    spec = backends.Spec(SERVING, weights=case.weights, python=str(case.python))
    monkeypatch.setattr(server.secrets, "token_hex", lambda _: "x")
    monkeypatch.setenv("SFTFLOW_PASS", "STUB")
    monkeypatch.setenv("STUB", json.dumps({**case.stub, "name": "sftflow-x"}))
    about = {"model": "sftflow-x", "version": "2026-11", "key_env": "THEIR_KEY"}
    marker = {"weights": identity.weights(None, endpoint=about)}
    write_record(case.results / "subjects/m/readiness.json", marker)
    case.serving["backend"] = "endpoint"
    with server.serve(spec, case.folder / "theirs.log") as theirs:
        case.endpoint = {**about, "url": theirs.url}
        case.env["THEIR_KEY"] = theirs.key
        yield theirs
    case.endpoint = {**about, "url": "http://127.0.0.1:9/v1"}


def test_endpoint_that_moves(case, whole, monkeypatch):
    """Somebody else's server, on another port each time: it is not asked twice."""
    for _ in range(2):
        with elsewhere(case, monkeypatch) as theirs:
            status, _, err = case.run()
            assert status == 0, err
        case.output.unlink()
        assert len(case.asked()) == 24
    assert theirs.key not in err
    assert case.run()[0] == 0  # nothing left to ask: it is not needed
    assert case.samples() == whole


def test_what_an_endpoints_content_filter_refuses_is_an_answer(case, whole, monkeypatch):
    """A question refused for what it says is an empty answer; refused for else, an error."""
    case.stub |= {"refuse": "Question 3 of anatomy"}
    with elsewhere(case, monkeypatch):
        status, _, err = case.run()
    assert status == 1 and "mmlu: the server refused a question: HTTP 400" in err
    filtered = {"code": "content_filter", "message": "The response was filtered."}
    case.stub |= {"refusal": {"error": filtered}}
    with elsewhere(case, monkeypatch):
        status, _, err = case.run()
    assert status == 0, err
    held_back = {"answer": "", "stated": None, "ending": "refused", "score": 0.0}
    for sample, usual in zip(case.samples()["mmlu"], whole["mmlu"], strict=True):
        if case.stub["refuse"] in sample["prompt"][0]["content"]:
            assert (
                sample["finish_reason"] == "content_filter" and held_back.items() <= sample.items()
            )
        else:
            assert sample == usual
    assert case.samples()["cmmlu"] == whole["cmmlu"]
    case.output.unlink()
    assert case.run()[0] == 0  # for good: nothing is left to ask


def test_twenty_random_kills(case, whole):
    """kill -9 at a random moment, again and again; then a session that may finish."""
    case.stub["delay"] = 0.5
    chance = random.Random(7)
    finished = False
    for _ in range(20):
        kept, asked = case.answered(), len(case.asked())
        job = case.start()
        try:
            job.wait(timeout=chance.uniform(1, 14))
            finished = True
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
        job.communicate()
        nothing_left(case.folder)
        again = case.asked()[asked:]
        assert not kept & set(again), "asked again what had been answered"
        if finished:
            assert job.returncode == 0
            case.output.unlink()
    del case.stub["delay"]
    assert case.run()[0] == 0
    assert case.samples() == whole
    assert set(case.asked()) == case.answered()


def test_killed_snakemake_leaves_nothing(case, whole):
    case.stub["delay"] = 1
    (case.folder / "command.sh").write_text(
        " ".join(f"'{part}'" for part in case.command()) + f" 2> {case.folder}/job.log\n"
    )
    (case.folder / "Snakefile").write_text(
        f'rule all:\n    output: "{case.output}"\n    shell: "bash {case.folder}/command.sh"\n'
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "-d", str(case.folder)]
    top = subprocess.Popen(
        [*command, "-s", str(case.folder / "Snakefile")], env=case.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(case.asked()) < 6:
        assert time.monotonic() < end and top.poll() is None
        time.sleep(0.1)
    top.kill()
    top.wait()
    nothing_left(case.folder, 15)
    kept, asked = case.answered(), len(case.asked())
    assert kept
    case.stub["delay"] = 0
    assert case.run()[0] == 0
    assert not kept & set(case.asked()[asked:]) and case.samples() == whole


@pytest.fixture
def real(case: Case) -> Case:
    """The same case on the demo's model, served by ms-swift."""
    demo = ROOT / "config/demo/model"
    if not (SWIFT.exists() and (demo / "config.json").exists()):
        pytest.skip("needs envs/swift and the demo's model")
    case.python = SWIFT
    shutil.rmtree(case.weights)
    shutil.copytree(demo, case.weights)
    case.note_weights()
    about = {"env": "swift", "lock": None, **environment.inspect(SWIFT)}
    write_record(case.results / "environments/swift.json", about)
    return case


def test_real_server_killed_and_resumed(real, tmp_path):
    assert real.run()[0] == 0
    through = real.samples()
    log = real.server_log.read_text()
    assert "Question" not in log  # neither prompts nor answers
    shutil.rmtree(real.output.parent)
    job = real.start()
    end = time.monotonic() + 300
    while len(real.answered()) < 4:
        assert time.monotonic() < end and job.poll() is None, job.communicate()
        time.sleep(0.05)
    for pid in process.descendants(job.pid):
        if b"swift_deploy.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    err = job.communicate(timeout=60)[1]
    if job.returncode:  # all may have been answered already
        assert "the server ended" in err
    nothing_left(real.folder)
    assert real.run()[0] == 0
    assert real.samples() == through


def test_a_models_own_generation_settings_change_no_answer(real):
    """Each of these changes answers at temperature 0; the last one no request can state."""
    real.benchmarks.pop("cmmlu")
    real.generation |= {"repetition_penalty": 1, "max_tokens": 24}
    assert real.run()[0] == 0
    plain = real.samples()["mmlu"]
    path = real.weights / "generation_config.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    own |= {"repetition_penalty": 1.5, "temperature": 0.6, "do_sample": True, "top_k": 20}
    path.write_text(json.dumps(own | {"no_repeat_ngram_size": 1}))
    real.note_weights()
    assert real.run()[0] == 0
    assert real.samples()["mmlu"] == plain
    real.generation["repetition_penalty"] = 1.5
    assert real.run()[0] == 0
    other = real.samples()["mmlu"]
    assert [s["answer"] for s in other] != [s["answer"] for s in plain]


def test_whether_to_think_reaches_the_real_server(real):
    """Its template opens the answer in another way."""
    real.benchmarks.pop("cmmlu")
    real.generation["max_tokens"] = 24
    answers = {}
    for thinking in (False, True):
        real.model |= {"template": "qwen3", "thinking": thinking}
        status, _, err = real.run()
        assert status == 0, err
        answers[thinking] = [sample["answer"] for sample in real.samples()["mmlu"]]
    assert answers[False] != answers[True]
    assert len(list(real.output.parent.glob("answers/*"))) == 2
