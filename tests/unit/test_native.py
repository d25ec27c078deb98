"""Base models: the same function in native form, and nothing that runs foreign code."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import fetch_model
import internlm2_checkpoint as checkpoint
import model_folders
import native_model
import native_tokenizer
import numpy as np
import pytest
from sftflow.core import jsonio
from sftflow.core.cli import UserError
from sftflow.models import completeness, internlm2, native, safetensors_files
from support import ROOT, SWIFT

ORIGINAL = ROOT.parent / "shared/internlm2_tokenizer.model"  # not part of this repository
DEFAULTS = {"native_form": "auto", "allow_remote_code": False}

needs_swift = pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")


def read(folder: Path) -> dict[str, np.ndarray]:
    """All float32 tensors of a folder."""
    return {
        name: np.array(tensor.read()).view(np.float32)
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors_files.read_header(path).items()
    }


def convert(results: Path, source: Path, **settings) -> dict:
    """Fetch and convert as the workflow does; gives the manifest. Weights in results/weights."""
    wanted = {"source": str(source), "allow_remote_code": settings.get("allow_remote_code", False)}
    fetched = str(results / "source.json")
    common = ["--source", fetched]
    common += ["--settings", json.dumps(DEFAULTS | settings)]
    tokenizer = str(results / "tokenizer.json")
    weights = ["--weights", str(results / "weights"), "--manifest", str(results / "manifest.json")]
    for program, own in (
        (fetch_model, ["--settings", json.dumps(wanted), "--output", fetched]),
        (native_tokenizer, [*common, "--output", tokenizer]),
        (native_model, [*common, "--tokenizer", tokenizer, *weights]),
    ):
        with mock.patch.object(sys, "argv", [program.__name__, "--model", "m", *own]):
            program.main()
    return jsonio.read_json(results / "manifest.json")


@pytest.fixture
def source(tmp_path) -> Path:
    """A checkpoint with code beside it, and a tokenizer that needs no conversion."""
    folder = tmp_path / "internlm2-tiny"
    checkpoint.write(folder)
    (folder / "tokenizer.json").write_text(json.dumps(model_folders.TOKENIZER))
    (folder / "modeling_internlm2.py").write_text("raise SystemExit('foreign code has run')")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A card\n")
    return folder


# --- the same function ---------------------------------------------------------------------------


def test_every_tensor_comes_back(source, tmp_path):
    original = checkpoint.tensors(checkpoint.CONFIG)
    convert(tmp_path / "out", source)
    llama = read(tmp_path / "out/weights")
    heads, kv, head, hidden = 8, 2, 8, 64
    back = {}
    for name, tensor in llama.items():
        for old, new in internlm2.RENAMED.items():
            if name == new:
                back[old] = tensor
        prefix, *_ = name.partition("self_attn.q_proj.weight")
        if prefix != name:
            q = tensor.reshape(kv, heads // kv, head, hidden)
            k = llama[f"{prefix}self_attn.k_proj.weight"].reshape(kv, 1, head, hidden)
            v = llama[f"{prefix}self_attn.v_proj.weight"].reshape(kv, 1, head, hidden)
            back[f"{prefix}attention.wqkv.weight"] = np.concatenate([q, k, v], 1).reshape(
                -1, hidden
            )
        for old, new in internlm2.RENAMED_IN_LAYER.items():
            if name.endswith(new):
                back[name.removesuffix(new) + old] = tensor
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        assert np.array_equal(back[name], tensor), name


def test_the_manifest_says_what_it_is(source, tmp_path):
    manifest = convert(tmp_path / "out", source)
    assert manifest["native_form"] == "llama" and manifest["remote_code"] is False
    assert manifest["license"] == "apache-2.0" and manifest["torch_dtype"] == "float32"
    original = checkpoint.tensors(checkpoint.CONFIG)
    assert manifest["parameters"] == sum(tensor.size for tensor in original.values())
    folder = tmp_path / "out/weights"
    assert manifest["files"] == jsonio.tree_files(folder)
    assert not [f["path"] for f in manifest["files"] if f["path"].endswith((".py", ".bin"))]
    config = jsonio.read_json(folder / "config.json")
    assert "auto_map" not in config and config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_scaling"] == {"rope_type": "dynamic", "factor": 2.0}
    index = jsonio.read_json(folder / "model.safetensors.index.json")
    assert index["weight_map"].keys() == read(folder).keys()


def test_the_digest_follows_the_weights_and_nothing_else(source, tmp_path):
    first = convert(tmp_path / "a", source)["digest"]
    assert convert(tmp_path / "b", source.rename(tmp_path / "elsewhere"))["digest"] == first
    checkpoint.write(tmp_path / "elsewhere", made=checkpoint.tensors(checkpoint.CONFIG, seed=1))
    assert convert(tmp_path / "c", tmp_path / "elsewhere")["digest"] != first


def test_bfloat16_is_moved_bit_by_bit(tmp_path):
    rows = np.arange(6 * 4, dtype=np.uint16).reshape(6, 4)
    safetensors_files.write_file(
        tmp_path / "x", [safetensors_files.Output("t", "BF16", (6, 4), lambda: rows)]
    )
    tensor = safetensors_files.read_header(tmp_path / "x")["t"]
    assert tensor.dtype == "BF16" and np.array_equal(tensor.read(), rows)


@needs_swift
@pytest.mark.slow
def test_safetensors_reads_what_is_written_here(tmp_path):
    made = checkpoint.write(tmp_path, files=1)
    code = """
import sys; from safetensors import safe_open; import numpy as np
with safe_open(sys.argv[1], "np") as f:
    print(sorted((n, float(f.get_tensor(n).sum())) for n in f.keys()))
"""
    file = str(tmp_path / "model-00001-of-00001.safetensors")
    found = subprocess.run([SWIFT, "-c", code, file], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(sorted((n, float(t.sum())) for n, t in made.items()))


def internlm2_logits(made: dict[str, np.ndarray], config: dict, tokens: list[int]) -> np.ndarray:
    """The original model, from its equations, in float64: (length, vocabulary).

    x + Attention(norm x), then x + FFN(norm x): RMSNorm (Zhang & Sennrich 2019), grouped queries
    with rotary positions (Su et al. 2021, halves paired as in GPT-NeoX), SwiGLU (Shazeer 2020).
    wqkv's rows: per key/value head its queries, its key, its value (arXiv:2403.17297, section 2.2).
    """
    made = {name: tensor.astype(np.float64) for name, tensor in made.items()}
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head, length = config["hidden_size"] // heads, len(tokens)

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * scale

    angle = np.outer(np.arange(length), config["rope_theta"] ** (-np.arange(0, head, 2) / head))

    def rotate(x):  # (length, head): the pair (i, i + head/2) turns by angle i
        a, b = x[:, : head // 2], x[:, head // 2 :]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1
        )

    x = made["model.tok_embeddings.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        part = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in made.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        y = norm(x, part["attention_norm.weight"])
        outputs = []
        rows = np.split(part["attention.wqkv.weight"], kv)  # one block per key/value head
        for block in rows:
            *queries, key, value = (y @ w.T for w in np.split(block, heads // kv + 2))
            for query in queries:
                score = rotate(query) @ rotate(key).T / np.sqrt(head)
                score = np.where(np.tri(length, dtype=bool), score, -np.inf)
                weight = np.exp(score - score.max(-1, keepdims=True))
                outputs.append(weight / weight.sum(-1, keepdims=True) @ value)
        x = x + np.concatenate(outputs, 1) @ part["attention.wo.weight"].T
        y = norm(x, part["ffn_norm.weight"])
        gate = y @ part["feed_forward.w1.weight"].T
        up = y @ part["feed_forward.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ part["feed_forward.w2.weight"].T
    return norm(x, made["model.norm.weight"]) @ made["output.weight"].T


@needs_swift
@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_logits_are_those_of_the_original_attention(tmp_path, kv_heads):
    config = checkpoint.CONFIG | {"num_key_value_heads": kv_heads}
    made = checkpoint.write(tmp_path / "source", config)
    tokenizer = json.dumps(model_folders.TOKENIZER)
    (tmp_path / "source/tokenizer.json").write_text(tokenizer)
    convert(tmp_path / "out", tmp_path / "source")
    tokens = np.random.default_rng(1).integers(0, config["vocab_size"], 40).tolist()
    code = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
print(json.dumps(model(torch.tensor([json.loads(sys.argv[2])])).logits[0].tolist()))
"""
    command = [SWIFT, "-c", code, str(tmp_path / "out/weights"), json.dumps(tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = np.array(json.loads(done.stdout))
    expected = internlm2_logits(made, config, tokens)
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


# --- what does not fit is refused, by name -------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": True}, "bias is true"),
        ({"num_attention_heads": 7}, "do not divide"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"hidden_size": 72}, "head size 9 is odd"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "yarn"),
        ({"intermediate_size": 100}, r"layers\.0\.feed_forward\.w1\.weight is \[96, 64\]"),
        ({"num_hidden_layers": 5}, r"missing model\.layers\.4\.attention\.wqkv\.weight"),
        ({"num_hidden_layers": 3}, r"layers\.3\.attention\.wqkv\.weight has no place"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(source, tmp_path, change, message):
    config = jsonio.read_json(source / "config.json") | change
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "out", source)


def test_a_bias_among_the_tensors_is_refused(source, tmp_path):
    made = checkpoint.tensors(checkpoint.CONFIG)
    made["model.layers.0.attention.wo.bias"] = np.zeros(64, np.float32)
    checkpoint.write(source, made=made)
    with pytest.raises(UserError, match=r"attention\.wo\.bias has no place"):
        convert(tmp_path / "out", source)


def test_a_shard_that_is_missing_or_cut_short_is_refused(source, tmp_path):
    shard = source / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"00002-of-00002.*cut short"):
        convert(tmp_path / "out", source)
    shard.unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors"):
        convert(tmp_path / "out", source)


# --- no foreign code -----------------------------------------------------------------------------


def llama(folder: Path, **config) -> Path:
    """A model in Llama's layout."""
    model_folders.write(folder)
    model_folders.edit("config.json", **config)(folder)
    return folder


def test_a_native_models_weights_are_linked_and_its_configs_copied(tmp_path, monkeypatch):
    source = llama(tmp_path / "llama")
    monkeypatch.setattr(native, "LINKED", 2000)
    manifest = convert(tmp_path / "out", source)
    assert manifest["native_form"] is None
    shapes = dict(completeness.needed(model_folders.config_of("llama")))
    assert manifest["parameters"] == sum(map(math.prod, shapes.values()))
    folder = tmp_path / "out/weights"
    assert os.path.samefile(folder / "model.safetensors", source / "model.safetensors")
    assert not os.path.samefile(folder / "config.json", source / "config.json")
    assert manifest["files"] == jsonio.tree_files(folder)


def test_pickle_weights_are_refused_unless_allowed(tmp_path):
    source = llama(tmp_path / "old")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(UserError, match="Pickle weights run code"):
        convert(tmp_path / "out", source)
    manifest = convert(tmp_path / "out", source, allow_remote_code=True)
    assert manifest["remote_code"] is True
    assert "pytorch_model.bin" in [file["path"] for file in manifest["files"]]


def test_pickle_weights_beside_safetensors_are_left_alone(tmp_path):
    source = llama(tmp_path / "both")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    manifest = convert(tmp_path / "out", source)
    assert "pytorch_model.bin" not in [file["path"] for file in manifest["files"]]


def test_classes_of_the_models_own_are_refused_unless_allowed(tmp_path):
    own = {"AutoModelForCausalLM": "modeling_own.Own"}
    source = llama(tmp_path / "own", model_type="own_model", auto_map=own)
    (source / "modeling_own.py").write_text("raise SystemExit('foreign code has run')")
    with pytest.raises(UserError, match=r"auto_map.*'own_model'(.|\n)*allow_remote_code: true"):
        convert(tmp_path / "out", source)
    manifest = convert(tmp_path / "out", source, allow_remote_code=True)
    assert manifest["remote_code"] is True
    assert "modeling_own.py" in [file["path"] for file in manifest["files"]]


def test_no_config_that_is_kept_names_code(tmp_path):
    source = llama(tmp_path / "processor")
    own = {"size": 1, "auto_map": {"AutoProcessor": "somebody/else--processing.Own"}}
    (source / "preprocessor_config.json").write_text(json.dumps(own))
    convert(tmp_path / "out", source)
    kept = json.loads((tmp_path / "out/weights/preprocessor_config.json").read_text())
    assert kept == {"size": 1}
    assert convert(tmp_path / "again", source, allow_remote_code=True)["remote_code"] is True


def test_internlm2_as_it_is_needs_leave_to_run_its_code(source, tmp_path):
    with pytest.raises(UserError, match="auto_map"):
        convert(tmp_path / "out", source, native_form="none")
    manifest = convert(tmp_path / "out", source, native_form="none", allow_remote_code=True)
    assert manifest["remote_code"] and manifest["native_form"] is None


def test_only_internlm2_can_be_rewritten(tmp_path):
    with pytest.raises(UserError, match="InternLM2 only"):
        convert(tmp_path / "out", llama(tmp_path / "llama"), native_form="llama")


# --- tokenizer -----------------------------------------------------------------------------------

SAMPLE = """\
I can't sleep at night; what should I do?  Two  spaces,\ttab,
new lines.\r\n    indented = {"code": [1, 2.5e-3]}
我最近总是感到焦虑，该怎么办？——“认知行为疗法”……ＡＢＣ １２３
不安で眠れません。 불안해서 잠을 못 자요. لا أستطيع النوم. Я не могу уснуть. मुझे नींद नहीं आती
🙂👩‍⚕️👍🏽 naïve café ﬁne ½ ∑ ℝ \u200b\u00a0 \ufffd \x00 [UNUSED_TOKEN_3] <s> "" '' '
"""


@needs_swift
@pytest.mark.slow
@pytest.mark.skipif(not ORIGINAL.exists(), reason="InternLM2's tokenizer.model is not here")
def test_token_ids_are_those_of_sentencepiece(tmp_path):
    code = """
import json, sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
import sentencepiece
from sftflow.models import internlm2
from transformers import PreTrainedTokenizerFast
model, folder, sample = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].replace("<NUL>", chr(0))
original = sentencepiece.SentencePieceProcessor(model_file=str(model))
special = internlm2.markers({}, 92544)
internlm2.tokenizer(model, special).save(str(folder / "tokenizer.json"))
settings = internlm2.tokenizer_config({}, special, {})
(folder / "tokenizer_config.json").write_text(json.dumps(settings))
fast = PreTrainedTokenizerFast.from_pretrained(folder)
plain = sample.replace("<s>", "")
texts = [plain, *plain.splitlines(), *plain.split(), *plain]
chat = [{"role": "system", "content": "善"}, {"role": "user", "content": "hi"}]
print(json.dumps({
    "differ": [t for t in texts if fast.encode(t, add_special_tokens=False) != original.encode(t)],
    "lossy": [t for t in texts if fast.decode(original.encode(t)) != t],
    "size": len(fast),
    "markers": fast.encode("<|im_start|>user\\n<|im_end|>", add_special_tokens=False),
    "begin": fast.encode("a")[0],
    "chat": fast.apply_chat_template(chat, tokenize=False, add_generation_prompt=True),
}))
"""
    sample = SAMPLE.replace("\x00", "<NUL>")
    command = [SWIFT, "-c", code, str(ROOT / "scripts"), str(ORIGINAL), str(tmp_path), sample]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["differ"] == [] and found["lossy"] == []
    assert found["size"] == 92544 and found["begin"] == 1
    assert found["markers"][0] == 92543 and found["markers"][-1] == 92542
    assert found["chat"] == (
        "<s><|im_start|>system\n善<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@needs_swift
@pytest.mark.slow
def test_a_small_checkpoint_of_the_same_kind_converts(tmp_path):
    """What the workflow meets: a sentencepiece model, its markers named apart, code beside it."""
    program = Path(checkpoint.__file__)
    subprocess.run([SWIFT, program, tmp_path / "source"], check=True, capture_output=True)
    run = [SWIFT, ROOT / "scripts/fetch_model.py", "--model", "m"]
    settings = json.dumps({"source": str(tmp_path / "source")})
    places = ["--output", tmp_path / "out/source.json"]
    subprocess.run([*run, "--settings", settings, *places], check=True)
    common = ["--model", "m", "--settings", "{}", "--source", tmp_path / "out/source.json"]
    words = tmp_path / "out/tokenizer.json"
    for program, own in (
        ("native_tokenizer.py", ["--output", words]),
        ("native_model.py", ["--tokenizer", words, "--weights", tmp_path / "out/weights",
                             "--manifest", tmp_path / "out/manifest.json"]),
    ):  # fmt: skip
        subprocess.run([SWIFT, ROOT / "scripts" / program, *common, *own], check=True)
    folder = tmp_path / "out/weights"
    tokenizer = jsonio.read_json(folder / "tokenizer.json")
    assert tokenizer["model"]["vocab"]["<|im_start|>"] == 2399
    assert len(tokenizer["model"]["vocab"]) == 2400
    code = """
import json, sys, sentencepiece
from tokenizers import Tokenizer
fast = Tokenizer.from_file(sys.argv[1] + "/weights/tokenizer.json")
original = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1] + "/source/tokenizer.model")
texts = open(sys.argv[2], encoding="utf-8").read().splitlines()
same = [fast.encode(t, add_special_tokens=False).ids == original.encode(t) for t in texts]
print(json.dumps([len(same), all(same)]))
"""
    command = [SWIFT, "-c", code, tmp_path / "out", ROOT / "config/demo/dialogues.jsonl"]
    count, same = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert count > 100 and same
