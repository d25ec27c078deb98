"""Bring the dialogues of one dataset into one form, and account for every row that was read.

in:   --source    <results>/datasets/<dataset>/source.json (the files lie in source/ beside it)
      settings    {"on_bad_rows": "drop"|"error", "max_bad_share": 0.01,
                   "validation_share": 0.05, "split_seed": 42,
                   "reasoning": "keep"|"drop"|"refuse", "same_speaker": "drop"|"join"}
out:  --train, --validation    one dialogue a line:
                  {"messages": [{"role", "content", "loss"?: false}, ...], "id": sha256,
                  "tools"?: JSON text}
      --receipt   {schema, dataset, source, revision, file_forms and row_forms {form: {count,
                   lines [first 20]}}, rows_read, rows_kept, dropped {reason: {count, lines}},
                   shortened, masked, reasoning, joined {count, lines} (kept rows with such turns),
                   ignored {field: kept rows that have it}, train_rows, validation_rows, roles,
                   turns, characters, digest (of the kept rows and the split)}
env:  envs/evalscope for Parquet and Arrow (pyarrow); others need no library.

A file is read whole or refused (inputs/rows.py). Every row read is either kept or dropped with a
reason. A share of bad rows above max_bad_share, or any with on_bad_rows: error, ends the job with
the reasons. Which side of the split a dialogue falls on depends on the seed and on itself alone, so
appended rows never move it. What follows the last answer that is learnt is left out of its
dialogue, which is counted as shortened.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from json import dumps
from pathlib import Path

from sftflow.core import cli, jsonio, manifests
from sftflow.core.cli import UserError
from sftflow.inputs import rows as files
from sftflow.inputs import sharegpt
from sftflow.inputs.receipts import SHOWN, Histogram, Lines

NAMES = 50  # names of fields that a receipt holds


def located_rows(
    folder: Path, names: list[str], forms: dict[str, Lines]
) -> Iterator[tuple[int | str, object]]:
    """Every row with its line number, or with file:number where there are several files.

    `forms` gets each file's name under what it turned out to be.
    """
    for name in names:
        form, rows = files.read(folder / name)
        forms.setdefault(form, Lines()).add(name)
        for number, row in rows:
            yield (f"{name}:{number}" if len(names) > 1 else number), row


def prepare(rows: Iterable, train: Path, validation: Path, settings: dict) -> dict:
    """Stream the (where, row) pairs into the two files; give the counts for the receipt."""
    share, seed = settings["validation_share"], settings["split_seed"]
    wanted = {key: settings[key] for key in ("reasoning", "same_speaker") if key in settings}
    dropped: dict[str, Lines] = {}
    forms: dict[str, Lines] = {}
    done = {name: Lines() for name in ("shortened", "masked", "reasoning", "joined")}
    ignored: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    seen, kept_digest = set(), sha256()
    read = 0
    sides: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    turns, characters = Histogram(), Histogram()
    with ExitStack() as stack:
        outputs = {
            "train": stack.enter_context(jsonio.writing(train)),
            "validation": stack.enter_context(jsonio.writing(validation)),
        }
        for where, raw in rows:
            read += 1
            try:
                made = sharegpt.normalise(raw, **wanted)
                row = made.row
                identity = bytes.fromhex(row["id"])
                if identity in seen:
                    raise sharegpt.BadRow("exact duplicate")
            except sharegpt.BadRow as bad:
                dropped.setdefault(bad.reason, Lines()).add(where)
                if bad.reason == "no conversations" and isinstance(raw, dict):
                    unknown.update(map(str, raw))
                continue
            seen.add(identity)
            forms.setdefault(made.form, Lines()).add(where)
            ignored.update(made.ignored)
            for name, lines in done.items():
                if getattr(made, name):
                    lines.add(where)
            side = "validation" if sharegpt.in_validation(row["id"], seed, share) else "train"
            sides[side] += 1
            kept_digest.update(side[:1].encode() + identity)
            outputs[side].write(dumps(row, ensure_ascii=False) + "\n")
            spoken = [message for message in row["messages"] if message["role"] != "system"]
            turns.add(len(spoken))
            characters.add(sum(len(message["content"]) for message in row["messages"]))
            roles.update(message["role"] for message in row["messages"])
        check(read, dropped, sides, settings, seen, unknown)
    return {
        "row_forms": {form: forms[form].record() for form in sorted(forms)},
        "rows_read": read,
        "rows_kept": sum(sides.values()),
        "dropped": {reason: dropped[reason].record() for reason in sorted(dropped)},
        **{name: lines.record() for name, lines in done.items()},
        "ignored": named(ignored),
        "train_rows": sides["train"],
        "validation_rows": sides["validation"],
        "roles": dict(sorted(roles.items())),
        "turns": turns.record(),
        "characters": characters.record(),
        "digest": kept_digest.hexdigest(),
    }


def named(fields: Counter) -> dict[str, int]:
    """Names of fields with their counts, the most frequent first, as far as they can be shown."""
    names = sorted(fields.items(), key=lambda item: (-item[1], item[0]))[:NAMES]
    return {str(name)[:80].encode(errors="replace").decode(): count for name, count in names}


def check(
    read: int,
    dropped: dict[str, Lines],
    sides: Counter,
    settings: dict,
    seen: set[bytes],
    unknown: Counter,
) -> None:
    """Raise UserError where this dataset should not be trained on as it is.

    unknown: fields of the rows that hold no dialogue.
    """
    bad = sum(lines.count for lines in dropped.values())
    reasons = "".join(
        f"\n  {lines.count:>8}  {reason} ({sharegpt.REASONS[reason]}): "
        f"lines {', '.join(map(str, lines.lines))}{' …' if lines.count > SHOWN else ''}"
        for reason, lines in sorted(dropped.items(), key=lambda item: -item[1].count)
    )
    if unknown:
        reasons += f"\n  fields of the rows without conversations: {', '.join(named(unknown))}"
    if read == 0:
        raise UserError("the dataset has no rows")
    if bad and settings["on_bad_rows"] == "error":
        raise UserError(f"{bad} of {read} rows are bad, and on_bad_rows is error:{reasons}")
    if bad == read:
        raise UserError(f"none of the {read} rows can be used:{reasons}")
    if bad > settings["max_bad_share"] * read:
        raise UserError(
            f"{bad} of {read} rows ({bad / read:.1%}) are bad, more than max_bad_share "
            f"({settings['max_bad_share']:.1%}) allows. Repair them, or raise that share:{reasons}"
        )
    if not sides["train"]:
        raise UserError("all rows fell into validation: lower validation_share")
    if settings["validation_share"] > 0 and not sides["validation"]:
        raise UserError(
            f"validation_share {settings['validation_share']} of {len(seen)} rows gave no row to "
            f"validate on. Raise it, {other_seed(settings, seen)}or set it to 0 to do without"
        )


def other_seed(settings: dict, seen: set[bytes]) -> str:
    """A dialogue's side is fixed by its hash, so a small set can only be helped by another seed."""
    for seed in range(settings["split_seed"] + 1, settings["split_seed"] + 101):
        sides = {
            sharegpt.in_validation(row.hex(), seed, settings["validation_share"]) for row in seen
        }
        if sides == {True, False}:
            return f"set split_seed: {seed}, "
    return ""


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", required=True, help="its name in the config")
    parser.add_argument("--source", type=Path, required=True, help="source.json")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--receipt", type=Path, required=True)
    args = parser.parse_args()
    origin = manifests.verified(args.source)
    names = [file["path"] for file in origin["files"]]
    forms: dict[str, Lines] = {}
    rows = located_rows(args.source.parent / "source", names, forms)
    counts = prepare(rows, args.train, args.validation, args.settings)
    receipt = {
        "schema": 1,
        "dataset": args.dataset,
        "source": origin["source"],
        "revision": origin["revision"],
        "made_with": args.settings.get("made_with", {}),
        "file_forms": {form: forms[form].record() for form in sorted(forms)},
        **counts,
        "files": jsonio.file_entries(args.receipt.parent, [args.train, args.validation]),
    }
    jsonio.write_record(args.receipt, receipt)
    drops = "; ".join(f"{drop['count']} {reason}" for reason, drop in counts["dropped"].items())
    cli.note(
        f"dataset {args.dataset}: {counts['rows_read']} rows read, {counts['train_rows']} to "
        f"train, {counts['validation_rows']} to validate, dropped: {drops or 'none'}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
