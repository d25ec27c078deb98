"""Talk to a subject, or to two side by side: a base model, a run, or somebody else's endpoint.

    uv run python scripts/chat.py tiny-sft
    uv run python scripts/chat.py tiny tiny-sft
    uv run python scripts/chat.py tiny-sft --adapter      # before anything is merged
    echo 你好 | uv run python scripts/chat.py tiny-sft    # one line, one turn

in:   what the study has made below --results; its weights are compared with their manifests first
out:  the terminal; the servers' words in logs/chat/<subject>.log; nothing is written into results/
env:  the workflow's own; by_hand.py, which it becomes, has evalscope's

Commands: /reset begins anew, /system TEXT sets a system prompt and begins anew, /exit ends, as the
end of input does. Ctrl-C stops an answer, twice it ends the program.
"""

import sys

from sftflow.config import byhand
from sftflow.core import cli
from sftflow.core.cli import UserError


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("subjects", nargs="+", metavar="SUBJECT", help="one or two of them")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0")
    parser.add_argument("--max-tokens", type=int, help="of an answer (default: 256)")
    byhand.add_arguments(parser)
    args = parser.parse_args()
    names = args.subjects
    if len(names) > 2 or len(set(names)) < len(names):
        raise UserError("one subject, or two different ones, can be talked to")
    if args.temperature < 0 or (args.max_tokens or 1) < 1:
        raise UserError("--temperature is 0 or more, --max-tokens 1 or more")
    study = byhand.study_of(args)
    settings = {
        "subjects": [byhand.told(args, study, name, "chat") for name in names],
        "temperature": args.temperature,
        "max_tokens": args.max_tokens,
    }
    byhand.start(study, "chat", settings=settings)


if __name__ == "__main__":
    sys.exit(cli.run(main))
