"""The answers behind the scores, side by side: one page that needs no other file and no network.

Only the sample records that scores point to are read, and only where they are those of the score.
The page holds them as compressed JSON; templates/answers.js shows them, twenty questions at a time.
"""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import jinja2
from sftflow.core.jsonio import read_jsonl
from sftflow.core.layout import Results
from sftflow.reporting.cells import Cell
from sftflow.reporting.chinese import ANSWERS_PAGE
from sftflow.reporting.text import TEMPLATES, label
from sftflow.scoring.scores import group_items, item_vector, traits

MOST = 50_000  # answers that a page holds; pairs beyond them are named, not shown


@dataclass
class Shown:
    """What the page shows; `absent` says what it can't, and why."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    questions: dict[str, dict[str, list]] = field(default_factory=dict)  # benchmark: {key: …}
    answers: dict[str, dict[str, dict[str, list]]] = field(default_factory=dict)  # by subject
    absent: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        every = (items for mine in self.answers.values() for items in mine.values())
        return sum(len(found) for items in every for found in items.values())

    def __contains__(self, cell: tuple[str, str]) -> bool:
        subject, benchmark = cell
        return benchmark in self.answers.get(subject, {})


LINK = re.compile(
    r'href="\.\./(?:scores/([^/"]+)/([^/"#]+)\.json|report/answers\.html)(?:#([^"]*))?"'
)


def lead(page: str, shown: Shown, language: str) -> str:
    """The report's page, with its links to scores leading to the answers that are shown, and all
    that lead there in its own language."""

    def target(match: re.Match) -> str:
        subject, benchmark, place = match.groups()
        if subject and (unquote(subject), unquote(benchmark)) not in shown:
            return match[0]
        if subject:
            place = "&amp;".join(
                filter(None, [f"subject={subject}&amp;benchmark={benchmark}", place])
            )
        where = "&amp;".join(filter(None, [place, f"language={language}"]))
        return f'href="answers.html#{where}"'

    return LINK.sub(target, page)


@dataclass(frozen=True)
class Answers:
    """The page, and what the report says of it."""

    shown: Shown
    page: str

    @property
    def size(self) -> str:
        size = len(self.page.encode())
        return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def answers(study: dict, results: Results, cells: dict[tuple[str, str], Cell]) -> Answers:
    shown = gather(study, results, cells)
    return Answers(shown, page(study, shown))


def gather(study: dict, results: Results, cells: dict[tuple[str, str], Cell]) -> Shown:
    """The answers of every pair that is compared, as far as they are there and not too many."""
    shown, size = Shown(), 0
    waiting: dict[str, list[Cell]] = {}  # by subject, those that are not in the page yet
    for cell in cells.values():
        waiting.setdefault(cell.subject, []).append(cell)
    for pair in study["comparisons"]:
        sides = (pair["baseline"], pair["candidate"])
        mine = [cell for side in sides for cell in waiting.get(side, [])]
        more = sum(cell.score["answers"] for cell in mine if cell.usable)
        if size and size + more > MOST:
            shown.absent.append(f"{' → '.join(sides)}: the page holds {MOST:,} answers at most")
            continue
        size += more
        shown.pairs.append(sides)
        for cell in mine:
            add(shown, results, cell)
        for side in sides:
            waiting.pop(side, None)
    return shown


def add(shown: Shown, results: Results, cell: Cell) -> None:
    """Put the answers of one score into the page, or the reason why they can't be."""
    where = f"{cell.subject} {cell.benchmark}"
    if not cell.usable:
        shown.absent.append(f"{where}: {cell.note}")
        return
    path = results.folder / cell.score["samples"]
    if not path.exists():
        shown.absent.append(f"{where}: {cell.score['samples']} is not there")
        return
    items = group_items(list(read_jsonl(path)))
    found, stated = item_vector(items, None), cell.score["items"]
    if any(found[name] != stated[name] for name in ("digest", "scores")):
        shown.absent.append(f"{where}: {cell.score['samples']} holds other answers than the score")
        return
    clean = stated["clean"] or "1" * len(items)
    questions = shown.questions.setdefault(cell.benchmark, {})
    mine = shown.answers.setdefault(cell.subject, {}).setdefault(cell.benchmark, {})
    for item, untouched in zip(items, clean, strict=True):
        first, key = item["answers"][0], item["key"]
        asked = [first["subset"], first["index"], prompt(first), target(first)]
        common = questions.setdefault(key, asked)
        contaminated = ["contaminated"] if untouched == "0" else []
        mine[key] = [
            {
                "answer": answer["answer"],
                "stated": answer["stated"],
                "read": answer["extracted"],
                "score": answer["score"],
                "ending": answer["ending"],
                "traits": [*traits(answer), *contaminated],
                **({"thought": answer["thought"]} if answer.get("thought") else {}),
                **({"prompt": asked[2]} if asked[2] != common[2] else {}),
            }
            for answer in item["answers"]
        ]


def prompt(sample: dict) -> list[list[str]]:
    """[[role, text]] of what was asked."""
    return [[message["role"], text(message["content"])] for message in sample["prompt"]]


def text(content: str | list) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def target(sample: dict) -> str:
    wanted = sample["target"]
    return wanted if isinstance(wanted, str) else " / ".join(wanted)


def content(study: dict, shown: Shown) -> dict:
    """What the page's JSON holds: questions in the benchmark's order, answers beside them."""
    order = {
        benchmark: sorted(questions, key=lambda key: (questions[key][:2], key))
        for benchmark, questions in shown.questions.items()
    }
    return {
        "pairs": shown.pairs,
        "labels": {name: label(study, "subjects", name) for name in shown.answers},
        "benchmarks": {name: label(study, "benchmarks", name) for name in order},
        "questions": {
            name: [[key, *shown.questions[name][key]] for key in keys]
            for name, keys in order.items()
        },
        "answers": {
            subject: {name: [mine[name].get(key) for key in order[name]] for name in mine}
            for subject, mine in shown.answers.items()
        },
        "absent": shown.absent,
        "languages": study["languages"],
        "texts": {"zh": ANSWERS_PAGE},
    }


def page(study: dict, shown: Shown) -> str:
    data = json.dumps(content(study, shown), ensure_ascii=False, separators=(",", ":"))
    return alone(
        "answers",
        language=study["languages"][0],
        data=base64.b64encode(gzip.compress(data.encode(), 6, mtime=0)).decode(),
    )


def alone(name: str, **values: object) -> str:
    """A page with its script and style in it. Its policy lets these run and pictures show that are
    in it, too, nothing else, and makes no request."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    parts = {
        kind: (TEMPLATES / f"{name}.{form}").read_text(encoding="utf-8")
        for kind, form in (("script", "js"), ("style", "css"))
    }
    policy = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    policy += [f"{kind}-src 'sha256-{sha256(part)}'" for kind, part in parts.items()]
    template = environment.get_template(f"{name}.html.j2")
    return template.render(**parts, **values, policy="; ".join(policy))


def sha256(part: str) -> str:
    return base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
