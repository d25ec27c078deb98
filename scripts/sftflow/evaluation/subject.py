"""Who is asked, as every identity of an asking job holds it. Standard library only."""

import argparse

from sftflow.core import identity
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record
from sftflow.core.manifests import verified


def asked_weights(args: argparse.Namespace) -> str:
    """Digest of the weights that are asked; UserError when readiness speaks of others."""
    manifest = args.manifest and verified(args.manifest, args.weights)
    adapter = args.adapter_manifest and verified(args.adapter_manifest, args.adapter)
    weights = identity.weights(manifest, adapter, args.settings.get("endpoint"))
    ready = read_record(args.readiness)
    if ready["weights"] != weights:
        raise UserError(
            f"{args.readiness} is about other weights ({ready['weights'][:16]}…) than "
            f"{args.manifest or 'the endpoint'} ({weights[:16]}…): serve the subject again"
        )
    return weights


def asked_backend(args: argparse.Namespace) -> dict:
    """The backend's part of every identity."""
    packages = read_record(args.environment)["packages"] if args.environment else {}
    return identity.backend(args.settings["backend"], packages)
