"""A score: what the answers to one benchmark come to. Pure functions."""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest, file_digest, read_jsonl
from sftflow.evaluation.samples import misread
from sftflow.scoring import stats
from sftflow.scoring.consistent import QUESTION

DECIMALS = 5e-5 + 1e-9  # half a unit of the fourth decimal, to which evalscope rounds


def score_file(
    results: Path, evaluation: dict, benchmark: str, contamination: dict, settings: dict
) -> dict:
    """Content of scores/<subject>/<benchmark>.json, proven against evalscope's own figure.

    contamination: content of contamination.json, or {"benchmarks": {}} where nothing is known;
    settings: {confidence, made_with}.
    """
    overlap, confidence = contamination["benchmarks"].get(benchmark), settings["confidence"]
    entry = evaluation["benchmarks"].get(benchmark)
    if entry is None:
        raise UserError(
            f"{evaluation['subject']} {evaluation['suite']}: the session holds no benchmark "
            f"{benchmark}; it has {', '.join(evaluation['benchmarks'])}"
        )
    samples = load_samples(results, benchmark, entry)
    check_choices(benchmark, samples)
    made = {
        "schema": 1,
        "subject": evaluation["subject"],
        "benchmark": benchmark,
        "suite": evaluation["suite"],
        "metric": entry["metric"],
        "confidence": confidence,
        "made_with": settings.get("made_with", {}) | contamination.get("made_with", {}),
        **score(samples, overlap and set(overlap["ids"]), confidence),
        "evalscope": entry["evalscope"]["score"],
        "samples": entry["samples"],
        "identity": entry["identity"],
        "provenance": {**entry["parts"], **entry["provenance"]},
    }
    check_against_evalscope(made, entry["evalscope"])
    return made


def load_samples(results: Path, benchmark: str, entry: dict) -> list[dict]:
    """The records that a session points to, proven to be those it wrote."""
    if entry.get("status", "ok") != "ok":
        raise UserError(
            f"benchmark {benchmark} did not finish ({entry['status']}): evaluate it again"
        )
    path = results / entry["samples"]
    if not path.exists():
        raise UserError(f"{path} is missing: evaluate {benchmark} again")
    if file_digest(path) != entry["samples_sha256"]:
        raise UserError(
            f"{path} is not what the session wrote (its digest differs): delete it and evaluate "
            f"{benchmark} again"
        )
    samples = list(read_jsonl(path))
    if not samples:
        raise UserError(f"{path} holds no sample: check the subsets and limit of {benchmark}")
    if not {"stated", "same"} <= samples[0].keys():
        raise UserError(
            f"{path} is of an older version, which did not note what answers state, or which "
            f"questions are the same in several benchmarks. Delete it and "
            f"{path.parents[2]}/*.json, and run again: answers are kept, nothing is asked twice."
        )
    return samples


def check_choices(benchmark: str, samples: list[dict]) -> None:
    """An option scores exactly when it was read and is right: accuracy and F1 see the same."""
    for sample in samples:
        if sample["choices"] is None or sample["score"] not in (0, 1):
            continue
        right = option(sample["extracted"]) in targets_of(sample)
        if right != bool(sample["score"]):
            raise UserError(
                f"{benchmark}, {sample['subset']} {sample['index']}: the answer was read as "
                f"{sample['extracted']!r} where {sample['target']!r} is right, but its score is "
                f"{sample['score']:g}"
            )


def targets_of(sample: dict) -> list[str]:
    """The options of which any is right; more than one letter where they are right together."""
    target = sample["target"]
    return [option(target)] if isinstance(target, str) else [option(each) for each in target]


def option(letters: str | None) -> str:
    """Letters as they compare: evalscope takes `b` for `B`, and any order."""
    return "".join(sorted((letters or "").strip().upper()))


def score(samples: list[dict], overlapping: set[str] | None, confidence: float) -> dict:
    """Everything a score file says about its samples, for the whole benchmark and each subset.

    `overlapping`: ids of items that also occur in the subject's training data; None: not known.
    """
    items = group_items(samples)
    subsets: dict[str, list[dict]] = {}
    for item in items:
        subsets.setdefault(item["subset"], []).append(item)
    return {
        **summary(items, overlapping, confidence),
        "repeats": len(items[0]["answers"]),
        "subsets": [
            {"name": name, **summary(subsets[name], overlapping, confidence)}
            for name in sorted(subsets)
        ],
        "items": item_vector(items, overlapping),
    }


def group_items(samples: list[dict]) -> list[dict]:
    """Samples grouped by question, in the order of their keys.

    A key is the question's id, with a counter where the benchmark holds the very same question
    more than once: equal for every subject that was asked the same questions. A cluster is a
    passage, or a question that stands more than once in the benchmark.
    """
    groups: dict[tuple, list[dict]] = {}
    for sample in sorted(samples, key=lambda s: (s["subset"], s["index"], s["repeat"])):
        groups.setdefault((sample["subset"], sample["index"]), []).append(sample)
    seen: Counter[str] = Counter()
    often = Counter(answers[0]["same"] for answers in groups.values())
    items = []
    for (subset, index), answers in groups.items():
        first = answers[0]
        if any(answer["id"] != first["id"] for answer in answers):
            raise UserError(f"question {index} of {subset} has repeats with different ids")
        seen[first["id"]] += 1
        copy = seen[first["id"]]
        items.append(
            {
                "key": first["id"] if copy == 1 else f"{first['id']}#{copy}",
                "id": first["id"],
                "subset": subset,
                "cluster": first.get("cluster")
                or (first["same"] if often[first["same"]] > 1 else None),
                "same": first["same"],
                "choices": first["choices"],
                "answers": answers,
            }
        )
    repeats = {tuple(answer["repeat"] for answer in item["answers"]) for item in items}
    if len(repeats) > 1 or len(set(next(iter(repeats)))) != len(next(iter(repeats))):
        raise UserError(f"questions were not asked equally often (repeats {sorted(repeats)[:3]})")
    return sorted(items, key=lambda item: item["key"])


def summary(items: list[dict], overlapping: set[str] | None, confidence: float) -> dict:
    """Statistics over items (n), and counts of answers (n times repeats).

    `score` is evalscope's accuracy, which compares with other people's; `strict` counts what is
    stated, complete and right. Of the counts, `unparsed` state nothing in an explicit form,
    `misread` state something else than evalscope read, `truncated` were cut off, `empty` hold no
    text. `form` splits the answers by whether they state something and whether they score.
    """
    answers = [answer for item in items for answer in item["answers"]]
    graded = any(answer["right"] is None for answer in answers)
    said = [answer for answer in answers if answer["stated"] is not None]
    counts = Counter(trait for answer in answers for trait in traits(answer))
    result = {
        "n": len(items),
        **estimate(items, confidence),
        "strict": None if graded else estimate(items, confidence, "right"),
        "macro_f1": macro_f1(answers),
        "answers": len(answers),
        **{name: counts[name] for name in TRAITS},
        "accuracy_stated": None if graded or not said else fmean(a["right"] for a in said),
        "form": None if graded else form_counts(answers),
        "chance": chance(items),
        "clean": None,
    }
    if overlapping is not None:
        clean = [item for item in items if item["id"] not in overlapping]
        result["clean"] = {"n": len(clean), **estimate(clean, confidence)}
    return result


TRAITS: dict[str, Callable[[dict], bool]] = {
    "unparsed": lambda answer: answer["stated"] is None,
    "misread": misread,
    "truncated": lambda answer: answer["ending"] == "cut off",
    "empty": lambda answer: not answer["answer"].strip(),
}


def traits(answer: dict) -> list[str]:
    """What a reader must know of an answer: `unparsed`, `misread`, `truncated`, `empty`."""
    return [name for name, holds in TRAITS.items() if holds(answer)]


FORM = {
    (True, True): "stated_right", (True, False): "stated_wrong",
    (False, True): "unstated_right", (False, False): "unstated_wrong",
}  # fmt: skip


def form_counts(answers: list[dict]) -> dict[str, int]:
    """{stated_right, stated_wrong, unstated_right, unstated_wrong}: right is scored in full."""
    counts = Counter(FORM[answer["stated"] is not None, answer["score"] == 1] for answer in answers)
    return {name: counts[name] for name in FORM.values()}


def estimate(items: list[dict], confidence: float, what: str = "score") -> dict:
    """Mean score, standard error and interval. Repeats of a question, and questions that share a
    passage or template, are not independent: they are clustered."""
    answers = [(item, answer) for item in items for answer in item["answers"]]
    scores = [float(answer[what]) for _, answer in answers]
    clusters = None
    if len(answers) > len(items) or any(item["cluster"] for item in items):
        clusters = [item["cluster"] or item["key"] for item, _ in answers]
    mean = stats.mean(scores, clusters, confidence)
    return {
        "score": mean.mean,
        "stderr": mean.stderr,
        "ci95": list(mean.interval) if mean.interval else None,
    }


def macro_f1(answers: list[dict]) -> float | None:
    """Over the options of a multiple choice; None where answers are not options.

    Of the same extracted answers that the accuracy counts, a lucky find in an answer that states
    nothing included. Of several right options the one that was read stands for all, else the first.
    """
    if any(answer["choices"] is None for answer in answers):
        return None
    read = [option(answer["extracted"]) or None for answer in answers]
    targets = [targets_of(answer) for answer in answers]
    wanted = [own if own in right else right[0] for own, right in zip(read, targets, strict=True)]
    return stats.macro_f1(wanted, read)


def chance(items: list[dict]) -> float | None:
    """Accuracy of blindly guessing one option; None where there is nothing to choose from."""
    if not items or any(item["choices"] is None for item in items):
        return None
    right = [len(targets_of(item["answers"][0])) for item in items]
    return fmean(count / item["choices"] for count, item in zip(right, items, strict=True))


def item_vector(items: list[dict], overlapping: set[str] | None) -> dict:
    """What pairing needs: one score per item, ordered by key, and a digest of the keys.

    0/1 scores are one string of digits; `clean` marks with 1 what is not in the training data;
    `questions` is one string of QUESTION characters per item, equal for one question in several
    benchmarks (48 bits: among 20,000 questions, two are taken for one with a chance below 1e-6).
    """
    means = [sum(a["score"] for a in item["answers"]) / len(item["answers"]) for item in items]
    binary = all(value in (0, 1) for value in means)
    return {
        "digest": digest([item["key"] for item in items]),
        "scores": "".join(str(int(value)) for value in means) if binary else means,
        "clusters": [item["cluster"] or item["key"] for item in items]
        if any(item["cluster"] for item in items)
        else None,
        "questions": "".join(brief(item["same"]) for item in items),
        "clean": None
        if overlapping is None
        else "".join("0" if item["id"] in overlapping else "1" for item in items),
    }


def brief(sha256: str) -> str:
    """The first QUESTION characters of a digest in base64."""
    return b64encode(bytes.fromhex(sha256)[: QUESTION * 3 // 4]).decode()


def check_against_evalscope(score: dict, evalscope: dict) -> None:
    """evalscope rounds every subset, then their weighted mean (twice), to four decimals."""
    ours = {subset["name"]: subset["score"] for subset in score["subsets"]}
    theirs = evalscope["subsets"]
    if set(ours) != set(theirs):
        raise UserError(
            f"{score['subject']} {score['benchmark']}: samples are of {sorted(ours)}, evalscope "
            f"reports {sorted(theirs)}"
        )
    pairs = [(f"subset {name}", ours[name], theirs[name], DECIMALS) for name in sorted(ours)]
    rounding = 1 if len(ours) == 1 else 3
    pairs.append(("the whole", score["score"], evalscope["score"], rounding * DECIMALS))
    wrong = [
        f"{what}: {mine:.6f} from the samples, {other:.6f} by evalscope"
        for what, mine, other, tolerance in pairs
        if abs(mine - other) > tolerance
    ]
    if wrong:
        raise UserError(
            f"{score['subject']} {score['benchmark']}: the score differs from evalscope's\n  "
            + "\n  ".join(wrong)
            + f"\nLook at the samples ({score['samples']}) and evalscope's report beside them."
        )
