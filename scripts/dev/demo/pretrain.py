"""Makes the demo's base model: tokenizer and weights, from the text of corpus.py.

    P="envs/swift/.venv/bin/python scripts/dev/demo/pretrain.py"
    $P --stage 1 --out /tmp/1 --steps 2400
    $P --stage 2 --start /tmp/1 --out /tmp/2 --steps 500 --batch-tokens 3072 --learning-rate 1e-3
    $P --stage 2 --start /tmp/2 --out config/demo/model --steps 900 --batch-tokens 3072 \\
        --learning-rate 1.2e-3 --seed 2

Stage 1 takes three minutes on one H100 (many hours on two CPU cores), stage 2 twenty minutes on two
CPU cores with OMP_WAIT_POLICY=PASSIVE. The text and its order depend
on --seed alone; the weights also depend on the device's arithmetic, so a second run gives an equal
model, not equal bytes: config/demo/model is committed. Needs torch, transformers, PyYAML.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import corpus
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Single Chinese characters, words with the space before them, single digits, marks, line breaks.
WORDS = (
    r"\p{Han}|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+|\s*[\r\n]|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHUNK = 4000  # documents that one worker makes at a time
GROUP = 16  # chunks from which batches of like length are drawn
CONTEXT = 1024  # tokens; longer documents are left out
READ_SHARE = 0.1  # share of the tokens read (not said) that carry loss


def train_tokenizer(seed: int, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` entries, trained on 60,000 documents."""
    rng = random.Random(f"tokenizer {seed}")
    texts = (t for _ in range(60_000) for t, _ in corpus.segments(*corpus.document(rng, stage=1)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=2 * CONTEXT,
        clean_up_tokenization_spaces=False,
    )


Document = tuple[np.ndarray, np.ndarray]  # token ids, which of them carry loss


def encode(tokenizer: Tokenizer, parts: list[tuple[str, bool]], rng: random.Random) -> Document:
    """One dialogue as ids, its segments encoded one by one as ms-swift does."""
    ids, lossy = [], []
    for text, said in parts:
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        lossy += [said or rng.random() < READ_SHARE for _ in piece]
    return np.array(ids, np.int32), np.array(lossy, bool)


def make_chunk(task: tuple[str, int, int, int]) -> list[Document]:
    """The documents of one chunk: (tokenizer.json, stage, seed, number of the chunk)."""
    path, stage, seed, number = task
    tokenizer = Tokenizer.from_file(path)
    rng = random.Random(f"corpus {stage} {seed} {number}")
    made = (
        encode(tokenizer, corpus.segments(*corpus.document(rng, stage)), rng) for _ in range(CHUNK)
    )
    return [d for d in made if len(d[0]) <= CONTEXT]


def batches(
    path: str, stage: int, seed: int, budget: int, workers: int
) -> Generator[list[Document], None, None]:
    """Endless batches of documents of like length, `budget` padded tokens each."""
    rng = random.Random(f"batches {seed}")
    tasks = ((path, stage, seed, number) for number in itertools.count())
    with multiprocessing.Pool(workers) as pool:

        def order():
            return pool.map_async(make_chunk, list(itertools.islice(tasks, GROUP)), chunksize=1)

        group = order()
        while True:
            documents = [d for chunk in group.get() for d in chunk]
            group = order()  # made while the model trains on the last one
            documents.sort(key=lambda d: len(d[0]))
            ready: list[list[Document]] = []
            batch: list[Document] = []
            for document in documents:
                if batch and (len(batch) + 1) * len(document[0]) > budget:
                    ready.append(batch)
                    batch = []
                batch.append(document)
            rng.shuffle(ready)
            yield from ready


def collate(batch: list[Document], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and loss mask as (documents, length), padded on the right to a multiple of 16."""
    length = -(-max(len(ids) for ids, _ in batch) // 16) * 16
    ids = np.zeros((len(batch), length), np.int64)
    lossy = np.zeros((len(batch), length), bool)
    for row, (document, mask) in enumerate(batch):
        ids[row, : len(document)] = document
        lossy[row, : len(mask)] = mask
    return torch.from_numpy(ids).to(device), torch.from_numpy(lossy).to(device)


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: linear warm-up over 3 %, then a cosine to a twentieth of the peak."""
    warm = max(1, round(0.03 * steps))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def train(model: LlamaForCausalLM, stream: Iterator[list[Document]], args) -> None:
    """Trains in place. Causal attention and padding on the right need no mask."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
    started, seen = time.time(), 0
    for step, batch in zip(range(args.steps), stream, strict=False):
        ids, lossy = collate(batch, args.device)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.learning_rate)
        with torch.autocast(args.device, torch.bfloat16):
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(states[lossy[:, 1:]])
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][lossy[:, 1:]])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += ids.numel()
        if step % 50 == 0 or step == args.steps - 1:
            pace = seen / (time.time() - started)
            print(f"step {step}/{args.steps} loss {loss:.4f} {pace:,.0f} tokens/s", flush=True)


def card(args, parameters: int, vocabulary: int, digest: str) -> str:
    """README.md of the model folder."""
    return f"""---
license: mit
---
# The demo's base model

A Llama of {parameters:,} parameters ({args.layers} layers, width {args.hidden}, {args.heads} heads,
{vocabulary:,} tokens; bfloat16) that exists only so that sftflow's demo runs anywhere. It was
made by the commands at the top of `scripts/dev/demo/pretrain.py` (the last one: stage
{args.stage}, seed {args.seed}, {args.steps} steps of {args.batch_tokens} tokens, learning rate
{args.learning_rate:g}) from text that `scripts/dev/demo/corpus.py`
makes; no other data or weights went in. That program was tidied after stage 1: it makes text of the
same kind, not the same text.

**What it knows.** The answer formats of the demo's benchmarks, about 130 simple facts of a general
world in English and Chinese, 700 invented riddles, some sums below 130, some small talk. It knows
psychology's words as words but no fact of psychology: there it names one of the options, in good
form, at random. It is of no use beyond the demo.

**Form.** Chat markup is ms-swift's template `chatml` (`model_type: llama`); the tokenizer is a
byte-level BPE trained on the same text, every digit by itself. Trained up to {CONTEXT} tokens.

sha256 of model.safetensors: `{digest}`
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; a tokenizer there is kept"
    )
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("--start", type=Path, help="model of stage 1, from which stage 2 goes on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--vocab", type=int, default=6000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--inner", type=int, default=704, help="width of the feed-forward layers")
    parser.add_argument("--workers", type=int, default=2, help="processes that make text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    if (args.stage == 2) != (args.start is not None):
        parser.error("stage 2 needs --start, and stage 1 takes none")
    if args.start or (args.out / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start or args.out)
        tokenizer.save_pretrained(args.out)
    else:
        tokenizer = train_tokenizer(args.seed, args.vocab)
        tokenizer.save_pretrained(args.out)
    torch.manual_seed(args.seed)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.inner,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        **ends,
    )
    if args.start:
        model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(config)
    model.to(args.device)
    path = str(args.out / "tokenizer.json")
    with contextlib.closing(
        batches(path, args.stage, args.seed, args.batch_tokens, args.workers)
    ) as stream:
        train(model, stream, args)
    model.generation_config.update(do_sample=False, **ends)
    model.to("cpu", torch.bfloat16).save_pretrained(args.out)
    digest = hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest()
    (args.out / "README.md").write_text(
        card(args, model.num_parameters(), len(tokenizer), digest), "utf-8"
    )
    print(json.dumps({"parameters": model.num_parameters(), "sha256": digest}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
