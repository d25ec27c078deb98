"""Sample-level records: what was asked, what came back, what evalscope made of it; and the checks.

evalscope ends with status 0 when it has scored nothing. Everything that it can leave out silently
is an error here that says what to do.
"""

import re
from collections import Counter
from dataclasses import dataclass

from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest


@dataclass(frozen=True)
class Question:
    """One sample of a benchmark. `id` is the same for every subject, whatever the prompt."""

    id: str
    subset: str
    index: int
    repeat: int
    prompt: list[dict]
    target: str | list[str]
    choices: int | None
    key: str
    n: int
    cluster: str | None = None  # questions on one passage are not independent


PASSAGE = 200  # characters that two questions must share before their last line


def passages(texts: list[str]) -> list[str | None]:
    """For each question of a subset the digest of the passage that it shares with others, or None.

    A passage is what stands before the question's last line, as in MMLU's history subjects. Where
    it is short it is no passage but a phrase such as "Choose the right answer.".
    """
    heads = [text.strip().rpartition("\n")[0].strip() for text in texts]
    often = Counter(heads)
    return [digest(h) if len(h) >= PASSAGE and often[h] > 1 else None for h in heads]


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
    metric = metrics[0]
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
        "metric": metric["identity"]["name"],
        "score": metric["score"],
        "subsets": {subset: row["score"] for subset, row in subsets.items()},
    }


def record(question: Question, prediction: dict, review: dict) -> dict:
    """A sample-level record, from evalscope's prediction and review of one question."""
    output = prediction["model_output"]
    choice, usage = output["choices"][0], output.get("usage") or {}
    score = review["sample_score"]["score"]
    content = choice["message"]["content"]
    answer = content if isinstance(content, str) else "".join(p.get("text", "") for p in content)
    extracted = score.get("extracted_prediction") or ""
    main = score.get("main_score_name") or next(iter(score["value"]))
    return {
        "id": question.id,
        "subset": question.subset,
        "index": question.index,
        "repeat": question.repeat,
        "prompt": question.prompt,
        "target": question.target,
        "answer": answer,
        "extracted": extracted,
        "score": float(score["value"][main]),
        "parsed": parsed(answer, extracted, question.choices),
        "finish_reason": {"max_tokens": "length"}.get(choice["stop_reason"], choice["stop_reason"]),
        "choices": question.choices,
        "cluster": question.cluster,
        "tokens_in": usage.get("input_tokens"),
        "tokens_out": usage.get("output_tokens"),
        "seconds": output["time"],
    }


# What may stand between the mark and the answer: spaces, Markdown, brackets, LaTeX.
_WRAP = r"(?:[\s*_`$(\[（【{\"'“]|\\\(|\\\[|\\(?:boxed|text|textbf|mathbf|mathrm)\b)*"
_MARK = rf"(?:answer|答案)(?:\s+is|是|为)?[\s*_]*[:：]?{_WRAP}"
_LETTER = re.compile(rf"{_MARK}([A-Z])(?![A-Za-z])", re.I)
_NUMBER = re.compile(rf"(?:\\boxed\s*\{{|{_MARK}|####\s*)[^\d\n}}]{{0,8}}[-−]?\d", re.I)


def parsed(answer: str, extracted: str, choices: int | None) -> bool:
    """Whether the answer states its choice, or its number, in an explicit form.

    evalscope falls back to the last capital letter, or the last number, of a text that states none;
    such a lucky or unlucky find is not parsed. Explicit: "ANSWER: B" or "答案：B" and the like,
    naming one of the options; \\boxed{42}, "answer is 42" or "#### 42" for a number. A benchmark
    without options whose extracted answer is no number is parsed when anything was extracted. The
    score is evalscope's either way.
    """
    if choices:
        letters = {chr(ord("A") + i) for i in range(choices)}
        return any(match in letters for match in _LETTER.findall(answer))
    if re.fullmatch(r"[-−]?[\d.,/ %]+", extracted.strip()):
        return bool(_NUMBER.search(answer))
    return bool(extracted.strip())
