"""Keep a subject's server up for others: OpenAI's API, behind a key, until Ctrl-C or TERM.

    uv run python scripts/deploy.py tiny-sft --port 8000
    KEY=… uv run python scripts/deploy.py tiny-sft --key-env KEY --host 0.0.0.0

in:   what the study has made below --results; its weights are compared with their manifests first
out:  the address, the key (once), commands to try it; the server's words in
      logs/deploy/<subject>.log; nothing is written into results/. Exit status 1 with the reason
      where the server ends by itself
env:  the workflow's own; by_hand.py, which it becomes, has evalscope's
"""

import sys

from sftflow.config import byhand
from sftflow.core import cli
from sftflow.core.cli import UserError


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("subject", metavar="SUBJECT")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument(
        "--host", default="127.0.0.1", help="IPv4 address to listen on; 0.0.0.0: every one"
    )
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the key")
    byhand.add_arguments(parser)
    args = parser.parse_args()
    if not 1 <= args.port <= 65535:
        raise UserError("--port is a number from 1 to 65535")
    study = byhand.study_of(args)
    told = byhand.told(args, study, args.subject, "deploy")
    if endpoint := told["settings"].get("endpoint"):
        raise UserError(f"{args.subject} is served by somebody else already, at {endpoint['url']}")
    settings = {
        "subject": told,
        "host": args.host,
        "port": args.port,
        "key_env": args.key_env,
    }
    byhand.start(study, "deploy", settings=settings)


if __name__ == "__main__":
    sys.exit(cli.run(main))
