"""The demo, end to end, with the real tools: what README promises, and what is made again when."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme_table
import yaml
from scipy.stats import binom, binomtest
from scipy.stats import t as student
from sftflow.core.jsonio import read_json
from sftflow.core.layout import Results
from sftflow.reporting import pace, plan
from stated_numbers import Known, noticed, of_texts, unknown
from support import jobs, run_snakemake

pytestmark = pytest.mark.slow

BASE, TUNED = "tiny", "tiny-sft"
TABLES = "training inference general psychology comparison chat data sweep plan".split()


@pytest.fixture
def edited(demo) -> Iterator:
    """Edit files of the demo for one test; they are put back after it."""
    before: dict[Path, bytes] = {}

    def edit(name: str, change) -> None:
        path = demo.folder / name
        before[path] = path.read_bytes()
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    yield edit
    for path, content in before.items():
        path.write_bytes(content)


def in_config(change):
    """An edit of the YAML config by a function that changes it in place."""

    def edit(text: str) -> str:
        config = yaml.safe_load(text)
        change(config)
        return yaml.safe_dump(config, allow_unicode=True)

    return edit


def suites(demo) -> dict[str, list[str]]:
    return json.loads((demo.results / "study.json").read_text(encoding="utf-8"))["suites"]


def score(demo, subject: str, benchmark: str) -> dict:
    path = demo.results / "scores" / subject / f"{benchmark}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def answers(demo, subject: str, benchmark: str) -> dict[str, dict]:
    """The record of every question, by its identity."""
    path = demo.results / score(demo, subject, benchmark)["samples"]
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows}


def content(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(pattern)}


def test_one_command_makes_every_output(demo):
    """Exit 0, and every path of results/README.md is there."""
    assert demo.run.returncode == 0, demo.run.stdout[-6000:]
    names = [
        *("environments/swift.json", "environments/evalscope.json"),
        *(f"datasets/psychology/{name}" for name in ("train.jsonl", "validation.jsonl")),
        *("datasets/psychology/receipt.json", f"models/{BASE}/manifest.json"),
        *(f"runs/{TUNED}/{name}.json" for name in ("receipt", "training", "adapter", "merged")),
        f"runs/{TUNED}/swanlab.json",
        *(f"subjects/{s}/{name}.json" for s in (BASE, TUNED) for name in ("readiness", "chat")),
        *(f"tables/{name}.{form}" for name in TABLES for form in ("md", "csv")),
        *("report/report.zh.md", "report/report.en.md", "report/report.html"),
    ]
    for suite, benchmarks in suites(demo).items():
        names += [f"evaluations/{s}/{suite}.json" for s in (BASE, TUNED)]
        names += [f"benchmarks/{b}/manifest.json" for b in benchmarks]
        names += [f"scores/{s}/{b}.json" for s in (BASE, TUNED) for b in benchmarks]
    missing = [name for name in names if not (demo.results / name).exists()]
    assert not missing


def test_progress_can_be_seen(demo):
    """Someone who waits must see how far training and evaluation are, and when they end."""
    for label in (f"train {TUNED}", f"evaluate {BASE} psychology"):
        lines = [line for line in demo.run.stdout.splitlines() if line.startswith(label)]
        assert any("ETA" in line and "/" in line for line in lines), label


def test_a_run_ends_with_its_result(demo):
    """Not with a job that ends, nor after pages of why jobs ran."""
    assert "Reason:" not in demo.run.stdout
    end = demo.run.stdout[demo.run.stdout.index("steps (100%) done") :]
    told = (demo.results / "report/summary.txt").read_text(encoding="utf-8")
    assert told in end and "Knowledge:" in told and "Flags" in told
    assert "results/report/report.html" in end and "results/report/answers.html" in end


def test_no_log_tells_of_code_that_can_not_run(demo):
    logs = [log for log in demo.folder.glob("logs/**/*.log") if log.stat().st_size]
    assert len(logs) > 10
    assert not [log for log in logs if "This will execute custom" in log.read_text("utf-8")]


def test_a_failed_run_ends_with_the_reason(workflow):
    """A changed record, found by the job that reads it."""
    record = workflow / "results/scores/tiny/mmlu.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"sha256": "0"}')
    run = run_snakemake(workflow, "--config", "stage=report", "--", "tables")
    end = run.stdout[run.stdout.index("logs/tables.log, its last lines:") :]
    assert run.returncode == 1
    assert end.splitlines()[1].startswith("  error: results/scores/tiny/mmlu.json was changed")


def test_one_server_for_each_subject_and_form(demo):
    """A start takes longer than a suite: what is asked of a subject shares one."""
    logs = demo.folder.glob("logs/**/*.server.*")  # Snakemake makes those that are missing, empty
    started = (log.relative_to(demo.folder / "logs") for log in logs if log.stat().st_size)
    assert {str(log) for log in started} == {
        f"serve_subject/{BASE}.server.log",
        f"serve_subject/{TUNED}.server.log",
        f"serve_subject/{TUNED}.server.adapter.log",
    }
    said = [line for line in demo.run.stdout.splitlines() if line.startswith("serve ")]
    assert len([line for line in said if "ready after" in line]) == 3


def test_readiness_alone_is_readiness_alone(demo):
    """Nobody who wants to know whether a model comes up waits for thousands of answers."""
    target = f"results/subjects/{BASE}/readiness.json"
    planned = run_snakemake(demo.folder, "-n", "--forcerun", "serve_subject", "--", target)
    assert jobs(planned.stdout) == {"serve_subject": 1, "total": 1}


def test_an_added_benchmark_serves_no_subject_again(demo, edited):
    def change(config):
        config["benchmarks"]["more"] = {**config["benchmarks"]["mmlu"], "preset": "mmlu"}
        config["suites"]["psychology"].append("more")

    edited("config/config.yaml", in_config(change))
    count = jobs(run_snakemake(demo.folder, "-n").stdout)
    assert count["fetch_benchmark"] == 1 and count["evaluate_suite"] == 2
    assert "serve_subject" not in count


def test_tables_hold_numbers_for_base_and_tuned(demo):
    """An empty cell in a report's table is what this workflow is there to end."""
    with open(demo.results / "tables/psychology.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for subject in (BASE, TUNED):
        mine = [row for row in rows if row["subject"] == subject]
        files = {f"scores/{subject}/{name}.json" for name in suites(demo)["psychology"]}
        assert {row["file"] for row in mine} == files
        assert all(0 <= float(row["score"]) <= 1 and int(row["n"]) > 0 for row in mine)
    for name in ("training", "inference", "general", "comparison"):
        page = (demo.results / f"tables/{name}.md").read_text(encoding="utf-8")
        assert "not evaluated" not in page and "missing" not in page, name


def test_tuned_beats_base_on_what_it_was_taught(demo):
    """A real effect: by question over the psychology suite, each once; sign test, two-sided."""
    changes: dict[str, list[float]] = {}
    for benchmark in suites(demo)["psychology"]:
        before, after = answers(demo, BASE, benchmark), answers(demo, TUNED, benchmark)
        assert before.keys() == after.keys()
        for key, row in before.items():
            changes.setdefault(row["same"], []).append(after[key]["score"] - row["score"])
    totals = [sum(copies) for copies in changes.values()]
    fixed, broken = sum(total > 0 for total in totals), sum(total < 0 for total in totals)
    assert fixed > broken
    assert binomtest(fixed, fixed + broken).pvalue < 0.05
    page = (demo.results / "tables/comparison.md").read_text(encoding="utf-8")
    pages = page.split("## Benchmarks")[0].partition("### Tiny tuned against Tiny base\n")[2]
    first, rest = [line for line in pages.splitlines() if line.startswith("| psychology ")][:2]
    assert "| better " in first and re.search(rf"\| +{len(changes)} \|", first)
    counts = re.sub(r"\]\([^)]*\)|\[(?=\d)", "", rest).replace("\u00a0", " ")
    assert f" {fixed} / {broken} |" in counts


def test_the_learning_curve_is_that_of_its_records(demo):
    """Worked out here from the lines; the last step's adapter on its base is the merged model."""
    run = demo.results / f"runs/{TUNED}"
    listed = json.loads((run / "checkpoints.json").read_text(encoding="utf-8"))
    last = json.loads((run / "adapter.json").read_text(encoding="utf-8"))["step"]
    assert [one["step"] for one in listed["steps"]] == [150, 300, last]
    with open(demo.results / "tables/curve.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["text"] == "psychology"]

    def loss(records: str) -> float:
        lines = map(json.loads, (demo.results / records).read_text(encoding="utf-8").splitlines())
        mine = [line for line in lines if line["text"] == "psychology" and line["nll"] is not None]
        return sum(line["nll"] for line in mine) / sum(line["tokens"] for line in mine)

    curve = demo.results / f"dialogue/{TUNED}/curve.json"
    steps = json.loads(curve.read_text(encoding="utf-8"))["steps"]
    losses = {one["step"]: loss(one["records"]) for one in steps}
    assert {int(row["step"]): float(row["loss"]) for row in rows} == pytest.approx(losses)
    assert losses[0] > losses[150] > losses[last]  # it learns
    for subject, step in ((BASE, 0), (TUNED, last)):
        path = demo.results / f"dialogue/{subject}/likelihood.json"
        own = json.loads(path.read_text(encoding="utf-8"))
        assert losses[step] == pytest.approx(loss(own["records"]), rel=1e-5)
    assert (demo.results / "figures/learning_curve.zh.svg").exists()


def test_the_dialogue_table_is_that_of_its_records(demo):
    """Each loss, share, mean, difference and p of it, worked out here from the lines of the two."""
    with open(demo.results / "tables/dialogue.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def lines(subject: str, kind: str) -> dict[tuple, dict]:
        path = demo.results / f"dialogue/{subject}/{kind}.json"
        records = demo.results / json.loads(path.read_text(encoding="utf-8"))["records"]
        found = map(json.loads, records.read_text(encoding="utf-8").splitlines())
        return {
            (line.get("text") or line["group"], line.get("turn", ""), line["id"]): line
            for line in found
        }

    def both(kind: str, group: str, turn: str) -> list[tuple[dict, dict]]:
        before, after = lines(BASE, kind), lines(TUNED, kind)
        return [(before[key], after[key]) for key in before if key[:2] == (group, turn)]

    def measured(line: dict, what: str) -> float | None:
        five = ("empty", "endless", "loops", "leaked", "switched")
        return any(line[name] for name in five) if what == "any fault" else line[what]

    p_values = {}
    for row in (row for row in rows if row["turn"] or row["what"] == "loss"):
        close = lambda value, row=row: pytest.approx(float(row[value]), abs=1e-9)  # noqa: E731
        what, loss = row["what"], row["what"] == "loss"
        pairs = both("likelihood" if loss else "behaviour", row["group"], row["turn"])
        if loss:
            pairs = [(a, b) for a, b in pairs if a["nll"] is not None]
            sizes = [a["tokens"] for a, _ in pairs]
            values = [(a["nll"], b["nll"]) for a, b in pairs]
        else:
            values = [(measured(a, what), measured(b, what)) for a, b in pairs]
            values = [(a, b) for a, b in values if a is not None and b is not None]
            sizes = [1] * len(values)
        before, after = (sum(side) / sum(sizes) for side in zip(*values, strict=True))
        assert len(values) == int(row["n"])
        assert (before, after) == (close("baseline_value"), close("candidate_value"))
        assert after - before == close("difference")
        if loss:  # the jackknife over texts
            changes = [b - a for a, b in values]
            left_out = [
                (sum(changes) - change) / (sum(sizes) - size)
                for change, size in zip(changes, sizes, strict=True)
            ]
            n, mean = len(left_out), sum(left_out) / len(left_out)
            error = ((n - 1) / n * sum((each - mean) ** 2 for each in left_out)) ** 0.5
            half = student.ppf(0.975, n - 1) * error
            assert after - before - half == pytest.approx(float(row["ci_low"]), rel=1e-6)
            assert after - before + half == pytest.approx(float(row["ci_high"]), rel=1e-6)
        elif row["p_holm"]:
            better = sum(b < a for a, b in values)
            n, least = sum(b != a for a, b in values), min(better, sum(b > a for a, b in values))
            p = 2 * binom.cdf(least, n, 0.5) - binom.pmf(least, n, 0.5) if n else 1.0
            p_values[what, row["group"], row["turn"]] = min(p, 1.0)
            assert p == pytest.approx(float(row["p"]), abs=1e-9)
    adjusted, least = {}, 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        least = adjusted[key] = max(least, min(1.0, (len(p_values) - place) * p_values[key]))
    shown = {(r["what"], r["group"], r["turn"]): float(r["p_holm"]) for r in rows if r["p_holm"]}
    assert {key: shown[key] for key in adjusted} == pytest.approx(adjusted, abs=1e-9)
    assert len(adjusted) > 20


def test_no_question_is_a_training_row(demo):
    """An effect that comes from training on the test would be a lie."""
    rows = (demo.folder / "config/demo/dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    taught = {turn["value"] for row in rows for turn in json.loads(row)["conversations"]}
    for path in (demo.folder / "config/demo/benchmarks").rglob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            question = json.loads(line)["question"]
            assert not any(question in said for said in taught), f"{path.name}: {question}"


def test_a_second_run_has_nothing_to_do(demo):
    again = run_snakemake(demo.folder)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("scripts/tables.py", "tables"),
        ("scripts/sftflow/reporting/text.py", "tables"),
        ("scripts/sftflow/training/cost.py", "plan"),
        ("config/references.yaml", "tables"),
    ],
)
def test_what_computes_a_table_rebuilds_it_and_costs_nothing_else(demo, edited, file, rule):
    """Whatever a table's program imports or reads counts, whichever list it is forgotten in."""
    edited(file, lambda text: text + "\n# edited\n")
    planned = run_snakemake(demo.folder, "-n")
    allowed = {"plan", "data", "train", "tables", "report", "cards", "all", "total"}
    assert rule in jobs(planned.stdout) and set(jobs(planned.stdout)) <= allowed


def test_edited_training_settings_leave_other_subjects_alone(demo, edited):
    """A changed learning rate must cost one training, not the evaluation of every model."""

    def change(config):
        config["runs"][TUNED]["training"] = {"learning_rate": 1e-5}

    edited("config/config.yaml", in_config(change))
    planned = run_snakemake(demo.folder, "-n")
    count = jobs(planned.stdout)
    assert count["train_run"] == count["merge_run"] == count["serve_subject"] == 1
    assert count["evaluate_suite"] == len(suites(demo))
    for message in (f"Serving {BASE} alone", f"Asking {BASE} the", f"Scoring {BASE} on"):
        assert message not in planned.stdout


def test_other_checkpoints_train_nothing(demo, edited):
    """What is kept, and which of it is asked, is said afterwards; GPU hours were spent once."""

    def change(config):
        config["training"]["checkpoints"] = [300]
        config["evaluate"] = {"subjects": [BASE, TUNED, f"{TUNED}@300"]}

    edited("config/config.yaml", in_config(change))
    count = jobs(run_snakemake(demo.folder, "-n").stdout)
    assert count["keep_checkpoints"] == count["take_checkpoint"] == count["serve_subject"] == 1
    assert not {"train_run", "merge_run"} & count.keys()
    assert count["evaluate_suite"] == len(suites(demo))


def test_edited_limit_scores_its_benchmark_and_asks_nothing_twice(demo, edited):
    """Answers cost GPU hours: the first five questions of a benchmark have been answered."""

    def change(config):
        config["benchmarks"]["super_gpqa"]["limit"] = 5

    scores = content(demo.results, "scores/*/*.json")
    answers = content(demo.results, "evaluations/*/answers/*/*.jsonl")
    edited("config/config.yaml", in_config(change))
    done = run_snakemake(demo.folder)
    assert done.returncode == 0, done.stdout[-6000:]
    assert score(demo, TUNED, "super_gpqa")["n"] == 5
    now = content(demo.results, "scores/*/*.json")
    changed = {name for name in scores if now[name] != scores[name]}
    assert changed == {f"scores/{subject}/super_gpqa.json" for subject in (BASE, TUNED)}
    assert content(demo.results, "evaluations/*/answers/*/*.jsonl") == answers


def test_settings_put_back_ask_nothing_and_give_the_same_scores(demo):
    """Answers are found again by their requests: no server is needed for what was asked before."""
    answers = content(demo.results, "evaluations/*/answers/*/*.jsonl")
    done = run_snakemake(demo.folder)
    assert done.returncode == 0, done.stdout[-6000:]
    assert content(demo.results, "evaluations/*/answers/*/*.jsonl") == answers
    assert score(demo, TUNED, "super_gpqa")["n"] > 5


def test_tables_from_cached_scores_alone(demo):
    """On a laptop with results/ and nothing else, tables come out the same, byte for byte."""
    pages = content(demo.results, "tables/*.csv")
    for path in (demo.results / "tables").iterdir():
        path.unlink()
    done = run_snakemake(demo.folder, "tables", "--config", "stage=report")
    assert done.returncode == 0, done.stdout[-6000:]
    told = json.loads((demo.folder / ".snakemake/sftflow/planned.json").read_text())
    assert told and {Path(file).parent.name for file in told} == {"tables"}  # what jobs know of it
    assert {name: pages[name] for name in content(demo.results, "tables/*.csv")} == content(
        demo.results, "tables/*.csv"
    )
    assert run_snakemake(demo.folder).returncode == 0  # the plan and the report, for other tests


@pytest.mark.parametrize("more, told", [([], "identity"), (["--sample", "0"], "ANSWER")])
def test_trace_leads_from_a_cell_to_its_prompt(demo, more, told):
    """Whoever doubts a number must get to its weights, and to each question and answer."""
    shown = subprocess.run(
        [sys.executable, "scripts/trace.py", TUNED, "mmlu", *more],
        cwd=demo.folder,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert told in shown.stdout
    if not more:
        assert score(demo, TUNED, "mmlu")["provenance"]["weights"][:8] in shown.stdout


ON_DASHBOARD = """
import json, sys
from evalscope.service.app import create_app
ask = create_app(sys.argv[1]).test_client().get
rows = ask(sys.argv[2], query_string=json.loads(sys.argv[3])).get_json()["predictions"]
print(json.dumps([row["Generated"] for row in rows]))
"""


@pytest.mark.parametrize(
    "benchmark, subset", [("gsm8k", "main"), ("ceval", "middle_school_biology")]
)
def test_the_dashboard_of_evalscope_shows_the_same_answers(demo, benchmark, subset):
    """From its locked environment, as its own service reads what lies in results/."""
    python = demo.folder / "envs/evalscope/.venv/bin/python"
    where = f"/api/v1/reports/runs/{TUNED}--{benchmark}/models/{TUNED}/predictions"
    which = json.dumps({"dataset_name": benchmark, "subset_name": subset})
    command = [python, "-c", ON_DASHBOARD, demo.results / "dashboard", where, which]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = [
        row["answer"] for row in answers(demo, TUNED, benchmark).values() if row["subset"] == subset
    ]
    assert sorted(json.loads(done.stdout.splitlines()[-1])) == sorted(ours) and ours


def test_every_number_of_every_page_is_in_a_json_file(demo):
    """And most wrong ones would not be: the search is no sieve."""
    known, besides = Known(demo.results), of_texts()
    pages = [
        *demo.results.glob("report/*.md"), *demo.results.glob("report/*.txt"),
        *demo.results.glob("tables/*.md"), *demo.results.glob("runs/*/cards/*/README.md"),
    ]  # fmt: skip
    assert len(pages) > 12
    texts = {str(path.relative_to(demo.results)): path.read_text("utf-8") for path in pages}
    wrong = {name: unknown(text, known, besides) for name, text in texts.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert noticed("\n".join(texts.values()), known) > 0.6


def test_snakemake_s_own_report_has_a_first_page_captions_and_categories(demo, tmp_path):
    page = tmp_path / "report.html"
    done = run_snakemake(demo.folder, "--report", str(page))
    assert done.returncode == 0, done.stdout[-3000:]
    text = page.read_text(encoding="utf-8")
    for said in ("What did this fine-tuning change?", "needs no other file", "Model cards",
                 "Figures", "Tables", "report.html", "answers.html", "scores.zh.svg"):  # fmt: skip
        assert said in text, said


def test_readme_shows_what_the_demo_gives(demo):
    """On another processor a few answers differ: scores within the interval, verdicts the same."""
    page = (demo.folder / "README.md").read_text(encoding="utf-8")
    shown = [line.strip("|* ").split("|") for line in page.splitlines() if line.startswith("| **")]
    found = readme_table.suites(demo.results)
    assert len(shown) == len(found)
    for cells, row in zip(shown, found, strict=True):
        name, base, tuned, difference, _, _, verdict = (cell.strip(" *") for cell in cells)
        assert name == f"{row['suite']} ({row['n']:.0f})"
        assert verdict.partition(" (")[0] == row["verdict"].partition(" (")[0]
        points = float(difference.partition(" ")[0].replace("−", "-"))
        assert row["ci_low"] <= points / 100 <= row["ci_high"]
        assert float(tuned) - float(base) == pytest.approx(points, abs=0.2)


def test_the_plan_can_be_held_against_what_the_demo_took(demo):
    """Every long step has its prediction and what it took; each subject tells of the other."""
    study = read_json(demo.results / "study.json")
    results = Results(demo.results)
    steps = [*plan.run_steps(study, results, "H100"), *plan.subject_steps(study, results, "H100")]
    assert len(steps) == 2 * len(study["runs"]) + len(study["evaluate"]["subjects"])
    assert all(step.seconds and step.measured for step in steps)
    record = read_json(demo.results / f"runs/{TUNED}/training.json")
    assert record["job_seconds"] > record["train_seconds"]
    served = [step for step in steps if step.name.startswith("serve")]
    for step in served:
        assert step.source != pace.NOTHING and 0.5 < step.seconds / step.measured < 2
    assert pace.wall(steps, 2) < pace.wall(steps, 1)
