"""Own questions in the files and words that people have: taken as meant and told so, or refused."""

import csv
import gzip
import io
import json
import random
import subprocess
from pathlib import Path

import fetch_benchmark
import pytest
from sftflow.config.schema import presets
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_jsonl, tree_digest, tree_files
from sftflow.inputs import own, tables
from support import EVALSCOPE, ROOT
from workbooks import Cell, workbook

NAMES = ["question", "A", "B", "C", "answer"]
# Tables are wide: one case a line.
# ruff: noqa: E501
ROWS = [["哪种树？", "松", "橡,树", "榆", "B"], ['A "tall"\none?', "pine", "oak", "", "A"]]
MEANT = [
    {"question": "哪种树？", "answer": "B", "A": "松", "B": "橡,树", "C": "榆"},
    {"question": 'A "tall"\none?', "answer": "A", "A": "pine", "B": "oak"},
]


def table(delimiter: str = ",", rows: list[list] = ROWS, names: list[str] = NAMES) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return file.getvalue()


def objects() -> list[dict]:
    return [dict(zip(NAMES, row, strict=True)) for row in ROWS]


def fetched(tmp_path: Path, content: str | bytes, name: str, dataset="general_mcq", **changes):
    """(rows, notes) of one file, as they are copied for evalscope."""
    source, data = tmp_path / "source", tmp_path / "data"
    source.mkdir(exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    (source / name).write_bytes(raw)
    subsets, notes = fetch_benchmark.copy_own(source, data, presets()[dataset] | changes)
    (path,) = data.glob("*.jsonl")
    rows = list(read_jsonl(path))
    assert sum(subsets.values()) == len(rows)
    (source / name).unlink()
    return rows, notes


def rows_of(tmp_path: Path, *rows: dict, dataset="general_mcq", **changes):
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return fetched(tmp_path, content, "sleep_val.jsonl", dataset, **changes)


# --- files ----------------------------------------------------------------------------------------

LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects())
FILES = {
    "jsonl": (LINES, "s_val.jsonl", []),
    "jsonl, pretty-printed": (
        "\n".join(json.dumps(row, indent=2) for row in objects()), "s_val.jsonl", []),
    "jsonl that is an array": (json.dumps(objects()), "s_val.jsonl", []),
    "json": (json.dumps(objects(), indent=1), "s_val.json", []),
    "json that is lines": (LINES, "s_val.json", []),
    "json in an envelope": (json.dumps({"data": objects()}), "s_val.json", []),
    "json, byte order mark": ("\ufeff" + LINES, "s_val.jsonl", []),
    "csv": (table(), "s_val.csv", []),
    "csv, Unix": (table().replace("\r\n", "\n"), "s_val.csv", []),
    "csv, byte order mark": ("\ufeff" + table(), "s_val.csv", []),
    "csv, empty lines": (table().replace("B\r\n", "B\r\n\r\n,,,,\r\n"), "s_val.csv", []),
    "csv that is lines of JSON": (LINES, "s_val.csv", []),
    "csv, semicolons": (table(";"), "s_val.csv", ["cells are divided by ';'"]),
    "csv, sep=": ("sep=;\r\n" + table(";"), "s_val.csv", ["cells are divided by ';'"]),
    "csv, tabs": (table("\t"), "s_val.csv", []),
    "tsv": (table("\t"), "s_val.tsv", []),
    "csv of Excel in China": (table().encode("gbk"), "s_val.csv", ["not UTF-8: read as GB18030 (GBK)"]),
    "Unicode text of Excel": (table("\t").encode("utf-16"), "s_val.csv", ["read as utf-16"]),
    "UTF-16, no mark": (table().encode("utf-16-le"), "s_val.csv", ["read as utf-16-le"]),
    "gz": (gzip.compress(table().encode()), "s_val.csv.gz", []),
}  # fmt: skip


@pytest.mark.parametrize("form", FILES)
def test_one_digest_in_whatever_file_they_are(tmp_path, form):
    content, name, notes = FILES[form]
    rows, told = fetched(tmp_path, content, name)
    assert rows == MEANT
    assert told == [f"{name}: {note}" for note in notes]
    first, _, _ = FILES["jsonl"]
    written = tree_digest(tree_files(tmp_path / "data"))
    fetched(tmp_path, first, "s_val.jsonl")
    assert tree_digest(tree_files(tmp_path / "data")) == written


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (table(rows=[["?", "1", "2", "3"]]), "s.csv", r"row 1 \(line 2\): 4 cells, where the header"),
        (table(rows=[["?", "1", "2", "3", "A", "x"]]), "s.csv", "row 1 .*6 cells.*in double quotes"),
        (table() + "?,1,2,3\r\n", "s.csv", r"row 3 \(line 5\): 4 cells"),
        (table() + '"?,1,2,3,A\r\n', "s.csv", r"line 5: .*is each double quote closed"),
        (table(names=["question", "A", "A", "C", "answer"]), "s.csv", "two columns are called 'A'"),
        (table(names=["q", "A", "B", "C", "answer"]), "s.csv", "no field 'question'; the fields are q"),
        (table().splitlines()[0], "s.csv", "no questions in s"),
        ("", "s.csv", "no questions in s"),
        ("題目,甲\r\n".encode("big5") * 9, "s.csv", "line 1: not a text in UTF-8, nor .*save it as UTF-8"),
        ("é,ü,ö\n".encode("latin1"), "s.csv", "line 1: not a text in UTF-8"),
        (LINES[:-5], "s.jsonl", r"s\.jsonl, line 2, column \d+: not valid JSON"),
        (LINES.replace("}\n{", "}\n{},\n{"), "s.jsonl", "line 2, column 3: not valid JSON"),
        (json.dumps(objects()) + "x", "s.json", "line 1, column .*not valid JSON"),
        ("[" + LINES.replace("\n", "") + "]", "s.json", "line 1, column .*not valid JSON"),
        ("[1, 2]", "s.json", "row 1: is no object"),
        ('{"a": 1}\n3\n', "s.json", "row 2: is no object"),
        ('{"question": "?", "A": "1", "A": "2"}', "s.json", "line 1.*the field 'A' twice"),
        ("{'question': '?'}", "s.json", "line 1, column 2: not valid JSON"),
        (json.dumps({"question": ["?", "!"], "answer": ["A", "B"]}), "s.json", "one object for each"),
        (json.dumps({"question": {"0": "?"}, "answer": {"0": "A"}}), "s.json", "one object for each"),
        ("[" * 100000, "s.json", "not valid JSON"),
        (b"\xd0\xcf\x11\xe0 old", "s.xlsx", "Excel 2003 or older: save it as .xlsx"),
        (b"\x1f\x8b cut off", "s.csv.gz", r"cannot read s\.csv\.gz.*is it whole"),
        ("x", "s.xls", r"no questions: looked for files of \.jsonl.*there is s\.xls"),
    ],
)  # fmt: skip
def test_a_file_is_read_whole_or_refused(tmp_path, content, name, message):
    with pytest.raises(UserError, match=message) as told:
        fetched(tmp_path, content, name)
    assert "Traceback" not in str(told.value) and len(str(told.value)) < 600


def test_two_files_for_one_subset_and_a_part_of_a_table(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/s_val.csv").write_text(table())
    with pytest.raises(
        UserError, match=r"s_val\.csv and s_val\.jsonl are both subset s, split val"
    ):
        fetched(tmp_path, LINES, "s_val.jsonl")
    (tmp_path / "source/s_val.csv").unlink()
    with pytest.raises(UserError, match="one of 3 parts of a table: join them"):
        fetched(tmp_path, LINES, "s-00000-of-00003.jsonl")


def test_examples_alone_are_no_questions(tmp_path):
    with pytest.raises(UserError, match=r"no questions of the split val .* only s_dev\.jsonl"):
        fetched(tmp_path, LINES, "s_dev.jsonl")


def test_files_in_folders_and_names_of_every_kind(tmp_path):
    for name in ("val/心理 a.csv", "more/心理 b_val.csv", "dev/心理 a.csv"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(table())
    settings = presets()["general_mcq"] | {"shots": 2}
    subsets, _ = fetch_benchmark.copy_own(tmp_path / "in", tmp_path / "out", settings)
    assert subsets == {"心理 a": 2, "心理 b": 2}
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["心理 a_dev.jsonl", "心理 a_val.jsonl", "心理 b_val.jsonl"]


def test_what_is_not_asked_for_is_not_read(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text("no JSON")
    rows, _ = fetched(tmp_path, table(), "s_val.csv", subsets=["s"])
    assert rows == MEANT


# --- words ----------------------------------------------------------------------------------------

BARE = {"A": "pine", "B": "oak", "C": "elm"}
AS_MEANT = {"question": "Which?", "answer": "B", **BARE}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", **BARE, "answer": "B"},
        {"query": "Which?", **BARE, "target": "B"},
        {"Prompt": "Which?", "a": "pine", "b": "oak", "c": "elm", "Answer": "(b)"},
        {"题目": "Which?", "选项A": "pine", "选项B": "oak", "选项C": "elm", "正确答案": "Ｂ"},
        {"question": "Which?", "option_a": "pine", "Option B": "oak", "OptionC": "elm", "answer": "B"},
        {"question": "Which?", "choices": ["pine", "oak", "elm"], "answer_letter": "B"},
        {"question": "Which?", "options": {"A": "pine", "B": "oak", "C": "elm"}, "response": "B"},
        {"question": "Which?", "options": '["pine", "oak", "elm"]', "answer": "B"},
        {"question": "Which?", "options": "['pine', 'oak', 'elm']", "answer": "B"},
        {"question": "Which?", **BARE, "D": None, "E": "", "answer": "oak"},
        {"question": "Which?", **BARE, "answer": "B. oak"},
        {"question": "Which?", "query": "", **BARE, "response": None, "answer": "B"},
    ],
)  # fmt: skip
def test_one_question_in_other_words(tmp_path, row):
    (made,), _ = rows_of(tmp_path, row)
    assert made == AS_MEANT
    assert list(made) == list(AS_MEANT) or "choices" not in row


def test_what_was_taken_for_what_is_told(tmp_path):
    row = {"id": 7, "prompt": "Which?", "choices": ["pine", "oak"], "response": "oak", "place": "x"}
    (made,), notes = rows_of(tmp_path, row)
    assert made["id"] == 7
    assert notes == [
        "sleep_val.jsonl: read 'prompt' as question, 'choices' as options, 'response' as answer",
        "sleep_val.jsonl: 1 answers are the text of an option",
        "sleep_val.jsonl: not asked: 'id', 'place'",
    ]


@pytest.mark.parametrize(
    ("keys", "letters"),
    [
        ([0, 1, 2], "ABC"),  # from 0: one is 0
        ([1, 2, 3], "ABC"),  # from 1: one is the last
        (["0", "2", "0"], "ACA"),
        (["oak", "elm", "A"], "BCA"),
    ],
)
def test_numbers_and_texts_as_keys(tmp_path, keys, letters):
    rows = [{"question": "Which?", **BARE, "answer": key} for key in keys]
    made, _ = rows_of(tmp_path, *rows)
    assert [row["answer"] for row in made] == list(letters)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**BARE, "answer": 1}], r"row 1: the answer is 1; write the letter"),  # from 0, or from 1?
        ([{**BARE, "answer": 0}, {**BARE, "answer": 3}], r"row 1: the answer is 0.*\n.*row 2"),
        ([{"A": "2", "B": "1", "answer": 1}], "the answer is 1; write the letter"),  # or its text?
        ([{**BARE, "answer": 0}, {**BARE, "answer": "B"}], "row 1: the answer is 0"),
        ([{**BARE, "answer": "fir"}], "the answer is 'fir'; write the letter"),
        ([{**BARE, "answer": "B. elm"}], "the answer is 'B. elm'; write the letter"),
        ([{**BARE, "answer": True}], "the answer is True; write the letter"),
        ([{**BARE, "answer": float("nan")}], "row 1: answer is empty"),
        ([{"A": "O", "B": "AB", "C": "B", "answer": "O"}, {"A": "O", "B": "AB", "C": "B", "answer": "B"}],
         "row 2: the answer is 'B', a letter and the text of another option"),
        ([{**BARE, "option_b": "fir", "answer": "A"}], "'B' and 'option_b' both give the B"),
        ([{**BARE, "answer": "A", "response": "B"}], "'answer' and 'response' both give the answer"),
        ([{**BARE, "options": ["x", "y"], "answer": "A"}], "in one field and in columns of their own"),
        ([{"options": "pine; oak", "answer": "A"}], "the options are 'pine; oak'; write a list"),
        ([{"options": list("abcdefghijk"), "answer": "A"}], "write a list of 2 to 10 texts"),
        ([{"options": [{"text": "x"}, {"text": "y"}], "answer": "A"}], "option A is {'text': 'x'}"),
        ([{**BARE, "answer": "A"}, {"A": "x", "answer": "A"}], r"row 2: no field 'B'"),
        ([{**BARE, "answer": "A", "question": "\ud800?"}], "row 1: holds half of a character"),
    ],
)  # fmt: skip
def test_what_may_mean_two_things_is_refused_with_its_row(tmp_path, rows, message):
    content = "".join(json.dumps({"question": "Which?"} | row) + "\n" for row in rows)
    with pytest.raises(UserError, match=message):
        fetched(tmp_path, content, "sleep_val.jsonl")


@pytest.mark.parametrize(
    "key", ["BD", ["B", "D"], "B,D", "B、D", '["B", "D"]', ["d", "b"], ["oak", "fir"]]
)
def test_several_right_options(tmp_path, key):
    row = {"question": "Which?", **BARE, "D": "fir", "answer": key}
    (made,), _ = rows_of(tmp_path, row, multiple_correct=True)
    assert made["answer"] == ["B", "D"]
    with pytest.raises(UserError, match="set multiple_correct: true"):
        rows_of(tmp_path, row)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "Why?", "response": "So."},
        {"prompt": "Why?", "target": "So."},
        {"问题": "Why?", "答案": "So."},
        {"messages": [{"role": "user", "content": "Why?"}], "reference": "So."},
        {"messages": '[{"role": "user", "content": "Why?"}]', "reference": "So."},
    ],
)
def test_open_questions_in_other_words(tmp_path, row):
    (made,), _ = rows_of(tmp_path, row, dataset="general_qa", subsets=["sleep_val"])
    assert set(made) <= {"question", "query", "messages", "answer", "response"}
    assert (made.get("answer") or made["response"]) == "So."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Why?", "query": "How?", "answer": "So."}, "both question and query"),
        ({"question": "Why?", "answer": "So.", "response": "No."}, "both answer and response"),
        ({"question": "Why?", "answer": "So.", "history": [["a", "b"]]}, "history would not be asked"),
        ({"messages": [{"role": "user", "content": "Why?"}], "system": "S", "answer": "So."},
         "both messages and system"),
    ],
)  # fmt: skip
def test_what_would_not_be_asked_is_not_dropped(tmp_path, row, message):
    with pytest.raises(UserError, match=f"row 1: .*{message}"):
        rows_of(tmp_path, row, dataset="general_qa")


# --- anything -------------------------------------------------------------------------------------

ODD = [None, "", " ", 0, 1, 3, -1, 1.5, float("nan"), True, [], {}, ["B"], "B", "b)", "Ｃ", "BD", "E", "oak",
       "\x00", "\ud800", "x" * 5000, "A. pine", {"text": "x"}, [None], "1", "心理", "='x", "\n"]  # fmt: skip


def made_up(chance: random.Random) -> dict:
    row: dict = {"question": "Which?", **BARE, "answer": chance.choice("ABC")}
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        name = chance.choice(
            [*row, "D", "E", "query", "options", "choices", "id", "答案", "", "target"]
        )
        if chance.random() < 0.25:
            row.pop(name, None)
        else:
            row[name] = chance.choice(ODD)
    return row


@pytest.mark.parametrize("seed", range(4))
def test_any_row_is_copied_with_a_key_that_can_be_right_or_refused(tmp_path, seed):
    """1,500 rows for each seed: never a traceback, never a row less, never a key beyond."""
    chance, taken = random.Random(seed), 0
    settings = presets()["general_mcq"] | {"multiple_correct": seed % 2 == 1}
    for _ in range(500):
        rows = [made_up(chance) for _ in range(3)]
        try:
            made = own.in_our_words(tables.numbered(rows), settings, "f")
            kept = fetch_benchmark.checked(made.rows, settings, "f", made.places)
            fetch_benchmark.as_lines(kept, "f")
        except UserError as error:
            assert "row " in str(error) or "no field" in str(error)
            continue
        taken += 1
        assert len(kept) == len(rows)
        for row in kept:
            options = [name for name in "ABCDEFGHIJ" if name in row]
            assert options == list("ABCDEFGHIJ")[: len(options)] and len(options) > 1
            assert all(isinstance(row[name], str) and row[name] for name in options)
            keys = row["answer"] if settings["multiple_correct"] else [row["answer"]]
            assert keys and set(keys) <= set(options)
    assert taken > 25


@pytest.mark.parametrize("seed", range(3))
def test_any_file_is_read_or_refused(tmp_path, seed):
    """600 damaged files for each seed: bytes cut, doubled, changed, swapped."""
    chance, read = random.Random(seed), 0
    plain = [
        content if isinstance(content, bytes) else content.encode()
        for content, *_ in FILES.values()
    ]
    for _ in range(600):
        raw = bytearray(chance.choice(plain))
        for _ in range(chance.choice([1, 1, 2, 8])):
            place = chance.randrange(len(raw) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                del raw[place:]
            elif kind == 1:
                raw[place:place] = raw[: chance.randrange(20)]
            elif kind == 2:
                raw[place:place] = bytes([chance.randrange(256)])
            else:
                raw[place : place + chance.randrange(5)] = b""
        name = chance.choice(["f.csv", "f.jsonl", "f.json", "f.tsv"])
        try:
            (found,) = tables.read(name, bytes(raw)).values()
        except UserError as error:
            assert name in str(error)
            continue
        read += 1
        assert len(found.rows) == len(found.places)
        assert all(isinstance(row, dict) for row in found.rows)
    assert 30 < read < 570


# --- what needs a library -------------------------------------------------------------------------


def in_evalscope(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(EVALSCOPE), *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def has_openpyxl() -> None:
    if in_evalscope("-c", "import openpyxl").returncode:
        pytest.skip("envs/evalscope is not synced with openpyxl")


PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fetch_benchmark
from sftflow.core.cli import UserError
came = {}
for name, (source, settings) in json.loads(Path(sys.argv[2]).read_text()).items():
    data = Path(sys.argv[3]) / name
    try:
        subsets, notes = fetch_benchmark.copy_own(Path(source), data, settings)
        rows = {p.name: p.read_text().splitlines() for p in sorted(data.glob("*.jsonl"))}
        came[name] = {n: [json.loads(line) for line in lines] for n, lines in rows.items()}
    except UserError as error:
        came[name] = str(error)
print(json.dumps(came))
"""


def all_fetched(folder: Path, **settings) -> dict:
    """{name: {file: rows} or an error} of each folder in `folder`, in one process."""
    cases = {
        path.name: (str(path), presets()["general_mcq"] | settings) for path in folder.iterdir()
    }
    (folder.parent / "cases.json").write_text(json.dumps(cases))
    done = in_evalscope(
        "-c", PROGRAM, ROOT / "scripts", folder.parent / "cases.json", folder.parent / "out"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder / "s_val.xlsx"


@pytest.mark.slow
@pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope")
def test_workbooks(tmp_path, has_openpyxl):
    top = tmp_path / "in"
    head = ["question", "A", "B", "answer", "day"]
    day = Cell(45000, "date")

    def book(name: str, *rows: list, **more) -> None:
        workbook(put(top / name), **more, Sheet1=[head, *rows])

    book(
        "plain",
        ["Which?", "pine", "oak", "B", day],
        [],
        [None, "", None],
        ["How?", 1, 2.5, "A", day],
    )
    workbook(put(top / "same"), Sheet1=[NAMES, *[[v or None for v in row] for row in ROWS]])
    book("shown", ["Which?", Cell(0.5, "0%"), Cell(1.5, "0.00"), "B"])
    book("value", ["Which?", Cell(3, formula="1+2"), "oak", "A"])
    workbook(
        put(top / "sheets"),
        ("old",),
        sleep_val=[head, ["W?", "a", "b", "A"]],
        心情=[head, ["W?", "a", "b", "B"]],
        empty=[[]],
        old=[["x"], ["y"]],
    )
    for name, cell in {
        "date": day, "money": Cell(5, "money"), "formula": Cell(formula="1+2"),
        "error": Cell("#N/A", kind="e"), "true": Cell(1, kind="b"),
    }.items():  # fmt: skip
        book(name, ["Which?", "pine", cell, "A"])
    book("merged", ["Which?", "pine", "oak", "A"], ["", "elm", "fir", "B"], merged="A2:A3")
    workbook(
        put(top / "twice"), Sheet1=[["question", "A", "A", "answer"], ["Which?", "a", "b", "A"]]
    )
    (put(top / "broken")).write_bytes(b"PK\x03\x04 no workbook")
    csv_named = put(top / "called csv")
    workbook(csv_named, Sheet1=[head, ["Which?", "pine", "oak", "B"]])
    csv_named.rename(csv_named.with_suffix(".csv"))
    came = all_fetched(top)

    rows = came["plain"]["s_val.jsonl"]
    assert [(row["A"], row["B"], row["answer"]) for row in rows] == [
        ("pine", "oak", "B"),
        ("1", "2.5", "A"),
    ]
    assert came["same"]["s_val.jsonl"] == MEANT
    assert came["shown"]["s_val.jsonl"][0] | {"day": None} == {
        "question": "Which?", "A": "50%", "B": "1.50", "answer": "B", "day": None}  # fmt: skip
    assert came["true"]["s_val.jsonl"][0]["B"] == "TRUE"
    assert rows[0]["day"] == "2023-03-15 00:00:00"  # not asked, so not refused
    assert came["value"]["s_val.jsonl"][0]["A"] == "3"
    assert {n: len(r) for n, r in came["sheets"].items()} == {
        "sleep_val.jsonl": 1,
        "心情_val.jsonl": 1,
    }
    assert came["called csv"]["s_val.jsonl"][0]["answer"] == "B"
    place = r"s_val.xlsx, row 1 (line 2 of sheet Sheet1): option B is "
    assert came["date"] == place + "a date or time in C2 (2023-03-15 00:00:00); write a text"
    assert (
        came["money"].startswith(place + "a number in the format") and "in C2 (5)" in came["money"]
    )
    assert came["formula"].startswith(place + "a formula without its value in C2")
    assert came["error"].startswith(place + "the error #N/A in C2")
    assert "sheet Sheet1: cells A2:A3 are merged" in came["merged"]
    assert "two columns are called 'A'" in came["twice"]
    assert came["broken"].startswith("cannot read s_val.xlsx as an Excel workbook")


@pytest.mark.slow
@pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope")
def test_parquet(tmp_path):
    code = """
import json, sys, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
for name, table in json.loads(sys.argv[2]).items():
    Path(sys.argv[1], name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(table), Path(sys.argv[1], name, "s_val.parquet"))
"""
    choice = {"question": "?", "choices": ["a", "b"]}
    made = {
        "same": [dict(zip(NAMES, [v or None for v in row], strict=True)) for row in ROWS],
        "nan": [choice | {"answer": 0.0, "n": float("nan")}, choice | {"answer": 1.0, "n": 2.0}],
        "whole": [
            {"question": "?", "A": "1", "B": "2", "C": c, "answer": "A"} for c in (3.0, None)
        ],
    }
    top = tmp_path / "in"
    done = in_evalscope("-c", code, top, json.dumps(made))
    assert done.returncode == 0, done.stderr
    (top / "cut").mkdir()
    whole = (top / "same/s_val.parquet").read_bytes()
    (top / "cut/s_val.parquet").write_bytes(whole[:-20])
    came = all_fetched(top)
    assert came["same"]["s_val.jsonl"] == MEANT
    assert [row["C"] for row in came["whole"]["s_val.jsonl"] if "C" in row] == ["3"]
    assert came["nan"].startswith("s_val.parquet, row 1: the answer is 0.0")
    assert came["cut"].startswith("cannot read s_val.parquet")
