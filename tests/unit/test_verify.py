"""What is not what was written is found before it is used, and by `verify.py` at any time."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_up
import pytest
import score
import tables
import verify
from sftflow.core import cli
from sftflow.core.jsonio import (
    canonical,
    file_entries,
    read_json,
    sealed,
    tree_digest,
    tree_files,
    write_json,
    write_record,
    write_text,
)
from support import EVALSCOPE, ROOT

Done = tuple[int, str, str]  # exit status, stdout, stderr
SECRET = "the right answer is B"


def manifest(path: Path, folder: str, content: dict[str, str], **about) -> None:
    for name, text in content.items():
        file = path.parent / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    files = tree_files(path.parent / folder)
    write_record(path, {**about, "files": files, "digest": tree_digest(files)})


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(whole, tmp_path / "results"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """One of each: base model, dataset, run, benchmark, sessions with answers, scores."""
    results = tmp_path_factory.mktemp("whole")
    study = made_up.write_study(results)
    write_json(results / "study.json", study)
    base, run = results / "models/base", results / "runs/tuned"
    weights = {"model.safetensors": "base", "config.json": "{}"}
    manifest(base / "source.json", "source", weights, model="base", source="x", hub="local")
    words = {"config.json": "{}"}
    manifest(base / "tokenizer.json", "tokenizer", words, model="base", native_form=None)
    manifest(base / "manifest.json", "weights", weights, model="base", parameters=1)
    adapter = {"adapter_model.safetensors": "a", "adapter_config.json": '{"r": 8}'}
    of_base = {"model": "base", "digest": read_json(base / "manifest.json")["digest"]}
    manifest(run / "adapter.json", "adapter", adapter, run="tuned", form="adapter", base=of_base)
    merged = weights | {"model.safetensors": "m"}
    of_adapter = read_json(run / "adapter.json")["digest"]
    manifest(run / "merged.json", "merged", merged, run="tuned", adapter=of_adapter)
    data = {"README.md": "-", "test.jsonl": json.dumps({"answer": "A"})}
    manifest(
        results / "benchmarks/mmlu/manifest.json", "data", data, benchmark="mmlu", dataset="mmlu"
    )
    receipts = {
        results / "datasets/talks": made_up.dataset_receipt("talks"),
        run: made_up.run_receipt("tuned", study["runs"]["tuned"]),
    }
    for folder, receipt in receipts.items():
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "train.jsonl", folder / "validation.jsonl"]
        for path in paths:
            path.write_text('{"messages": []}\n')
        write_record(folder / "receipt.json", receipt | {"files": file_entries(folder, paths)})
    write_record(run / "training.json", made_up.training_record("tuned", study["runs"]["tuned"]))
    for subject in ("base", "tuned"):
        weights = {"base": base / "manifest.json", "tuned": run / "merged.json"}[subject]
        about = made_up.readiness(subject, study["subjects"][subject])
        about["weights"] = read_json(weights)["digest"]
        write_record(results / f"subjects/{subject}/readiness.json", about)
        folder = results / f"evaluations/{subject}/answers/0123456789abcdef"
        answer = {"key": "k", "n": 0, "response": {"text": SECRET}, "seconds": 1.0, "at": 1.0}
        line = canonical(sealed(answer)).decode() + "\n"
        write_text(folder / "psychology.jsonl", line * 2 + '{"key": "to')
    return results


def program(name: str, *arguments: object, python: object = sys.executable) -> Done:
    """scripts/<name>.py in a process of its own."""
    done = subprocess.run(
        [python, ROOT / f"scripts/{name}.py", *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., Done]:
    """The main function of a program in this process."""

    def run(main: Callable[[], None], *arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
        return cli.run(main), *capsys.readouterr()

    return run


def serving(results: Path, subject: str = "tuned") -> list[object]:
    """Arguments that serve.py and evaluate.py share, for merged weights."""
    settings = {
        "subject": subject, "suite": "s", "form": "merged", "prompts": [],
        "serving": {"backend": "transformers"}, "model": {"model_type": "llama", "template": "x"},
        "backend": {"name": "transformers"},
        "benchmarks": {"mmlu": {"dataset": "mmlu", "subsets": ["a"], "generation": {}}},
    }  # fmt: skip
    run = results / "runs/tuned"
    return [
        "--settings", json.dumps(settings), "--weights", run / "merged",
        "--manifest", run / "merged.json", "--python", "nowhere/python",
        "--server-log", results / "server.log",
    ]  # fmt: skip


def evaluate(results: Path) -> Done:
    environment = results / "environments/swift.json"
    write_record(environment, {"env": "swift", "packages": made_up.VERSIONS})
    return program(
        "evaluate", *serving(results), "--environment", environment,
        "--readiness", results / "subjects/tuned/readiness.json",
        "--benchmarks", results / "benchmarks/mmlu/manifest.json",
        "--output", results / "evaluations/tuned/s.json", python=EVALSCOPE,
    )  # fmt: skip


needs_evalscope = pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")


def refused(done: Done, *said: str) -> None:
    status, _, err = done
    assert status == 1 and err.count("error: ") == 1 and "Traceback" not in err, err
    for text in said:
        assert text in err


# --- before it is used ---------------------------------------------------------------------------


@needs_evalscope
def test_another_models_weights_are_not_asked(results):
    run = results / "runs/tuned"
    shutil.copyfile(results / "models/base/weights/model.safetensors", run / "merged/other")
    (run / "merged/other").replace(run / "merged/model.safetensors")
    refused(evaluate(results), f"{run}/merged/model.safetensors is another file", "merged.json")
    ours = ("--readiness", results / "r.json", "--chat", results / "c.json")
    refused(
        program("serve", *serving(results), *ours), f"{run}/merged/model.safetensors is another"
    )
    assert not (results / "server.log").exists()


@needs_evalscope
def test_changed_answer_keys_are_not_asked(results):
    data = results / "benchmarks/mmlu/data/test.jsonl"
    data.write_text(json.dumps({"answer": "B"}))
    refused(evaluate(results), f"{data} is another file", "benchmarks/mmlu/manifest.json")
    found = program(
        "contamination", "--settings", '{"threshold": 0.8, "min_words": 4}',
        "--dataset-receipt", results / "datasets/talks/receipt.json",
        "--benchmarks", results / "benchmarks/mmlu/manifest.json", "--output", results / "c.json",
    )  # fmt: skip
    refused(found, f"{data} is another file")


def test_serving_looks_at_both_forms(results):
    adapter = results / "runs/tuned/adapter"
    (adapter / "adapter_config.json").write_text('{"r": 9}')
    base = results / "models/base/weights"
    ours = ("--readiness", results / "r.json", "--chat", results / "c.json")
    other = ("--also-weights", base, "--also-adapter", adapter)
    done = program("serve", *serving(results), *ours, *other)
    refused(done, f"{adapter}/adapter_config.json is another file", "runs/tuned/adapter.json")


def train(results: Path) -> Done:
    run, base = results / "runs/tuned", results / "models/base"
    settings = {"run": "tuned", "training": {"device": "cpu"}, "model": {"name": "base"}}
    return program(
        "train", "--receipt", run / "receipt.json", "--manifest", base / "manifest.json",
        "--settings", json.dumps(settings), "--output", run,
    )  # fmt: skip


def merge(results: Path) -> Done:
    run, base = results / "runs/tuned", results / "models/base"
    settings = {"run": "tuned", "training": {"torch_dtype": "float32"}, "model": {}}
    return program(
        "merge", "--adapter", run / "adapter.json", "--manifest", base / "manifest.json",
        "--settings", json.dumps(settings), "--output", run,
    )  # fmt: skip


def tokenize(results: Path) -> Done:
    data = results / "datasets/talks"
    settings = {"run": "tuned", "training": {}, "model": {"model_type": "llama", "template": "x"}}
    return program(
        "tokenize_run", "--dataset-receipt", data / "receipt.json",
        "--tokenizer", results / "models/base/tokenizer.json",
        "--settings", json.dumps(settings), "--receipt", results / "runs/tuned/receipt.json",
    )  # fmt: skip


def native(results: Path) -> Done:
    base = results / "models/base"
    return program(
        "native_model", "--model", "base", "--source", base / "source.json", "--settings", "{}",
        "--tokenizer", base / "tokenizer.json",
        "--weights", base / "weights", "--manifest", base / "manifest.json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "path"),
    [
        (train, "runs/tuned/train.jsonl"),
        (train, "runs/tuned/validation.jsonl"),
        (train, "models/base/weights/model.safetensors"),
        (merge, "runs/tuned/adapter/adapter_model.safetensors"),
        (merge, "models/base/weights/config.json"),
        (tokenize, "datasets/talks/train.jsonl"),
        (tokenize, "models/base/tokenizer/config.json"),
        (native, "models/base/source/model.safetensors"),
        (native, "models/base/tokenizer/config.json"),
    ],
)
@pytest.mark.parametrize("how", ["edited", "deleted"])
def test_an_edited_file_stops_the_step_that_uses_it(results, step, path, how):
    if how == "edited":
        (results / path).write_text("edited")
        refused(step(results), f"{results / path} is another file", "and it is made again")
    else:
        (results / path).unlink()
        refused(step(results), f"{results / path} is missing", "and it is made again")


def tabled(call, results: Path) -> Done:
    return call(tables.main, "--settings", results / "study.json")


def test_what_is_whole_stands_in_tables(call, results):
    status, _, err = tabled(call, results)
    assert status == 0, err
    assert (results / "tables/comparison.md").exists()


@pytest.mark.parametrize("field", ["score", "n", "stderr"])
def test_one_digit_of_a_score_stands_in_no_table(call, results, field):
    path = results / "scores/tuned/mmlu.json"
    value = json.dumps(read_json(path)[field])
    text = path.read_text()
    edited = text.replace(f'"{field}": {value}', f'"{field}": {value[:-1]}{int(value[-1]) ^ 1}', 1)
    assert edited != text
    path.write_text(edited)
    refused(tabled(call, results), str(path), "delete it, and it is made again")
    assert not (results / "tables").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": 0.99}, "its items give"),
        ({"n": 41}, "has 40 items"),
        ({"unparsed": 3}, "its subsets give 0"),
    ],
)
def test_a_score_that_contradicts_its_items_stands_in_no_table(call, results, change, said):
    path = results / "scores/tuned/mmlu.json"
    write_record(path, read_json(path) | change)
    refused(tabled(call, results), f"{path} contradicts itself", said)
    assert not (results / "tables").exists()


@pytest.mark.parametrize(
    "path", ["runs/tuned/training.json", "subjects/tuned/readiness.json", "runs/tuned/receipt.json"]
)
def test_an_edited_record_stands_in_no_table(call, results, path):
    edited = (results / path).read_text().replace("1", "2", 2)
    (results / path).write_text(edited)
    refused(tabled(call, results), path, "delete it, and it is made again")
    assert not (results / "tables").exists()


def test_an_edited_session_is_not_scored(call, results):
    path = results / "evaluations/tuned/psychology.json"
    path.write_text(path.read_text().replace('"n": 40', '"n": 41'))
    given = ("--evaluation", path, "--settings", '{"confidence": 0.95}')
    refused(call(score.main, *given), str(path), "delete it, and it is made again")


# --- at any time ---------------------------------------------------------------------------------


def test_all_that_is_whole_is_ok(call, results):
    status, out, err = call(verify.main, "--results", results)
    assert status == 0, err
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    base = results / "models/base"
    files = [base / "manifest.json", *(base / "weights").iterdir()]
    size = sum(file.stat().st_size for file in files)
    assert rows["models/base/manifest.json"].split()[1:] == ["3", f"{size:,}", "ok"]
    for what in (
        *("models/base/source.json", "benchmarks/mmlu/manifest.json", "runs/tuned/adapter.json"),
        *("runs/tuned/merged.json", "runs/tuned/receipt.json", "datasets/talks/receipt.json"),
        *("runs/tuned/training.json", "subjects/base/*.json", "scores/tuned/*.json"),
        *("evaluations/base/psychology.json", "evaluations/base/answers"),
    ):
        assert rows[what].endswith(" ok"), what
    assert SECRET not in out


@pytest.mark.parametrize(
    ("path", "what", "said"),
    [
        ("models/base/weights/model.safetensors", "models/base/manifest.json", "is another file"),
        ("models/base/source/config.json", "models/base/source.json", "is another file"),
        ("benchmarks/mmlu/data/test.jsonl", "benchmarks/mmlu/manifest.json", "is another file"),
        ("runs/tuned/train.jsonl", "runs/tuned/receipt.json", "is another file"),
        ("runs/tuned/merged.json", "runs/tuned/merged.json", "is not valid JSON"),
        ("runs/tuned/training.json", "runs/tuned/training.json", "is not valid JSON"),
        ("scores/tuned/mmlu.json", "scores/tuned/*.json", "is not valid JSON"),
        ("evaluations/base/*/*/samples.jsonl", "evaluations/base/psychology.json", "samples.jsonl"),
        ("evaluations/base/answers/*/*.jsonl", "evaluations/base/answers", "line 1"),
    ],
)
def test_whatever_was_overwritten_is_named(call, results, path, what, said):
    for file in results.glob(path):
        file.write_text("overwritten\n")
    status, out, err = call(verify.main, "--results", results)
    assert status == 1 and "error: " in err
    (line,) = [line for line in out.splitlines() if line.startswith(what + " ")]
    assert not line.endswith(" ok")
    assert said in out[out.index(line) :]


def test_nothing_is_taken_from_memory(call, results):
    memory = results / "models/base/.manifest.verified.json"
    write_json(memory, {"anything": "0" * 64})
    assert call(verify.main, "--results", results)[0] == 0
    assert read_json(memory) == {"anything": "0" * 64}


def test_a_part_of_the_results_is_enough(call, results, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(results / "scores", part / "scores")
    (part / "models/base").mkdir(parents=True)
    shutil.copy(results / "models/base/manifest.json", part / "models/base")
    status, out, err = call(verify.main, "--results", part)
    assert status == 0, err
    assert "its files are not here" in out
    assert call(verify.main, "--results", tmp_path / "nowhere")[0] == 1
    (tmp_path / "empty").mkdir()
    assert call(verify.main, "--results", tmp_path / "empty")[0] == 0


def test_it_needs_the_standard_library_alone(results):
    command = [sys.executable, "-S", ROOT / "scripts/verify.py", "--results", results]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
