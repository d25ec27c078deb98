"""The demo's inputs are what their programs make, and nothing asked is taught word by word."""

import hashlib
import json
import math
import re
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "config" / "demo"
sys.path.insert(0, str(ROOT / "scripts" / "dev" / "demo"))

import make_data
import wording


def test_data_is_what_its_program_writes():
    """An edit by hand would make the card of every demo benchmark a lie."""
    for path, text in make_data.everything().items():
        assert (DEMO / path).read_text(encoding="utf-8") == text, path


def test_readmes_verdicts_are_far_from_the_edge():
    """Else another CPU's rounding would show a reader another verdict than README does."""
    rows = re.findall(r"^\| \*\*.*", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 2
    for row in rows:
        p = row.split("|")[-3].strip()
        assert p == "< 0.0001" or float(p) > 0.3, row


def test_what_is_asked_is_worded_otherwise_than_what_is_taught():
    """Else the demo would show memory of sentences and call it an effect."""
    taught = {text for fact in wording.psychology() for text in (*fact.say, *fact.say_zh)}
    asked = {text for fact in wording.psychology() for text in fact.ask}
    assert not taught & asked


def test_no_dialogue_occurs_twice():
    rows = (DEMO / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(set(rows))


def test_model_is_small_and_its_card_names_its_weights():
    """A newcomer's clone stays small, and a changed file can't pass for the documented one."""
    weights = DEMO / "model" / "model.safetensors"
    content = weights.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    tensors = json.loads(content[8 : 8 + length])
    shapes = [entry["shape"] for name, entry in tensors.items() if name != "__metadata__"]
    assert sum(math.prod(shape) for shape in shapes) <= 8_000_000
    assert sum(path.stat().st_size for path in (DEMO / "model").iterdir()) <= 16_000_000
    card = (DEMO / "model" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in card
