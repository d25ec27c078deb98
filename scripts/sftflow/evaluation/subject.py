"""Who is asked, as every identity of an asking job holds it, and where the answers are kept."""

import argparse
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sftflow.core import cli, identity, layout
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record
from sftflow.core.manifests import verified
from sftflow.evaluation.answers import AnswerStore, answer_store
from sftflow.serving import backends, server


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of a program that asks: whom, and where what comes of it goes."""
    made = cli.parser(description)
    server.add_arguments(made)
    made.add_argument("--readiness", type=Path, required=True, help="the marker of who is asked")
    made.add_argument("--output", type=Path, required=True, help="the record")
    return made


@dataclass(frozen=True)
class Subject:
    settings: dict  # of the job that asks it
    results: Path
    weights: str
    backend: dict

    @classmethod
    def asked(cls, args: argparse.Namespace) -> "Subject":
        """Of a program's arguments, in a process that is ready to ask. UserError when readiness
        speaks of other weights."""
        offline()
        return cls.of(args, args.settings, args.output.parents[2])

    @classmethod
    def of(cls, args: argparse.Namespace, settings: dict, results: Path) -> "Subject":
        manifest = args.manifest and verified(args.manifest, args.weights)
        adapter = args.adapter_manifest and verified(args.adapter_manifest, args.adapter)
        weights = identity.weights(manifest, adapter, settings.get("endpoint"))
        ready = read_record(args.readiness)
        if ready["weights"] != weights:
            raise UserError(
                f"{args.readiness} is about other weights ({ready['weights'][:16]}…) than "
                f"{args.manifest or 'the endpoint'} ({weights[:16]}…): serve the subject again"
            )
        packages = read_record(args.environment)["packages"] if args.environment else {}
        return cls(settings, results, weights, identity.backend(settings["backend"], packages))

    @property
    def name(self) -> str:
        return self.settings["subject"]

    @property
    def system(self) -> str | None:
        return (self.settings.get("model") or {}).get("system")

    def generation(self, stated: dict) -> dict:
        """Generation settings as they are sent to it."""
        return identity.generation(stated, self.backend["name"], self.settings.get("endpoint"))

    def store(self, file: str) -> AbstractContextManager[AnswerStore]:
        """All that it answered in this way; new answers go to this file."""
        folder = layout.answers_folder(self.name, identity.way(self.weights, self.backend))
        return answer_store(self.results / folder / f"{file}.jsonl")


def offline() -> None:
    """Before evalscope's libraries are imported: data is local, and so are our servers."""
    os.environ.update(backends.without_proxy(dict(os.environ)), HF_HUB_OFFLINE="1")
