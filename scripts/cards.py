"""Write the model card of each run: runs/<run>/cards/<form>/README.md, form: adapter or merged.

in:   --settings  the study;  --results  its records, scores and tables' numbers
out:  one Markdown page with YAML in front for each form of each evaluated run; the weights, and the
      manifests that list them, stay as they are
env:  the workflow's own
"""

import gc
import sys

from sftflow.config import schema
from sftflow.core import cli
from sftflow.core.jsonio import write_text
from sftflow.core.layout import PATHS, Results, forms_of
from sftflow.reporting.card import card
from sftflow.reporting.evidence import Evidence


def main() -> None:
    gc.disable()  # as in tables.py
    parser = cli.study_parser(__doc__)
    study, folder = cli.study(parser.parse_args())
    results = Results(folder)
    found = Evidence(study, results, schema.references())
    runs = [run for run in study["runs"] if run in study["evaluate"]["subjects"]]
    for run in runs:
        for form in forms_of(study, run):
            write_text(results.path(PATHS.card, run=run, form=form), card(found, run, form))
    cli.note(f"model cards of {len(runs)} runs")


if __name__ == "__main__":
    sys.exit(cli.run(main))
