"""evalscope, asked for one benchmark at a time, with every answer kept (runs in its environment).

evalscope words the prompts, sends the requests through its own OpenAI client code and scores the
answers. Between it and the server stands `StoredModel`, which looks an answer up before it asks.
So evalscope always runs over a whole benchmark in a fresh folder, and asks nothing twice.
"""

import contextlib
import copy
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
from evalscope.api.benchmark import BenchmarkMeta
from evalscope.api.model import GenerateConfig, Model
from evalscope.api.registry import BENCHMARK_REGISTRY, get_benchmark
from evalscope.config import TaskConfig
from evalscope.constants import EvalType
from evalscope.models.openai_compatible import OpenAICompatibleAPI
from evalscope.run import run_task
from openai import NOT_GIVEN
from openai.types.chat import ChatCompletion
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest, read_json, read_jsonl
from sftflow.core.layout import NLTK_DATA
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.samples import Question, check_report, passages, record, same_question
from sftflow.evaluation.stated import reasoning_apart
from sftflow.serving.completions import NoAnswer, normalised


class Unanswered(Exception):
    """A request that the store has no answer to."""

    def __init__(self, key: str, n: int, request: dict):
        super().__init__(f"request {key[:16]}, occurrence {n}")
        self.key, self.n, self.request = key, n, request


class StoredModel(OpenAICompatibleAPI):
    """evalscope's client of an OpenAI-compatible server, with a store in front of the server.

    `ask(request)` returns (completion as a dict, seconds); without it, a request that is not in the
    store raises Unanswered. Equal requests are told apart by the order in which they come: where a
    seed is stated, the n-th gets seed + n, so that repeats are drawn anew.
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
        request |= request.pop("extra_body", {})  # as it stands in what is sent
        if self._system and request["messages"][0]["role"] != "system":
            first = {"role": "system", "content": self._system}
            request["messages"] = [first, *request["messages"]]
        key = digest(request)
        with self._mutex:
            n = self._seen[key]
            self._seen[key] += 1
        if "seed" in request and n:  # a repeat: the same question, drawn anew
            request["seed"] += n
            key, n = digest(request), 0
        self.last.key, self.last.n, self.last.messages = key, n, request["messages"]
        answer = kept(self._store, key, n)
        if answer is None:
            if self._ask is None:
                raise Unanswered(key, n, request)
            answer = self._store.add(key, n, *self._ask(request))
        self.last.seconds = answer["seconds"]
        # built, not validated: a finish reason of the server's own is one
        return ChatCompletion.construct(**to_be_read(answer["response"]))

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """evalscope times the look-up; what counts is how long the server took."""
        output = super().generate(*args, **kwargs)
        output.time = output.message.perf_metrics.latency = self.last.seconds
        return output


def kept(store: AnswerStore, key: str, n: int) -> dict | None:
    """A stored answer, in today's form; None, so that it is asked again, where an older version
    stored what holds no answer."""
    answer = store.get(key, n)
    try:
        response = answer and normalised(answer["response"], answer["response"]["model"])
    except (NoAnswer, TypeError, KeyError):
        return None
    return answer and answer | {"response": response}


def to_be_read(response: dict) -> dict:
    """A completion as evalscope should read it: what was thought stands beside the answer.

    Left to itself it knows <think> alone, and takes a letter out of thoughts that never ended.
    """
    choice = response["choices"][0]
    message = choice["message"]
    thought, answer = reasoning_apart(message["content"])
    if not thought:
        return response
    beside = message.get("reasoning_content", "") + thought
    message = message | {"content": answer or "", "reasoning_content": beside}
    return response | {"choices": [choice | {"message": message}]}


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """While it lasts, `datasets` keeps what it reads in a fresh folder, which goes away after.

    Its cache knows a local data set by the folder's last name and its layout, so two benchmarks of
    one form would be taken for one another, and so would data that has changed.
    """
    before = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory(prefix="sftflow-") as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


def task(
    benchmark: dict, data: Path, subject: str, generation: dict, folder: Path, **changes: Any
) -> TaskConfig:
    """evalscope's task for one benchmark of the config; unknown dataset arguments are an error."""
    arguments = {
        "local_path": str(data.resolve()),
        "subset_list": list(benchmark["subsets"]),
        "few_shot_num": benchmark.get("shots"),
        **templates(benchmark["dataset"], benchmark.get("prompt")),
        "extra_params": {"multiple_correct": True} if benchmark.get("multiple_correct") else None,
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


def templates(dataset: str, prompt: str | None) -> dict[str, str]:
    """evalscope's arguments for a prompt of the user's own: the one that it puts after examples
    holds its own prompt once more."""
    if prompt is None:
        return {}
    own = BENCHMARK_REGISTRY.get(dataset)
    shown = own.few_shot_prompt_template
    if shown is None or own.prompt_template not in shown:
        return {"prompt_template": prompt}
    with_examples = shown.replace(own.prompt_template, prompt)
    return {"prompt_template": prompt, "few_shot_prompt_template": with_examples}


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
    arguments = copy.deepcopy(config.dataset_args)
    adapter = get_benchmark(config.datasets[0], config)
    config.dataset_args = arguments  # it takes some of them out, and they are needed again
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    load = adapter.load

    def load_and_note() -> Any:
        """The question as it stands in the data, before a template and examples go around it."""
        loaded = load()
        for subset, samples in loaded[0].items():
            # once each: repeats of a question share everything, not only a passage
            texts = {s.id if s.group_id is None else s.group_id: _text(s.input) for s in samples}
            shared = dict(zip(texts, passages(list(texts.values())), strict=True))
            for sample in samples:
                group = sample.id if sample.group_id is None else sample.group_id
                rows[subset, sample.id] = {
                    "id": question_id(subset, sample),
                    "cluster": shared[group],
                    "same": same_question(texts[group], sample.choices),
                }
        return loaded

    adapter.load = load_and_note
    found, missing = [], []
    asker = Model(model, config.generation_config)
    with own_cache():
        loaded = adapter.load_dataset()
    for subset, samples in loaded.items():
        for sample in samples:
            try:
                asker.generate(sample.input, sample.tools)
            except Unanswered as request:
                missing.append(request)
            group = sample.id if sample.group_id is None else sample.group_id
            found.append(
                Question(
                    **rows[subset, sample.id],
                    subset=subset,
                    index=group,
                    repeat=sample.id % config.repeats,
                    prompt=model.last.messages,
                    target=sample.target,
                    options=sample.choices or None,
                    key=model.last.key,
                    n=model.last.n,
                )
            )
    return found, missing


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(m.text for m in content)


def _plain(content: Any) -> Any:
    return content if isinstance(content, str) else [m.model_dump(exclude={"id"}) for m in content]


def run(name: str, config: TaskConfig, found: list[Question]) -> tuple[dict, list[dict]]:
    """Let evalscope score a benchmark; (its figures, sample-level records). Fails loudly.

    evalscope ends with status 0 when it has scored nothing, so what it wrote is compared with what
    was asked. Figures: {metric, score, subsets: {name: score}}.
    """
    folder = Path(config.work_dir)
    shutil.rmtree(folder, ignore_errors=True)  # evalscope appends to what lies there
    dataset = config.datasets[0]
    scorers = Path(config.dataset_args[dataset]["local_path"]) / NLTK_DATA
    if scorers.is_dir():
        import nltk  # a second at every start otherwise

        nltk.data.path.insert(0, str(scorers))
    with contextlib.redirect_stdout(sys.stderr), own_cache():
        run_task(config)
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
