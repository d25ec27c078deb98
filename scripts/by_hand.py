"""What chat.py and deploy.py become in evalscope's environment, where the library is that asks.

in:   --settings, of chat.py {subjects, temperature, max_tokens}, of deploy.py {subject, host, port,
      key_env}; a subject is {settings, log, readiness, and as they are needed: environment,
      weights, weights_folder, adapter, adapter_folder}
out:  the terminal
env:  evalscope's
"""

import sys

from sftflow.core import cli
from sftflow.serving import deploying, talking

PROGRAMS = {"chat": talking.talk, "deploy": deploying.deploy}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    args = parser.parse_args()
    PROGRAMS[args.program](args.settings)


if __name__ == "__main__":
    sys.exit(cli.run(main))
