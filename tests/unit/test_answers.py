"""No answer is lost, none is taken for another's, and a half-written one is none."""

import json
import multiprocessing
import os
import signal

import pytest
from sftflow.core.cli import UserError
from sftflow.evaluation.answers import AnswerStore, answer_store


def test_answers_outlive_the_process(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with answer_store(path) as store:
        store.add("k", 0, {"text": "答"}, 1.5)
        store.add("k", 1, {"text": "b"}, 0.5)
    with answer_store(path) as store:
        assert len(store) == 2
        assert store.get("k", 0)["response"] == {"text": "答"}
        assert store.get("k", 1)["response"] == {"text": "b"}
        assert store.get("k", 2) is None and store.get("other", 0) is None


@pytest.mark.parametrize("torn", ['{"key": "z", "n"', '{"key": "z", "n": 0, "response": {}, "s'])
def test_torn_last_line_is_no_answer(tmp_path, torn):
    path = tmp_path / "answers.jsonl"
    with answer_store(path) as store:
        store.add("k", 0, {}, 1.0)
    with open(path, "a") as file:
        file.write(torn)
    with answer_store(path) as store:
        assert len(store) == 1
        store.add("z", 0, {"whole": 1}, 1.0)
    with answer_store(path) as store:
        assert store.get("z", 0)["response"] == {"whole": 1}
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "z"]


def test_foreign_line_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("not ours\n")
    with pytest.raises(UserError, match="line 1"):
        AnswerStore(path)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "answers.jsonl"
    with answer_store(path):
        with pytest.raises(UserError, match="another process"):
            AnswerStore(path, patience=0.3)
    AnswerStore(path, patience=0.3).close()


def _write_until_killed(path, ready):
    store = AnswerStore(path)
    for number in range(10**9):
        store.add(f"k{number}", 0, {"text": "x" * 100}, 0.0)
        if number == 200:
            ready.set()


def test_killed_writer_loses_nothing_it_acknowledged(tmp_path):
    path = tmp_path / "answers.jsonl"
    ready = multiprocessing.Event()
    writer = multiprocessing.Process(target=_write_until_killed, args=(path, ready))
    writer.start()
    assert ready.wait(20)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with answer_store(path) as store:  # its lock went with it
        assert len(store) > 200
        assert all(store.get(f"k{number}", 0) for number in range(len(store)))


def test_span_counts_overlapping_answers_once(tmp_path, monkeypatch):
    times = iter([10.0, 11.0, 30.0])
    monkeypatch.setattr("sftflow.evaluation.answers.time.time", lambda: next(times))
    with answer_store(tmp_path / "answers.jsonl") as store:
        store.add("a", 0, {}, 4.0)  # 6 to 10
        store.add("b", 0, {}, 4.0)  # 7 to 11
        store.add("c", 0, {}, 2.0)  # 28 to 30, in a later session
        assert store.span() == (6.0, 7.0)
