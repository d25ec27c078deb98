"""How likely a subject finds held-out dialogues and neutral text: nll in nats, one per text. Or how
likely the checkpoints of a run do, one after the other, beside the weights before the first step.

in:   --manifest           of the weights: models/<model>/manifest.json or runs/<run>/merged.json
      --adapter-manifest   runs/<run>/adapter.json, where the subject is an adapter on its base
      --checkpoints        runs/<run>/checkpoints.json, and --manifest is the base model's
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
                           or, with --checkpoints, dialogue/<run>/curve.json: `steps`, a list of
                           {step (0: the base), identity, parts, texts, records, records_sha256}
                           with records in curve/<identity>.jsonl, and the rest of the above;
                           training, last, missing as checkpoints.json has them
env:  envs/swift

Each record is kept as soon as its forward pass has ended, so that a killed job goes on there. A
text is known by its id: texts that are new are computed, those no longer asked for are dropped.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sftflow.core import cli, code, gpu, identity, jsonio, layout, manifests, process, worker
from sftflow.core.cli import UserError
from sftflow.core.progress import Progress
from sftflow.dialogue import likelihood
from sftflow.dialogue.likelihood import Tokens
from sftflow.evaluation.answers import drop_torn_line, is_sealed, lock_of, sealed_line
from sftflow.training import alarm
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

    def tokens_of(text: Text) -> Tokens:
        try:
            return encode(text.content)
        except Exception as error:  # whatever a template raises, the trainer would raise as well
            raise UserError(
                f"{text.where}: the template cannot encode this: {type(error).__name__}: {error}"
            ) from error

    workers = min(8, len(os.sched_getaffinity(0))) if len(texts) > 2000 else 1
    return process.forked(tokens_of, texts, workers)


def tokens_of(texts: list[Text], weights: Path, model: dict) -> list[Tokens]:
    """Tokens of each, as ms-swift's template for a model has them."""
    return list(encoded(texts, likelihood.encoder(training_template(weights, model))))


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


@dataclass(frozen=True)
class Weights:
    """What texts are put to, and what is kept of it. step: None of a subject, 0 of the base of
    checkpoints. digest: of the weights."""

    step: int | None
    folder: Path
    adapter: Path | None
    digest: str


def subject_weights(manifest: Path, adapter_manifest: Path | None) -> Weights:
    """A model, a merged run, or an adapter on its base."""
    model = manifests.verified(manifest)
    folder = manifests.folder_of(manifest, model).resolve()
    if adapter_manifest is None:
        return Weights(None, folder, None, identity.weights(model))
    adapter = manifests.verified(adapter_manifest)
    if adapter["base"]["digest"] != model["digest"]:
        raise UserError(f"{adapter_manifest} was trained on other weights: {manifest}")
    on_base = manifests.folder_of(adapter_manifest, adapter).resolve()
    return Weights(None, folder, on_base, identity.weights(model, adapter))


def checkpoint_weights(manifest: Path, kept: Path, steps: list[dict]) -> Iterator[Weights]:
    """The base, then each step of checkpoints.json: an adapter on it or, trained in full, a model
    of its own. UserError where one is gone, or another."""
    yield replace(subject_weights(manifest, None), step=0)
    for entry in steps:
        path = kept.parent / entry["manifest"]
        try:
            made = manifests.verified(path)
        except FileNotFoundError:
            raise UserError(
                f"the checkpoint of step {entry['step']} is gone ({path}): delete {kept}, and what "
                "is still there is listed again"
            ) from None
        if made["digest"] != entry["digest"]:
            raise UserError(f"{path} is not the one that {kept} lists: delete {kept}")
        full = made["form"] == "full"
        found = subject_weights(path, None) if full else subject_weights(manifest, path)
        yield replace(found, step=entry["step"])


def models(
    asked: list[Weights], dtype: str, gpus: Sequence[dict]
) -> Iterator[tuple[Weights, likelihood.Model]]:
    """The loaded model of each in turn. What several adapters lie on is loaded once."""
    if len(asked) == 1:
        (one,) = asked
        yield one, likelihood.Model.load(one.folder, one.adapter, dtype, gpus)
        return
    from peft import PeftModel

    loaded, tuned, folder, worn = None, None, None, ""
    for place, one in enumerate(asked):
        if loaded is None or one.folder != folder:
            loaded = tuned = None  # frees the memory first
            loaded, folder = likelihood.Model.load(one.folder, None, dtype, gpus), one.folder
        if one.adapter is None:
            yield one, loaded
            continue
        name = f"adapter{place}"
        if tuned is None:
            tuned = PeftModel.from_pretrained(loaded.model, one.adapter, adapter_name=name)
        else:
            tuned.load_adapter(one.adapter, name)
            tuned.set_adapter(name)
            tuned.delete_adapter(worn)
        worn = name
        yield one, likelihood.Model(tuned.get_base_model(), loaded.packed)


def compute(
    model: likelihood.Model, texts: dict[Key, Text], tokens: dict[Key, Tokens], records: Records,
    progress: Callable[[], None],
) -> None:  # fmt: skip
    """Keep the nll of each text. UserError where an nll is no number."""
    keys = list(tokens)
    for passed in model.nlls(list(tokens.values())):
        for place, nll in passed:
            if not math.isfinite(nll):
                raise UserError(
                    f"{texts[keys[place]].where}: its log-likelihood is {nll}: the weights are "
                    "broken, or numbers overflow (then torch_dtype bfloat16 or float32 helps)"
                )
        records.add((keys[place], tokens[keys[place]], nll) for place, nll in passed)
        progress()


def fitting(
    records: Records, texts: Iterable[Key], tokens: dict[Key, Tokens], longest: float
) -> dict[Key, Tokens]:
    """What is still to compute; what is too long, or has nothing that counts, is kept at once."""
    missing = {key: tokens[key] for key in texts if records.open(key, longest)}
    fits = {key: each for key, each in missing.items() if len(each.ids) <= longest}
    records.add((key, missing[key], None) for key in missing.keys() - fits.keys())
    records.add((key, each, 0.0) for key, each in fits.items() if not each.counted)
    return {key: each for key, each in fits.items() if each.counted}


def complete(
    label: str, asked: list[Weights], files: list[Records], texts: dict[Key, Text], longest: float,
    settings: dict, parts: dict, gpus: int,
) -> tuple[int, float | None]:  # fmt: skip
    """Compute what the files, one for each of `asked`, do not hold yet: (texts, tokens/s)."""
    bar = Progress(label, len(texts) * len(files), "texts")
    progress = lambda: bar.update(sum(key in each.rows for each in files for key in texts))  # noqa: E731
    progress()
    missing = [key for key in texts if any(each.open(key, longest) for each in files)]
    if not missing:
        return 0, None
    alarm.silence()
    seconds = 0.0
    # ms-swift's import asks CUDA what there is, and CUDA reads CUDA_VISIBLE_DEVICES only once:
    # after that, whatever is claimed, the first of all cards would be used.
    with (
        gpu.claim(gpus if parts["device"] == "cuda" else 0) as cards,
        contextlib.redirect_stdout(sys.stderr),
    ):
        made = tokens_of([texts[key] for key in missing], asked[0].folder, settings["model"])
        tokens = dict(zip(missing, made, strict=True))
        todo = {
            one: (fits, each)
            for one, each in zip(asked, files, strict=True)
            if (fits := fitting(each, missing, tokens, longest))
        }
        if not todo:
            return 0, None
        for one, model in models(list(todo), parts["torch_dtype"], cards):
            begun = time.monotonic()
            compute(model, texts, *todo[one], progress)
            seconds += time.monotonic() - begun
    length = sum(len(each.ids) for fits, _ in todo.values() for each in fits.values())
    return sum(len(fits) for fits, _ in todo.values()), length / seconds


def measured(
    records: Records, sets: dict[str, tuple[str, dict[Key, Text]]], longest: float, results: Path
) -> dict:
    """What is said of a file of records, once it is tidy: each set's summary, and where it is."""
    rows = records.tidy((key for _, texts in sets.values() for key in texts), longest)
    return {
        "texts": [
            summary(name, kind, [row for row in rows if row["text"] == name])
            for name, (kind, _) in sets.items()
        ],
        "records": str(records.path.relative_to(results)),
        "records_sha256": jsonio.file_digest(records.path),
    }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="its weights lie beside it")
    parser.add_argument("--adapter-manifest", type=Path, help="of an adapter on these weights")
    parser.add_argument("--checkpoints", type=Path, help="checkpoints.json of a run on this model")
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

    kept = jsonio.read_record(args.checkpoints) if args.checkpoints else None
    if kept:
        asked = list(checkpoint_weights(args.manifest, args.checkpoints, kept["steps"]))
    else:
        asked = [subject_weights(args.manifest, args.adapter_manifest)]
    weights = asked[0].folder
    wanted = 0 if serving.get("device") == "cpu" else serving.get("gpus") or 1
    cards = gpu.cards(wanted)
    gpu.refuse_absent(cards, serving.get("device"), "serving")
    device = "cuda" if cards else "cpu"
    config = jsonio.read_json(weights / "config.json")
    longest = min(
        settings["dialogue"]["max_length"], config.get("max_position_embeddings") or math.inf
    )
    parts = [deciding(settings, one.digest, config, device) for one in asked]
    made = [jsonio.digest(each) for each in parts]
    sets = asked_for(args)
    texts = {key: text for _, found in sets.values() for key, text in found.items()}

    home = args.output.with_suffix("")
    files = [Records(home / f"{each[:16]}.jsonl") for each in made]
    name = f"{'curve' if kept else 'likelihood'} {subject}"
    computed, rate = complete(name, asked, files, texts, longest, settings, parts[0], wanted)

    results = args.output.parents[2]
    found = [
        {"identity": own, "parts": part, **measured(records, sets, longest, results)}
        for own, part, records in zip(made, parts, files, strict=True)
    ]
    if kept:
        whose = {name: kept[name] for name in ("run", "training", "last", "missing")}
        steps = zip(asked, found, strict=True)
        whose["steps"] = [{"step": one.step, **each} for one, each in steps]
    else:
        whose = {"subject": subject, **found[0]}
    jsonio.write_record(
        args.output,
        {
            "schema": 1,
            **whose,
            "made_with": settings.get("made_with", {}),
            "max_length": longest,
            "uniform_loss": math.log(config["vocab_size"]) if config.get("vocab_size") else None,
            "provenance": {
                "software": parts[0]["versions"],
                "hardware": gpu.hardware(),
                "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - started, 3),
                "computed": computed,
                "tokens_per_second": rate and round(rate, 1),
            },
        },
    )
    cli.note(f"{name}  " + ("all computed before" if not computed else
             f"{computed} texts computed, {rate:,.0f} tokens/s"))  # fmt: skip


if __name__ == "__main__":
    sys.exit(cli.run(main))
