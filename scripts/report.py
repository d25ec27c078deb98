"""Write the report: report/report.<language>.md, report/report.html, and the figures that they show
(figures/{loss,learning_rate,scores,token_lengths}.svg), all below --results.

The sections are those of a fine-tuning report written by hand, filled from what lies in results/.
The HTML page holds every language and figure and needs no other file, so it can be sent to someone.
"""

import sys

from sftflow.core import cli
from sftflow.core.jsonio import write_text
from sftflow.core.layout import Results
from sftflow.reporting.report import collect, draw, html, page


def main() -> None:
    parser = cli.study_parser(__doc__)
    study, folder = cli.study(parser.parse_args())
    results = Results(folder)
    found = collect(study, results)
    pictures = draw(study, found)
    for name, svg in pictures.items():
        write_text(folder / f"figures/{name}.svg", svg)
    pages = {language: page(language, found) for language in study["languages"]}
    for language, text in pages.items():
        write_text(folder / f"report/report.{language}.md", text)
    write_text(folder / "report/report.html", html(pages, pictures))
    cli.note(f"report in {', '.join(pages)}: {folder / 'report/report.html'}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
