"""The loss of a language model whose output matrix is frozen, without all logits at once."""

import torch

CHUNK = 2048  # tokens whose logits are in memory at a time


class LinearCrossEntropy(torch.autograd.Function):
    """The sum of -log softmax(z)[label] with z = x Wᵀ, W frozen.

    x (tokens, in), W (vocabulary, in), labels (tokens,), of which a negative one counts nothing.
    As Liger's (the gradient of x is worked out on the way, a few thousand tokens at a time), but
    without asking the GPU for a number: that would let it wait three times in every micro-batch.

    Backward: dx = d(sum) · (softmax(z) - onehot(label)) W, all but the first factor from forward.
    """

    @staticmethod
    def forward(ctx, x, weight, labels):
        from .triton.loss import cross_entropy

        dx, losses = torch.empty_like(x), []
        logits = x.new_empty(min(CHUNK, len(x)), len(weight))
        parts = zip(*(each.split(CHUNK) for each in (x, dx, labels)), strict=True)
        for part, d_part, wanted in parts:
            some = torch.mm(part, weight.T, out=logits[: len(part)])
            losses.append(cross_entropy(some, wanted))
            torch.mm(some, weight, out=d_part)
        ctx.save_for_backward(dx)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx, d_loss):
        from .triton.loss import scaled

        (dx,) = ctx.saved_tensors
        return scaled(dx, d_loss), None, None


def linear_cross_entropy(
    x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, reduction: str, ignored: int
) -> torch.Tensor:
    """`LinearCrossEntropy`, summed or the mean over the labels that are not `ignored`."""
    counts = labels != ignored
    total = LinearCrossEntropy.apply(x.contiguous(), weight, labels.where(counts, -1))
    return total if reduction == "sum" else total / counts.sum().clamp(min=1)
