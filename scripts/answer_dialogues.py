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

import sys
from pathlib import Path

from sftflow.core import cli, identity
from sftflow.core.jsonio import digest, file_digest, write_jsonl, write_record
from sftflow.dialogue.asking import Dialogues
from sftflow.dialogue.turns import Turn
from sftflow.evaluation.session import Session
from sftflow.evaluation.stated import reasoning_apart
from sftflow.evaluation.subject import Subject, parser


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--datasets", type=Path, nargs="+", required=True, metavar="RECEIPT",
        help="datasets/<dataset>/receipt.json; validation.jsonl lies beside each",
    )  # fmt: skip
    args = flags.parse_args()
    settings, subject = args.settings, Subject.asked(args)
    asked, results = Dialogues(subject, args.datasets), subject.results
    with subject.store(asked.file) as store, Session(args, settings) as session:
        asked.ask(session, store)
        keys = [digest(request) for request in asked.requests]
        answers = [answer for key in keys if (answer := store.get(key, 0))]
        spans = store.spans((key, 0) for key in keys)
    key = identity.identity(asked.parts)
    records = f"dialogue/{subject.name}/{key[:16]}.jsonl"
    write_jsonl(
        results / records,
        (record(turn, answer) for turn, answer in zip(asked.turns, answers, strict=True)),
    )
    write_record(
        args.output,
        {
            "schema": 1,
            "subject": subject.name,
            "identity": key,
            "parts": asked.parts,
            "made_with": settings.get("made_with", {}),
            "turns": asked.counts,
            "left_out": asked.left_out,
            "records": records,
            "records_sha256": file_digest(results / records),
            "provenance": session.provenance(("openai",), spans),
        },
    )
    cli.note(f"dialogue {subject.name}: {len(asked.turns)} turns answered")


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
