"""Write the report: report/report.<language>.md, report/report.html, the figures that they show
(figures/*.svg), report/answers.html, the answers behind the scores, report/summary.txt, what
the terminal says at the end, and report/report.json, the scores, for a later report to be compared
with; all below --results.

The sections are those of a fine-tuning report written by hand, filled from what lies in results/.
Each HTML page holds every language and needs no other file, so it can be sent to someone.
"""

import gc
import sys

from sftflow.core import cli
from sftflow.core.jsonio import write_record, write_text
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import earlier
from sftflow.reporting.report import collect, draw, html, page


def main() -> None:
    gc.disable()  # of 1,000 subjects, looking for cycles was a quarter of the time
    parser = cli.study_parser(__doc__)
    study, folder = cli.study(parser.parse_args())
    results = Results(folder)
    found = collect(study, results)
    pictures = draw(study, found)
    for name, svg in pictures.items():
        write_text(results.path(PATHS.figure, figure=name), svg)
    write_text(results.path(PATHS.answers), found["answers"].page)
    write_text(results.path(PATHS.summary), found["summary"])
    write_record(results.path(PATHS.record), earlier.record(found["cells"].values()))
    pages = {language: page(language, found) for language in study["languages"]}
    for language, text in pages.items():
        write_text(results.path(PATHS.page, language=language), text)
    whole = results.path(PATHS.html)
    write_text(whole, html(pages, pictures, found["answers"].shown))
    cli.note(f"answers: {results.path(PATHS.answers)}, {found['answers'].size}")
    cli.note(f"report in {', '.join(pages)}: {whole}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
