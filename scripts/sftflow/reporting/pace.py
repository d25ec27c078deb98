"""How long a study takes: each of its long steps, and all of them on one or two GPUs.

What was measured on the same hardware says how fast it is: trainings against their estimates,
servers until they answered, answers by their tokens. A step that was made as it is planned is
predicted without its own record, so that the plan can be held against it. Where nothing was
measured, constants stand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sftflow.core.layout import PATHS, Results
from sftflow.training.cost import CARDS

# Of one H100 and a model of 7.74 B parameters, see tests/performance/README.md (the whole study):
# seconds of a training job beside its steps, of a merge, of losses of texts under one set of
# weights, and what of each is there for the smallest model, too; per backend, seconds until a
# server answers, and generated tokens per second.
PARAMETERS = 7.74e9
BESIDE_STEPS, MERGE, LOSSES, LEAST = 50.0, 50.0, 31.0, 6.0
FURTHER = 0.25  # of a job of losses: what each further set of weights takes in it
STARTS = {"vllm": 40.0, "transformers": 50.0}
RATES = {"vllm": 12_400.0, "transformers": 1_023.0}
ANSWER = 250  # tokens of an answer, where none was seen
CONSTANTS, NOTHING = "constants", "nothing measured"


@dataclass(frozen=True)
class Step:
    """One long step. seconds: predicted, or None; measured: what it took; source: what the
    prediction rests on; after: the steps that come first; gpus: how many cards it takes."""

    name: str
    seconds: float | None
    measured: float | None
    source: str
    after: tuple[str, ...] = ()
    gpus: int = 1


def wall(steps: Sequence[Step], cards: int) -> float | None:
    """Seconds until all are done, each begun as soon as cards and what it needs are there."""
    if any(step.seconds is None for step in steps):
        return None
    ends: dict[str, float] = {}
    free, left = [0.0] * cards, list(steps)

    def begin(step: Step) -> float:
        wanted = sorted(free)[min(step.gpus, cards) - 1]
        return max([wanted, *(ends[name] for name in step.after if name in ends)])

    while left:
        waiting = {step.name for step in left}
        step = min((one for one in left if not waiting & set(one.after)), key=begin)
        left.remove(step)
        ends[step.name] = begin(step) + (step.seconds or 0.0)
        free = sorted(free)
        free[: min(step.gpus, cards)] = [ends[step.name]] * min(step.gpus, cards)
    return max(ends.values(), default=0.0)


def measured_card(results: Results) -> str | None:
    """The card of the trainings in results/, as `CARDS` calls it."""
    for path in results.every(PATHS.training):
        record = results.read(str(path.relative_to(results.folder))) or {}
        for name in record.get("hardware", {}).get("gpus", []):
            if found := next((part for part in CARDS if part in name.replace("-", " ")), None):
                return found
    return None


# --- training ------------------------------------------------------------------------------------


def card(names: Iterable[str] | None) -> str | None:
    """The name of a machine's GPUs; None without."""
    return next(iter(names or ()), None)


def is_on(names: Iterable[str] | None, wanted: str | None) -> bool:
    """Whether a record of these GPUs is of the wanted card, None being the CPU."""
    found = card(names)
    if wanted is None or found is None:
        return wanted == found
    return wanted in found.replace("-", " ")


def trained(results: Results, wanted: str | None, precision: str) -> dict[str, dict]:
    """Records of trainings on this card, and in this precision, by run."""
    files = (
        results.read(str(p.relative_to(results.folder))) for p in results.every(PATHS.training)
    )
    return {
        record["run"]: record
        for record in files
        if record
        and "seconds" in record.get("estimate", {})
        and is_on(record["hardware"].get("gpus"), wanted)
        and record["settings"].get("precision", "torch_dtype") == precision
    }


def training_step(
    run: str, model: str, estimated: float | None, parameters: int | None,
    records: dict[str, dict], own: dict | None, gpus: int, starts: float = 1,
) -> Step:  # fmt: skip
    """estimated: seconds of its steps by training/estimate.py; records: as `trained` gives them;
    own: that of this very training, if it was made; starts: in so many jobs."""
    others = [record for record in records.values() if record is not own]
    others = [record for record in others if record["model"] == model] or others
    source, share, rest = CONSTANTS, 1.0, for_size(BESIDE_STEPS, parameters or 0)
    if others:
        took = sum(record["train_seconds"] for record in others)
        share = took / sum(record["estimate"]["seconds"] for record in others)
        rest = fmean(job_seconds(record) - record["train_seconds"] for record in others)
        source = said(len(others), "training")
    seconds = None if estimated is None else estimated * share + rest * starts
    measured = job_seconds(own) if own else None
    return Step(f"train {run}", seconds, measured, source, gpus=gpus)


def for_size(seconds: float, parameters: int) -> float:
    """What takes so long for PARAMETERS, for another number of them."""
    return LEAST + (seconds - LEAST) * parameters / PARAMETERS


def job_seconds(record: dict) -> float:
    """What a training took as a job; as far as its events tell, if it was interrupted."""
    return record.get("job_seconds") or record["seconds"]


def merging_step(run: str, parameters: int | None, records: dict[str, dict | None]) -> Step:
    """records: merged.json by run."""
    known = {name: record["seconds"] for name, record in records.items()
             if record and "seconds" in record}  # fmt: skip
    others = [seconds for name, seconds in known.items() if name != run]
    seconds = for_size(MERGE, parameters) if parameters else None
    if others:
        seconds = fmean(others)
    source = said(len(others), "merge") if others else CONSTANTS
    return Step(f"merge {run}", seconds, known.get(run), source, (f"train {run}",))


# --- losses of texts -----------------------------------------------------------------------------


def losses(results: Results, wanted: str | None) -> dict[str, tuple[float, float]]:
    """{path of a record: (seconds of its job, what it did: see `for_weights`)} on this card, of
    subjects and of checkpoints; of none that found everything computed before."""
    found = {}
    for pattern in (PATHS.likelihood, PATHS.curve):
        for path in results.every(pattern):
            record = results.read(name := str(path.relative_to(results.folder))) or {}
            made = record.get("provenance", {})
            if made.get("computed") and is_on(made["hardware"].get("gpus"), wanted):
                found[name] = made["seconds"], for_weights(len(record.get("steps", [record])))
    return found


def for_weights(count: int) -> float:
    """What losses under so many weights take, in jobs of one."""
    return 1 + FURTHER * (count - 1)


def losses_step(
    name: str, file: str, weights: int | None, parameters: int | None,
    records: dict[str, tuple[float, float]], after: tuple[str, ...], gpus: int, here: bool,
) -> Step:  # fmt: skip
    """file: of its record; weights: how many; records: as `losses` gives them; here: whether
    constants may stand in."""
    others = [record for key, record in records.items() if key != file]
    measured = records[file][0] if file in records else None
    seconds, source = None, NOTHING
    if others:
        seconds = sum(took for took, _ in others) / sum(done for _, done in others)
        source = said(len(others), "job")
    elif here and parameters:
        seconds, source = for_size(LOSSES, parameters), CONSTANTS
    if seconds is not None:
        seconds = seconds * for_weights(weights) if weights else None
    return Step(name, seconds, measured, source, after, gpus)


# --- serving and asking --------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """What one subject's session took: seconds of each start and beside them, until it was proven;
    answers and generated tokens by dataset, and the seconds in which they were made."""

    starts: list[float]
    beside: float
    tokens: dict[str, tuple[int, int]]
    answering: float

    def answers(self, questions: dict[str, tuple[int | None, int]]) -> bool:
        """Whether all of these, and no others, were answered in it."""
        asked = {name: n for name, (n, _) in questions.items()}
        return asked == {name: n for name, (n, _) in self.tokens.items()}

    @property
    def seconds(self) -> float:
        return sum(self.starts) + self.beside + self.answering


def served(study: dict, results: Results, subject: str) -> tuple[str, str | None, Served] | None:
    """(backend, card, what was measured) of a subject; None if it was not served."""
    ready = results.read(PATHS.readiness, subject=subject)
    if ready is None:
        return None
    starts = [form["ready"] for form in ready["seconds"].values()]
    beside = max(0.0, ready.get("job_seconds", 0.0) - sum(starts))
    tokens: dict[str, tuple[int, int]] = {}
    spans: list[tuple[float, float]] = []
    for suite in study["evaluate"]["suites"]:
        made = results.read(PATHS.evaluation, subject=subject, suite=suite) or {}
        for entry in made.get("benchmarks", {}).values():
            asked = entry["provenance"].get("spans", []) if entry["status"] == "ok" else []
            if not asked or not (results.folder / entry["samples"]).is_file():
                continue
            spans += [(begin, end) for begin, end in asked]
            lines = results.lines(
                {"records": entry["samples"], "records_sha256": entry["samples_sha256"]}
            )
            counts = [line.get("tokens_out") or 0 for line in lines]
            name = entry["parts"]["settings"]["dataset"]
            n, before = tokens.get(name, (0, 0))
            tokens[name] = n + len(counts), before + sum(counts)
    on_cpu = ready.get("session", {}).get("device") == "cpu"
    where = None if on_cpu else card(ready.get("hardware", {}).get("gpus"))
    return ready["backend"]["name"], where, Served(starts, beside, tokens, covered(spans))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one span."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def serving_step(
    subject: str, entry: dict, backend: str, questions: dict[str, tuple[int | None, int]],
    sessions: dict[str, Served], parameters: int | None, here: bool,
) -> Step:  # fmt: skip
    """questions: by dataset how many are asked, and the most tokens of an answer; sessions: those
    of the same backend and card; here: whether constants may stand in, which are an H100's."""
    own = sessions.get(subject)
    if own and not own.answers(questions):
        own = None
    others = [one for one in sessions.values() if one is not own]
    timed = entry["form"] == "merged" and entry["serving"]["time_both_forms"]
    starts = 2 if timed else 1
    after = (f"merge {entry['run']}",) if entry["run"] else ()
    measured = own.seconds if own else None

    def step(seconds: float | None, source: str) -> Step:
        name = f"serve and ask {subject}"
        return Step(name, seconds, measured, source, after, entry["serving"].get("gpus") or 1)

    made = sum(tokens for one in others for _, tokens in one.tokens.values())
    took = sum(one.answering for one in others)
    if others and made and took:
        start = fmean(each for one in others for each in one.starts)
        begin, rate = starts * start + fmean(one.beside for one in others), made / took
        source = said(len(others), "subject")
    elif here and backend in RATES and parameters:
        begin = starts * STARTS[backend]
        rate = RATES[backend] * PARAMETERS / parameters
        source = CONSTANTS
    else:
        return step(None, NOTHING)
    total = 0.0
    for dataset, (n, most) in questions.items():
        if n is None:
            return step(None, "questions not known yet")
        total += n * min(most, mean_tokens(others, dataset))
    return step(begin + total / rate, source)


def mean_tokens(sessions: Sequence[Served], dataset: str) -> float:
    """Generated tokens of an answer: as seen of this benchmark, else of all, else a constant."""
    for wanted in ({dataset}, {name for one in sessions for name in one.tokens}):
        seen = [one.tokens[name] for one in sessions for name in wanted & one.tokens.keys()]
        if n := sum(count for count, _ in seen):
            return sum(tokens for _, tokens in seen) / n
    return ANSWER


def said(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)} measured here"
