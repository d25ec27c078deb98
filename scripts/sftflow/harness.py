"""evalscope, asked for one benchmark at a time, with every answer kept (runs in its environment).

evalscope words the prompts, sends the requests through its own OpenAI client code and scores the
answers. Between it and the server stands `StoredModel`, which looks an answer up before it asks.
So evalscope always runs over a whole benchmark in a fresh folder, and asks nothing twice.
"""

import contextlib
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evalscope.api.benchmark import BenchmarkMeta
from evalscope.api.model import GenerateConfig, Model
from evalscope.api.registry import get_benchmark
from evalscope.config import TaskConfig
from evalscope.constants import EvalType
from evalscope.models.openai_compatible import OpenAICompatibleAPI
from evalscope.run import run_task
from openai import NOT_GIVEN
from openai.types.chat import ChatCompletion

from sftflow.answers import AnswerStore
from sftflow.cli import UserError
from sftflow.jsonio import digest, read_json, read_jsonl


class Unanswered(Exception):
    """A request that the store has no answer to."""

    def __init__(self, key: str, n: int, request: dict):
        super().__init__(f"request {key[:16]}, occurrence {n}")
        self.key, self.n, self.request = key, n, request


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


class StoredModel(OpenAICompatibleAPI):
    """evalscope's client of an OpenAI-compatible server, with a store in front of the server.

    `ask(request)` returns (completion as a dict, seconds); without it, a request that is not in the
    store raises Unanswered. Equal requests are told apart by the order in which they come.
    """

    def __init__(
        self,
        name: str,
        store: AnswerStore,
        system: str | None = None,
        ask: Callable[[dict], tuple[dict, float]] | None = None,
    ):
        super().__init__(name, base_url="http://localhost/v1", api_key="unused")
        self.validate_request_params({})  # looks at the real client, once, before it is replaced
        self.client = SimpleNamespace(
            chat=SimpleNamespace(completions=SimpleNamespace(create=self._create))
        )
        self._store, self._system, self._ask = store, system, ask
        self._seen: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self.last = threading.local()

    def _create(self, **request: Any) -> ChatCompletion:
        request = {name: value for name, value in request.items() if value is not NOT_GIVEN}
        del request["model"]  # a label here; the server's own name is random
        if self._system and request["messages"][0]["role"] != "system":
            first = {"role": "system", "content": self._system}
            request["messages"] = [first, *request["messages"]]
        key = digest(request)
        with self._mutex:
            n = self._seen[key]
            self._seen[key] += 1
        self.last.key, self.last.n, self.last.messages = key, n, request["messages"]
        answer = self._store.get(key, n)
        if answer is None:
            if self._ask is None:
                raise Unanswered(key, n, request)
            answer = self._store.add(key, n, *self._ask(request))
        self.last.seconds = answer["seconds"]
        return ChatCompletion.model_validate(answer["response"])

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """evalscope times the look-up; what counts is how long the server took."""
        output = super().generate(*args, **kwargs)
        output.time = output.message.perf_metrics.latency = self.last.seconds
        return output


def task(
    benchmark: dict, data: Path, subject: str, generation: dict, folder: Path, **changes: Any
) -> TaskConfig:
    """evalscope's task for one benchmark of the config; unknown dataset arguments are an error."""
    arguments = {
        "local_path": str(data.resolve()),
        "subset_list": list(benchmark["subsets"]),
        "few_shot_num": benchmark.get("shots"),
        "prompt_template": benchmark.get("prompt"),
    }
    arguments = {name: value for name, value in arguments.items() if value is not None}
    unknown = set(arguments) - {field.name for field in fields(BenchmarkMeta)} - {"local_path"}
    if unknown:  # evalscope would drop every sample and still end with status 0
        raise UserError(f"evalscope knows no dataset arguments {sorted(unknown)}")
    return TaskConfig(
        model_id=subject,
        datasets=[benchmark["dataset"]],
        dataset_args={benchmark["dataset"]: arguments},
        eval_type=EvalType.OPENAI_API,
        # evalscope's own retries would ask again what the store, or the server, has refused
        generation_config=GenerateConfig(retries=1, **generation),
        limit=benchmark.get("limit"),
        repeats=benchmark.get("repeats") or 1,
        eval_batch_size=1,  # look-ups in order: equal requests get the same answers each time
        work_dir=str(folder),
        no_timestamp=True,
        **changes,
    )


def question_id(subset: str, sample: Any) -> str:
    """Of a question as it stands in the data, before a template and examples go around it."""
    return digest(
        {
            "question": _plain(sample.input),
            "choices": sample.choices,
            "target": sample.target,
            "subset": subset,
        }
    )


def questions(config: TaskConfig, model: StoredModel) -> tuple[list[Question], list[Unanswered]]:
    """Every question of a benchmark, and the requests that are still to be made for them."""
    adapter = get_benchmark(config.datasets[0], config)
    rows: dict[tuple[str, int], str] = {}
    load = adapter.load

    def load_and_note() -> Any:
        """The question as it stands in the data, before a template and examples go around it."""
        loaded = load()
        for subset, samples in loaded[0].items():
            for sample in samples:
                rows[subset, sample.id] = question_id(subset, sample)
        return loaded

    adapter.load = load_and_note
    found, missing = [], []
    asker = Model(model, config.generation_config)
    for subset, samples in adapter.load_dataset().items():
        for sample in samples:
            try:
                asker.generate(sample.input, sample.tools)
            except Unanswered as request:
                missing.append(request)
            group = sample.id if sample.group_id is None else sample.group_id
            found.append(
                Question(
                    id=rows[subset, sample.id],
                    subset=subset,
                    index=group,
                    repeat=sample.id % config.repeats,
                    prompt=model.last.messages,
                    target=sample.target,
                    choices=len(sample.choices) if sample.choices else None,
                    key=model.last.key,
                    n=model.last.n,
                )
            )
    return found, missing


def _plain(content: Any) -> Any:
    return content if isinstance(content, str) else [m.model_dump(exclude={"id"}) for m in content]


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


def run(name: str, config: TaskConfig, found: list[Question]) -> tuple[dict, list[dict]]:
    """Let evalscope score a benchmark; (its figures, sample-level records). Fails loudly.

    evalscope ends with status 0 when it has scored nothing, so what it wrote is compared with what
    was asked. Figures: {metric, score, subsets: {name: score}}.
    """
    folder = Path(config.work_dir)
    shutil.rmtree(folder, ignore_errors=True)  # evalscope appends to what lies there
    with contextlib.redirect_stdout(sys.stderr):
        run_task(config)
    dataset = config.datasets[0]
    report = folder / "reports" / config.model_id / f"{dataset}.json"
    if not report.exists():
        raise UserError(f"benchmark {name}: evalscope wrote no report ({report})")
    figures = check_report(name, read_json(report), Counter(q.subset for q in found))
    records = []
    for subset in dict.fromkeys(question.subset for question in found):
        lines = f"{config.model_id}/{dataset}_{subset}.jsonl"
        predictions = {row["index"]: row for row in read_jsonl(folder / "predictions" / lines)}
        reviews = {row["index"]: row for row in read_jsonl(folder / "reviews" / lines)}
        asked = [question for question in found if question.subset == subset]
        if not len(asked) == len(predictions) == len(reviews):
            raise UserError(
                f"benchmark {name}, subset {subset!r}: {len(asked)} questions, "
                f"{len(predictions)} answers, {len(reviews)} scores"
            )
        for position, question in enumerate(asked):
            records.append(record(question, predictions[position], reviews[position]))
    return figures, sorted(records, key=lambda r: (r["subset"], r["index"], r["repeat"]))


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
