"""A whole study at a model's shape, through snakemake, beside the report's way on the same card.

    python tests/performance/study.py --output FOLDER [--shape 7b] [--gpus 1]
        [--dialogues 5800] [--questions 6247] [--sweep 5 [--halving]] [--report]
        [--work FOLDER] [--sources FOLDER]

config/internlm2_5_7b.yaml as it is, but for its sources: random weights (one model in InternLM2's
own layout, another in Llama's), made-up dialogues of 654 tokens on average, and as many made-up
questions as its benchmarks of knowledge hold, in as many subsets, some with five examples. Random
weights never choose a token that ends an answer, so each is as long as its benchmark's max_tokens:
192 to 384 tokens, 260 on average over all. What a study downloads is made before the clock starts.

Prints where the seconds went, from Snakemake's own log and the records of the jobs; FOLDER gets
study.json, study.md and the logs. A run that was cut off goes on where it stopped, and its seconds
add up. --report measures the report's way first (training.py and serving.py in this folder: some
steps, some questions) and works out what the whole would take at that pace. --sweep is another
study: one base model, its run, and so many points of a sweep over the run's learning rate. With
--halving the first start decides who goes on, and the second makes the rest. Each study needs a
--work of its own.

A tool runs in its environment below envs/, or on the interpreter that PYTHON_SWIFT,
PYTHON_EVALSCOPE or PYTHON_VLLM names (`software: active`).
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/unit"), str(HERE)]
from serving import python, save_tokenizer
from sftflow.core.jsonio import read_json, write_json, write_jsonl, write_text
from training import SHAPES, SPECIAL, dialogue, text, words

MEAN, SPREAD = 654, 350  # tokens of a dialogue, as in the real data
# benchmark: (questions of the study, subsets, examples before each, tokens of an answer)
BENCHMARKS = {
    "gsm8k": (1319, 1, 0, 320), "ceval": (1346, 52, 5, 192), "cmmlu": (1340, 67, 0, 192),
    "mmlu": (1157, 2, 0, 256), "mmlu_pro": (798, 1, 5, 384), "mmlu_redux": (200, 2, 0, 256),
    "super_gpqa": (87, 1, 0, 384),
}  # fmt: skip
SUITES = {"general": ["gsm8k", "ceval", "cmmlu"]}
SUITES["psychology"] = [name for name in BENCHMARKS if name not in SUITES["general"]]
ALL = sum(count for count, *_ in BENCHMARKS.values())
REPORT_STEPS, REPORT_QUESTIONS, REPORT_SECONDS = 5, 6, 120


# --- sources --------------------------------------------------------------------------------------


def internlm2_model(folder: str, shape_name: str) -> None:
    """Random bf16 weights in InternLM2's layout, tensor by tensor. Needs torch."""
    import internlm2_checkpoint as checkpoint
    import torch
    from sftflow.models import internlm2, safetensors_files

    shape, target = SHAPES[shape_name], Path(folder)
    config = checkpoint.CONFIG | shape | {"bos_token_id": 2, "eos_token_id": 4, "pad_token_id": 1}
    config |= {"torch_dtype": "bfloat16"}
    save_tokenizer(folder, shape)
    write_json(target / "config.json", config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def bits(name: str, size: tuple[int, ...]):
        made = torch.randn(size, device=device) * (0.02 if len(size) > 1 else 0)
        made = made + (len(size) == 1)
        if name == "output.weight":  # see serving.save_model
            made[: len(SPECIAL)] = 0
        return made.to(torch.bfloat16).view(torch.int16).cpu().numpy().view("u2")

    expected = list(internlm2.Shape.of(config).expected().items())
    files, places = max(1, len(expected) // 30), {}
    for number in range(files):
        part = expected[number * len(expected) // files : (number + 1) * len(expected) // files]
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        outputs = [
            safetensors_files.Output(n, "BF16", size, lambda n=n, size=size: bits(n, size))
            for n, size in part
        ]
        safetensors_files.write_file(target / name, outputs)
        places |= dict.fromkeys(dict(part), name)
    write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def made(path: Path, function: str, shape: str) -> str:
    """The folder of a model, made by a function of a script here unless it is there."""
    if not path.exists():
        script, name = function.split(".")
        half = path.with_suffix(".part")
        half.mkdir(parents=True, exist_ok=True)
        code = f"import {script}; {script}.{name}({str(half)!r}, {shape!r})"
        subprocess.run([python("swift"), "-c", code], cwd=HERE, check=True)
        half.rename(path)
    return str(path)


def dialogues(path: Path, shape: dict, count: int) -> str:
    chance, vocabulary = random.Random(0), words(shape)
    if not path.exists():
        write_jsonl(path, (dialogue(chance, vocabulary, MEAN, SPREAD) for _ in range(count)))
    return str(path)


def benchmarks(folder: Path, shape: dict, questions: int) -> dict:
    """The config's benchmarks, their questions written: `questions` of all, shared as in ALL."""
    chance, vocabulary, out = random.Random(1), words(shape), {}

    def row(number: int) -> dict:
        options = {letter: text(chance, vocabulary, 5) for letter in "ABCD"}
        question = text(chance, vocabulary, chance.randint(30, 200))
        return {"id": number, "question": question, **options, "answer": chance.choice("ABCD")}

    for name, (count, subsets, shots, tokens) in BENCHMARKS.items():
        count = max(1, round(count * questions / ALL))
        subsets = min(subsets, count)
        for number in range(subsets):
            own = range(number, count, subsets)
            write_jsonl(folder / name / f"part{number}_val.jsonl", map(row, own))
            if shots:
                write_jsonl(folder / name / f"part{number}_dev.jsonl", map(row, range(shots)))
        out[name] = {
            "preset": "general_mcq", "source": str(folder / name), "shots": shots,
            "subsets": [f"part{number}" for number in range(subsets)],
            "generation": {"max_tokens": tokens},
        }  # fmt: skip
    return out


def study(args: argparse.Namespace) -> dict:
    """The config of the study."""
    raw = yaml.safe_load((ROOT / "config/internlm2_5_7b.yaml").read_text("utf-8"))
    shape, sources = SHAPES[args.shape], args.sources.resolve()
    first, second = raw["models"].values()
    own = {"hub": "local", "model_type": "llama", "template": "chatml"}
    first |= own | {"source": made(sources / "internlm2", "study.internlm2_model", args.shape)}
    second |= own | {"source": made(sources / "llama", "serving.save_model", args.shape)}
    for model in (first, second):
        model.pop("reference", None)
    (dataset,) = raw["datasets"].values()
    data = dialogues(sources / "dialogues.jsonl", shape, args.dialogues)
    dataset |= {"source": data, "hub": "local"}
    raw |= {"software": "active" if os.environ.get("PYTHON_SWIFT") else "managed"}
    raw |= {"benchmarks": benchmarks(sources / "questions", shape, args.questions)}
    raw |= {"suites": SUITES, "resources": {}}
    raw["training"]["gpus"] = args.gpus
    # At 1e-4 random weights move less than bf16 rounds, which the check of the merge refuses.
    raw["training"]["learning_rate"] = 1e-3
    if args.sweep:
        base, other = raw["models"]
        (run,) = raw["runs"]
        del raw["models"][other]
        rates = [round(1e-3 + 1e-4 * (1 + place), 4) for place in range(args.sweep)]
        raw["sweeps"] = {"rate": {"run": run, "grid": {"learning_rate": rates}}}
        raw["sweeps"]["rate"] |= {"halving": {}} if args.halving else {}
        raw["evaluate"] = {"subjects": [base, run, "rate"]}
        raw["comparisons"] = [{"baseline": base, "candidate": name} for name in (run, "rate")]
    if args.shape != "7b":  # to try this script without a GPU
        raw["training"] |= {"torch_dtype": "float32", "max_memory_gib": None}
        raw["serving"] |= {"torch_dtype": "float32"}
        raw["dialogue"]["max_tokens"] = 32
        for benchmark in raw["benchmarks"].values():
            benchmark["generation"] = {"max_tokens": 16}
    return raw


# --- where the seconds went -----------------------------------------------------------------------

STAMP = re.compile(r"^\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]$")
BEGIN = re.compile(r"^Job (\d+): ")
END = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)")


def jobs(log: str) -> list[dict]:
    """[{job, rule, begun, ended}] of Snakemake's log, seconds since 1970; whole seconds."""
    begun: dict[str, float] = {}
    out, now = [], 0.0
    for line in log.splitlines():
        if stamp := STAMP.match(line):
            now = datetime.strptime(stamp[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif start := BEGIN.match(line):
            begun[start[1]] = now
        elif (end := END.match(line)) and end[1] in begun:
            out.append({"job": end[1], "rule": end[2], "begun": begun.pop(end[1]), "ended": now})
    return out


def rows(found: list[dict], results: Path) -> list[tuple[str, int, float, str]]:
    """(rule, jobs, seconds that they took together, what of it), the longest first."""
    out = []
    for rule in sorted({job["rule"] for job in found}):
        own = [job["ended"] - job["begun"] for job in found if job["rule"] == rule]
        out.append((rule, len(own), sum(own), "; ".join(details(rule, results))))
    return sorted(out, key=lambda row: -row[2])


def details(rule: str, results: Path):
    if rule == "train_run":
        for path in results.glob("runs/*/training.json"):
            told = read_json(path)
            yield (
                f"steps {told['train_seconds']:.0f} s of {told['seconds']:.0f} s, "
                f"{told['tokens_per_second']:,.0f} tokens/s"
            )
    if rule == "serve_subject":
        for path in sorted(results.glob("subjects/*/readiness.json")):
            told = read_json(path)
            took = ", ".join(f"{form} {s['ready']:.0f} s" for form, s in told["seconds"].items())
            yield f"{path.parent.name}: {told['backend']['name']} ready after {took}"


def table(found: dict) -> str:
    lines = ["| rule | jobs | seconds, all together | of which |", "|---|---|---|---|"]
    lines += [f"| {rule} | {n} | {s:.0f} | {what} |" for rule, n, s, what in found["rules"]]
    asked = found["answers"]
    lines += [
        "",
        f"{found['machine']}: the whole study {found['seconds']:.0f} s, in "
        f"{found['starts']} start(s) of snakemake, exit {found['status']}; {asked['count']:,} "
        f"answers, {asked['tokens']:,} tokens in {asked['seconds']:.0f} s of asking "
        f"({asked['tokens'] / max(1, asked['seconds']):,.0f} tokens/s).",
    ]
    if way := found.get("report"):
        lines.append(
            f"The report's way: {way['step']:.2f} s a step, {way['answer']:.2f} s an answer; "
            f"{way['steps']} steps and {way['answers']:,} answers would take "
            f"{way['seconds'] / 3600:.1f} hours: {way['seconds'] / found['seconds']:.0f} times."
        )
    return "\n".join(lines)


def answered(results: Path) -> dict:
    """All stored answers: how many, their tokens, and the seconds in which one was awaited."""
    count, tokens, spans = 0, 0, []
    for path in results.glob("evaluations/*/answers/*/*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            usage = (row.get("response") or {}).get("usage") or {}
            count, tokens = count + 1, tokens + (usage.get("completion_tokens") or 0)
            spans.append((row["at"] - row["seconds"], row["at"]))
    seconds, until = 0.0, 0.0
    for begun, ended in sorted(spans):
        seconds += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return {"count": count, "tokens": tokens, "seconds": seconds}


def report_way(args: argparse.Namespace) -> dict:
    """The report's commands, measured for a while; what the whole study would take at that pace."""
    folder = args.output / "report"
    steps, answers = args.dialogues * 0.95 / 32, 3 * args.questions
    scripts = {
        "training.py": ["--variants", f"report:{REPORT_STEPS}"],
        "serving.py": ["--ways", "report", "--report", REPORT_QUESTIONS,
                       "--report-seconds", REPORT_SECONDS, "--work", args.work / "serving"],
    }  # fmt: skip
    for script, flags in scripts.items():
        tool = python("swift") if script == "training.py" else sys.executable
        command = [tool, HERE / script, "--output", folder, "--shape", args.shape, *flags]
        subprocess.run([*map(str, command)], check=True)
    step = read_json(folder / "training.json")["results"]["report"]["seconds_per_step"]
    came = read_json(folder / "serving.json")["ways"]["report"]["came_after"]
    answer = (came[-1] - came[1]) / (len(came) - 2)  # the first two are slower than all others
    whole = steps * step + answers * answer
    return {"step": step, "answer": answer, "steps": round(steps), "answers": answers,
            "seconds": whole}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/sftflow-study"))
    parser.add_argument("--sources", type=Path, default=Path("/tmp/sftflow-study/sources"))
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--gpus", type=int, default=1, help="of the training")
    parser.add_argument("--dialogues", type=int, default=5800)
    parser.add_argument("--questions", type=int, default=ALL)
    parser.add_argument("--sweep", type=int, default=0, metavar="POINTS")
    parser.add_argument("--halving", action="store_true", help="of the points of the sweep")
    parser.add_argument("--report", action="store_true", help="measure the report's way first")
    args = parser.parse_args()
    if (args.sweep and args.report) or (args.halving and not args.sweep):
        parser.error("--report goes without --sweep, and --halving with it")
    for name in ("output", "work", "sources"):
        setattr(args, name, getattr(args, name).resolve())
        getattr(args, name).mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    raw = study(args)
    config = args.work / "study.yaml"
    write_text(config, yaml.safe_dump(raw, allow_unicode=True, sort_keys=False))
    way = report_way(args) if args.report else None
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        ROOT / "Snakefile",
        "--cores",
        os.cpu_count(),
    ]
    command += ["--directory", args.work, "--configfile", config]
    begun = time.time()
    status = subprocess.run([*map(str, command)]).returncode
    kept = args.work / "starts.json"
    starts = [*(read_json(kept) if kept.exists() else []), time.time() - begun]
    write_json(kept, starts)
    results, logs = args.work / "results", sorted((args.work / ".snakemake/log").glob("*.log"))
    done = [job for log in logs for job in jobs(log.read_text("utf-8", "replace"))]
    from sftflow.core import gpu

    machine = ", ".join(found["name"] for found in gpu.describe()) or "no GPU"
    found = {
        "machine": machine, "seconds": sum(starts), "starts": len(starts), "status": status,
        "rules": rows(done, results), "answers": answered(results), "report": way, "jobs": done,
    }  # fmt: skip
    write_json(args.output / "study.json", found)
    write_text(args.output / "study.md", table(found) + "\n")
    print(table(found))
    kept = args.output / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(args.work / "logs", kept / "logs")
    for path in [*results.glob("**/*.json"), *results.glob("**/events.jsonl")]:
        if path.stat().st_size < 2**20:
            (kept / path.relative_to(args.work)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept / path.relative_to(args.work))
    shutil.make_archive(str(kept), "gztar", kept)
    return status


if __name__ == "__main__":
    sys.exit(main())
