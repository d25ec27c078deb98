"""The report's figures (root environment only: matplotlib).

Each function takes plain records, and `say`, which says a text of ours in the page's language; it
returns a Picture: the same bytes for the same records and fonts. Lines differ in dashes and markers
too, so that they are told apart in grey.
"""

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, cycle, groupby
from math import nan
from operator import itemgetter, mul
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.typing import RcKeyType
from sftflow.config.expand import said
from sftflow.scoring import stats

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it names each font it weighs

COLORS = ["#2563eb", "#dc6803", "#15803d", "#9333ea", "#be123c", "#0e7490", "#854d0e", "#475569"]
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
STYLE: dict[RcKeyType, Any] = {
    "svg.hashsalt": "sftflow",
    "svg.fonttype": "none",  # text stays text: the reader's fonts know the user's script
    "text.parse_math": False,  # a label with $ is a label
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
LATIN = "DejaVu Sans"  # comes with matplotlib
# What a reader's machine may have, for the text of an SVG.
STACK = (
    f"'{LATIN}', 'Noto Sans CJK SC', 'Source Han Sans SC', 'PingFang SC', 'Microsoft YaHei', "
    "'WenQuanYi Zen Hei', sans-serif"
)
# Files of fonts with Chinese glyphs, the best first.
CHINESE_FONTS = (
    "notosanscjk", "notosanssc", "sourcehansans", "pingfang", "msyh", "hiragino", "wqy", "simhei",
    "stheiti", "droidsansfallback", "uming", "simsun",
)  # fmt: skip
DPI = 160  # of a PNG

Say = Callable[..., str]


def english(text: str, **values: object) -> str:
    return text.format(**values) if values else text


@dataclass(frozen=True)
class Picture:
    """Panels side by side, drawn when they are asked for."""

    panels: tuple[Callable[[Axes], None], ...]
    width: float = 7.2
    height: float = 3.2

    def svg(self) -> str:
        text = self._saved("svg", metadata={"Date": None, "Creator": None}).decode()
        return re.sub(rf"'{LATIN}'(, '[^']*')*", STACK, text)

    def png(self, note: str = "") -> bytes:
        """`note` stands below it."""
        return self._saved("png", note, dpi=DPI, metadata={"Software": None})

    def _saved(self, form: str, note: str = "", **how: Any) -> bytes:
        with _style():
            figure, buffer = _laid_out(self, note), io.BytesIO()
            figure.savefig(buffer, format=form, **how)
        return buffer.getvalue()


@cache  # a picture is asked for twice, and finding the room for its text is most of the work
def _laid_out(picture: Picture, note: str) -> Figure:
    figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
    panels = FigureCanvasSVG(figure).figure.subplots(ncols=len(picture.panels), squeeze=False)
    for axes, panel in zip(panels[0], picture.panels, strict=True):
        panel(axes)
    if note:
        figure.supxlabel(note, fontsize=7, color="#6b7280", ha="left", x=0.01)
    if not chinese_font():
        _leave_room(figure)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine(None)
    return figure


@contextmanager
def _style() -> Iterator[None]:
    families = [LATIN, *filter(None, [chinese_font()])]
    with matplotlib.rc_context(STYLE | {"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of the font that measures
        yield


@cache
def chinese_font() -> str | None:
    """The name of a font on this machine that has Chinese glyphs; matplotlib brings none."""
    found = {
        place: path
        for path in sorted(font_manager.findSystemFonts(), reverse=True)
        for place, name in enumerate(CHINESE_FONTS)
        if Path(path).name.lower().startswith(name)
    }
    for _, path in sorted(found.items()):
        if FT2Font(path).get_char_index(ord("训")):
            font_manager.fontManager.addfont(path)
            return font_manager.FontProperties(fname=path).get_name()
    return None


def _leave_room(figure: Figure) -> None:
    """At both sides for Chinese text, which a font without its glyphs measures too narrow by two
    fifths."""
    wide = max(
        0.4 * float(text.get_fontsize()) / 72 * sum(map(_is_wide, text.get_text()))
        for text in figure.findobj(Text)
    )
    share = min(wide / figure.get_figwidth(), 0.3)
    figure.set_layout_engine("constrained", rect=(share, 0, 1 - 2 * share, 1))


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _shown(
    records: dict, axes: Axes, title: str, what: str, say: Say
) -> list[tuple[str, dict, dict]]:
    """(name, record, colour and marker) of as many records as there are colours; the title says how
    many."""
    shown = list(records.items())[: len(COLORS)]
    if len(shown) < len(records):
        title += say(f" (first {{shown}} of {{all}} {what})", shown=len(shown), all=len(records))
    axes.set_title(title)
    if not records:
        axes.text(
            0.5, 0.5, say("no data yet"), ha="center", transform=axes.transAxes, color="#6b7280"
        )
        axes.grid(False)
    return [
        (short(name), record, {"color": COLORS[place], "marker": MARKERS[place]})
        for place, (name, record) in enumerate(shown)
    ]


LONGEST = 40  # characters of a label: a picture of labels alone shows nothing


def short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _dashes(look: dict) -> dict:
    """The same colour as a line without markers, told apart by its dashes."""
    return {"color": look["color"], "ls": STYLES[MARKERS.index(look["marker"]) % len(STYLES)]}


INSIDE = 4  # entries of a legend
OUTSIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def _legend(axes: Axes, **where: Any) -> None:
    """Outside where it would cover what it explains."""
    if count := len(axes.get_legend_handles_labels()[0]):
        axes.legend(fontsize=8, **(OUTSIDE if count > INSIDE else {}) | where)


def loss(records: dict[str, dict], say: Say = english) -> Picture:
    """Training loss of each optimizer step (faint) and as a mean over the window of steps before
    it, and validation loss (markers), from training.json by run. Single spikes may leave the
    picture: all else would lie flat below them."""

    def draw(axes: Axes) -> None:
        highest = 0.0
        for name, record, look in _shown(records, axes, say("Loss"), "runs", say):
            curve, checks = record["curve"], record.get("validation_curve")
            steps, losses = curve["step"], curve["loss"]
            weights = curve.get("labelled") or [1] * len(losses)
            smooth = running_mean(losses, weights, record.get("window_steps", 1))
            axes.plot(steps, losses, color=look["color"], lw=0.6, alpha=0.35)
            axes.plot(steps, smooth, lw=1.5, label=name, **_dashes(look))
            highest = max(highest, *smooth, np.quantile(losses, 0.98))
            if checks:
                highest = max(highest, *checks["loss"])
                named = say("{name}, validation", name=name)
                axes.plot(
                    checks["step"], checks["loss"], ls="", ms=5, label=named, mec="white", **look
                )
        if highest:
            axes.set_ylim(0, 1.08 * highest)
        axes.set_xlabel(say("Optimizer step"))
        axes.set_ylabel(say("Cross-entropy per token (nats)"))
        _legend(axes)

    return Picture((draw,))


def running_mean(values: list[float], weights: list[float], window: int) -> list[float]:
    """At each place the weighted mean of the last `window` values, of all where there are fewer."""
    sums = [0.0, *accumulate(map(mul, weights, values))]
    totals = [0.0, *accumulate(weights)]
    ends = [(max(0, end - window), end) for end in range(1, len(sums))]
    return [(sums[end] - sums[begin]) / (totals[end] - totals[begin]) for begin, end in ends]


def learning_rate(records: dict[str, dict], say: Say = english) -> Picture:
    def draw(axes: Axes) -> None:
        for name, record, look in _shown(records, axes, say("Learning rate"), "runs", say):
            curve = record["curve"]
            axes.plot(curve["step"], curve["learning_rate"], lw=1.3, label=name, **_dashes(look))
        axes.set_xlabel(say("Optimizer step"))
        axes.set_ylabel(say("Learning rate"))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        _legend(axes)

    return Picture((draw,))


def gpu(records: dict[str, dict], say: Say = english) -> Picture:
    """How busy the GPUs were, and the most memory in use on one of them, over the time of training:
    `gpu_curve` of training.json by run."""

    def panel(series: str, title: str, unit: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for name, record, look in _shown(records, axes, say(title), "runs", say):
                curve = record["gpu_curve"]
                minutes = [second / 60 for second in curve["seconds"]]
                axes.plot(minutes, curve[series], lw=1.3, label=name, **_dashes(look))
            axes.set_ylim(bottom=0)
            axes.set_xlabel(say("Minutes since the first step"))
            axes.set_ylabel(unit)
            _legend(axes)

        return draw

    return Picture(
        (
            panel("utilisation_percent", "GPU utilisation", "%"),
            panel("memory_gib", "GPU memory", "GiB"),
        ),
        width=10.0,
    )


def learning_curve(rows: list[dict], say: Say = english) -> Picture:
    """Loss by step, from the rows of the table of curves: held-out dialogues on the left, with the
    paired interval of the difference from the lowest, and neutral text on the right."""
    runs: dict[str, dict] = {}
    for row in rows:
        runs.setdefault(row["run"], {}).setdefault((row["neutral"], row["text"]), []).append(row)

    def panel(neutral: bool, title: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for name, texts, look in _shown(runs, axes, say(title), "runs", say):
                mine = [item for item in texts.items() if item[0][0] == neutral]
                for ((_, text), curve), style in zip(mine, cycle(STYLES), strict=False):
                    steps, losses = ([row[key] for row in curve] for key in ("step", "loss"))
                    named = f"{name}, {text.removeprefix('neutral-')}" if neutral else name
                    axes.plot(steps, losses, ls=style, ms=4, lw=1.4, label=named, **look)
                    if not neutral:
                        _lowest(axes, curve, look["color"])
            axes.set_xlabel(say("Optimizer step (0: before the first)"))
            axes.set_ylabel(say("Cross-entropy per token (nats)"))
            _legend(axes)

        return draw

    return Picture((panel(False, "Held-out dialogues"), panel(True, "Neutral text")), width=10.0)


def _lowest(axes: Axes, curve: list[dict], color: str) -> None:
    """A ring around the lowest, and the interval of each difference from it."""
    best = next(row for row in curve if row["step"] == row["from_step"])
    low, high = (
        [best["loss"] + (row[end] or 0.0) for row in curve] for end in ("ci_low", "ci_high")
    )
    axes.fill_between([row["step"] for row in curve], low, high, color=color, alpha=0.15, lw=0)
    axes.plot(best["step"], best["loss"], "o", ms=11, mfc="none", mec=color, mew=1.5)


def scores(
    points: dict[str, dict[str, tuple[float, float, float]]], chance: dict, say: Say = english
) -> Picture:
    """Accuracy with its interval: {subject: {benchmark: (score, low, high)}} as shares of 1.

    `chance`: {benchmark: share} where there is something to guess.
    """
    benchmarks = list(dict.fromkeys(name for record in points.values() for name in record))

    def draw(axes: Axes) -> None:
        shown = _shown(points, axes, say("Scores with their intervals"), "subjects", say)
        spread = min(0.7, 0.16 * len(shown))
        for place, (name, record, look) in enumerate(shown):
            shift = spread * (place / max(len(shown) - 1, 1) - 0.5) if len(shown) > 1 else 0.0
            rows = [(benchmarks.index(b) + shift, *values) for b, values in record.items()]
            axes.errorbar(
                [100 * score for _, score, _, _ in rows],
                [y for y, *_ in rows],
                xerr=[
                    [100 * (score - low) for _, score, low, _ in rows],
                    [100 * (high - score) for _, score, _, high in rows],
                ],
                ls="", ms=6, elinewidth=1.6, label=name, **look,
            )  # fmt: skip
        guess = [(100 * chance[b], y) for y, b in enumerate(benchmarks) if chance.get(b)]
        if guess:
            axes.plot(*zip(*guess, strict=True), "|", ms=16, color="#6b7280", label=say("chance"))
        axes.set_yticks(range(len(benchmarks)), [*map(short, benchmarks)])
        axes.set_ylim(len(benchmarks) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel(say("Score (%)"))
        _legend(axes, **OUTSIDE)

    return Picture((draw,), height=max(2.4, 1.2 + 0.5 * len(benchmarks)))


# Marker, colour, filled: a verdict is seen in grey, too.
MARKS = {
    stats.BETTER: (">", "#15803d", True),
    stats.WORSE: ("<", "#be123c", True),
    stats.SAME: ("s", "#475569", True),
    stats.UNDECIDED: ("o", "#475569", False),
}
LINES = 40  # of the figure of differences: as many as a page holds


def differences(rows: list[dict], margin: float | None = None, say: Say = english) -> Picture:
    """What changed, with its interval: {pair, name, suite, difference, ci_low, ci_high, verdict}.

    A suite's own claim stands above those of its benchmarks, in bold. Of many the suites alone are
    shown; the band is the margin within which a difference does not matter.
    """
    lines = _under_pairs(rows)
    if len(lines) > LINES:
        lines = _under_pairs([row for row in rows if row["suite"]])
    if len(lines) > LINES:
        changed = sorted(rows, key=lambda row: row["verdict"] == stats.UNDECIDED)
        lines = _under_pairs([row for row in changed if row["suite"]])[:LINES]
    if lines and isinstance(lines[-1], str):  # its row was cut off
        lines.pop()
    shown = [row for row in lines if not isinstance(row, str)]

    def draw(axes: Axes) -> None:
        title = say("What changed")
        if len(shown) < len(rows):
            title += say(" ({shown} of {all})", shown=len(shown), all=len(rows))
        _shown({"": {}} if rows else {}, axes, title, "", say)
        if margin and rows:
            named = say("margin")
            axes.axvspan(-100 * margin, 100 * margin, color="#e5e7eb", lw=0, label=named)
        axes.axvline(0, color="#1f2937", lw=1)
        told = set()
        for place, row in enumerate(lines):
            if isinstance(row, str):
                continue
            marker, color, filled = MARKS[row["verdict"]]
            low, middle, high = (100 * row[key] for key in ("ci_low", "difference", "ci_high"))
            axes.errorbar(
                middle, place, xerr=[[middle - low], [high - middle]], fmt=marker, color=color,
                ms=8 if row["suite"] else 6, mfc=color if filled else "white",
                elinewidth=2.2 if row["suite"] else 1.3,
                label=None if row["verdict"] in told else say(row["verdict"]),
            )  # fmt: skip
            told.add(row["verdict"])
        names = [row if isinstance(row, str) else row["name"] for row in lines]
        axes.set_yticks(range(len(lines)), [*map(short, names)])
        for row, tick in zip(lines, axes.get_yticklabels(), strict=True):
            tick.set_fontweight("bold" if isinstance(row, str) or row["suite"] else "normal")
            tick.set_fontstyle("italic" if isinstance(row, str) else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlabel(say("Difference (percentage points), with its interval"))
        _legend(axes, **OUTSIDE)

    return Picture((draw,), height=max(2.2, 1.1 + 0.27 * len(lines)))


def _under_pairs(rows: list[dict]) -> list[dict | str]:
    lines: list[dict | str] = []
    for pair, mine in groupby(rows, key=itemgetter("pair")):
        lines += [pair, *mine]
    return lines


def token_lengths(fits: dict[str, dict], datasets: dict[str, dict], say: Say = english) -> Picture:
    """Dialogues by turns and by tokens, each histogram once.

    Both are {name: {"histogram": [[lower edge, count]]}}. Bin i reaches from its edge to the next
    one; bins are two per doubling, so the axes are logarithmic and a bar's height is its count.
    """

    def panel(records: dict[str, dict], unit: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            title = say(f"{unit} per dialogue")
            for name, record, look in _shown(records, axes, title, "datasets", say):
                bins = [(edge, count) for edge, count in record["histogram"] if edge > 0]
                if not bins:
                    continue
                edges = [edge for edge, _ in bins] + [_next_edge(bins[-1][0])]
                counts = [count for _, count in bins]
                axes.stairs(counts, edges, lw=1.5, label=name, **_dashes(look))
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.set_xlabel(say(unit))
            axes.set_ylabel(say("Dialogues"))
            _legend(axes)

        return draw

    return Picture((panel(datasets, "Turns"), panel(fits, "Tokens")), width=10.0)


def _next_edge(edge: int) -> int:
    """Edges run 1, 2, 3, 4, 6, 8, 12, 16, 24, …"""
    if edge < 2:
        return edge + 1
    power = 1 << (edge.bit_length() - 1)
    return power + power // 2 if edge == power else 2 * power


SWEEPS = 3  # panels side by side


def sweep(found: dict[str, list[dict]], say: Say = english) -> Picture:
    """Validation loss over a sweep's grid: {sweep: [{values: {key: value}, losses: by seed}]}.

    One key that varies is a line, seeds its band; two are a heat map of means, the least one
    framed. Of more, the two with most values are shown, each cell with the least of the others.
    """
    shown = list(found.items())[:SWEEPS] or [(say("Sweeps"), [])]
    more = ""
    if len(found) > SWEEPS:
        more = say(" (first {shown} of {all} sweeps)", shown=len(shown), all=len(found))

    def panel(name: str, points: list[dict]) -> Callable[[Axes], None]:
        values = {key: _sorted(p["values"][key] for p in points) for key in _keys(points)}
        varied = sorted(
            (key for key in values if len(values[key]) > 1), key=lambda k: -len(values[k])
        )

        def draw(axes: Axes) -> None:
            _shown({name: {}} if points else {}, axes, name, "", say)
            if len(varied) > 1:
                _heat_map(axes, points, varied, values, say)
            elif points:
                key = varied[0] if varied else next(iter(values), "")
                _line(axes, points, key, values.get(key, [""]), say)

        return draw

    panels = [
        panel(name if place else name + more, points) for place, (name, points) in enumerate(shown)
    ]
    return Picture(tuple(panels), width=max(5.4, 4.6 * len(panels)), height=3.6)


def _keys(points: list[dict]) -> list[str]:
    return list(points[0]["values"]) if points else []


def _sorted(values: Iterable[Any]) -> list[Any]:
    """Each value once; numbers by size, else as they stand in the grid."""
    once = list({said(value): value for value in values}.values())
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in once)
    return sorted(once) if numbers else once


def _ticks(values: list[Any]) -> list[str]:
    texts = [said(value) for value in values]
    return [text if len(text) <= 16 else f"{text[:15]}…" for text in texts]


def _line(axes: Axes, points: list[dict], key: str, values: list[Any], say: Say) -> None:
    by_value = {said(point["values"].get(key, "")): point["losses"] for point in points}
    found = [(place, by_value[said(v)]) for place, v in enumerate(values) if said(v) in by_value]
    places = [place for place, _ in found]
    means = [fmean(losses) for _, losses in found]
    spreads = [stdev(losses) if len(losses) > 1 else 0.0 for _, losses in found]
    if any(spreads):
        low, high = zip(*((m - s, m + s) for m, s in zip(means, spreads, strict=True)), strict=True)
        axes.fill_between(
            places, low, high, color=COLORS[0], alpha=0.15, lw=0, label=say("± SD of seeds")
        )
        for place, losses in found:
            axes.plot([place] * len(losses), losses, ".", ms=4, color=COLORS[0], alpha=0.6)
    line = "-" if all(isinstance(v, int | float) for v in values) else ""
    axes.plot(places, means, ls=line, marker="o", ms=5, lw=1.5, color=COLORS[0], label=say("mean"))
    axes.set_xticks(range(len(values)), _ticks(values))
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xlabel(key)
    axes.set_ylabel(say("Validation loss (nats)"))
    if any(spreads):
        _legend(axes)


def _heat_map(axes: Axes, points: list[dict], varied: list[str], values: dict, say: Say) -> None:
    across, up, *others = varied
    cells: dict[tuple[str, str], list[float]] = {}
    for point in points:
        place = said(point["values"][across]), said(point["values"][up])
        cells.setdefault(place, []).append(fmean(point["losses"]))
    table = [
        [min(cells.get((said(x), said(y)), [nan])) for x in values[across]] for y in values[up]
    ]
    axes.imshow(table, cmap="viridis_r", aspect="auto", origin="lower")
    known = [loss for row in table for loss in row if loss == loss]
    middle = (min(known) + max(known)) / 2
    for y, row in enumerate(table):
        for x, loss in enumerate(row):
            if loss == loss and len(values[across]) <= 8:
                color = "black" if loss < middle else "white"
                axes.text(x, y, f"{loss:.3f}", ha="center", va="center", color=color, fontsize=9)
            if loss == min(known):
                corner = (x - 0.48, y - 0.48)
                axes.add_patch(
                    Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=COLORS[4], lw=2.5)
                )
    axes.grid(False)
    axes.set_xticks(range(len(values[across])), _ticks(values[across]))
    axes.set_yticks(range(len(values[up])), _ticks(values[up]))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    title = say("{name}: validation loss", name=axes.get_title(loc="left"))
    if others:
        title += say("; least over {keys}", keys=", ".join(others))
    axes.set_title(title)
