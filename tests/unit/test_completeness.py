"""A model is whole before anything is loaded: folders as people have them, and a fuzz of them."""

import io
import json
import random
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import fetch_model
import model_folders
import native_model
import native_tokenizer
import pytest
from model_folders import CASES, FAMILIES
from sftflow.core import jsonio
from sftflow.core.cli import UserError
from sftflow.models import completeness
from sftflow.models.formats import WHOLE
from support import ROOT, SWIFT


def program(module, *arguments: object) -> None:
    with (
        mock.patch.object(sys, "argv", [module.__name__, *map(str, arguments)]),
        redirect_stdout(io.StringIO()),
    ):
        module.main()


def take(folder: Path, results: Path, **settings) -> dict:
    """Fetch a local model and bring it into native form; gives the manifest. Or UserError."""
    stated = json.dumps({"source": str(folder), "hub": "local"} | settings)
    program(fetch_model, "--model", "m", "--settings", stated, "--output", results / "source.json")
    common = ["--model", "m", "--source", results / "source.json"]
    common += ["--settings", json.dumps(settings)]
    words = results / "tokenizer.json"
    program(native_tokenizer, *common, "--output", words)
    places = ["--weights", results / "weights", "--manifest", results / "manifest.json"]
    program(native_model, *common, "--tokenizer", words, *places)
    return jsonio.read_json(results / "manifest.json")


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_folder_is_taken_or_refused(tmp_path, name):
    change, message = CASES[name]
    folder = model_folders.write(tmp_path / "model")
    before = model_folders.tensors_of(folder)
    change(folder)
    if message is None:
        manifest = take(folder, tmp_path / "out")
        weights = tmp_path / "out/weights"
        assert model_folders.tensors_of(weights).keys() >= {n for n in before if "norm" in n}
        assert manifest["files"] == jsonio.tree_files(weights)
        for path in weights.glob("*.json"):  # as a library reads it: strict UTF-8, no mark
            json.loads(path.read_text("utf-8"))
        return
    with pytest.raises(UserError, match=message) as caught:
        take(folder, tmp_path / "out")
    assert str(caught.value).count("\n") <= completeness.NAMED + 1
    assert not (tmp_path / "out/weights").exists()
    assert not (tmp_path / "out/manifest.json").exists()


def test_what_is_wrong_is_said_of_the_model_and_its_source(tmp_path):
    folder = model_folders.write(tmp_path / "model")
    CASES["a tensor that lacks"][0](folder)
    with pytest.raises(UserError, match=re.escape(f"model m ({folder}): the weights are not")):
        take(folder, tmp_path / "out")


def test_the_docs_have_each_kind_and_what_becomes_of_it():
    text = (ROOT / "docs/accepted/models.md").read_text("utf-8").partition("# Hubs")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    stated = {row[0]: row[1] for row in rows if row[1] in ("taken", "refused")}
    assert stated == {
        name: "taken" if message is None else "refused" for name, (_, message) in CASES.items()
    }


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("awq", {"qweight": "I32", "qzeros": "I32", "scales": "F16"}),
        ("fp8", {"weight": "F8_E4M3", "weight_scale_inv": "F32"}),
        ("bitsandbytes", {"weight": "U8", "weight.absmax": "U8", "weight.quant_map": "F32"}),
        ("bitsandbytes", {"weight": "I8", "SCB": "F32"}),
        ("compressed-tensors", {"weight": "F8_E4M3", "weight_scale": "BF16"}),
        (
            "compressed-tensors",
            {"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"},
        ),
    ],
)
def test_a_quantised_model_needs_all_parts_of_each_weight(tmp_path, method, parts):
    folder = model_folders.write(tmp_path / "model")
    model_folders.quantised(parts, method)(folder)
    take(folder, tmp_path / "out")
    last = list(parts)[-1]
    lacking = f"model.layers.1.mlp.down_proj.{last}"
    model_folders.tensors(**{lacking: None})(folder)
    with pytest.raises(UserError, match=re.escape(f"missing {lacking}")):
        take(folder, tmp_path / "out")


def test_the_pieces_of_a_sentencepiece_model_are_counted(tmp_path):
    """Each piece is field 1 of the file, itself {1: text, 2: score (float), 3: kind}."""
    piece = b"\x0a\x04word\x15" + bytes(4) + b"\x18\x01"
    model = (b"\x0a" + bytes([len(piece)]) + piece) * 20 + b"\x12\x03\x18\x80\x01"
    assert completeness.sentencepieces(model) == 20
    folder = model_folders.write(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model)
    take(folder, tmp_path / "out")
    (folder / "added_tokens.json").write_text('{"<pad>": 20}')
    with pytest.raises(UserError, match="'<pad>' has the id 20"):
        take(folder, tmp_path / "out")
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer.model").write_bytes(model[:-3])
    with pytest.raises(UserError, match=r"tokenizer\.model is no sentencepiece model"):
        take(folder, tmp_path / "out")


def test_a_tokenizer_of_vocab_and_merges_is_read(tmp_path):
    folder = model_folders.write(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({f"w{number}": number for number in range(20)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    take(folder, tmp_path / "out")
    (folder / "vocab.json").write_text('{"w": 20}')
    with pytest.raises(UserError, match="'w' has the id 20"):
        take(folder, tmp_path / "out")


# --- fuzz ----------------------------------------------------------------------------------------

FOLDERS = 240


def garble(chance: random.Random, folder: Path) -> None:
    """A few bytes of one file are others, lack, or come twice."""
    path = chance.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(content), 4000) or 1)
        match chance.randrange(3):
            case 0:
                content[place : place + 1] = chance.randbytes(1)
            case 1:
                del content[place : place + chance.randint(1, 30)]
            case 2:
                content[place:place] = content[place : place + chance.randint(1, 30)]
    path.write_bytes(content)


STRANGE = [None, -1, 0, 1.5, 10**30, True, "", "word", [], [1], [None], {}, {"a": 1}]


def retype(chance: random.Random, folder: Path) -> None:
    """A value somewhere in a JSON file is another one, of another type."""
    path = chance.choice(sorted(folder.glob("*.json")))
    content = json.loads(path.read_text())
    inside: Any = {"top": content}
    key: Any = "top"
    while isinstance(inside[key], (dict, list)) and inside[key] and chance.random() < 0.8:
        inside = inside[key]
        key = chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    inside[key] = chance.choice(STRANGE)
    path.write_text(json.dumps(content))


# One part of four is enough for the fast tests.
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_any_folder_ends_taken_whole_or_with_one_error(tmp_path, part):
    """Whatever is taken has every tensor in its shape; whatever is not says so in one message."""
    ended = {"taken": 0, "refused": 0}
    for number in range(part, FOLDERS, 4):
        chance = random.Random(number)
        folder = tmp_path / f"model{number}"
        family = chance.choice(sorted(FAMILIES))
        model_folders.write(
            folder, family, chance.choice([1, 1, 2, 3]), chance.choice(["F32", "BF16"])
        )
        whole = True
        if chance.random() < 0.6:
            chance.choice([garble, retype])(chance, folder)
        elif chance.random() < 0.8:
            _, (change, message) = chance.choice(sorted(CASES.items(), key=str))
            try:
                change(folder)
            except (OSError, KeyError, AssertionError):  # of a folder that has no such file
                continue
            whole = message is None
        results = tmp_path / f"out{number}"
        try:
            manifest = take(folder, results)
        except UserError as error:
            ended["refused"] += 1
            assert str(error).strip() and str(error).count("\n") <= completeness.NAMED + 1
            assert not (results / "weights").exists()
            continue
        ended["taken"] += 1
        config = json.loads((results / "weights/config.json").read_text("utf-8"))
        tensors = model_folders.tensors_of(results / "weights")
        assert manifest["parameters"] > 0
        if "quantization_config" not in config:
            for tensor, shape in completeness.needed(config):
                assert tensors[tensor][1] == shape, (number, tensor)
        assert whole or family != "llama", number
    assert min(ended.values()) >= 10, ended


# --- what an architecture needs ------------------------------------------------------------------


@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
@pytest.mark.slow
def test_the_table_is_what_transformers_builds():
    """Names and shapes of each family, also with biases, a tied head and heads of another size."""
    cases = [
        model_folders.config_of(family) | more
        for family in FAMILIES
        for more in (
            {},
            {"tie_word_embeddings": True},
            {"tie_word_embeddings": False, "head_dim": 6},
            {"attention_bias": True, "mlp_bias": True},
            {"num_key_value_heads": 4},
        )
    ]
    code = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
for case in json.load(sys.stdin):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**case))
    if model.config.tie_word_embeddings:
        model.tie_weights()
    print(json.dumps({n: list(p.shape) for n, p in model.named_parameters()}))
"""
    done = subprocess.run(
        [SWIFT, "-c", code], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    for case, line in zip(cases, done.stdout.splitlines(), strict=True):
        assert {name: list(shape) for name, shape in completeness.needed(case)} == json.loads(
            line
        ), case


@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
@pytest.mark.slow
def test_architectures_without_a_table_are_checked_by_transformers(tmp_path):
    """GPT-2, and a mixture of experts whose experts transformers joins while loading."""
    code = """
import json, sys, transformers
from pathlib import Path
from safetensors.torch import load_file, save_file
sys.path.insert(0, sys.argv[1])
from sftflow.core.cli import UserError
from sftflow.models import completeness
sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             intermediate_size=12, moe_intermediate_size=12, num_experts=3, vocab_size=20,
             head_dim=4)
def said(folder):
    try:
        config = completeness.read_object(folder / "config.json")
        tensors = completeness.weights(folder, completeness.shards(folder))
        completeness.check_tensors(folder, config, tensors)
        return "whole"
    except UserError as error:
        return str(error)
for kind, without in (("gpt2", "transformer.h.1.ln_2.weight"),
                      ("qwen3_moe", "model.layers.1.mlp.experts.2.up_proj.weight"),
                      ("qwen3_moe", "model.layers.1.self_attn.q_norm.weight")):
    folder = Path(sys.argv[2]) / without
    config = transformers.AutoConfig.for_model(kind, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    whole = said(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[without]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    print(json.dumps([whole, said(folder), without]))
"""
    command = [SWIFT, "-c", code, ROOT / "scripts", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    for whole, partial, name in rows:
        assert whole == "whole"
        assert f"missing {name}" in partial or "one lacks, or has another shape" in partial


@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
@pytest.mark.slow
def test_a_garbled_tokenizer_is_refused_where_its_library_is(tmp_path):
    folder = model_folders.write(tmp_path / "model")
    model_folders.edit("tokenizer.json", model={"type": "Own", "vocab": {"a": 0}})(folder)
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sftflow.core import cli
from sftflow.models import completeness
sys.exit(cli.run(lambda: completeness.check_tokenizer(Path(sys.argv[2]), {})))
"""
    command = [SWIFT, "-c", code, ROOT / "scripts", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "error: tokenizer.json cannot be loaded" in done.stderr
    (folder / "tokenizer.json").write_text(json.dumps(model_folders.TOKENIZER))
    assert subprocess.run(command).returncode == 0
    assert (folder / WHOLE).exists()
