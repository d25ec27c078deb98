"""What is recorded of an environment: what runs, not what lies about."""

import sys

import environment
import pytest
from sftflow.core import environments
from sftflow.core.cli import UserError


@pytest.mark.parametrize(("first", "second"), [("5.12.1", "5.17.0"), ("5.17.0", "5.12.1")])
def test_of_two_copies_the_one_that_is_imported_is_recorded(tmp_path, monkeypatch, first, second):
    """With `software: active`, 5.17.0 was named where 5.12.1 ran, and identities believed it."""
    for version in (first, second):
        about = tmp_path / version / f"transformers-{version}.dist-info"
        about.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n"
        (about / "METADATA").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / first}:{tmp_path / second}")
    assert environment.inspect(sys.executable)["packages"]["transformers"] == first


UV = """Using CPython 3.11.7
Resolved 154 packages in 12ms
Downloading torch (731.3MiB)
Downloading numpy (512.5KiB)
Downloading nvidia-cudnn-cu12 (1.5GiB)
 Downloaded numpy
"""


def test_a_sync_says_how_much_is_downloaded():
    """Minutes of silence look like a program that hangs."""
    assert environment.downloads(UV) == (512.5 * 2**10, (731.3 + 1536 + 512.5 / 1024) * 2**20)
    assert environment.downloads("Resolved 154 packages in 12ms\n") == (0, 0)


def test_an_interpreter_may_be_named_as_in_a_shell(tmp_path, monkeypatch):
    """PYTHON_SWIFT=python3 ended every job with a FileNotFoundError that named no file."""
    (tmp_path / "python-of-mine").write_text("#!/bin/sh\n")
    (tmp_path / "python-of-mine").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHON_SWIFT", "python-of-mine")
    assert environments.interpreter("swift", "active") == str(tmp_path / "python-of-mine")
    monkeypatch.setenv("PYTHON_SWIFT", "python-of-nobody")
    with pytest.raises(UserError, match="PYTHON_SWIFT is 'python-of-nobody'"):
        environments.interpreter("swift", "active")
