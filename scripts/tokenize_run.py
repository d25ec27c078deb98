"""Fit a dataset's dialogues to one run: count tokens, and deal with what exceeds max_length.

in:   --dataset-receipt  <results>/datasets/<dataset>/receipt.json, its rows beside it
      --tokenizer  <results>/models/<model>/tokenizer.json, the files in tokenizer/ beside it
      settings    {"run", "training": {"max_length", "too_long": drop|truncate|split, "seed",
                   "per_device_train_batch_size", "gradient_accumulation_steps"},
                   "model": {"name", "model_type", "template", "agent_template"?, "system",
                             "thinking"}}
out:  --receipt   <results>/runs/<run>/receipt.json, train.jsonl and validation.jsonl beside it:
                  {schema, run, dataset, made_with, template, max_length, too_long,
                   rows_read, rows_kept, dropped {reason: {count, lines}}, refusals {what the
                   template said: {count, lines}}, truncated, split,
                   train_rows, validation_rows,
                   tokens {train, validation, loss, mean, min, max, histogram}, loss_share,
                   padded_share, padded_share_grouped, steps_per_epoch, digest}
env:  envs/swift. ms-swift's own template counts, so the trainer keeps exactly these rows.

drop:      a dialogue that is too long is left out.
truncate:  it is kept, and the trainer cuts its end; it is left out if no answer comes before that.
split:     it becomes several dialogues, cut before user turns, each with the system prompt; a
           single exchange that is too long is left out.

A dialogue that the template refuses is left out; one that holds tools is an error where the
template has no form for them, since then all of them would go.
"""

import sys
from hashlib import sha256
from json import dumps
from math import ceil
from pathlib import Path

from sftflow.core import cli, jsonio, manifests, process
from sftflow.core.cli import UserError
from sftflow.core.progress import Progress
from sftflow.inputs import lengths
from sftflow.inputs.receipts import SHOWN, Histogram, Lines
from sftflow.training import alarm
from sftflow.training.template import training_template

TOOLS = "tools, and no form for them"
REFUSED = "refused by the template"
SAID = 200  # characters kept of what a template says


def swift_encoder(tokenizer: Path, model: dict) -> tuple[lengths.Encode, bool]:
    """(what counts as ms-swift counts when it trains, whether it has a form for tools)"""
    alarm.silence()
    template = training_template(tokenizer, model)

    def encode(messages: list[dict], tools: str | None) -> bytes:
        encoded = template.encode({"messages": messages} | ({"tools": tools} if tools else {}))
        return bytes(label != -100 for label in encoded["labels"])

    known = model.get("agent_template") or template.template_meta.agent_template
    return encode, bool(known)


class Fitter:
    """One row's outcome, in this process or in a forked one."""

    def __init__(self, encode: lengths.Encode, tools: bool, longest: int, too_long: str):
        self.encode, self.tools = encode, tools
        self.longest, self.too_long = longest, too_long

    def __call__(self, row: dict) -> lengths.Outcome:
        if not self.tools and has_tools(row):
            return lengths.Outcome(reason=TOOLS)
        try:
            return lengths.outcome(row, self.encode, self.longest, self.too_long)
        except MemoryError:
            raise
        except Exception as error:  # whatever a template raises, the trainer would raise as well
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return lengths.Outcome(reason=REFUSED, refusal=said[:SAID])


def has_tools(row: dict) -> bool:
    roles = {message["role"] for message in row["messages"]}
    return "tools" in row or not roles.isdisjoint(("tool_call", "tool"))


def without_form(rows: Lines, settings: dict) -> str:
    model = settings["model"]
    more = " …" if rows.count > SHOWN else ""
    return (
        f"run {settings['run']}: {rows.count} dialogues hold tools or tool calls "
        f"({', '.join(map(str, rows.lines))}{more}), and the template {model['template']} has no "
        f"form for them. State models.{model['name']}.agent_template (hermes, react_en, ...), or "
        "leave these dialogues out"
    )


class Tally:
    """What came of all rows, of both sides."""

    def __init__(self) -> None:
        self.lengths = {"train": Histogram(), "validation": Histogram()}
        self.sizes: list[int] = []  # of the rows to train, in tokens
        self.dropped: dict[str, Lines] = {}
        self.refusals: dict[str, Lines] = {}
        self.altered = {"truncated": Lines(), "split": Lines()}
        self.kept = sha256()
        self.read = self.loss = self.pieces = self.lost = 0

    def add(self, side: str, place: int, outcome: lengths.Outcome) -> None:
        where = f"{side}.jsonl:{place}"
        self.read += 1
        if outcome.reason:
            self.dropped.setdefault(outcome.reason, Lines()).add(where)
        said = outcome.refusal
        if said and (said in self.refusals or len(self.refusals) < SHOWN):
            self.refusals.setdefault(said, Lines()).add(where)
        if outcome.how:
            self.altered[outcome.how].add(where)
            self.pieces += len(outcome.kept) * (outcome.how == "split")
            self.lost += outcome.lost
        for row, length, with_loss in outcome.kept:
            self.kept.update(f"{side} {row['id']}\n".encode())
            self.lengths[side].add(length)
            if side == "train":
                self.sizes.append(length)
                self.loss += with_loss

    def said(self) -> str:
        return f"; the template says {next(iter(self.refusals))}" if self.refusals else ""

    def refuse(self, settings: dict, dataset: dict, receipt: Path) -> None:
        """UserError where nothing can be trained, or validated, with what is left."""
        run, longest = settings["run"], settings["training"]["max_length"]
        total = dataset["train_rows"] + dataset["validation_rows"]
        if self.read != total:
            raise UserError(f"{receipt.parent}: {self.read} rows, but its receipt counts {total}")
        if TOOLS in self.dropped:
            raise UserError(without_form(self.dropped[TOOLS], settings))
        if not self.sizes:
            why = ", ".join(f"{lines.count} {reason}" for reason, lines in self.dropped.items())
            raise UserError(
                f"run {run}: no dialogue fits max_length {longest} ({why}){self.said()}"
            )
        if dataset["validation_rows"] and not self.lengths["validation"].values:
            raise UserError(
                f"run {run}: no validation dialogue fits max_length {longest}; raise it, or set "
                "the dataset's validation_share to 0"
            )

    def record(self, settings: dict, dataset: str) -> dict:
        """The receipt, but for its files."""
        training, model = settings["training"], settings["model"]
        batch, seed, sizes = training["per_device_train_batch_size"], training["seed"], self.sizes
        train, validation = self.lengths["train"], self.lengths["validation"]
        tokens = train.record()
        return {
            "schema": 1,
            "run": settings["run"],
            "dataset": dataset,
            "made_with": settings.get("made_with", {}),
            "template": model["template"],
            "max_length": training["max_length"],
            "too_long": training["too_long"],
            "rows_read": self.read,
            "rows_kept": train.count + validation.count,
            "dropped": {reason: self.dropped[reason].record() for reason in sorted(self.dropped)},
            "refusals": {what: self.refusals[what].record() for what in sorted(self.refusals)},
            "truncated": self.altered["truncated"].record(),
            "split": self.altered["split"].record()
            | {"into": self.pieces, "exchanges_left_out": self.lost},
            "train_rows": train.count,
            "validation_rows": validation.count,
            "tokens": {
                "train": tokens.pop("total"),
                "validation": validation.record()["total"],
                "loss": self.loss,
                **tokens,
            },
            "loss_share": round(self.loss / sum(sizes), 4),
            "padded_share": round(lengths.padded_share(sizes, batch, seed, grouped=False), 4),
            "padded_share_grouped": round(
                lengths.padded_share(sizes, batch, seed, grouped=True), 4
            ),
            "steps_per_epoch": ceil(len(sizes) / (batch * training["gradient_accumulation_steps"])),
            "digest": jsonio.digest(
                [model["template"], model.get("system"), self.kept.hexdigest()]
            ),
        }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--dataset-receipt", type=Path, required=True, help="receipt.json; its rows lie beside it"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="of the base model")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--receipt", type=Path, required=True, help="output; the rows go beside it")
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenize")
    args = parser.parse_args()
    run, training = args.settings["run"], args.settings["training"]
    dataset, words = manifests.verified(args.dataset_receipt), manifests.verified(args.tokenizer)
    total = dataset["train_rows"] + dataset["validation_rows"]
    encode, tools = swift_encoder(
        manifests.folder_of(args.tokenizer, words), args.settings["model"]
    )
    fitter = Fitter(encode, tools, training["max_length"], training["too_long"])
    workers = args.workers if total > 2000 else 1  # a pool costs more than it saves on few rows
    progress, tally, written = Progress(f"tokenize {run}", total, "dialogues"), Tally(), []
    for side in ("train", "validation"):
        source = args.dataset_receipt.with_name(f"{side}.jsonl")
        written.append(args.receipt.with_name(f"{side}.jsonl"))
        with jsonio.writing(written[-1]) as file:
            made = process.forked(fitter, jsonio.read_jsonl(source), workers)
            for place, outcome in enumerate(made, start=1):
                tally.add(side, place, outcome)
                file.writelines(dumps(row, ensure_ascii=False) + "\n" for row, *_ in outcome.kept)
                progress.update(tally.read)
    tally.refuse(args.settings, dataset, args.dataset_receipt)
    record = tally.record(args.settings, dataset["dataset"])
    files = jsonio.file_entries(args.receipt.parent, written)
    jsonio.write_record(args.receipt, record | {"files": files})
    tokens, left_out = record["tokens"], sum(lines.count for lines in tally.dropped.values())
    cli.note(
        f"run {run}: {len(tally.sizes)} dialogues to train, {tokens['mean']:.0f} tokens each "
        f"(longest {tokens['max']}), {left_out} left out{tally.said()}, "
        f"{record['loss_share']:.0%} of tokens carry loss"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
