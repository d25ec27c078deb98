"""Negative log-likelihoods of texts under a causal language model, by one forward pass over each.

A text is `Tokens`: its ids, and which of them count. Of a dialogue those count that ms-swift's
template gives a label when it trains (the assistant's), of a passage all; nothing predicts the
first token of a text, so it never counts. With p of the model

    nll = -Σ log p(token | the tokens before it)  in nats, over the tokens that count,

and perplexity = exp(Σ nll / Σ tokens) of a set of texts (Jelinek et al. 1977). Softmax is taken in
float32, sums in float64, and logits are computed only where a token counts, CHUNK at a time.

Texts never see each other: packed, behind each other in one row, the project's `varlen` attention
keeps them apart; padded, the padding is on the right, where causal attention does not look.
"""

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sftflow.core.cli import UserError
from sftflow.kernels.limits import LIGER_TYPES, PACKED_TYPES
from sftflow.training import patches

# What computes a number: packages, and code of ours.
PACKAGES = ("ms-swift", "transformers", "torch", "peft")
CUDA_PACKAGES = ("liger-kernel", "triton", "nvidia-cudnn-frontend")
CODE = (
    "scripts/sftflow/dialogue/likelihood.py", "scripts/sftflow/training/template.py",
    "scripts/sftflow/training/patches.py", "scripts/sftflow/kernels",
)  # fmt: skip

CHUNK = 2048  # tokens whose logits are in memory at a time
BUDGET = {"cuda": 16384, "cpu": 4096}  # positions of a forward pass; a longer text has its own


class Tokens(NamedTuple):
    ids: array  # (length,)
    counts: bytes  # (length,): 1 where the token counts

    @property
    def counted(self) -> int:
        return sum(self.counts)


def encoder(template: Any) -> Callable[[dict | str], Tokens]:
    """Tokens of a dialogue in the normal form ({"messages", "tools"?}) by the template, of a
    passage (a str) as the tokenizer has them by default. Raises what the template raises."""

    def encode(text: dict | str) -> Tokens:
        if isinstance(text, str):
            ids = template.tokenizer(text).input_ids
            labels = ids
        else:
            asked = {name: text[name] for name in ("messages", "tools") if text.get(name)}
            encoded = template.encode(asked)
            ids, labels = encoded["input_ids"], encoded["labels"]
        counts = bytes(place > 0 and label != -100 for place, label in enumerate(labels))
        return Tokens(array("i", ids), counts)

    return encode


def packs(lengths: Sequence[int], budget: int, padded: bool) -> list[list[int]]:
    """Places of texts in forward passes of at most `budget` positions each, longest texts first, so
    that a lack of memory shows at once. Texts of one pass are about equally long."""
    found: list[list[int]] = []
    used = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[found[-1][0]] if padded and found else lengths[place]
        if not found or used + length > budget:
            found.append([])
            used, length = 0, lengths[place]
        found[-1].append(place)
        used += length
    return found


class Model:
    """A loaded model, with an adapter on it or not.

    `packed`: rows are packed for the attention `varlen`; else padded.
    """

    def __init__(self, model: Any, packed: bool):
        self.model, self.packed = model.eval(), packed
        self.device = model.get_input_embeddings().weight.device
        self.budget = BUDGET[self.device.type]
        self.head = self._head()

    @classmethod
    def load(cls, weights: Path, adapter: Path | None, dtype: str, gpus: Sequence[dict]) -> "Model":
        """Onto the CPU or the given GPUs (as gpu.claim has them). An adapter is not merged."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        family = AutoConfig.from_pretrained(weights).model_type
        packed = (
            len(gpus) == 1
            and gpus[0]["capability"] >= [8, 0]
            and dtype in ("bfloat16", "float16")
            and family in PACKED_TYPES
            and patches.apply_once(patches.packed_rows)[1]["applied"]
        )
        model = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=getattr(torch, dtype),
            device_map="auto" if len(gpus) > 1 else "cuda:0" if gpus else "cpu",
            **({"attn_implementation": "varlen"} if packed else {}),
        )
        if len(gpus) == 1 and family in LIGER_TYPES and patches.installed("liger-kernel"):
            faster(model)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).get_base_model()
        return cls(model, packed)

    def _head(self) -> Callable | None:
        """The output matrix, if logits are nothing but its product with the last hidden states."""
        import torch

        ids = torch.arange(8, device=self.device)[None]
        with torch.inference_mode():
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False)[0]
            head = self.model.get_output_embeddings()
            logits = self.model(input_ids=ids, use_cache=False).logits
            return head if torch.equal(head(hidden), logits) else None

    def nll(self, texts: Sequence[Tokens]) -> Any:
        """(texts,) float64 tensor of one forward pass; in every text some token has to count.

        Nothing here waits for the GPU.
        """
        import torch
        import torch.nn.functional as F

        ids = [torch.tensor(text.ids) for text in texts]
        counts = [torch.tensor(list(text.counts)).nonzero()[:, 0] for text in texts]
        lengths = [len(each) for each in ids]
        more: dict = {}
        if self.packed:
            bounds = [0, *itertools.accumulate(lengths)]
            inputs = torch.cat(ids)[None]
            more = {
                "position_ids": self._send(torch.cat([torch.arange(n) for n in lengths])[None]),
                "cu_seq_lens_q": self._send(torch.tensor(bounds, dtype=torch.int32)),
                "max_length_q": max(lengths),
            }
        else:
            bounds = [max(lengths) * row for row in range(len(texts))]
            inputs = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        before = [begin + each - 1 for begin, each in zip(bounds, counts, strict=False)]
        places, wanted = (
            self._send(torch.cat(before)),
            self._send(
                torch.cat([row[each] for row, each in zip(ids, counts, strict=True)]).long()
            ),
        )
        run = self.model.get_decoder() if self.head else self.model
        with torch.inference_mode():
            made = run(input_ids=self._send(inputs.long()), use_cache=False, **more)[0]
            made = made.flatten(0, 1)
            parts = zip(places.to(made.device).split(CHUNK), wanted.split(CHUNK), strict=True)
            losses = []
            for some, tokens in parts:
                logits = self.head(made[some]) if self.head else made[some]
                tokens = tokens.to(logits.device)
                losses.append(F.cross_entropy(logits.float(), tokens, reduction="none"))
            each_text = torch.cat(losses).double().split([len(each) for each in counts])
            return torch.stack([each.sum() for each in each_text])

    def _send(self, tensor: Any) -> Any:
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)  # else it would wait

    def nlls(self, texts: Sequence[Tokens]) -> Iterator[list[tuple[int, float]]]:
        """(place, nll) of the texts of one forward pass after the other, each text once.

        Gives a pass when the next one has begun. UserError when memory runs out.
        """
        import torch

        asked = packs([len(text.ids) for text in texts], self.budget, not self.packed)
        under_way: tuple[list[int], Any] = ([], torch.empty(0))
        try:
            for pack in [*asked, []]:
                begun = self.nll([texts[place] for place in pack]) if pack else torch.empty(0)
                if under_way[0]:
                    yield list(zip(under_way[0], under_way[1].tolist(), strict=True))
                under_way = (pack, begun)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for these weights ({str(error).splitlines()[0]}): "
                "raise serving.gpus, or set serving.device to cpu"
            ) from None


def faster(model: Any) -> None:
    """Liger's kernels for norms, rotations and activations."""
    from transformers.integrations.liger import apply_liger_kernel

    patches.apply_once(patches.rope_compiled_once)
    apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
