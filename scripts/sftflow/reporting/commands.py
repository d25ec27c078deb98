"""What to type for each step of a study, or to do it by hand, in the folder that holds results/.

They are true for the study that the report is about; no path of the machine stands in them.
"""

import json
import re
import shlex
from pathlib import PurePosixPath

import yaml
from sftflow.core.layout import PATHS

PORT = 8000
URL = f"http://127.0.0.1:{PORT}"
CURL = "curl --noproxy '*'"
KEY = '-H "Authorization: Bearer $DEPLOY_KEY"'
QUESTION = "What should I do if I cannot sleep at night?"
BY_HAND = 10  # questions of each subset, of a benchmark that is asked by hand
# The folders of results/ and of the checkout that ms-swift's file names by their full paths.
KNOWN = re.compile(r"^/.*/(?P<place>(?:runs|models|datasets)/.+|scripts/sftflow/.+)$")


def by_step(study: dict, training: dict[str, dict]) -> dict[str, str]:
    """{step: what to type in a shell}, of the first run that is evaluated, else of the first
    subject. `training`: training.json by run."""
    results = study["pathvars"]["results"]
    results = "results" if PurePosixPath(results).is_absolute() else results
    subjects = study["evaluate"]["subjects"]
    run = next((name for name in subjects if name in study["runs"]), None)
    asked = run or subjects[0] if subjects else None
    steps = {"environment": environment(study, results)}
    if run:
        steps |= of_run(study, results, run, training.get(run, {}))
    if asked:
        steps |= of_subject(study, results, asked)
    return {step: "\n".join(lines) for step, lines in steps.items()}


def made(*files: str) -> str:
    return shlex.join(["uv", "run", "snakemake", "--cores", "all", "--", *files])


def environment(study: dict, results: str) -> list[str]:
    files = [PATHS.environment.format(env=env) for env in ("swift", "evalscope")]
    lines = [made(*(f"{results}/{file}" for file in files)), "export NO_PROXY=127.0.0.1,localhost"]
    if study["tracking"]["swanlab"]["mode"] == "cloud":
        lines.append("read -rs SWANLAB_API_KEY && export SWANLAB_API_KEY")
    return lines


def of_run(study: dict, results: str, run: str, record: dict) -> dict[str, list[str]]:
    at = {
        name: f"{results}/{getattr(PATHS, name).format(run=run, model=study['runs'][run]['model'])}"
        for name in ("training", "command", "adapter", "adapter_weights", "merged", "weights")
    }
    swift = "envs/swift/.venv/bin/swift"
    steps = {
        "train": [made(at["training"])],
        "train by hand": [f"PYTHONPATH=scripts {swift} sft {shlex.quote(at['command'])}"],
        "watch": [f"tail -f {shlex.quote(study['pathvars']['logs'])}/train_run/{run}.log"],
    }
    if study["runs"][run]["training"]["tuner_type"] == "lora":
        by_hand = f"{swift} export --model {shlex.quote(at['weights'])}"
        model = study["models"][study["runs"][run]["model"]]
        if model["model_type"]:
            by_hand += f" --model_type {model['model_type']}"
        if model["template"]:
            by_hand += f" --template {model['template']}"
        by_hand += f" \\\n  --adapters {shlex.quote(at['adapter_weights'])} --merge_lora true"
        by_hand += f" --torch_dtype {study['runs'][run]['training']['torch_dtype']}"
        steps["merge"] = [made(at["merged"])]
        steps["merge by hand"] = [f"{by_hand} --output_dir merged"]
    tracked = record.get("swanlab") or {}
    if "id" in tracked:
        told = ["envs/swift/.venv/bin/swanlab", "sync", "--id", tracked["id"]]
        if host := study["tracking"]["swanlab"]["host"]:
            told += ["--host", host]
        folder = shlex.quote(PATHS.training.format(run=run).replace("training.json", "swanlab"))
        steps["sync"] = [f"{shlex.join(told)} {results}/{folder}/run-*"]
    return steps


def of_subject(study: dict, results: str, name: str) -> dict[str, list[str]]:
    pair = [name]
    if comparison := next((c for c in study["comparisons"] if c["candidate"] == name), None):
        pair = [comparison["baseline"], name]
    subject = study["subjects"][name]
    suite = study["evaluate"]["suites"][:1]
    steps = {"chat": [program("chat", *pair)]}
    if subject["kind"] != "endpoint":
        steps["deploy"] = [program("deploy", name, "--port", str(PORT))]
        if subject["form"] in ("merged", "adapter"):
            steps["deploy adapter"] = [program("deploy", name, "--adapter", "--port", str(PORT))]
        steps["health"] = [
            f"{CURL} -i {URL}/health",
            f"{CURL} {URL}/v1/models {KEY}",
            completion(name, "你好"),
        ]
        if len(pair) == 2:
            steps["side by side"] = [completion(name, QUESTION)]
    if suite:
        file = PATHS.evaluation.format(subject=name, suite=suite[0])
        steps["evaluate"] = [made(f"{results}/{file}")]
        benchmark = study["suites"][suite[0]][0]
        steps["evaluate by hand"] = [by_evalscope(study, results, name, benchmark)]
    return steps


def program(name: str, *arguments: str) -> str:
    return shlex.join(["uv", "run", "python", f"scripts/{name}.py", *arguments])


def completion(model: str, prompt: str) -> str:
    body = {
        "model": model, "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 256, "temperature": 0,
    }  # fmt: skip
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return (
        f"{CURL} {URL}/v1/chat/completions {KEY} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {text}"
    )


def by_evalscope(study: dict, results: str, name: str, benchmark: str) -> str:
    """evalscope's own command, at a server of `deploy`."""
    entry = study["benchmarks"][benchmark]
    told = {"local_path": f"{results}/{PATHS.questions.format(benchmark=benchmark)}"}
    told |= {"subset_list": entry["subsets"], "few_shot_num": entry["shots"]}
    arguments = json.dumps({entry["dataset"]: told}, ensure_ascii=False)
    return (
        f"envs/evalscope/.venv/bin/evalscope eval --model {name} --eval-type openai_api \\\n"
        f'  --api-url {URL}/v1 --api-key "$DEPLOY_KEY" --limit {BY_HAND} \\\n'
        f"  --datasets {entry['dataset']} \\\n  --dataset-args {shlex.quote(arguments)}"
    )


def without_host(text: str, results: str = "results") -> str:
    """ms-swift's file, with paths from the folder that holds results/."""

    def shown(value: object) -> object:
        if isinstance(value, dict):
            return {key: shown(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shown(item) for item in value]
        found = isinstance(value, str) and KNOWN.match(value)
        if not found:
            return value
        place = found["place"]
        return place if place.startswith("scripts/") else f"{results}/{place}"

    return yaml.safe_dump(shown(yaml.safe_load(text)), allow_unicode=True, sort_keys=True)
