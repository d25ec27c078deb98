"""A quick look at a base model with an adapter on it, before anything is merged: chat.json.

    envs/evalscope/.venv/bin/python scripts/chat.py --settings settings.json --weights BASE
        --adapter ADAPTER --python envs/swift/.venv/bin/python --server-log chat.log
        --output chat.json

Settings, and the environment that it runs in, are those of serve.py. Answers also go to the
terminal. Nothing is measured, and the weights are not compared with their manifests.
"""

import argparse
import sys
from pathlib import Path

from sftflow.core import cli, process
from sftflow.core.jsonio import write_record
from sftflow.serving import backends, server
from sftflow.serving.measure import chat


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--weights", type=Path, help="folder of the base model")
    parser.add_argument("--adapter", type=Path, help="adapter to put on it")
    parser.add_argument("--python", help="interpreter of the backend's environment")
    parser.add_argument("--server-log", type=Path, required=True, help="what the server says")
    parser.add_argument("--threads", type=int, help="CPU threads of the server")
    parser.add_argument("--output", type=Path, required=True, help="chat.json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    process.follow_snakemake()
    settings = args.settings
    args.environment = None
    spec = backends.Spec.of(settings, args)
    with server.serve(spec, args.server_log) as running:
        answers = chat(running, settings)
    for answer in answers:
        cli.note(f"> {answer['prompt']}\n{answer['answer']}\n")
    about = {"schema": 1, "subject": settings["subject"], "form": settings["form"]}
    write_record(args.output, {**about, "answers": answers})


if __name__ == "__main__":
    sys.exit(cli.run(main))
