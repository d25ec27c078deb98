"""Let one subject answer turns of held-out dialogues (in evalscope's environment).

in:   --datasets  <results>/datasets/<dataset>/receipt.json …; validation.jsonl lies beside each
      --readiness the subject's marker, and the weights' flags, as evaluate.py has them
      settings    {"subject", "form", "model"|"endpoint", "serving", "backend", "generation",
                   "dialogue": {"limit" (dialogues of each dataset), "max_tokens", "crisis" (path of
                   further messages; null: none)}}
out:  --output    <results>/dialogue/<subject>/answers.json: {schema, subject, identity, parts,
                  made_with, turns {dataset: n}, left_out {dataset: dialogues with tools},
                  records (path below results/), records_sha256, provenance}
      records     one answer a line: {dataset, id, turn: opening|next, messages, true (what the
                  dialogue itself has there), answer, thought?, finish_reason, seconds}; to a
                  message of a crisis dataset is "crisis", and there is its kind
env:  envs/evalscope (openai).

Every answer is kept as it comes, by its request, beside those to benchmarks; nothing is asked
twice, and with nothing left to ask no server starts.
"""

import os
import sys
from pathlib import Path
from typing import Any

from sftflow.core import cli, identity, layout, manifests
from sftflow.core.jsonio import digest, file_digest, read_jsonl, write_jsonl, write_record
from sftflow.dialogue.turns import Turn, crisis_turns, turns
from sftflow.evaluation.answers import answer_store
from sftflow.evaluation.session import Session, ask_each, locks, provenance
from sftflow.evaluation.stated import reasoning_apart
from sftflow.evaluation.subject import asked_backend, asked_weights
from sftflow.serving import backends, server

STORE = "@dialogue"  # no suite can be called so


def request(turn: Turn, generation: dict) -> dict:
    return {"messages": list(turn.messages), **generation}


def main() -> None:
    parser = cli.parser(__doc__)
    server.add_arguments(parser)
    parser.add_argument("--readiness", type=Path, required=True, help="the subject's marker")
    parser.add_argument(
        "--datasets", type=Path, nargs="+", required=True, metavar="RECEIPT",
        help="datasets/<dataset>/receipt.json; validation.jsonl lies beside each",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="answers.json")
    args = parser.parse_args()
    os.environ.update(backends.without_proxy(dict(os.environ)))
    settings, results = args.settings, args.output.parents[2]
    subject, chosen = settings["subject"], settings["dialogue"]
    weights, backend = asked_weights(args), asked_backend(args)
    system = (settings.get("model") or {}).get("system")
    asked: list[Turn] = []
    counts, left_out = {}, {}
    for path in args.datasets:
        name = manifests.verified(path)["dataset"]
        rows = read_jsonl(path.with_name("validation.jsonl"))
        found, left_out[name] = turns(name, rows, chosen["limit"], system)
        counts[name] = len(found)
        asked += found
    data: list = [turn.key for turn in asked]
    if chosen["crisis"]:
        path = layout.local_source(chosen["crisis"])
        found = crisis_turns(path, system)
        counts[layout.CRISIS_SET] = len(found)
        asked += found
        data.append(file_digest(path))
    stated = settings["generation"] | {"max_tokens": chosen["max_tokens"]}
    parts: dict[str, Any] = {
        "weights": weights,
        "data": digest(data),
        "settings": {"system": system},
        "generation": identity.generation(stated, backend["name"], settings.get("endpoint")),
        "backend": backend,
    }
    key = identity.identity(parts)
    requests = [request(turn, parts["generation"]) for turn in asked]
    folder = results / layout.answers_folder(subject, identity.way(weights, backend))
    records = f"dialogue/{subject}/{key[:16]}.jsonl"
    with answer_store(folder / f"{STORE}.jsonl") as store, Session(args, settings) as session:
        ask_each(session, store, requests, f"dialogue {subject}")
        answers = [answer for each in requests if (answer := store.get(digest(each), 0))]
        spans = store.spans((digest(each), 0) for each in requests)
    write_jsonl(
        results / records,
        (record(turn, answer) for turn, answer in zip(asked, answers, strict=True)),
    )
    write_record(
        args.output,
        {
            "schema": 1,
            "subject": subject,
            "identity": key,
            "parts": parts,
            "made_with": settings.get("made_with", {}),
            "turns": counts,
            "left_out": left_out,
            "records": records,
            "records_sha256": file_digest(results / records),
            "provenance": provenance(("openai",), locks(args.environment), spans),
        },
    )
    cli.note(f"dialogue {subject}: {len(asked)} turns answered")


def record(turn: Turn, answer: dict) -> dict:
    choice = answer["response"]["choices"][0]
    thought, said = reasoning_apart(choice["message"].get("content") or "")
    thought = choice["message"].get("reasoning_content") or thought
    kind = {"kind": turn.kind} if turn.kind else {}
    return {
        "dataset": turn.dataset,
        "id": turn.id,
        "turn": turn.turn,
        **kind,
        "messages": list(turn.messages),
        "true": turn.true,
        "answer": (said or "").lstrip() if thought else said,
        **({"thought": thought} if thought else {}),
        "finish_reason": choice["finish_reason"],
        "seconds": answer["seconds"],
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
