"""Print where a number in a table comes from: the chain behind one score.

    uv run python scripts/trace.py SUBJECT BENCHMARK
    uv run python scripts/trace.py SUBJECT BENCHMARK --sample 17
    uv run python scripts/trace.py SUBJECT BENCHMARK --wrong

From the score file to its answers, weights, training data, benchmark data, software, commit and
machine, each with its digest; with --sample the exact prompt and answer of one question.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from sftflow.core import cli, identity
from sftflow.core.cli import UserError
from sftflow.core.jsonio import file_digest, read_jsonl, read_record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject")
    parser.add_argument("benchmark")
    parser.add_argument("--sample", metavar="N|ID", help="a question by its number or its id")
    parser.add_argument("--wrong", action="store_true", help="list the questions answered wrong")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of all outputs"
    )
    args = parser.parse_args()
    path = args.results / f"scores/{args.subject}/{args.benchmark}.json"
    if not path.exists():
        raise UserError(f"there is no {path}. Scores that are there: {known(args.results)}")
    score = read_record(path)
    if args.sample:
        cli.note(show_sample(find_sample(samples(args.results, score), args.sample)))
    elif args.wrong:
        cli.note(list_wrong(samples(args.results, score)))
    else:
        cli.note(render(chain(args.results, score, path)))


def known(results: Path) -> str:
    found = sorted(p.relative_to(results / "scores") for p in results.glob("scores/*/*.json"))
    names = [f"{p.parent} {p.stem}" for p in found[:20]]
    return (", ".join(names) or "none") + (" …" if len(found) > 20 else "")


def optional(path: Path) -> dict:
    """A record that may not have been copied along with the scores."""
    return read_record(path) if path.exists() else {}


def chain(results: Path, score: dict, path: Path) -> list[tuple[str, list[tuple[str, object]]]]:
    """The chain as headed lists of (name, value); a value None is not shown."""
    was = score["provenance"]
    low, high = score["ci95"] or (None, None)
    interval = f" [{low:.4f}, {high:.4f}]" if low is not None else ""
    answers = results / score["samples"]
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
                ("one question", "add --sample N, or --wrong for a list"),
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


def check_samples(results: Path, score: dict) -> str:
    """Digest of the answers, compared with the one that the session wrote down."""
    path = results / score["samples"]
    if not path.exists():
        return "MISSING: the answers are not there"
    session = optional(results / f"evaluations/{score['subject']}/{score['suite']}.json")
    entry = session.get("benchmarks", {}).get(score["benchmark"], {})
    found = file_digest(path)
    if entry.get("identity") != score["identity"]:
        return f"{found} (the session that is there now is another one: {entry.get('identity')})"
    same = entry["samples_sha256"] == found
    return f"{found} ({'as the session wrote it' if same else 'NOT what the session wrote'})"


def benchmark_chain(results: Path, score: dict) -> list[tuple[str, object]]:
    path = results / f"benchmarks/{score['benchmark']}/manifest.json"
    manifest = optional(path)
    digest = score["provenance"]["data"]
    return [
        ("digest", agree(digest, manifest.get("digest"))),
        ("manifest", path if manifest else None),
        ("source", manifest.get("source")),
        ("revision", manifest.get("revision")),
    ]


def agree(was: str, now: str | None) -> str:
    if now is None:
        return f"{was} (nothing to compare with)"
    return was if was == now else f"{was} (CHANGED since: now {now})"


def weights_chain(results: Path, score: dict) -> list[tuple[str, object]]:
    """A base model's manifest, or a run's merge, adapter, training and data."""
    subject = score["subject"]
    run = results / f"runs/{subject}"
    training, fit = optional(run / "training.json"), optional(run / "receipt.json")
    merged, adapter = optional(run / "merged.json"), optional(run / "adapter.json")
    base = results / f"models/{training.get('model', subject)}/manifest.json"
    manifest = optional(base)
    lines: list[tuple[str, object]] = [
        ("digest", f"{score['provenance']['weights']} ({which(score, manifest, adapter, merged)})"),
        ("merged weights", merged and f"{run / 'merged.json'} {merged['digest']}"),
        ("adapter", adapter and f"{run / 'adapter.json'} {adapter['digest']}"),
        ("training", training and f"{run / 'training.json'} {training['identity']}"),
        ("ms-swift file", run / "command.yaml" if training else None),
        ("rows trained on", fit and f"{run / 'receipt.json'} {fit['digest']}"),
    ]
    if fit:
        path = results / f"datasets/{fit['dataset']}/receipt.json"
        receipt = optional(path)
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


def environments(results: Path, was: dict) -> list[tuple[str, object]]:
    """Lock digests of the environments that are there now, and what of them was another then."""
    backend = was["backend"]
    then = {
        "evalscope": was["software"],
        identity.BACKENDS[backend["name"]].environment: backend.get("versions", {}),
    }
    lines: list[tuple[str, object]] = []
    for path in sorted(results.glob("environments/*.json")):
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


def samples(results: Path, score: dict) -> list[dict]:
    path = results / score["samples"]
    if not path.exists():
        raise UserError(f"{path} is missing: the answers were not copied along with the scores")
    return list(read_jsonl(path))


def find_sample(records: list[dict], wanted: str) -> list[dict]:
    """All repeats of a question, by its number (from 0, as in --wrong) or the start of its id."""
    questions: dict[tuple, list[dict]] = {}
    for record in records:
        questions.setdefault((record["subset"], record["index"]), []).append(record)
    found = [answers for answers in questions.values() if answers[0]["id"].startswith(wanted)]
    if wanted.isdigit() and int(wanted) < len(questions):
        found = [list(questions.values())[int(wanted)]]
    if not found:
        raise UserError(f"no question {wanted}: there are 0 to {len(questions) - 1}")
    return found[0]


def show_sample(answers: list[dict]) -> str:
    first = answers[0]
    parts = [f"question {first['id']}  {first['subset']} {first['index']}"]
    prompt = first["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    parts += [f"--- {message['role']}\n{message['content']}" for message in messages]
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


def list_wrong(records: list[dict]) -> str:
    """Number, subset, what was stated, read and right, of every answer below full score."""
    places: dict[tuple, int] = {}
    lines = []
    for record in records:
        place = places.setdefault((record["subset"], record["index"]), len(places))
        if record["score"] < 1:
            lines.append(
                f"{place:>6}  {record['subset']}  states: {brief(record['stated'])}  "
                f"read: {brief(record['extracted'])}  right: {brief(str(record['target']))}"
            )
    return "\n".join(lines) or "every answer is right"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `trace.py … | head` is no error
    sys.exit(cli.run(main))
