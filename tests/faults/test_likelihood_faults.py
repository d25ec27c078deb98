"""Likelihoods by a real model: right, the trainer's, resumable, and of this subject only."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from sftflow.core.jsonio import (
    file_digest,
    file_entries,
    read_json,
    read_jsonl,
    read_record,
    tree_digest,
    tree_files,
    write_jsonl,
    write_record,
)
from sftflow.training.record import Events
from support import ROOT, SWIFT, stand_in_cards
from test_training_faults import demo, folder_of, merge, run, tiny  # noqa: F401
from test_training_faults import settings as training_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced"),
]

SETTINGS = {
    "subject": "demo",
    "form": "base",
    "model": {"name": "demo", "model_type": "llama", "template": "chatml", "system": None},
    "dialogue": {
        "neutral": {"zh": "config/neutral/zh.txt", "en": "config/neutral/en.txt"},
        "max_length": 256,
    },
    "serving": {"device": "cpu", "torch_dtype": "float32", "gpus": 1},
    "made_with": {"dialogue.max_length": 256},
}


def changed(**parts) -> dict:
    """SETTINGS with some keys of its sections changed: changed(model={"system": "…"})."""
    made = copy.deepcopy(SETTINGS)
    for section, values in parts.items():
        made[section] |= values
    return made


@pytest.fixture(scope="module")
def held_out(demo) -> Path:  # noqa: F811
    """A receipt of the demo's dialogues as a dataset, one of 300 tokens among them."""
    folder = demo / "datasets/talks"
    folder.mkdir(parents=True)
    rows = list(read_jsonl(demo / "validation.jsonl"))
    long = {"role": "assistant", "content": "sleep " * 300}
    rows.append({"messages": [{"role": "user", "content": "hi"}, long], "id": "long"})
    write_jsonl(folder / "validation.jsonl", rows)
    entries = file_entries(folder, [folder / "validation.jsonl"])
    content = {"schema": 1, "dataset": "talks", "files": entries, "digest": tree_digest(entries)}
    write_record(folder / "receipt.json", content)
    return folder / "receipt.json"


def command(manifest: Path, receipt: Path, output: Path, chosen: dict, *more) -> list:
    return [
        SWIFT, ROOT / "scripts/likelihood.py", "--manifest", manifest, "--datasets", receipt,
        "--settings", json.dumps(chosen), "--output", output, *more,
    ]  # fmt: skip


def compute(*given) -> str:
    """What the person saw."""
    done = subprocess.run(
        command(*given), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def output_in(folder: Path) -> Path:
    return folder / "dialogue/demo/likelihood.json"


def records(output: Path) -> dict:
    """{(text, id): record} of a likelihood.json, none of them twice."""
    made = read_record(output)
    file = output.parents[2] / made["records"]
    assert file_digest(file) == made["records_sha256"]
    rows = list(read_jsonl(file))
    found = {(row["text"], row["id"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def about(one: float | None, other: float | None, relative: float) -> bool:
    """Two likelihoods are as near as that, or both texts were left out."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=relative)


@pytest.fixture(scope="module")
def base(demo, held_out, tmp_path_factory) -> Path:  # noqa: F811
    output = output_in(tmp_path_factory.mktemp("base"))
    compute(demo / "manifest.json", held_out, output, SETTINGS)
    return output


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

weights, receipt, *neutral = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(weights)
model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()

def score(ids, counts):
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(log_p[i - 1, ids[i]].item() for i in range(1, len(ids)) if counts[i])

def chatml(messages):
    ids, counts = [], []
    for message in messages:
        for text, count in (
            ("<|im_start|>" + message["role"] + "\\n", False),
            (message["content"] + "<|im_end|>\\n", message["role"] == "assistant"),
        ):
            some = tokenizer(text, add_special_tokens=False).input_ids
            ids += some
            counts += [count] * len(some)
    return ids, counts

for line in open(receipt.replace("receipt.json", "validation.jsonl")):
    row = json.loads(line)
    ids, counts = chatml(row["messages"])
    print(json.dumps([row["id"], len(ids), sum(counts), score(ids, counts)]))
for path in neutral:
    for line in open(path):
        ids = tokenizer(line.strip()).input_ids
        print(json.dumps([line.strip(), len(ids), len(ids) - 1, score(ids, [1] * len(ids))]))
"""


def test_every_likelihood_is_that_of_a_plain_loop(demo, held_out, base):  # noqa: F811
    """One text at a time, no template, nothing packed or padded, every logit."""
    neutral = [ROOT / path for path in SETTINGS["dialogue"]["neutral"].values()]
    plain = subprocess.run(
        [SWIFT, "-c", PLAIN, demo / "weights", held_out, *neutral],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [json.loads(line) for line in plain.stdout.splitlines()]
    found = list(records(base).values())
    assert len(found) == len(expected) > 150
    for row, (name, length, tokens, nll) in zip(found, expected, strict=True):
        assert (row["length"], row["tokens"]) == (length, tokens), name
        if length > 256:
            assert row["nll"] is None, name
        else:
            assert math.isclose(row["nll"], nll, rel_tol=1e-5), name
    sums = read_record(base)["texts"]
    assert [(s["name"], s["kind"], s["left_out"]) for s in sums] == [
        ("talks", "dialogue", 1), ("neutral-zh", "neutral", 0), ("neutral-en", "neutral", 0),
    ]  # fmt: skip
    loss = sum(e[3] for e in expected[:40]) / sum(e[2] for e in expected[:40])
    assert math.isclose(sums[0]["loss"], loss, rel_tol=1e-5)
    assert math.isclose(math.log(sums[0]["perplexity"]), loss, rel_tol=1e-5)


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> Path:  # noqa: F811
    output = tmp_path_factory.mktemp("trained") / "runs/r"
    chosen = training_settings(num_train_epochs=1)
    chosen["model"]["system"] = None
    assert run(demo, output, chosen)[0] == 0
    merged = merge(demo, output)
    assert merged.returncode == 0, merged.stderr
    return output


def test_the_trainer_has_the_same_loss(trained, base, demo, held_out, tmp_path):  # noqa: F811
    """ms-swift's own evaluation on the same rows: before the first step, and after the last."""
    losses = [
        entry["loss"]
        for entry in Events(folder_of(trained) / "events.jsonl").new()
        if entry["event"] == "validation"
    ]
    adapter = ["--adapter-manifest", trained / "adapter.json"]
    tuned = output_in(tmp_path / "adapter")
    compute(demo / "manifest.json", held_out, tuned, SETTINGS, *adapter)
    found = [read_record(output)["texts"][0]["loss"] for output in (base, tuned)]
    assert found == pytest.approx([losses[0], losses[-1]], rel=1e-4)
    assert abs(found[0] - found[1]) > 0.1  # or nothing was trained

    merged = output_in(tmp_path / "merged")
    compute(trained / "merged.json", held_out, merged, SETTINGS)
    there = records(tuned)
    for key, row in records(merged).items():
        assert about(row["nll"], there[key]["nll"], 1e-4), key
    identities = {read_record(output)["identity"] for output in (base, tuned, merged)}
    assert len(identities) == 3


def test_killed_it_goes_on_where_it_was(demo, held_out, base, tmp_path):  # noqa: F811
    output = output_in(tmp_path)
    given = demo / "manifest.json", held_out, output, SETTINGS
    folder = output.with_name("likelihood")
    kept: list[str] = []
    process = subprocess.Popen(
        command(*given), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and len(kept) < 3:
        time.sleep(0.002)
        kept = [line for file in folder.glob("*") for line in file.read_text().splitlines()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    (file,) = folder.iterdir()
    with open(file, "a", encoding="utf-8") as half:
        half.write('{"id":"3","length":12')  # as if killed while writing
    whole = file.read_text().count("\n")
    seen = compute(*given)
    assert f"{161 - whole} texts computed" in seen or f"{162 - whole} texts computed" in seen
    again, before = records(output), records(base)
    assert again.keys() == before.keys()
    for key, row in again.items():
        assert about(row["nll"], before[key]["nll"], 1e-5), key


def test_what_is_known_is_not_computed_again(demo, held_out, base, tmp_path):  # noqa: F811
    """With the same identity nothing is loaded; what is new is computed alone."""
    output = output_in(tmp_path)
    shutil.copytree(base.parent, output.parent)
    output.unlink()
    (output.parent / "mine.txt").write_text("A passage of my own.\n")
    given = demo / "manifest.json", held_out, output
    assert "all computed before" in compute(*given, SETTINGS)
    assert records(output) == records(base)
    assert read_record(output)["texts"] == read_record(base)["texts"]
    # longer texts, and a neutral text of one's own: only what is new
    more = {"neutral": {"en": str(output.parent / "mine.txt")}, "max_length": 1024}
    assert "2 texts computed" in compute(*given, changed(dialogue=more))
    assert [text["n"] for text in read_record(output)["texts"]] == [41, 1]
    assert "all computed before" in compute(*given, changed(dialogue=more | {"max_length": 256}))
    assert [text["left_out"] for text in read_record(output)["texts"]] == [1, 0]
    # another system prompt or template: everything anew, beside what was there
    small = {"neutral": {}, "max_length": 256}
    asked = changed(dialogue=small, model={"system": "Be brief."})
    assert "40 texts computed" in compute(*given, asked)
    first = read_record(output)
    assert "39 texts computed" in compute(  # this template is longer
        *given, changed(dialogue=small, model={"template": "llama3_2"})
    )
    second = read_record(output)
    assert len({first["identity"], second["identity"], read_record(base)["identity"]}) == 3
    assert first["texts"][0]["loss"] != second["texts"][0]["loss"]


PACKED = """
import math, sys
sys.path.insert(0, "scripts")
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from sftflow.core.jsonio import read_jsonl
from sftflow.dialogue.likelihood import Model, encoder
from sftflow.training import patches
from sftflow.training.template import training_template

weights, rows = map(Path, sys.argv[1:])
template = training_template(weights, {"model_type": "llama", "template": "chatml"})
texts = [encoder(template)(row) for row in read_jsonl(rows)]
assert patches.apply_once(patches.packed_rows)[1]["applied"]

def model(attention, packed):
    made = AutoModelForCausalLM.from_pretrained(
        weights, dtype=torch.float32, attn_implementation=attention
    )
    return Model(made, packed)

packed, padded = model("varlen", True), model("sdpa", False)
assert packed.head and padded.head
together, apart = dict(sum(packed.nlls(texts), [])), dict(sum(padded.nlls(texts), []))
alone = [packed.nll([text]).item() for text in texts]
padded.head = None  # as of a model whose logits are more than a product
whole = dict(sum(padded.nlls(texts), []))
assert len(together) == len(apart) == len(texts) > 30
for place, nll in enumerate(alone):
    for other in (together, apart, whole):
        assert math.isclose(nll, other[place], rel_tol=1e-5), (place, nll, other[place])
"""


def test_neighbours_change_nothing(demo, held_out):  # noqa: F811
    """Packed in one row, padded, or alone: the same number."""
    rows = held_out.with_name("validation.jsonl")
    done = subprocess.run(
        [SWIFT, "-c", PACKED, demo / "weights", rows], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def refused(*given) -> str:
    done = subprocess.run(command(*given), capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_what_is_wrong_is_named(demo, held_out, base, trained, tmp_path):  # noqa: F811
    given = demo / "manifest.json", held_out, output_in(tmp_path)
    other = read_json(demo / "manifest.json") | {"model": "other"}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/config.json").write_text("{}")
    files = tree_files(tmp_path / "weights")
    write_record(tmp_path / "manifest.json", other | {"files": files, "digest": tree_digest(files)})
    adapter = ["--adapter-manifest", trained / "adapter.json"]
    assert "trained on other weights" in refused(
        tmp_path / "manifest.json", held_out, given[2], SETTINGS, *adapter
    )
    assert "serving.device is cuda" in refused(*given, changed(serving={"device": "cuda"})) or (
        subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0
    )
    shutil.copytree(base.parent, given[2].parent, dirs_exist_ok=True)
    (file,) = (given[2].parent / "likelihood").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace('"nll":', '"nll":1')
    file.write_text("".join(lines))
    assert f"{file.name}, line 5: the digest does not fit" in refused(*given, SETTINGS)


AT_THE_CLAIM = """
import runpy, sys
sys.path.insert(0, {scripts!r})
from sftflow.core import gpu

def claim(*_):
    sys.exit("asked: " + str({{"swift", "transformers"}} & set(sys.modules)))

gpu.claim = claim
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_of_two_cards_the_one_that_was_claimed_is_used(demo, held_out, tmp_path):  # noqa: F811
    """CUDA looks at CUDA_VISIBLE_DEVICES when it is first asked anything, which the import of
    ms-swift does: after that, the first card is used, whose owner runs out of memory."""
    chosen = changed(serving={"device": "auto"})
    given = command(demo / "manifest.json", held_out, output_in(tmp_path), chosen)
    code = AT_THE_CLAIM.format(scripts=str(ROOT / "scripts"), arguments=[*map(str, given[1:])])
    cards = os.environ | stand_in_cards(tmp_path / "cards") | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([SWIFT, "-c", code], capture_output=True, text=True, env=cards)
    assert done.stderr.endswith("asked: set()\n"), done.stderr
