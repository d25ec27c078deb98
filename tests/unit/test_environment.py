"""What is recorded of an environment: what runs, not what lies about."""

import sys

import environment
import pytest


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
