"""A subject that a person starts: its weights held against their manifests, and what is said."""

import argparse
from pathlib import Path

from sftflow.core import identity
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record, short
from sftflow.core.manifests import verified
from sftflow.serving.backends import Spec


def subject(told: dict) -> tuple[Spec, list[str]]:
    """(what to serve, lines about what was verified) of what byhand.py tells. UserError."""
    settings, endpoint = told["settings"], told["settings"].get("endpoint")
    files = {kind: Path(told[kind]) for kind in FILES if kind in told}
    records = {
        kind: verified(files[kind], files[f"{kind}_folder"])
        for kind in ("weights", "adapter")
        if kind in files
    }
    environment = files.get("environment")
    packages = read_record(environment)["packages"] if environment else {}
    backend = identity.backend(settings["backend"], packages)
    weights = identity.weights(records.get("weights"), records.get("adapter"), endpoint)
    spec = Spec.of(
        settings,
        argparse.Namespace(
            weights=files.get("weights_folder"),
            adapter=files.get("adapter_folder"),
            environment=environment,
            python=None,
            threads=None,
        ),
    )
    model = settings.get("model") or {}
    lines = [("subject", f"{settings['subject']} ({FORMS[settings['form']]})")]
    if endpoint:
        lines.append(("weights", f"not ours to verify: {endpoint['model']} at {endpoint['url']}"))
    for kind, record in records.items():
        number, size = len(record["files"]), sum(file["size"] for file in record["files"])
        found = f"{number} files, {size / 2**20:,.1f} MiB, as {files[kind]} lists them"
        lines.append((kind, f"verified: {found} (sha256 {short(record['digest'])})"))
    versions = ", ".join(f"{name} {version}" for name, version in backend["versions"].items())
    lines.append(("backend", backend["name"] + (f" ({versions})" if versions else "")))
    if not endpoint:
        template = model.get("template") if spec.backend == "transformers" else None
        lines.append(("template", template or "the tokenizer's own"))
    system = model.get("system")
    lines.append(("system prompt", system or "none"))
    lines.append(("readiness", readiness(Path(told["readiness"]), weights, backend)))
    return spec, [f"{name:<14}{value}" for name, value in lines]


FILES = ("weights", "weights_folder", "adapter", "adapter_folder", "environment")
FORMS = {
    "base": "a base model",
    "merged": "a run's merged weights",
    "adapter": "a run's adapter on its base",
    "endpoint": "somebody else's endpoint",
}


def readiness(path: Path, weights: str, backend: dict) -> str:
    """What the study's readiness marker says of these weights on this backend."""
    try:
        marker = read_record(path)
    except FileNotFoundError:
        return f"not recorded: there is no {path}"
    except UserError as error:
        return f"not believed: {error}"
    if marker["weights"] != weights:
        return f"recorded for OTHER weights ({path})"
    if marker["backend"] != backend:
        return f"recorded for these weights on ANOTHER backend or version ({path})"
    return f"recorded for these weights on this backend, {marker['at']}"
