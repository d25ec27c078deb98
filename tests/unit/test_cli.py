"""What every program does the same way."""

import errno
import os

import pytest
from sftflow.core import cli, jsonio, process
from sftflow.core.cli import UserError


@pytest.fixture(autouse=True)
def _signals_stay(monkeypatch):
    monkeypatch.setattr(process, "follow_snakemake", lambda: None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(capsys, number):
    def main():
        raise OSError(number, os.strerror(number), "results/x")

    assert cli.run(main) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "results/x" in said and "make room" in said and "run again" in said


def test_another_error_of_the_system_is_not_hidden():
    def main():
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        cli.run(main)


def test_ctrl_c_is_one_word(capsys):
    def main():
        raise KeyboardInterrupt

    assert cli.run(main) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "sub', b"\xff\xfe", b"\0\0"])
def test_a_record_that_is_cut_off_is_named(tmp_path, content):
    (tmp_path / "readiness.json").write_bytes(content)
    for read in (jsonio.read_json, jsonio.read_record):
        with pytest.raises(UserError, match=r"readiness\.json is not valid JSON .*delete it"):
            read(tmp_path / "readiness.json")
