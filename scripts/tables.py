"""Write every table but the plan: results/tables/<name>.md for people, <name>.csv for programs.

Names: training, inference, one per suite, comparison, chat, data, sweep. Reads what the study asks
for from results/; what is missing, stale or not comparable says so in its place.
"""

import sys

from sftflow.config import schema
from sftflow.core import cli, layout
from sftflow.core.jsonio import write_text
from sftflow.reporting import tables, text


def main() -> None:
    parser = cli.study_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these tables; default: all")
    args = parser.parse_args()
    study, folder = cli.study(args)
    names = args.only or tables.names(study)
    for table in tables.build(study, layout.Results(folder), schema.references(), names):
        path = folder / "tables" / table.name
        write_text(f"{path}.md", text.render(table))
        write_text(f"{path}.csv", table.data.to_csv(index=False))
        cli.note(f"table {table.name}  {len(table.data)} rows")


if __name__ == "__main__":
    sys.exit(cli.run(main))
