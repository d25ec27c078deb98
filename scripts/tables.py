"""Write every table but the plan: results/tables/<name>.md for people, <name>.csv for programs.

Names: training, inference, one per suite, comparison, chat, data, sweep. Reads what the study asks
for from results/; what is missing, stale or not comparable says so in its place.
"""

import gc
import sys

from sftflow.config import schema
from sftflow.core import cli, layout
from sftflow.reporting import tables, writing


def main() -> None:
    gc.disable()  # of 1,000 subjects, looking for cycles was a quarter of the time
    parser = cli.study_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these tables; default: all")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    study, folder = cli.study(args)
    results = layout.Results(folder)
    names = args.only or layout.table_names(study["evaluate"]["suites"])
    for table in tables.build(study, results, schema.references(), names, args.threads - 1):
        writing.write(table, results)
        cli.note(f"table {table.name}  {len(table.data)} rows")


if __name__ == "__main__":
    sys.exit(cli.run(main))
