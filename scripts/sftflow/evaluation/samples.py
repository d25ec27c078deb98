"""Sample-level records: what was asked, what came back and states, what evalscope made of it; and
the checks.

evalscope ends with status 0 when it has scored nothing. Everything that it can leave out silently
is an error here that says what to do.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest
from sftflow.evaluation.stated import Form, ending, equal, stated, without_reasoning


@dataclass(frozen=True)
class Question:
    """One sample of a benchmark. `id` is the same for every subject, whatever the prompt."""

    id: str
    subset: str
    index: int
    repeat: int
    prompt: list[dict]
    target: str | list[str]
    options: list[str] | None
    key: str
    n: int
    cluster: str | None = None  # questions on one passage are not independent
    same: str = ""  # equal for one question in several benchmarks


PASSAGE = 200  # characters that two questions must share before their last line


def passages(texts: list[str]) -> list[str | None]:
    """For each question of a subset the digest of the passage that it shares with others, or None.

    A passage is what stands before the question's last line, as in MMLU's history subjects. Where
    it is short it is no passage but a phrase such as "Choose the right answer.".
    """
    heads = [text.strip().rpartition("\n")[0].strip() for text in texts]
    often = Counter(heads)
    return [digest(h) if len(h) >= PASSAGE and often[h] > 1 else None for h in heads]


COUNTS = re.compile(r"[^\W_]|[-+*/%^=<>]|(?<=\d)[.,](?=\d)")  # letters, digits, operators, 1.5
GENERIC = 50  # bytes; a shorter stem may well stand before other options: "Which of these is true?"


def same_question(text: str, options: list[str] | None) -> str:
    """Digest by which one question is known in several benchmarks, however it is set there.

    By its stem alone, with case, width, spaces and punctuation left out: MMLU-Pro asks questions of
    MMLU's with more options. Only a stem too short to be of one question counts with its options,
    in any order. Bytes measure that in every script: a Chinese character says about as much as the
    three letters that it is long.
    """
    stem, *rest = (
        "".join(COUNTS.findall(unicodedata.normalize("NFKC", part).casefold()))
        for part in (text, *(options or ()))
    )
    return digest([stem, sorted(rest) if len(stem.encode()) < GENERIC else []])


def check_counts(name: str, benchmark: dict, manifest: dict, found: list[Question]) -> None:
    """Every subset that was asked for is there, whole; else a UserError that says what is not."""
    have = Counter(question.subset for question in found)
    for subset in benchmark["subsets"]:
        rows = manifest["subsets"].get(subset)
        if rows is None:
            raise UserError(
                f"benchmark {name} has no subset {subset!r}; "
                f"its data holds {', '.join(manifest['subsets'])}"
            )
        limit = benchmark.get("limit")
        wanted = (min(rows, limit) if limit else rows) * (benchmark.get("repeats") or 1)
        if not wanted:
            raise UserError(f"benchmark {name}: subset {subset!r} is empty")
        if have[subset] != wanted:
            raise UserError(
                f"benchmark {name}, subset {subset!r}: evalscope loads {have[subset]} questions, "
                f"its manifest promises {wanted}. Fetch the benchmark again."
            )


def check_report(name: str, report: dict, asked: dict[str, int]) -> dict:
    """{metric, score, subsets} of a whole report; UserError for one that is not whole."""
    metrics = report.get("metrics") or []
    summary = report.get("execution_summary") or {}
    if not metrics:
        raise UserError(
            f"benchmark {name}: evalscope reports no metric, so it scored no answer. "
            "Its log says why; a metric name that it does not know has this effect."
        )
    if summary.get("errored") or summary.get("incomplete"):
        raise UserError(
            f"benchmark {name}: evalscope scored {summary.get('succeeded')} of "
            f"{summary.get('requested')} answers, {summary.get('errored')} failed. See the log."
        )
    metric = main_metric(name, report)
    subsets = {
        subset["name"]: subset
        for category in metric["categories"]
        for subset in category["subsets"]
        if not subset.get("is_aggregate")
    }
    counts = {subset: row["num"] for subset, row in subsets.items()}
    if counts != dict(asked):
        raise UserError(
            f"benchmark {name}: evalscope scored {counts}, {dict(asked)} were asked. "
            "Check the names of the subsets."
        )
    return {
        "metric": metric_name(metric["identity"]),
        "score": metric["score"],
        "subsets": {subset: row["score"] for subset, row in subsets.items()},
    }


def main_metric(name: str, report: dict) -> dict:
    """The metric that a report itself calls its own: general_qa reports BLEU and Rouge in a row."""
    metrics, main = report["metrics"], report.get("primary_metric_identity")
    found = [metric for metric in metrics if metric["identity"] == main] or metrics
    if len(found) > 1:
        names = ", ".join(metric_name(metric["identity"]) for metric in found)
        raise UserError(f"benchmark {name}: evalscope names no main metric among {names}")
    return found[0]


def metric_name(identity: dict) -> str:
    """`accuracy`, `rouge l recall`."""
    dimensions = identity.get("dimensions") or {}
    return " ".join([identity["name"], *(str(dimensions[key]) for key in sorted(dimensions)[::-1])])


def record(question: Question, prediction: dict, review: dict) -> dict:
    """A sample-level record, from evalscope's prediction and review of one question. What was
    thought before the answer is apart (`thought`, only where there is any) and is not read.

    Three facts of an answer stand apart: what it states in an explicit form (`stated`), what
    evalscope read (`extracted`; in a text that states nothing it takes the last capital letter or
    number) and how that scored (`score`). `right` is strict, and null where answers are graded.
    """
    output = prediction["model_output"]
    choice, usage = output["choices"][0], output.get("usage") or {}
    score = review["sample_score"]["score"]
    content = choice["message"]["content"] or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    answer = "".join(part.get("text") or "" for part in parts)
    thought = "".join(part.get("reasoning") or "" for part in parts)
    reason = {"max_tokens": "length"}.get(choice["stop_reason"], choice["stop_reason"])
    if reason == "unknown":  # to evalscope, which notes the server's own word beside it
        reason = ((output.get("metadata") or {}).get("finish_reasons") or {}).get("0", reason)
    if any(part.get("refusal") for part in parts):
        reason = "refusal"
    main = score.get("main_score_name") or next(iter(score["value"]))
    form = asked_form(question, main)
    end = ending(answer, reason)
    if end == "empty" and without_reasoning(thought) is None:  # it never came to its answer
        end = "cut off"
    said = None if end == "refused" else stated(answer, form)
    # All letters of one answer, or the letters of which any is right.
    target = "".join(sorted(question.target)) if form.kind == "choices" else question.target
    return {
        "id": question.id,
        "subset": question.subset,
        "index": question.index,
        "repeat": question.repeat,
        "prompt": question.prompt,
        "target": target,
        "answer": answer,
        **({"thought": thought} if thought else {}),
        "stated": said,
        "extracted": score.get("extracted_prediction") or "",
        "score": float(score["value"][main]),
        "right": None if form.kind == "text" else right(said, end, target, form),
        "ending": end,
        "finish_reason": reason,
        "choices": len(question.options) if question.options else None,
        "cluster": question.cluster,
        "same": question.same,
        "tokens_in": usage.get("input_tokens"),
        "tokens_out": usage.get("output_tokens"),
        "seconds": output["time"],
    }


def thinking(samples: list[dict]) -> dict | None:
    """How much was thought: {answers, unfinished, characters (mean), share (of all that was
    written)}; None where nothing was."""
    thoughts = [sample for sample in samples if "thought" in sample]
    if not thoughts:
        return None
    length = sum(len(sample["thought"]) for sample in thoughts)
    return {
        "answers": len(thoughts),
        "unfinished": sum(not sample["answer"].strip() for sample in thoughts),
        "characters": round(length / len(thoughts), 1),
        "share": round(length / (length + sum(len(sample["answer"]) for sample in samples)), 4),
    }


def asked_form(question: Question, metric: str) -> Form:
    """What form of answer a question has, which is compared unless the metric grades it."""
    if question.options:
        several = metric == "multi_choice_acc"
        return Form("choices" if several else "choice", tuple(map(str, question.options)))
    return Form("number" if metric in ("accuracy", "acc") else "text")


def right(said: str | None, end: str, target: str | list[str], form: Form) -> bool:
    """Strictly: the answer came to its end and states what is right, or one of what is right."""
    targets = [target] if isinstance(target, str) else target
    if said is None or end != "complete":
        return False
    return any(equal(said, wanted, form) for wanted in targets)


def misread(sample: dict) -> bool:
    """Whether evalscope read something else, or nothing, where an answer states its choice."""
    if sample["stated"] is None or sample["right"] is None:
        return False
    form = Form("number" if sample["choices"] is None else "choice")
    return not equal(sample["stated"], sample["extracted"] or "", form)
