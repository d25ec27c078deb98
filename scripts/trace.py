"""Print where a number in a table comes from: the chain behind one score.

    uv run python scripts/trace.py SUBJECT BENCHMARK
    uv run python scripts/trace.py SUBJECT BENCHMARK --sample 17
    uv run python scripts/trace.py SUBJECT BENCHMARK --wrong
    uv run python scripts/trace.py SUBJECT BENCHMARK --fixed      # or --broken

From the score file to its answers, weights, training data, benchmark data, software, commit and
machine, each with its digest; with --sample the exact prompt and answer of one question, beside the
answer of the baseline that the study compares SUBJECT with (or of --with).
"""

import json
import signal
import sys
from pathlib import Path

from sftflow.config import byhand
from sftflow.core import cli, identity
from sftflow.core.cli import UserError
from sftflow.core.jsonio import file_digest, read_json, read_jsonl, read_record
from sftflow.core.layout import PATHS, Results


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("subject")
    parser.add_argument("benchmark")
    parser.add_argument("--sample", metavar="N|ID", help="a question by its number or its id")
    parser.add_argument("--with", dest="beside", metavar="BASELINE", help="who is shown beside it")
    listed = parser.add_mutually_exclusive_group()
    listed.add_argument("--wrong", action="store_true", help="list the questions answered wrong")
    listed.add_argument("--fixed", action="store_true", help="those that the baseline had wrong")
    listed.add_argument("--broken", action="store_true", help="those that the baseline had right")
    byhand.add_study_arguments(parser)
    args = parser.parse_args()
    results = Results(byhand.results_of(args))
    score = score_of(results, args.subject, args.benchmark)
    before = args.beside or baseline(results, args.subject)
    asked = {
        subject: questions(results, score_of(results, subject, args.benchmark))
        for subject in filter(None, [before, args.subject])
        if args.sample or args.wrong or args.fixed or args.broken
    }
    if args.sample:
        number = find_question(asked[args.subject], args.sample)
        cli.note(show(asked, number))
    elif args.wrong:
        cli.note(list_wrong(asked[args.subject]))
    elif args.fixed or args.broken:
        if before is None:
            raise UserError(
                f"nothing is compared with {args.subject}: name a baseline, --with BASE"
            )
        cli.note(list_changed(asked, before, args.subject, 1 if args.fixed else -1))
    else:
        path = results.path(PATHS.score, subject=args.subject, benchmark=args.benchmark)
        cli.note(render(chain(results, score, path)))


def score_of(results: Results, subject: str, benchmark: str) -> dict:
    names = {"subject": subject, "benchmark": benchmark}
    score = results.read(PATHS.score, **names)
    if score is None:
        path = results.path(PATHS.score, **names)
        raise UserError(f"there is no {path}. Scores that are there: {known(results)}")
    return score


def baseline(results: Results, subject: str) -> str | None:
    """Whom the study compares it with first, as far as there is a study."""
    try:
        pairs = read_json(results.folder / PATHS.study)["comparisons"]
    except FileNotFoundError:
        return None
    return next((pair["baseline"] for pair in pairs if pair["candidate"] == subject), None)


def known(results: Results) -> str:
    found = results.every(PATHS.score)
    names = [f"{path.parent.name} {path.stem}" for path in found[:20]]
    return (", ".join(names) or "none") + (" …" if len(found) > 20 else "")


def chain(results: Results, score: dict, path: Path) -> list[tuple[str, list[tuple[str, object]]]]:
    """The chain as headed lists of (name, value); a value None is not shown."""
    was = score["provenance"]
    low, high = score["ci95"] or (None, None)
    interval = f" [{low:.4f}, {high:.4f}]" if low is not None else ""
    answers = results.folder / score["samples"]
    return [
        (
            f"{score['subject']} on {score['benchmark']}",
            [
                ("score", f"{score['score']:.4f}{interval}, n = {score['n']}, {score['metric']}"),
                ("evalscope", f"{score['evalscope']:.4f}"),
                ("score file", path),
                ("identity", score["identity"]),
            ],
        ),
        (
            "Answers",
            [
                ("samples", answers),
                ("sha256", check_samples(results, score)),
                ("asked", f"{was['started']}, {was['seconds']:.0f} s"),
                ("one question", "add --sample N; --wrong, --fixed, --broken list them"),
            ],
        ),
        (
            "How it was asked",
            [
                ("settings", was["settings"]),
                ("generation", was["generation"]),
                ("backend", was["backend"]),
            ],
        ),
        ("Benchmark data", benchmark_chain(results, score)),
        ("Weights", weights_chain(results, score)),
        (
            "Software and machine",
            [
                ("versions", was["software"]),
                ("uv.lock then", was.get("locks")),
                *environments(results, was),
                ("workflow commit", was["git"] or "not in a git repository"),
                ("hardware", was["hardware"]),
            ],
        ),
    ]


def check_samples(results: Results, score: dict) -> str:
    """Digest of the answers, compared with the one that the session wrote down."""
    path = results.folder / score["samples"]
    if not path.exists():
        return "MISSING: the answers are not there"
    session = results.read(PATHS.evaluation, subject=score["subject"], suite=score["suite"]) or {}
    entry = session.get("benchmarks", {}).get(score["benchmark"], {})
    found = file_digest(path)
    if entry.get("identity") != score["identity"]:
        return f"{found} (the session that is there now is another one: {entry.get('identity')})"
    same = entry["samples_sha256"] == found
    return f"{found} ({'as the session wrote it' if same else 'NOT what the session wrote'})"


def benchmark_chain(results: Results, score: dict) -> list[tuple[str, object]]:
    manifest = results.read(PATHS.benchmark, benchmark=score["benchmark"]) or {}
    digest = score["provenance"]["data"]
    return [
        ("digest", agree(digest, manifest.get("digest"))),
        ("manifest", manifest and results.path(PATHS.benchmark, benchmark=score["benchmark"])),
        ("source", manifest.get("source")),
        ("revision", manifest.get("revision")),
    ]


def agree(was: str, now: str | None) -> str:
    if now is None:
        return f"{was} (nothing to compare with)"
    return was if was == now else f"{was} (CHANGED since: now {now})"


def weights_chain(results: Results, score: dict) -> list[tuple[str, object]]:
    """A base model's manifest, or a run's merge, adapter, training and data."""
    run = score["subject"]

    def of_run(template: str) -> tuple[Path, dict]:
        return results.path(template, run=run), results.read(template, run=run) or {}

    trained, training = of_run(PATHS.training)
    fitted, fit = of_run(PATHS.run_receipt)
    merge, merged = of_run(PATHS.merged)
    tuned, adapter = of_run(PATHS.adapter)
    model = training.get("model", run)  # a subject that is no run is a model
    base, manifest = results.path(PATHS.model, model=model), results.read(PATHS.model, model=model)
    manifest = manifest or {}
    lines: list[tuple[str, object]] = [
        ("digest", f"{score['provenance']['weights']} ({which(score, manifest, adapter, merged)})"),
        ("merged weights", merged and f"{merge} {merged['digest']}"),
        ("adapter", adapter and f"{tuned} {adapter['digest']}"),
        ("training", training and f"{trained} {training['identity']}"),
        ("ms-swift file", training and results.path(PATHS.command, run=run)),
        ("rows trained on", fit and f"{fitted} {fit['digest']}"),
    ]
    if fit:
        path = results.path(PATHS.dataset_receipt, dataset=fit["dataset"])
        receipt = results.read(PATHS.dataset_receipt, dataset=fit["dataset"]) or {}
        lines += [
            ("dataset", receipt and f"{path} {receipt['digest']}"),
            ("dataset source", receipt and origin(receipt)),
        ]
    return [
        *lines,
        ("base model", manifest and f"{base} {manifest['digest']}"),
        ("model source", manifest and origin(manifest)),
    ]


def origin(record: dict) -> str:
    return f"{record['source']} {record['revision'] or ''}".strip()


def which(score: dict, manifest: dict, adapter: dict, merged: dict) -> str:
    """What the weights that were asked are among those that are there now."""
    forms = {}
    if merged:
        forms["the merged weights that are there now"] = identity.weights(merged)
    if manifest and adapter:
        forms["the adapter on its base that is there now"] = identity.weights(manifest, adapter)
    elif manifest:
        forms["the model that is there now"] = identity.weights(manifest)
    if not forms:
        return "nothing to compare with"
    found = [name for name, digest in forms.items() if digest == score["provenance"]["weights"]]
    return found[0] if found else "OTHER weights than those that are there now"


def environments(results: Results, was: dict) -> list[tuple[str, object]]:
    """Lock digests of the environments that are there now, and what of them was another then."""
    backend = was["backend"]
    then = {
        "evalscope": was["software"],
        identity.BACKENDS[backend["name"]].environment: backend.get("versions", {}),
    }
    lines: list[tuple[str, object]] = []
    for path in results.every(PATHS.environment):
        record = read_record(path)
        now = record["packages"]
        changed = [
            f"{name} was {version}"
            for name, version in then.get(record["env"], {}).items()
            if now.get(name) != version
        ]
        text = f"Python {record['python']}, uv.lock {record['lock'] or NO_LOCK}"
        text += f" (CHANGED since: {', '.join(changed)})" if changed else ""
        lines.append((f"environment {record['env']}", text))
    return lines


NO_LOCK = "not used (software: active)"


def render(sections: list[tuple[str, list[tuple[str, object]]]]) -> str:
    lines = []
    for heading, entries in sections:
        lines.append(heading)
        for name, value in entries:
            if value is None or value == {}:  # not there
                continue
            text = (
                json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
            )
            lines.append(f"  {name + ':':<18} {text}")
        lines.append("")
    return "\n".join(lines).rstrip()


# --- single questions ----------------------------------------------------------------------------


Questions = dict[tuple, list[dict]]  # all repeats of each, by what identifies it, in their order


def questions(results: Results, score: dict) -> Questions:
    path = results.folder / score["samples"]
    if not path.exists():
        raise UserError(f"{path} is missing: the answers were not copied along with the scores")
    found: Questions = {}
    for record in read_jsonl(path):
        found.setdefault((record["subset"], record["index"]), []).append(record)
    return found


def find_question(asked: Questions, wanted: str) -> tuple:
    """By its number (from 0, as the lists have it) or the start of its id."""
    if wanted.isdigit() and int(wanted) < len(asked):
        return list(asked)[int(wanted)]
    for question, answers in asked.items():
        if answers[0]["id"].startswith(wanted):
            return question
    raise UserError(f"no question {wanted}: there are 0 to {len(asked) - 1}")


def show(asked: dict[str, Questions], question: tuple) -> str:
    """Its prompt, and what each subject made of it; in other words where it was asked so."""
    told = {subject: mine[question] for subject, mine in asked.items() if question in mine}
    parts: list[str] = []
    prompt = None
    for subject, answers in told.items():
        first = answers[0]
        if first["prompt"] != prompt:
            prompt = first["prompt"]
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            parts.append(f"question {first['id']}  {first['subset']} {first['index']}")
            parts += [f"--- {message['role']}\n{message['content']}" for message in messages]
        parts += [f"=== {subject}"] if len(told) > 1 else []
        for answer in answers:
            how = f"{answer['finish_reason']}, {answer['tokens_out']} tokens"
            parts.append(f"--- answer {answer['repeat']} ({how})\n{answer['answer']}")
            parts.append(
                f"--- states: {brief(answer['stated'])}   read as: {brief(answer['extracted'])}   "
                f"right: {answer['target']}   score: {answer['score']}   ending: {answer['ending']}"
            )
    return "\n".join(parts)


def brief(statement: str | None) -> str:
    text = " ".join((statement or "nothing").split())
    return text if len(text) <= 40 else text[:39] + "…"


def list_wrong(asked: Questions) -> str:
    """Number, subset, what was stated, read and right, of every answer below full score."""
    lines = [
        f"{place:>6}  {answer['subset']}  states: {brief(answer['stated'])}  "
        f"read: {brief(answer['extracted'])}  right: {brief(str(answer['target']))}"
        for place, answers in enumerate(asked.values())
        for answer in answers
        if answer["score"] < 1
    ]
    return "\n".join(lines) or "every answer is right"


def list_changed(asked: dict[str, Questions], before: str, after: str, sign: int) -> str:
    """Number, subset and what both state of each question whose score rose (1) or fell (-1)."""
    lines = []
    for place, (question, answers) in enumerate(asked[after].items()):
        old = asked[before].get(question)
        if old is None or sign * (total(answers) - total(old)) <= 0:
            continue
        lines.append(
            f"{place:>6}  {question[0]}  {before}: {brief(old[0]['stated'])}  "
            f"{after}: {brief(answers[0]['stated'])}  right: {brief(str(answers[0]['target']))}"
        )
    return "\n".join(lines) or "no question"


def total(answers: list[dict]) -> float:
    return sum(answer["score"] for answer in answers) / len(answers)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `trace.py … | head` is no error
    sys.exit(cli.run(main))
