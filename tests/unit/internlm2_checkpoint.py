"""Random checkpoints in InternLM2's layout, small enough for tests. Needs numpy.

As a program (with envs/swift, for sentencepiece) it also trains a small tokenizer of the same kind
as InternLM2's: python internlm2_checkpoint.py FOLDER
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from sftflow.models import internlm2, safetensors_files

CONFIG = {
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "model_type": "internlm2",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
SPECIAL = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>"]
SPECIAL += ["<|im_end|>", "<|im_start|>"]


def tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors; norms near 1, matrices scaled so that logits stay in reach."""
    chance = np.random.default_rng(seed)
    made = {}
    for name, shape in internlm2.Shape.of(config).expected().items():
        values = chance.normal(size=shape) * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)
        made[name] = (values + (len(shape) == 1)).astype(np.float32)
    return made


def write(
    folder: Path, config: dict = CONFIG, made: dict[str, np.ndarray] | None = None, files: int = 2
) -> dict[str, np.ndarray]:
    """Write a checkpoint in `files` shards, as the hub has them; give its tensors."""
    made = tensors(config) if made is None else made
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(made)
    places = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = names[number * len(names) // files : (number + 1) * len(names) // files]
        outputs = [
            safetensors_files.Output(n, "F32", made[n].shape, lambda n=n: made[n]) for n in part
        ]
        safetensors_files.write_file(folder / name, outputs)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return made


def write_tokenizer(folder: Path, text: str, size: int) -> None:
    """A sentencepiece BPE model like InternLM2's: byte fallback, the markers are its last ids."""
    import sentencepiece

    unnamed = [f"[UNUSED_TOKEN_{141 + i}]" for i in range(len(SPECIAL))]
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "text").write_text(text, encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=f"{name}/text",
            model_prefix=f"{name}/tokenizer",
            vocab_size=size - len(SPECIAL),
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            hard_vocab_limit=False,
            minloglevel=2,
        )
        from transformers.utils import sentencepiece_model_pb2_new as proto

        model = proto.ModelProto()
        model.ParseFromString((Path(name) / "tokenizer.model").read_bytes())
    while len(model.pieces) < size - len(SPECIAL):
        model.pieces.add(piece=f"[FILLER_{len(model.pieces)}]", score=0, type=4)
    for piece in unnamed:
        model.pieces.add(piece=piece, score=0, type=4)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    first = size - len(SPECIAL)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
                "added_tokens_decoder": {
                    str(first + i): {"content": token} for i, token in enumerate(SPECIAL)
                },
            }
        )
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    vocabulary = 2400
    write(target, CONFIG | {"vocab_size": vocabulary})
    root = Path(__file__).resolve().parents[2]
    write_tokenizer(target, (root / "config/demo/dialogues.jsonl").read_text("utf-8"), vocabulary)
    for code in ("configuration_internlm2.py", "modeling_internlm2.py"):
        (target / code).write_text("raise SystemExit('code from the model folder has run')\n")
