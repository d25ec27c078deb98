"""How likely a subject finds held-out dialogues and neutral text: nll in nats, one per text.

in:   --manifest           of the weights: models/<model>/manifest.json or runs/<run>/merged.json
      --adapter-manifest   runs/<run>/adapter.json, where the subject is an adapter on its base
      --datasets           datasets/<dataset>/receipt.json …; of each, validation.jsonl counts
      settings             {"subject", "form", "model": {"model_type", "template", "system", …},
                            "dialogue": {"neutral": {language: file}, "max_length"},
                            "serving": {"device": auto|cpu|cuda, "torch_dtype", "gpus"},
                            "made_with"}
                           A neutral file is UTF-8 text with one passage per line.
out:  --output             dialogue/<subject>/likelihood.json:
        identity, parts    what can change a number; the same identity computes nothing again
        texts              [{name: dataset or neutral-<language>, kind: dialogue | neutral,
                            n, tokens (that count), nll (sum, nats), loss (nll / tokens),
                            perplexity, left_out (longer than max_length), digest (of the ids)}]
        uniform_loss       of a guess over the whole vocabulary, ln(its size), nats per token
        records            likelihood/<identity>.jsonl beside it, with one line per text:
                           {text, id, length (tokens in all), tokens (that count),
                            nll (nats; null: left out), sha256 (of the rest)}
        provenance         tokens_per_second: all tokens, not only those that count, through the
                           model, without loading it; computed: texts that this job computed
env:  envs/swift

Each record is kept as soon as its forward pass has ended, so that a killed job goes on there. A
text is known by its id: texts that are new are computed, those no longer asked for are dropped.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sftflow.core import cli, code, gpu, identity, jsonio, layout, manifests, process, worker
from sftflow.core.cli import UserError
from sftflow.core.progress import Progress
from sftflow.dialogue import likelihood
from sftflow.dialogue.likelihood import Tokens
from sftflow.evaluation.answers import drop_torn_line, is_sealed, lock_of, sealed_line
from sftflow.training.patches import installed
from sftflow.training.template import training_template

Key = tuple[str, str]  # name of the set that a text is in, id of the text


@dataclass
class Text:
    """One text: a dialogue in the normal form, or a passage; `where` for errors."""

    where: str
    content: dict | str


def dialogues(receipt: Path) -> tuple[str, dict[Key, Text]]:
    """A dataset's name and its validation dialogues."""
    name, file = manifests.verified(receipt)["dataset"], receipt.with_name("validation.jsonl")
    rows = enumerate(jsonio.read_jsonl(file), 1)
    return name, {(name, row["id"]): Text(f"{file}:{line}", row) for line, row in rows}


def passages(language: str, source: str) -> tuple[str, dict[Key, Text]]:
    """Name and passages of a neutral file; equal passages count once. UserError without any."""
    name, path = f"neutral-{language}", layout.local_source(source)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"neutral text {language}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line} is not UTF-8: save the file as UTF-8 text") from None
    found = {
        (name, jsonio.digest(line.strip())): Text(f"{path}:{number}", line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip()
    }
    if not found:
        raise UserError(f"{path} is empty: a neutral text has one passage per line")
    return name, found


class Records:
    """The file of an identity: {key: record}, appended to by one process at a time."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._file = path, open(path, "ab+")
        drop_torn_line(self._file)
        self._file.seek(0)
        self.rows: dict[Key, dict] = {}
        for number, line in enumerate(self._file, 1):
            if not is_sealed(line):
                raise UserError(
                    f"{path}, line {number}: the digest does not fit, so this is not what was "
                    "computed. Delete the line; its text is computed again."
                )
            row = json.loads(line)
            self.rows[row["text"], row["id"]] = row

    def open(self, key: Key, longest: float) -> bool:
        """Whether a text is to be looked at: it is new, or was too long and fits now."""
        row = self.rows.get(key)
        return row is None or (row["nll"] is None and row["length"] <= longest)

    def add(self, rows: Iterable[tuple[Key, Tokens, float | None]]) -> None:
        """Keep rows (key, tokens, nll): on the disk when this returns."""
        for key, tokens, nll in rows:
            self.rows[key] = record(key, len(tokens.ids), tokens.counted, nll)
            self._file.write(sealed_line(self.rows[key]))
        self._file.flush()
        os.fsync(self._file.fileno())

    def tidy(self, keys: Iterable[Key], longest: float) -> list[dict]:
        """Leave only what is asked for in the file, in this order; without nll what is too long."""
        rows = [self.rows[key] for key in keys]
        rows = [
            record((row["text"], row["id"]), row["length"], row["tokens"], None)
            if row["length"] > longest
            else {name: value for name, value in row.items() if name != "sha256"}
            for row in rows
        ]
        with jsonio.writing(self.path) as file:
            file.writelines(sealed_line(row).decode() for row in rows)
        return rows


def record(key: Key, length: int, tokens: int, nll: float | None) -> dict:
    return {"text": key[0], "id": key[1], "length": length, "tokens": tokens, "nll": nll}


def encoded(texts: list[Text], encode: Callable[[dict | str], Tokens]) -> Iterator[Tokens]:
    """Tokens of each; in several processes where that pays."""
    global FORKED
    FORKED = encode
    workers = min(8, len(os.sched_getaffinity(0)))
    if len(texts) <= 2000 or workers < 2:
        yield from map(tokens_of, texts)
        return
    fork = multiprocessing.get_context("fork")
    with fork.Pool(workers, process.die_with_parent) as pool:
        yield from pool.imap(tokens_of, texts, chunksize=64)


FORKED: Callable[[dict | str], Tokens]  # of a forked process


def tokens_of(text: Text) -> Tokens:
    try:
        return FORKED(text.content)
    except Exception as error:  # whatever a template raises, the trainer would raise as well
        raise UserError(
            f"{text.where}: the template cannot encode this: {type(error).__name__}: {error}"
        ) from error


def summary(name: str, kind: str, rows: list[dict]) -> dict:
    """An entry of `texts`, from the records of one set."""
    counted = [row for row in rows if row["nll"] is not None]
    tokens, nll = sum(r["tokens"] for r in counted), math.fsum(r["nll"] for r in counted)
    loss = nll / tokens if tokens else None
    return {
        "name": name,
        "kind": kind,
        "n": len(counted),
        "tokens": tokens,
        "nll": nll,
        "loss": loss,
        "perplexity": None if loss is None else math.exp(loss),
        "left_out": len(rows) - len(counted),
        "digest": jsonio.digest(sorted(row["id"] for row in counted)),
    }


def asked_for(args: argparse.Namespace) -> dict[str, tuple[str, dict[Key, Text]]]:
    """{name: (kind, its texts)} of every dataset and every neutral text."""
    sets = {name: ("dialogue", found) for name, found in map(dialogues, args.datasets)}
    for language, source in (args.settings["dialogue"].get("neutral") or {}).items():
        name, found = passages(language, source)
        if name in sets:
            raise UserError(f"a dataset is called {name}, as a neutral text is: rename it")
        sets[name] = ("neutral", found)
    return sets


def deciding(settings: dict, weights: str, config: dict, device: str) -> dict:
    """The parts of the identity. weights: their digest; config: the model's config.json."""
    model, dtype = settings["model"], settings["serving"].get("torch_dtype") or "auto"
    if dtype == "auto":
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    packages = likelihood.PACKAGES + (likelihood.CUDA_PACKAGES if device == "cuda" else ())
    return {
        "weights": weights,
        **{name: value for name, value in model.items() if name != "name" and value is not None},
        "torch_dtype": dtype,
        "device": device,
        "versions": {package: installed(package) for package in packages},
        "code": code.files_digest(*likelihood.CODE),
    }


def compute(
    load: Callable[[], likelihood.Model], texts: dict[Key, Text], tokens: dict[Key, Tokens],
    records: Records, progress: Callable[[], None],
) -> float | None:  # fmt: skip
    """Keep the nll of each text; gives tokens per second. UserError where an nll is no number."""
    keys = list(tokens)
    with contextlib.redirect_stdout(sys.stderr):
        model = load()
    begun = time.monotonic()
    for passed in model.nlls(list(tokens.values())):
        for place, nll in passed:
            if not math.isfinite(nll):
                raise UserError(
                    f"{texts[keys[place]].where}: its log-likelihood is {nll}: the weights are "
                    "broken, or numbers overflow (then torch_dtype bfloat16 or float32 helps)"
                )
        records.add((keys[place], tokens[keys[place]], nll) for place, nll in passed)
        progress()
    return sum(len(each.ids) for each in tokens.values()) / (time.monotonic() - begun)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="its weights lie beside it")
    parser.add_argument("--adapter-manifest", type=Path, help="of an adapter on these weights")
    parser.add_argument(
        "--datasets", type=Path, nargs="*", default=[], metavar="RECEIPT",
        help="receipt.json of each dataset; validation.jsonl lies beside it",
    )  # fmt: skip
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="…/<subject>/likelihood.json")
    args = parser.parse_args()
    with worker.alone(args.output, lock_of(args.output)):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    started, settings = time.time(), args.settings
    subject, serving = settings["subject"], settings["serving"]

    manifest = manifests.verified(args.manifest)
    weights = manifests.folder_of(args.manifest, manifest).resolve()
    adapter = args.adapter_manifest and manifests.verified(args.adapter_manifest)
    if adapter and adapter["base"]["digest"] != manifest["digest"]:
        raise UserError(f"{args.adapter_manifest} was trained on other weights: {args.manifest}")
    on_base = manifests.folder_of(args.adapter_manifest, adapter).resolve() if adapter else None
    wanted = 0 if serving.get("device") == "cpu" else serving.get("gpus") or 1
    device = "cuda" if gpu.cards(wanted) else "cpu"
    if device == "cpu" and serving.get("device") == "cuda":
        raise UserError(f"serving.device is cuda, but this machine shows no GPU: {gpu.unseen()}")
    config = jsonio.read_json(weights / "config.json")
    longest = min(
        settings["dialogue"]["max_length"], config.get("max_position_embeddings") or math.inf
    )
    parts = deciding(settings, identity.weights(manifest, adapter), config, device)
    made = jsonio.digest(parts)
    sets = asked_for(args)
    texts = {key: text for _, found in sets.values() for key, text in found.items()}

    records = Records(args.output.with_name("likelihood") / f"{made[:16]}.jsonl")
    missing = {key: text for key, text in texts.items() if records.open(key, longest)}
    bar = Progress(f"likelihood {subject}", len(texts), "texts")
    progress = lambda: bar.update(sum(key in records.rows for key in texts))  # noqa: E731
    progress()
    rate, fits = None, {}
    if missing:
        encode = likelihood.encoder(training_template(weights, settings["model"]))
        tokens = dict(zip(missing, encoded(list(missing.values()), encode), strict=True))
        fits = {key: each for key, each in tokens.items() if len(each.ids) <= longest}
        records.add((key, tokens[key], None) for key in tokens.keys() - fits.keys())
        records.add((key, each, 0.0) for key, each in fits.items() if not each.counted)
        fits = {key: each for key, each in fits.items() if each.counted}
    if fits:
        with gpu.claim(wanted if device == "cuda" else 0) as gpus:
            load = partial(likelihood.Model.load, weights, on_base, parts["torch_dtype"], gpus)
            rate = compute(load, texts, fits, records, progress)
    rows = records.tidy(texts, longest)
    jsonio.write_record(
        args.output,
        {
            "schema": 1,
            "subject": subject,
            "identity": made,
            "parts": parts,
            "made_with": settings.get("made_with", {}),
            "max_length": longest,
            "uniform_loss": math.log(config["vocab_size"]) if config.get("vocab_size") else None,
            "texts": [
                summary(name, kind, [row for row in rows if row["text"] == name])
                for name, (kind, _) in sets.items()
            ],
            "records": str(records.path.relative_to(args.output.parents[2])),
            "records_sha256": jsonio.file_digest(records.path),
            "provenance": {
                "software": parts["versions"],
                "hardware": gpu.hardware(),
                "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - started, 3),
                "computed": len(fits),
                "tokens_per_second": rate and round(rate, 1),
            },
        },
    )
    cli.note(f"likelihood {subject}  " + ("all computed before" if not fits else
             f"{len(fits)} texts computed, {rate:,.0f} tokens/s"))  # fmt: skip


if __name__ == "__main__":
    sys.exit(cli.run(main))
