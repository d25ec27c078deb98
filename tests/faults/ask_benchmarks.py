"""Benchmarks asked through the real evalscope, with answers that are given (in its environment).

    ask_benchmarks.py CASES FOLDER     JSON in a file; what came of them is JSON on stdout

A case is {benchmark (as evaluate.py is told it), data (folder), generation, answers}: completions,
or their texts, in the order in which the requests are made. Of each: {requests, figures, records}.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from sftflow.core import identity
from sftflow.evaluation import harness
from sftflow.evaluation.answers import answer_store
from sftflow.serving.completions import normalised


def completion(answer) -> dict:
    if not isinstance(answer, str):
        return answer
    return {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}


def ask(name: str, case: dict, folder: Path) -> dict:
    generation = identity.generation(case["generation"])
    config = harness.task(
        case["benchmark"], Path(case["data"]), "m", generation, folder / "evalscope"
    )
    with answer_store(folder / "answers/s.jsonl") as store:
        found, missing = harness.questions(config, harness.StoredModel("m", store))
        for miss, answer in zip(missing, case["answers"], strict=True):
            store.add(miss.key, miss.n, normalised(completion(answer), "stub"), 0.1)
        config.model = harness.StoredModel("m", store)
        figures, records = harness.run(name, config, found)
    requests = [miss.request for miss in missing]
    return {"requests": requests, "figures": figures, "records": records}


cases = json.loads(Path(sys.argv[1]).read_text("utf-8"))
came = {name: ask(name, case, Path(sys.argv[2]) / name) for name, case in cases.items()}
print(json.dumps(came))
