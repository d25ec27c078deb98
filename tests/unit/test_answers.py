"""No answer is lost, none is taken for another's, a half-written or changed one is none."""

import json
import multiprocessing
import os
import signal

import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest
from sftflow.evaluation.answers import AnswerStore, answer_store


def test_answers_outlive_the_process(tmp_path):
    path = tmp_path / "new" / "s.jsonl"
    with answer_store(path) as store:
        store.add("k", 0, {"text": "答"}, 1.5)
        store.add("k", 1, {"text": "b"}, 0.5)
    with answer_store(path) as store:
        assert store.get("k", 0)["response"] == {"text": "答"}
        assert store.get("k", 1)["response"] == {"text": "b"}
        assert store.get("k", 2) is None and store.get("other", 0) is None


@pytest.mark.parametrize("torn", ['{"key": "z", "n"', '{"key": "z", "n": 0, "response": {}, "s'])
def test_torn_last_line_is_no_answer(tmp_path, torn):
    path = tmp_path / "s.jsonl"
    with answer_store(path) as store:
        store.add("k", 0, {}, 1.0)
    with open(path, "a", encoding="utf-8") as file:
        file.write(torn)
    with answer_store(path) as store:
        assert store.get("z", 0) is None
        store.add("z", 0, {"whole": 1}, 1.0)
    with answer_store(path) as store:
        assert store.get("z", 0)["response"] == {"whole": 1}
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "z"]


def test_each_line_carries_its_digest(tmp_path):
    path = tmp_path / "s.jsonl"
    with answer_store(path) as store:
        store.add("k", 0, {"text": "答"}, 1.5)
    line = json.loads(path.read_text())
    assert line.pop("sha256") == digest(line)


@pytest.mark.parametrize(
    "old, new",
    [
        ('"text":"B"', '"text":"C"'),
        ('"seconds":1.0', '"seconds":1.5'),
        ('"key":"k1"', '"key":"k9"'),
        ('"sha256":"', '"sha256":"0'),
        ("", "not ours\n"),
    ],
)
def test_a_changed_line_is_named(tmp_path, old, new):
    path = tmp_path / "s.jsonl"
    with answer_store(path) as store:
        for number in range(3):
            store.add(f"k{number}", 0, {"text": "B"}, 1.0)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace(old, new, 1)
    assert lines[1] != path.read_text().splitlines(keepends=True)[1]
    path.write_text("".join(lines))
    # in the file that is written to, and in one that is only read
    for asked in (path, tmp_path / "t.jsonl"):
        with pytest.raises(UserError, match=r"s\.jsonl, line 2: .* Delete what is named"):
            AnswerStore(asked)


def test_many_changed_lines_are_one_error(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text("x\n" * 30)
    with pytest.raises(UserError, match=r"lines 1, 2, 3, .* and 20 more"):
        AnswerStore(path)


def test_answers_of_other_suites_are_used(tmp_path):
    """All files of the folder are read; what a file of one's own says goes first."""
    with answer_store(tmp_path / "a.jsonl") as a, answer_store(tmp_path / "b.jsonl") as b:
        a.add("both", 0, {"of": "a"}, 1.0)
        b.add("both", 0, {"of": "b"}, 1.0)
        a.add("one", 0, {"of": "a"}, 1.0)
    for suite, both in (("a", "a"), ("b", "b"), ("c", "a")):
        with answer_store(tmp_path / f"{suite}.jsonl") as store:
            assert store.get("both", 0)["response"] == {"of": both}
            assert store.get("one", 0)["response"] == {"of": "a"}


def test_a_line_that_another_process_is_writing_is_left_alone(tmp_path):
    other = tmp_path / "a.jsonl"
    with answer_store(other) as store:
        store.add("k", 0, {}, 1.0)
    with open(other, "a", encoding="utf-8") as file:
        file.write('{"at":1.0,"key":"half')
    content = other.read_bytes()
    with answer_store(tmp_path / "b.jsonl") as store:
        assert store.get("k", 0) and store.get("half", 0) is None
    assert other.read_bytes() == content


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "s.jsonl"
    with answer_store(path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* is at work on"):
            AnswerStore(path, patience=0.3)
    AnswerStore(path, patience=0.3).close()


def _write_until_killed(path, ready):
    store = AnswerStore(path)
    for number in range(10**9):
        store.add(f"k{number}", 0, {"text": "x" * 100}, 0.0)
        if number == 200:
            ready.set()


def test_killed_writer_loses_nothing_it_acknowledged(tmp_path):
    path = tmp_path / "s.jsonl"
    ready = multiprocessing.Event()
    writer = multiprocessing.Process(target=_write_until_killed, args=(path, ready))
    writer.start()
    assert ready.wait(20)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with answer_store(path) as store:  # its lock went with it
        lines = path.read_bytes().count(b"\n")
        assert lines > 200
        assert all(store.get(f"k{number}", 0) for number in range(lines))


def test_overlapping_answers_are_one_span(tmp_path, monkeypatch):
    times = iter([10.0, 11.0, 30.0, 99.0])
    monkeypatch.setattr("sftflow.evaluation.answers.time.time", lambda: next(times))
    with answer_store(tmp_path / "s.jsonl") as store:
        store.add("a", 0, {}, 4.0)  # 6 to 10
        store.add("b", 0, {}, 4.0)  # 7 to 11
        store.add("c", 0, {}, 2.0)  # 28 to 30, in a later session
        store.add("another benchmark's", 0, {}, 1.0)
        asked = [("a", 0), ("b", 0), ("c", 0)]
        assert store.spans(asked) == [(6.0, 11.0), (28.0, 30.0)]
