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
    args = parser.parse_args()
    study, results = args.settings, Results(args.results)
    found = collect(study, results)
    pictures = draw(study, found)
    for name, svg in pictures.items():
        write_text(args.results / f"figures/{name}.svg", svg)
    pages = {language: page(language, found) for language in study["languages"]}
    for language, text in pages.items():
        write_text(args.results / f"report/report.{language}.md", text)
    write_text(args.results / "report/report.html", html(pages, pictures))
    cli.note(f"report in {', '.join(pages)}: {args.results / 'report/report.html'}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
