"""Cross entropy in Triton: a token's logits are read twice and replaced by their gradient."""

import torch
import triton
import triton.language as tl

COLUMNS = 8192
SIZE = 4096  # elements that a program scales


@triton.jit
def _cross_entropy(logits, labels, losses, columns: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    counts = label >= 0
    logits += row * columns
    # before the sums below bring all warps together: after them, another may have replaced it
    target = tl.load(logits + tl.where(counts, label, 0)).to(tl.float32)
    place = tl.arange(0, COLUMNS)
    largest = tl.full((COLUMNS,), -float("inf"), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, columns, COLUMNS):
        value = tl.load(
            logits + start + place, mask=start + place < columns, other=-float("inf")
        ).to(tl.float32)
        higher = tl.maximum(largest, value)
        # a lane without a value so far has largest -inf: exp(-inf - -inf) is no number
        total = total * tl.where(largest == higher, 1.0, tl.exp(largest - higher))
        total += tl.where(value == -float("inf"), 0.0, tl.exp(value - higher))
        largest = higher
    top = tl.max(largest)
    log_sum = top + tl.log(tl.sum(tl.where(total == 0, 0.0, total * tl.exp(largest - top))))
    tl.store(losses + row, tl.where(counts, log_sum - target, 0.0))
    for start in range(0, columns, COLUMNS):
        inside = start + place < columns
        value = tl.load(logits + start + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.exp(value - log_sum) - tl.where(start + place == label, 1.0, 0.0)
        tl.store(logits + start + place, tl.where(counts, grad, 0.0), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _scale(values, factor, results, count, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    value = tl.load(values + at, mask=at < count, other=0.0)
    tl.store(results + at, value * tl.load(factor), mask=at < count)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log softmax(z)[label] (tokens,) in float32; a negative label counts nothing.

    The logits z (tokens, vocabulary) become the gradient: softmax(z), less 1 at the label.
    """
    losses = torch.empty(len(logits), device=logits.device)
    _cross_entropy[(len(logits),)](
        logits, labels, losses, columns=logits.shape[1], COLUMNS=COLUMNS, num_warps=8
    )
    return losses


def scaled(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """values · factor, a number in float32 on the GPU that is not rounded to their dtype first."""
    results = torch.empty_like(values)
    _scale[(triton.cdiv(values.numel(), SIZE),)](
        values, factor, results, values.numel(), SIZE=SIZE, num_warps=8
    )
    return results
