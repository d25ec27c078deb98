"""Let people judge what a judge is asked: export a blind sheet, and read it back.

    rate.py export --answers BASELINE/answers.json CANDIDATE/answers.json --output sheet.csv
    rate.py read sheet-of-ann.csv sheet-of-bo.csv --key sheet.key.json --results results

in:   export: --answers  <results>/dialogue/<subject>/answers.json of baseline and candidate
              --crisis   the answers to messages of a crisis instead, by five points
              --limit, --seed   so many turns or messages, drawn and shuffled by the seed
      read:   sheets as spreadsheets save them, one for each rater, named by its file; --key
out:  export: --output   the sheet: numbers and texts, nothing that says whose answer is whose;
                         <sheet>.key.json beside it, for nobody who rates
      read:   <results>/ratings/<baseline>--<candidate>.json (with -crisis): {schema, name, kind,
              of, answers, sheets [{rater, sha256, rated, blank}], outcomes {rater: {win, tie,
              loss}}, agreement [{first, second, what, n, agreement, kappa}]}: between raters, and
              of each with every judge in <results> that judged the same answers
env:  the workflow's (statsmodels).
"""

import random
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

from sftflow.core import cli
from sftflow.core.cli import UserError
from sftflow.core.jsonio import file_digest, read_jsonl, read_lines, read_record, write_record
from sftflow.core.layout import CRISIS_SET, PATHS, Results, pair_name
from sftflow.dialogue import judging, sheets
from sftflow.scoring.preference import kappa

Ratings = dict[str, dict[str, str]]  # {what: {item: category}}
PREFERENCE = "preference"


def main() -> None:
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="write a blind sheet and its key")
    out.add_argument("--answers", type=Path, nargs=2, required=True, metavar="ANSWERS")
    out.add_argument("--output", type=Path, required=True, help="sheet.csv")
    out.add_argument("--crisis", action="store_true", help="messages of a crisis, by five points")
    out.add_argument("--limit", type=int, default=100, help="turns or messages (default: 100)")
    out.add_argument("--seed", type=int, default=42)
    back = commands.add_parser("read", help="read sheets back")
    back.add_argument("sheets", type=Path, nargs="+", metavar="SHEET")
    back.add_argument("--key", type=Path, required=True, help="<sheet>.key.json")
    back.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    {"export": export, "read": read}[args.command](args)


def export(args) -> None:
    sides = [read_record(path) for path in args.answers]
    answers = []
    for path, side in zip(args.answers, sides, strict=True):
        lines = read_lines(path.parents[2] / side["records"], side["records_sha256"])
        answers.append({(r["dataset"], r["id"], r["turn"]): r for r in lines})
    chance = random.Random(args.seed)
    keys = [k for k in answers[0] if k in answers[1] and (k[0] == CRISIS_SET) == args.crisis]
    if not keys:
        raise UserError("the two have no answers to the same turns; see dialogue.limit and .crisis")
    keys = chance.sample(sorted(keys), min(args.limit, len(keys)))
    rows, solved = (crisis_rows if args.crisis else pair_rows)(keys, answers, chance)
    columns = (
        ["row", "message", "answer", *judging.POINTS, "note"]
        if args.crisis
        else ["row", "conversation", "A", "B", "choice", "note"]
    )
    sheets.write_sheet(args.output, columns, rows)
    key = args.output.with_suffix(".key.json")
    record = {
        "schema": 1,
        "kind": "crisis" if args.crisis else PREFERENCE,
        "of": [side["subject"] for side in sides],
        "answers": [side["identity"] for side in sides],
        "seed": args.seed,
        "rows": solved,
    }
    write_record(key, record)
    asked = "Y or N for each point" if args.crisis else "A, B or C (a tie) as choice"
    cli.note(f"{args.output}: {len(rows)} rows, {asked}; keep {key} away from those who rate")


def pair_rows(keys: list, answers: list[dict], chance: random.Random) -> tuple[list, list]:
    rows, solved = [], []
    for number, key in enumerate(keys, start=1):
        first = chance.randrange(2)
        messages = answers[0][key]["messages"]
        rows.append(
            {"row": number, "conversation": told(messages)}
            | {
                name: answers[side][key]["answer"]
                for name, side in (("A", first), ("B", 1 - first))
            }
        )
        dataset, id, turn = key
        solved.append({"row": number, "dataset": dataset, "id": id, "turn": turn})
        solved[-1]["first"] = judging.ORDERS[first]
    return rows, solved


def crisis_rows(keys: list, answers: list[dict], chance: random.Random) -> tuple[list, list]:
    both = [(key, side) for key in keys for side in range(2)]
    chance.shuffle(both)
    rows, solved = [], []
    for number, (key, side) in enumerate(both, start=1):
        one = answers[side][key]
        rows.append({"row": number, "message": told(one["messages"]), "answer": one["answer"]})
        solved.append({"row": number, "id": key[1], "side": judging.ORDERS[side]})
    return rows, solved


def told(messages: list[dict]) -> str:
    return judging.conversation(messages, judging.language_of(messages, "auto"))


def read(args) -> None:
    key = read_record(args.key)
    crisis = key["kind"] != PREFERENCE
    raters: dict[str, Ratings] = {}
    shown = []
    for path in args.sheets:
        if path.stem in raters:
            raise UserError(f"{path}: another sheet is called '{path.stem}' too; rename one")
        raters[path.stem], rated = of_sheet(path, key)
        blank = len(key["rows"]) - rated
        shown.append({"rater": path.stem, "sha256": file_digest(path)})
        shown[-1] |= {"rated": rated, "blank": blank}
    results = Results(args.results)
    judges = (crisis_judges if crisis else pair_judges)(results, key)
    pairs = [*combinations(raters, 2), *((rater, judge) for rater in raters for judge in judges)]
    agreed = [row for first, second in pairs for row in agreement(first, second, raters | judges)]
    pair = dict(zip(judging.ORDERS, key["of"], strict=True))
    name = pair_name(pair) + ("-crisis" if crisis else "")
    outcomes = {
        rater: Counter(found.get(PREFERENCE, {}).values()) for rater, found in raters.items()
    }
    write_record(
        results.path(PATHS.ratings, name=name),
        {
            "schema": 1, "name": name, "kind": key["kind"], "of": key["of"],
            "answers": key["answers"], "sheets": shown,
            "outcomes": {} if crisis else outcomes, "agreement": agreed,
        },
    )  # fmt: skip
    for row in agreed:
        known = "—" if row["kappa"] is None else f"{row['kappa']:.2f}"
        alike = f"{100 * row['agreement']:.1f} %"
        cli.note(
            f"{row['first']}, {row['second']}  {row['what']}: n {row['n']}, {alike}, κ {known}"
        )
    cli.note(f"{results.path(PATHS.ratings, name=name)}: `snakemake tables` shows it")


def of_sheet(path: Path, key: dict) -> tuple[Ratings, int]:
    """What a rater said, by the key; and how many rows they filled in."""
    crisis = key["kind"] != PREFERENCE
    wanted = judging.POINTS if crisis else ("choice",)
    said = sheets.read_sheet(path, wanted, sheets.YES_NO if crisis else sheets.CHOICES)
    rows = {row["row"]: row for row in key["rows"]}
    if others := sorted(said.keys() - rows.keys()):
        raise UserError(f"{path}: row {others[0]} is not in the key; is it another sheet's?")
    found: Ratings = {}
    rated = 0
    for number, cells in said.items():
        rated += any(cells.values())
        row = rows[number]
        for name, cell in cells.items():
            if cell and crisis:
                found.setdefault(name, {})[f"{row['side']}/{row['id']}"] = cell
            elif cell:
                side = judging.preferred(row["first"], cell)
                found.setdefault(PREFERENCE, {})[turn_name(row)] = judging.of_candidate(side)
    return found, rated


def turn_name(row: dict) -> str:
    return f"{row['dataset']}/{row['id']}/{row['turn']}"


def pair_judges(results: Results, key: dict) -> dict[str, Ratings]:
    name = pair_name(dict(zip(judging.ORDERS, key["of"], strict=True)))
    found = {}
    for path in results.every(PATHS.judgement):
        record = read_record(path)
        if path.stem == name and record["answers"] == key["answers"]:
            lines = read_jsonl(results.folder / record["records"])
            outcomes = {turn_name(line): judging.outcome(line) for line in lines}
            known = {item: outcome for item, outcome in outcomes.items() if outcome}
            found[f"judge {record['judge']}"] = {PREFERENCE: known}
    return found


def crisis_judges(results: Results, key: dict) -> dict[str, Ratings]:
    found: dict[str, Ratings] = {}
    for path in results.every(PATHS.crisis):
        record = read_record(path)
        for side, identity in zip(judging.ORDERS, key["answers"], strict=True):
            if record["answers"] != [identity]:
                continue
            for line in read_jsonl(results.folder / record["records"]):
                for point, holds in (line["points"] or {}).items():
                    judge = found.setdefault(f"judge {record['judge']}", {})
                    judge.setdefault(point, {})[f"{side}/{line['id']}"] = "Y" if holds else "N"
    return found


def agreement(first: str, second: str, everybody: dict[str, Ratings]) -> list[dict]:
    rows = []
    for what, said in everybody[first].items():
        others = everybody[second].get(what, {})
        both = [(said[item], others[item]) for item in said if item in others]
        if both:
            alike = sum(one == other for one, other in both) / len(both)
            one, other = zip(*both, strict=True)
            rows.append({"first": first, "second": second, "what": what, "n": len(both)})
            rows[-1] |= {"agreement": alike, "kappa": kappa(one, other)}
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main))
