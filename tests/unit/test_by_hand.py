"""Talking to subjects and keeping them up: what can be known without a server."""

import argparse
import re
import socket

import made_up
import pytest
from sftflow.config import byhand, resolve
from sftflow.core.cli import UserError
from sftflow.serving import columns, completions, deploying, server, talking


@pytest.mark.parametrize(
    "text, width", [("你好", 4), ("abc", 3), ("e\u0301", 1), ("，a", 3), ("a\u200bb", 2), ("", 0)]
)
def test_chinese_takes_two_cells_and_accents_none(text, width):
    assert columns.cells(text) == width


def texts(text, width):
    return [line for _, line in columns.wrapped(text, width)]


def test_lines_are_never_wider_than_their_column_and_lose_nothing():
    assert texts("one two three", 7) == ["one two", "three"]
    assert texts("你好世界", 5) == ["你好", "世界"]
    assert texts("a" * 10, 4) == ["aaaa", "aaaa", "aa"]
    mixed = "心理咨询 is a talk 关于 feelings, unbelievably-long-words-included。" * 5
    for width in range(2, 40):
        lines = texts(mixed, width)
        assert all(columns.cells(line) <= width for line in lines), width
        assert "".join(lines).replace(" ", "") == mixed.replace(" ", ""), width
    assert texts("first\n\nthird", 9) == ["first", "", "third"]


def test_a_model_can_not_move_the_cursor():
    assert columns.shown("a\x1b[2Jb\rc\x07\td\n") == "a[2Jbc    d\n"


def test_thoughts_are_apart_and_no_part_of_the_history():
    text = "<think>hm\nhm</think>\n\nyes"
    assert columns.parted(text) == [(True, "hm\nhm"), (False, "yes")]
    assert columns.said(text) == "yes" and columns.said("<think>cut off") == ""
    assert columns.parted("a < b") == [(False, "a < b")]
    whole = ""
    for end in range(len(text) + 1):  # as it comes: nothing that was shown is taken back
        now = talking.coloured(text[:end])
        assert now.startswith(whole)
        whole = now
    assert "think" not in whole and columns.DIM in whole


def screen(writes, height):
    """What stands on a terminal after all: rows that scrolled away can't be reached any more."""
    rows = [""]
    for write in writes:
        up = re.match(r"\x1b\[(\d+)A\r\x1b\[J", write)
        if up:
            assert int(up[1]) < height, "it went up beyond the screen"
            del rows[len(rows) - 1 - int(up[1]) :]
            rows.append("")
            write = write[up.end() :]
        assert "\x1b" not in write
        first, *rest = write.split("\n")
        rows[-1] += first
        rows += rest
    return rows[:-1]


@pytest.mark.parametrize("height", [4, 10, 100])
def test_columns_fill_side_by_side_whoever_is_faster(height):
    left, right = ("左边的回答很长很长 and long words too. " * 12)[:-1], ("right " * 90)[:-1]
    writes: list[str] = []
    table = columns.Columns(writes.append, 60, height, 2)
    for step in range(0, 1000, 7):
        done = [step >= len(left), step * 3 >= len(right)]
        table.draw([left[:step], right[: step * 3]], done)
        if all(done):
            break
    rows = screen(writes, height)
    assert all(columns.cells(row) <= 60 for row in rows)
    halves = [row.partition(columns.GAP.rstrip()) for row in rows]
    width = table.width
    assert [half[0].rstrip() for half in halves if half[0].strip()] == texts(left, width)
    assert [half[2].strip() for half in halves if half[2].strip()] == texts(right, width)


def test_pieces_of_any_server_are_heard():
    delta = {"choices": [{"delta": {"content": "你"}, "finish_reason": None}]}
    assert talking.heard(delta) == ("", "你", None)
    whole = {"choices": [{"message": {"content": None, "reasoning": "r"}, "finish_reason": "stop"}]}
    assert talking.heard(whole) == ("r", "", "stop")
    assert talking.heard({"choices": [], "usage": {}}) == ("", "", None)
    with pytest.raises(completions.NoAnswer, match="no such model"):
        talking.heard({"error": {"message": "no such model"}})


def test_commands():
    partners = [talking.Partner(name, None, "old") for name in "ab"]
    for partner in partners:
        partner.history.append({"role": "user", "content": "x"})
    assert "no command" in talking.commanded(partners, "/help")
    assert all(partner.history for partner in partners)
    talking.commanded(partners, "/reset")
    assert not any(p.history for p in partners) and partners[0].system == "old"
    assert "温和" in talking.commanded(partners, "/system 请温和地回答")
    assert [m["role"] for m in partners[1].messages("hi")] == ["system", "user"]
    talking.commanded(partners, "/system")
    assert partners[0].messages("hi") == [{"role": "user", "content": "hi"}]


def test_a_taken_port_is_refused_and_the_next_free_one_named():
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .* is taken: (\d+) is free") as error:
            server.refuse_taken("127.0.0.1", port)
        free = int(re.search(r"--port (\d+)", str(error.value))[1])
        server.refuse_taken("127.0.0.1", free)
    with pytest.raises(UserError, match=r"nobody can listen on 192\.0\.2\.1"):
        server.refuse_taken("192.0.2.1", port)


def test_a_port_whose_connections_were_just_closed_is_free():
    """So that a server can be started again at once on the port that it had."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listening.accept()
            accepted.close()  # the side that closes first waits
            assert client.recv(1) == b""
    server.refuse_taken("127.0.0.1", port)


def test_a_key_of_the_users_own_is_no_weak_one(monkeypatch):
    monkeypatch.setenv("MINE", "short")
    with pytest.raises(UserError, match="at least 8 characters"):
        deploying.the_key("MINE")
    monkeypatch.delenv("MINE")
    with pytest.raises(UserError, match="MINE"):
        deploying.the_key("MINE")
    monkeypatch.setenv("MINE", "long enough".replace(" ", "-"))
    assert deploying.the_key("MINE") == "long-enough"
    assert deploying.the_key(None) != deploying.the_key(None)


def test_a_run_is_found_merged_or_as_its_adapter(tmp_path):
    """What is missing is named with the command that makes it; what is there is offered."""
    study = resolve.load(made_up.RAW)
    run = next(iter(study["runs"]))
    args = argparse.Namespace(results=tmp_path, configfile=None, adapter=False)
    made = ["environments/swift.json", "models/base/manifest.json", f"runs/{run}/adapter.json"]
    for name in made:
        (tmp_path / name.replace("base", study["runs"][run]["model"])).parent.mkdir(parents=True)
        (tmp_path / name.replace("base", study["runs"][run]["model"])).touch()
    with pytest.raises(UserError, match=rf"snakemake \S*runs/{run}/merged.json .*--adapter serves"):
        byhand.told(args, study, run, "chat")
    args.adapter = True
    folders = [f"models/{study['runs'][run]['model']}/weights", f"runs/{run}/adapter"]
    with pytest.raises(UserError, match=rf"snakemake \S*{folders[0]} \S*{folders[1]} "):
        byhand.told(args, study, run, "chat")  # deleted, their manifests left
    for name in folders:
        (tmp_path / name).mkdir()
    told = byhand.told(args, study, run, "chat")
    assert told["settings"]["form"] == "adapter" and told["log"] == f"logs/chat/{run}.log"
    assert told["adapter_folder"] == str(tmp_path / f"runs/{run}/adapter")
    assert told["weights_folder"].endswith("weights")
    study["runs"][run]["training"]["tuner_type"] = "full"
    with pytest.raises(UserError, match="has no adapter"):
        byhand.told(args, study, run, "chat")
