"""Packed attention: dialogues behind each other in one row, each attending to itself alone.

`varlen_attention` is an attention implementation for transformers that needs no padding. Others
need the flash-attn packages for it, which have no wheels; torch ships the same kernel, and on
Hopper cuDNN's is faster (cudnn_varlen.py). Without CUDA the same attention is computed dialogue by
dialogue: slowly, for tests.
"""

import functools
import importlib.util
import itertools

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn


def packed(row: dict[str, torch.Tensor]) -> dict:
    """Add to a packed row what the model needs to know about it, while it is still on the CPU.

    row: input_ids, labels, position_ids (1, tokens); every dialogue begins at position 0. Adds
    `cu_seq_lens_q` (dialogues + 1,), the bounds of the dialogues, and `max_length_q`, the longest.
    Labels shrink to those that count, behind one that does not, and `logits_to_keep` holds the
    places that predict them (ms-swift does so later, on the GPU, and waits for it).
    """
    begins = (row["position_ids"][0] == 0).nonzero()[:, 0]
    bounds = F.pad(begins, (0, 1), value=row["position_ids"].shape[1]).int()
    row |= {"cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}
    if "labels" in row:
        counts = row["labels"][0] != -100
        for name, nothing in (("labels", -100), ("loss_scale", 0)):
            if name in row:
                row[name] = F.pad(row[name][:, counts], (1, 0), value=nothing)
        row["logits_to_keep"] = F.pad(counts[1:], (0, 1), value=True).nonzero()[:, 0]
    return row


def varlen_attention(
    module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None,
    sliding_window=None, **_,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention within each dialogue of a row: transformers' attention interface.

    query (1, heads, tokens, size), key and value (1, kv heads, tokens, size)
    → (1, tokens, heads, size). Without bounds the row is one dialogue, or a batch of equal ones.
    With a sliding window a token sees as many, itself among them.
    """
    longest = query.shape[2] if max_length_q is None else max_length_q
    window = sliding_window if sliding_window and sliding_window < longest else None
    if cu_seq_lens_q is None or not query.is_cuda:
        ends = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        parts = []
        for begin, end in itertools.pairwise(ends):
            causal, seen = end - begin > 1 and query.shape[2] == key.shape[2], None
            if causal and window:
                seen = torch.ones(end - begin, end - begin, dtype=torch.bool, device=query.device)
                seen = seen.tril().triu(1 - window)
            parts.append(
                F.scaled_dot_product_attention(
                    *(each[:, :, begin:end] for each in (query, key, value)),
                    attn_mask=seen, is_causal=causal and seen is None, scale=scaling,
                    enable_gqa=True,
                )
            )  # fmt: skip
        return torch.cat(parts, 2).transpose(1, 2), None
    # not each[0]: its gradient would be a copy into zeros, in another order of dimensions
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    if not window and query.shape[-1] <= 128 and has_cudnn(query.device):
        from .cudnn_varlen import attention

        out = attention(query, key, value, cu_seq_lens_q, max_length_q, scaling)
    else:
        out = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(window - 1 if window else -1, 0),
        )  # fmt: skip
    return out.unsqueeze(0), None


@functools.cache
def has_cudnn(device: torch.device) -> bool:
    """On Hopper, where it pays, if nvidia-cudnn-frontend is installed."""
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and importlib.util.find_spec("cudnn") is not None
