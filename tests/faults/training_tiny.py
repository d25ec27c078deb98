"""Write a tiny random Llama and dialogues for it: what train.py and merge.py need, in a second.

    envs/swift/.venv/bin/python training_tiny.py FOLDER

FOLDER gets weights/, manifest.json, train.jsonl (200 rows), validation.jsonl (40), receipt.json.
"""

import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from sftflow.core.jsonio import file_entries, tree_digest, tree_files, write_jsonl, write_record

WORDS = (
    "sleep night worry calm breath memory short long term friend walk 睡眠 焦虑 呼吸 记忆".split()
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def rows(n: int, rng: random.Random) -> list[dict]:
    turn = lambda longest: " ".join(rng.choices(WORDS, k=rng.randint(4, longest)))  # noqa: E731
    return [
        {
            "messages": [
                {"role": "user", "content": turn(16)},
                {"role": "assistant", "content": turn(24)},
            ],
            "id": str(i),
        }
        for i in range(n)
    ]


def main(folder: Path) -> None:
    rng = random.Random(0)
    torch.manual_seed(0)
    data = rows(240, rng)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [m["content"] for row in data for m in row["messages"]],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>",
        pad_token="</s>",
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=1, eos_token_id=4, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "weights")
    tokenizer.save_pretrained(folder / "weights")
    files = tree_files(folder / "weights")
    write_record(
        folder / "manifest.json",
        {
            "schema": 1,
            "model": "tiny",
            "parameters": sum(p.numel() for p in model.parameters()),
            "files": files,
            "digest": tree_digest(files),
        },
    )
    parts = {"train": data[:200], "validation": data[200:]}
    for name, part in parts.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    text = lambda row: "".join(f"\n{m['role']}{m['content']}" for m in row["messages"])  # noqa: E731
    lengths = [len(tokenizer(text(row)).input_ids) for row in parts["train"]]
    write_record(
        folder / "receipt.json",
        {
            "schema": 1,
            "run": "tiny",
            "train_rows": 200,
            "validation_rows": 40,
            "tokens": {"train": sum(lengths), "mean": sum(lengths) / 200, "max": max(lengths)},
            "padded_share": 0.3,
            "files": file_entries(folder, [folder / f"{name}.jsonl" for name in parts]),
            "digest": tree_digest(tree_files(folder / "weights")),
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
