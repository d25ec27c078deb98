"""Files of dialogues: read whole, whoever wrote them, or refused in one sentence."""

import csv
import gzip
import io
import json
import subprocess
from functools import partial
from pathlib import Path

import prepare_dataset
import pytest
from sftflow.core.cli import UserError
from sftflow.inputs import rows, sharegpt
from support import EVALSCOPE

ASK, ANSWER = {"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好！"}


def dialogues(count: int) -> list[dict]:
    return [
        {"conversations": [ASK, {"from": "gpt", "value": f"{i} — 心理学"}]} for i in range(count)
    ]


ROWS = dialogues(12)
COLUMNS = {"instruction": ["q", "r"], "output": ["a", "b"]}
PAIRS = [{"instruction": "q", "output": "a"}, {"instruction": "r", "output": "b"}]
TURNS = [[ASK, ANSWER], [ASK, {"from": "gpt", "value": "b"}]]


# The names of tests hold what it makes, and must be the same in each of their processes.
gzipped = partial(gzip.compress, mtime=0)


def text(value, **how) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


def lines(values) -> str:
    return "\n".join(map(text, values))


def read(folder: Path, name: str, content: str | bytes) -> tuple[str, list]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    form, found = rows.read(path)
    return form, [row for _, row in found]


def table(values: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(values[0]))
    writer.writeheader()
    writer.writerows(values)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "form", "content", "expected"),
    [
        ("lines", rows.LINES, lines(ROWS), ROWS),
        ("blank lines", rows.LINES, "\n\n" + lines(ROWS).replace("\n", "\r\n\r\n"), ROWS),
        ("lines of turns", rows.LINES, lines(TURNS), TURNS),
        ("pairs", rows.LINES, lines(PAIRS), PAIRS),
        ("python lines", rows.LITERALS, "\n".join(map(repr, ROWS)), ROWS),
        ("array", rows.ARRAY, text(ROWS), ROWS),
        ("pretty array", rows.ARRAY, text(ROWS, indent=2), ROWS),
        ("a row a line", rows.ARRAY, "[\n" + ",\n".join(map(text, ROWS)) + "\n]\n", ROWS),
        ("python array", rows.LITERAL, repr(ROWS), ROWS),
        ("no rows", rows.ARRAY, "[]", []),
        ("array of dialogues", rows.ARRAY, text(TURNS), TURNS),
        ("one dialogue", rows.DIALOGUE, text(TURNS[0], indent=1), [TURNS[0]]),
        ("one row", rows.ONE, text(ROWS[0], indent=1), [ROWS[0]]),
        ("one line", rows.ONE, text(ROWS[0]), [ROWS[0]]),
        ("rounds", rows.ONE, text({"conversation": [{"input": "q", "output": "a"}]}),
         [{"conversation": [{"input": "q", "output": "a"}]}]),
        ("data", rows.WRAPPED, text({"data": ROWS}, indent=1), ROWS),
        ("train", rows.WRAPPED, text({"version": "1", "tags": ["x"], "train": ROWS}), ROWS),
        ("conversations", rows.WRAPPED, text({"conversations": ROWS}), ROWS),
        ("python object", rows.WRAPPED, repr({"data": ROWS}), ROWS),
        ("columns", rows.COLUMNS, text(COLUMNS), PAIRS),
        ("numbered columns", rows.COLUMNS,
         text({key: dict(enumerate(held)) for key, held in COLUMNS.items()}), PAIRS),
        ("columns of turns", rows.COLUMNS, text({"messages": TURNS}),
         [{"messages": turns} for turns in TURNS]),
        ("by name", rows.NAMED, text(dict(enumerate(ROWS)), indent=1), ROWS),
        ("none", rows.EMPTY, " \n\n", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".json.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_is_what_its_content_says(tmp_path, name, form, content, expected, suffix, mark):
    data = (mark + content).encode()
    data = gzip.compress(data) if suffix.endswith(".gz") else data
    assert read(tmp_path, f"{name}{suffix}", data) == (form, expected)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    form, found = read(tmp_path, "a.jsonl", lines(ROWS).encode(encoding))
    assert found == ROWS and form == f"JSON lines in {encoding.upper()}"


def test_csv_holds_turns_or_pairs(tmp_path):
    turns = [{"id": "1", "conversations": text(row["conversations"])} for row in ROWS]
    form, found = read(tmp_path, "a.csv", "\ufeff" + table(turns))
    assert form == rows.CSV and found == turns
    assert [sharegpt.normalise(r).row for r in found] == [sharegpt.normalise(r).row for r in ROWS]
    assert read(tmp_path, "b.csv", table([p | {"input": ""} for p in PAIRS]))[1] == PAIRS
    assert read(tmp_path, "c.tsv", "query\tresponse\nq\ta\n")[1] == [
        {"query": "q", "response": "a"}
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lines([ROWS[:2], ROWS[2:4]]), "line 2"),
        (text(ROWS[:2]).replace("}, {", "} {"), "delimiter"),
        (text([1, 2]).replace(",", ""), "a comma or the array's end"),
        (text(ROWS[:2]) + " x", "has ended, and 'x'"),
        (text(ROWS[:2])[:-1] + ", ]", "a value was expected"),
        (text(ROWS[:2])[:-1], "the file ends"),
        (text(ROWS, indent=1)[:-300], "line"),
        ("\n".join(text(row, indent=1) for row in ROWS), "ends before line 13"),
        (text(ROWS[0]) + text(ROWS[1]) + "\n" + text(ROWS[2]), "line 1 holds 2 JSON objects"),
        (lines(ROWS[:3]) + "\n" + text(ROWS[3]) * 3, "line 4 holds 3 JSON objects"),
        (",\n".join(map(text, ROWS)), "ends before line 1"),
        (text({"train": ROWS, "test": ROWS}), "several lists of rows (train, test)"),
        (text({"name": "x", "size": 3}, indent=1), "the keys name, size"),
        (text({"columns": ["query"], "data": [["q"]]}), "the keys columns, data"),
        ("{\n" * 40, "no JSON"),
        ("hello\nthere", "begins with 'hello"),
        ("1", "begins with '1'"),
        (lines(ROWS).encode("gbk"), "iconv -f GB18030"),
        (text(ROWS).encode("gbk"), "iconv -f GB18030"),
        (b"\xff\xfe" + lines(ROWS).encode(), "UTF-16"),
        (gzipped(lines(ROWS).encode())[:-20], "cannot be read to its end"),
        (gzipped(gzipped(b"{}")), "twice"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x00\x01\x02", "no text"),
    ],
)
def test_what_would_lose_rows_is_refused_in_one_sentence(tmp_path, content, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, "rows.jsonl", content)
    assert "rows.jsonl: " in str(caught.value) and told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("query,response\nq\n", "line 2: 1 cells"),
        ("query,response\nq,a,b\n", "line 2: 3 cells"),
        ("query,query\nq,a\n", "one name"),
        ('query,response\n"q,a\n', "cannot be read"),
        ("query,response\nq,\x00\n", "no text"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, told):
    with pytest.raises(UserError, match=told):
        read(tmp_path, "a.csv", content)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"conversations": [', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"1" * 10_000, "invalid JSON"),
        (b'{"conversations": "\xff"}', "invalid UTF-8"),
    ],
)
def test_a_broken_line_among_good_ones_is_one_bad_row(tmp_path, line, expected):
    for place in (0, 1, 3) if line[:1] == b"{" else (1, 3):
        parts = [text(row).encode() for row in ROWS[:3]]
        parts.insert(place, line)
        form, found = read(tmp_path, "a.jsonl", b"\n".join(parts))
        assert form == rows.LINES and found.pop(place).reason == expected
        assert found == ROWS[:3]


def test_columns_of_two_lengths_are_no_dialogue(tmp_path):
    _, (row,) = read(tmp_path, "a.json", text({"instruction": ["q", "r"], "output": ["a"]}))
    with pytest.raises(sharegpt.BadRow, match="ambiguous"):
        sharegpt.normalise(row)


def test_nan_where_nothing_reads_it_changes_nothing(tmp_path):
    raw = lines(ROWS).replace("}]}", '}], "score": NaN, "other": [-Infinity]}')
    _, found = read(tmp_path, "a.jsonl", raw)
    assert [sharegpt.normalise(r).row for r in found] == [sharegpt.normalise(r).row for r in ROWS]


def test_line_numbers_are_the_files_own(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + lines(ROWS[:2]).replace("\n", "\n\n{\n"))
    numbers = [number for number, _ in rows.read(tmp_path / "a.jsonl")[1]]
    assert numbers == [2, 4, 5]


def test_every_form_of_file_is_told_apart_above():
    (told,) = (
        mark.args[1]
        for mark in test_a_file_is_what_its_content_says.pytestmark
        if mark.args[0][0] == "name"
    )
    assert {form for _, form, _, _ in told} | {rows.CSV, rows.PARQUET, rows.ARROW} == set(
        rows.FILES
    )


@pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")
@pytest.mark.slow
def test_parquet_and_arrow_hold_the_same_rows(tmp_path):
    code = """
import json, sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pyarrow, pyarrow.parquet
from sftflow.core.cli import UserError
from sftflow.inputs import rows, sharegpt
given, folder = json.loads(sys.argv[3]), Path(sys.argv[2])
table = pyarrow.Table.from_pylist(given)
pyarrow.parquet.write_table(table, folder / "rows.parquet")
for name, new in (("file", pyarrow.ipc.new_file), ("stream", pyarrow.ipc.new_stream)):
    with new(str(folder / f"{name}.arrow"), table.schema) as writer:
        writer.write_table(table)
found = {}
for path in sorted(folder.iterdir()):
    form, read = rows.read(path)
    found[path.name] = [form, [sharegpt.normalise(row).row for _, row in read]]
for path in sorted(folder.iterdir()):
    path.write_bytes(path.read_bytes()[:200])
    try:
        list(rows.read(path)[1])
    except UserError as error:
        assert path.name in str(error)
    else:
        raise SystemExit(f"{path} was read")
print(json.dumps(found))
"""
    given = [
        {"conversations": [ASK | {"tool_calls": None}, ANSWER], "system": None, "images": []},
        {"conversations": [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a"}]},
    ]  # a struct has every field of every turn
    scripts = Path(prepare_dataset.__file__).parent
    command = [EVALSCOPE, "-c", code, scripts, tmp_path, json.dumps(given)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    expected = [sharegpt.normalise(row).row for row in given]
    assert found == {
        "file.arrow": [rows.ARROW, expected],
        "stream.arrow": [rows.ARROW, expected],
        "rows.parquet": [rows.PARQUET, expected],
    }
