"""Write the plan: what this study costs and what it can show, before any GPU hour is spent.

tables/plan.md and plan.csv, and the seconds of each step in plan.json: for each benchmark and limit
the half-width of the interval and the detectable difference; for each run its steps, tokens, hours
and memory; for each subject what is already there. Figures are as good as what is known: fetch and
prepare the data (`snakemake data`) and the runs' rows are counted, not guessed.
"""

import sys

from sftflow.core import cli
from sftflow.core.jsonio import write_record
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import text, writing
from sftflow.reporting.pace import measured_card
from sftflow.reporting.plan import GPU, plan_table, record
from sftflow.training import cost


def main() -> None:
    parser = cli.study_parser(__doc__)
    parser.add_argument(
        "--gpu",
        choices=sorted(cost.CARDS),
        help=f"estimate hours for this card (default: the one that trained here, else {GPU})",
    )
    args = parser.parse_args()
    study, folder = cli.study(args)
    results = Results(folder)
    gpu = args.gpu or measured_card(results) or GPU
    table = plan_table(study, results, gpu)
    writing.write(table, results)
    write_record(results.path(PATHS.plan), record(study, results, gpu))
    cli.note(text.render(table))


if __name__ == "__main__":
    sys.exit(cli.run(main))
