"""Parts of the report: pictures, and what is said of a model. The whole: test_tables.py."""

import pandas as pd
from sftflow.core.jsonio import write_record
from sftflow.core.layout import Results
from sftflow.reporting import figures
from sftflow.reporting.chinese import translate
from sftflow.reporting.report import model_row

TURNS = {"talks": {"histogram": [[2, 60], [3, 0], [4, 40]]}}
TOKENS = {"tuned": {"histogram": [[32, 10], [48, 70], [64, 20]]}}


def test_lengths_are_shown_in_turns_and_in_tokens():
    picture = figures.token_lengths(TOKENS, TURNS)
    for text in ("Turns per dialogue", "Tokens per dialogue", "talks", "tuned"):
        assert f">{text}</text>" in picture
    assert picture == figures.token_lengths(TOKENS, TURNS)


def test_no_receipts_yet_is_said():
    assert figures.token_lengths({}, {}).count("no data yet") == 2


def test_foreign_code_is_said_in_both_languages(tmp_path):
    study = {"models": {"m": {"label": None, "source": "x/m"}}}
    for foreign in (True, False):
        write_record(tmp_path / "models/m/manifest.json", {"remote_code": foreign})
        row = pd.DataFrame([model_row(study, Results(tmp_path), "m")])
        for language in ("en", "zh"):
            shown = translate(row, language).to_csv()
            assert ("allow_remote_code: true" in shown) == foreign
            assert ("运行模型自带的代码" in shown) == (foreign and language == "zh")
