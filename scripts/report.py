"""Write the report: report/report.<language>.md, report/report.html, the figures that they show
(figures/*.svg and *.png), report/answers.html, the answers behind the scores, report/summary.txt,
what the terminal says at the end, and report/report.json, its numbers unrounded, for programs and
for a later report to be compared with; all below --results.

The sections are those of a fine-tuning report written by hand, filled from what lies in results/.
Each HTML page holds every language and needs no other file, so it can be sent to someone.
"""

import gc
import sys
from functools import partial

from sftflow.config import schema
from sftflow.core import cli, process
from sftflow.core.jsonio import write_bytes, write_record, write_text
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import figures
from sftflow.reporting.evidence import Evidence
from sftflow.reporting.report import draw, page, pictured, written
from sftflow.reporting.webpage import html

NO_FONT = "Labels in English: the machine that drew this has no Chinese font. The SVG has Chinese."


def write_figures(study: dict, shown: dict, results: Results, language: str) -> dict[str, str]:
    """{path below results: SVG} of what `pictured` gives. A PNG holds its glyphs: with no font for
    them its labels are English, and it says so."""
    drawn = draw(study, shown, language)
    legible = language == "en" or figures.chinese_font()
    as_image = drawn if legible else draw(study, shown, "en")
    svgs = {}
    for name, picture in drawn.items():
        path = PATHS.figure.format(figure=name, language=language, form="svg")
        svgs[path] = picture.svg()
        write_text(results.folder / path, svgs[path])
        image = as_image[name].png("" if legible else NO_FONT)
        write_bytes(results.path(PATHS.figure, figure=name, language=language, form="png"), image)
    return svgs


def main() -> None:
    gc.disable()  # of 1,000 subjects, looking for cycles was a quarter of the time
    parser = cli.study_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    study, folder = cli.study(args)
    results = Results(folder)
    languages = study["languages"]
    workers = args.threads - 1
    evidence = Evidence(study, results, schema.references(), workers)
    shown = pictured(evidence)
    figures.chinese_font()  # looked for once
    drawing = partial(write_figures, study, shown, results)
    with process.beside(drawing, languages, workers) as drawn:
        found = shown | written(evidence)
        with process.beside(partial(page, found=found), languages, workers) as paged:
            write_text(results.path(PATHS.answers), found["answers"].page)
            write_text(results.path(PATHS.summary), found["summary"])
            write_record(results.path(PATHS.record), found["record"], indent=None)
            pages = dict(zip(languages, paged(), strict=True))
        pictures = dict(zip(languages, drawn(), strict=True))
    for language, text in pages.items():
        write_text(results.path(PATHS.page, language=language), text)
    whole = results.path(PATHS.html)
    write_text(whole, html(pages, pictures, found["answers"].shown))
    cli.note(f"answers: {results.path(PATHS.answers)}, {found['answers'].size}")
    cli.note(f"report in {', '.join(pages)}: {whole}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
