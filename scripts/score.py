"""Turn sample-level records into scores: results/scores/<subject>/<benchmark>.json.

Reads one finished evaluation session (evaluations/<subject>/<suite>.json and the samples.jsonl
that it points to) and writes one score per benchmark. Each must equal evalscope's own figure to
four decimals, for the whole and for every subset, or nothing is written. The same samples give the
same bytes: times and versions are copied from the session.
"""

import argparse
import sys
from pathlib import Path

from sftflow.core import cli
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import PATHS
from sftflow.scoring.scores import score_file


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--evaluation", type=Path, required=True, help="evaluations/<subject>/<suite>.json"
    )
    parser.add_argument(
        "--benchmark", action="append", help="only this one (may be repeated); default: all"
    )
    parser.add_argument(
        "--contamination", type=Path, help="overlap of the subject's training data with benchmarks"
    )
    parser.add_argument(
        "--settings", type=cli.settings, required=True, help="file: {confidence} of the intervals"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    results = args.evaluation.parents[2]
    evaluation = read_record(args.evaluation)
    contamination = read_record(args.contamination) if args.contamination else {"benchmarks": {}}
    scores = [
        score_file(results, evaluation, benchmark, contamination, args.settings)
        for benchmark in args.benchmark or evaluation["benchmarks"]
    ]
    for result in scores:
        names = {"subject": result["subject"], "benchmark": result["benchmark"]}
        write_record(results / PATHS.score.format(**names), result)
        cli.note(
            f"score {result['subject']} {result['benchmark']}  {100 * result['score']:.1f} %  "
            f"n = {result['n']}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
