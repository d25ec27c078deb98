"""What is learnt of a dialogue, and what a template refuses: by ms-swift's own template."""

import json
import shutil
import subprocess
from pathlib import Path

import prepare_dataset
import pytest
from sftflow.core.jsonio import file_entries, read_record, tree_digest, tree_files, write_record
from support import ROOT, SWIFT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced"),
]

SETTINGS = {
    "on_bad_rows": "error", "max_bad_share": 0, "validation_share": 0, "split_seed": 1,
}  # fmt: skip
TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
TALK = [
    {"from": "human", "value": "ask one"},
    {"from": "gpt", "value": "answer one"},
    {"from": "human", "value": "ask two"},
    {"from": "gpt", "value": "answer two"},
]
CALL = {"from": "gpt", "value": '<tool_call>{"name": "look", "arguments": {}}</tool_call>'}
RESULT = {"from": "tool", "value": "<tool_response>\nnothing\n</tool_response>"}
TOOLS = {
    "conversations": [TALK[0], CALL, RESULT, TALK[1]],
    "tools": json.dumps([TOOL]),
}


def prepared(folder: Path, rows: list[dict]) -> Path:
    """The receipt of rows that the real preparation has made of these."""
    paths = folder / "train.jsonl", folder / "validation.jsonl"
    counts = prepare_dataset.prepare(enumerate(rows, start=1), *paths, SETTINGS)
    receipt = {"dataset": "talk", **counts, "files": file_entries(folder, paths)}
    write_record(folder / "receipt.json", receipt)
    return folder / "receipt.json"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """The demo's model without its weights, and the record of that."""
    folder = tmp_path_factory.mktemp("model")
    without = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(ROOT / "config/demo/model", folder / "tokenizer", ignore=without)
    files = tree_files(folder / "tokenizer")
    write_record(folder / "tokenizer.json", {"files": files, "digest": tree_digest(files)})
    return folder / "tokenizer.json"


def tokenize(receipt: Path, tokenizer: Path, **model: str) -> subprocess.CompletedProcess:
    training = {
        "max_length": 512, "too_long": "drop", "seed": 1, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    known = {"name": "tiny", "model_type": "llama", "template": "chatml"}
    chosen = {"run": "r", "training": training, "model": known | model}
    program = [SWIFT, ROOT / "scripts/tokenize_run.py", "--dataset-receipt", receipt]
    program += ["--tokenizer", tokenizer, "--receipt", receipt.parent / "run/receipt.json"]
    program += ["--settings", json.dumps(chosen)]
    return subprocess.run(program, capture_output=True, text=True)


LEARNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from swift import get_processor, get_template
from swift.dataset import load_dataset
processor = get_processor(sys.argv[2], model_type="llama")
template = get_template(processor, template_type="chatml", agent_template="hermes", max_length=4096)
template.set_mode("train")
direct = [json.loads(line) for line in open(sys.argv[3], encoding="utf-8")]
loaded, _ = load_dataset([sys.argv[3]], strict=True)
def learnt(row):
    encoded = template.encode(row)
    pairs = zip(encoded["input_ids"], encoded["labels"])
    return processor.decode([token for token, label in pairs if label != -100])
print(json.dumps([[learnt(row) for row in rows] for rows in (direct, loaded)]))
"""


def test_a_masked_answer_is_read_and_not_learnt(tmp_path, tokenizer):
    """As it is counted, and as the trainer loads it: with rows of other kinds beside it."""
    masked = [TALK[0], TALK[1] | {"weight": 0}, *TALK[2:]]
    thought = [*TALK[:3], TALK[3] | {"reasoning_content": "hidden thought"}]
    rows = [{"conversations": masked}, {"conversations": TALK}, TOOLS, {"conversations": thought}]
    prepared(tmp_path, rows)
    program = [SWIFT, "-c", LEARNT, ROOT / "scripts", tokenizer.parent / "tokenizer"]
    done = subprocess.run([*program, tmp_path / "train.jsonl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    direct, loaded = json.loads(done.stdout.splitlines()[-1])
    assert direct == loaded
    assert "answer two" in direct[0] and "answer one" not in direct[0]
    assert "answer one" in direct[1] and "answer two" in direct[1]
    assert '"name": "look"' in direct[2] and "nothing" not in direct[2]
    assert "hidden thought" in direct[3]
    assert not any("ask" in text for text in direct)


def test_tools_on_a_template_without_any_name_the_key_and_the_lines(tmp_path, tokenizer):
    receipt = prepared(tmp_path, [{"conversations": TALK}, TOOLS])
    done = tokenize(receipt, tokenizer)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "models.tiny.agent_template" in done.stderr and "train.jsonl:2" in done.stderr
    done = tokenize(receipt, tokenizer, agent_template="hremes")
    assert done.returncode == 1 and "models.tiny.agent_template: ms-swift has no" in done.stderr


def test_a_dialogue_that_the_template_refuses_is_left_out_with_its_reason(tmp_path, tokenizer):
    nameless = [{"name": "look", "parameters": {}}]  # react wants a description
    rows = [TOOLS, TOOLS | {"tools": json.dumps(nameless)}]
    done = tokenize(prepared(tmp_path, rows), tokenizer, agent_template="react_en")
    assert done.returncode == 0, done.stderr[-3000:]
    receipt = read_record(tmp_path / "run/receipt.json")
    assert receipt["rows_kept"] == 1
    assert receipt["dropped"]["refused by the template"]["lines"] == ["train.jsonl:2"]
    ((said, where),) = receipt["refusals"].items()
    assert said.startswith("AssertionError: tool_desc") and where["lines"] == ["train.jsonl:2"]
    assert "1 left out; the template says AssertionError" in done.stdout
