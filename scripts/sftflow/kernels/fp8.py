"""Products with a frozen matrix in 8 bits (e4m3), which Hopper and Ada make at twice bf16's rate.

Each row of the two factors has a scale of its own, so that its largest element is e4m3's largest;
the sums are in more bits (Micikevicius et al. 2022, arXiv:2209.05433).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max
SMALLEST = 1e-12  # for a row of zeros, which may be divided by anything else

Rounded = tuple[torch.Tensor, torch.Tensor]  # numbers in 8 bits (rows, columns), scales (rows, 1)


def rounded(x: torch.Tensor) -> Rounded:
    """x (rows, columns) ≈ numbers · scales; not a number stays none."""
    if x.is_cuda:
        from .triton.fp8 import rounded as on_cuda

        return on_cuda(x)
    x = x.float()
    scales = x.abs().amax(1, keepdim=True).clamp(min=SMALLEST) / LARGEST
    return (x / scales).to(KIND), scales


@dataclass(frozen=True, eq=False)
class Fp8Matrix:
    """A frozen W (out, in), rounded once, for products with it and with its transpose.

    A product wants its second factor column by column, and one scale for all that is summed: so W
    is there twice, with a scale for each output, and for each input. Together they are as large as
    W in 16 bits. beside: B (out, ranks) of the adapters, in the dtype of W, which is not rounded.
    """

    of_outputs: Rounded  # (out, in)
    of_inputs: Rounded  # (in, out)
    beside: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, ranks: int = 0) -> "Fp8Matrix":
        beside = weight.new_zeros(len(weight), ranks)
        return cls(rounded(weight), rounded(weight.T.contiguous()), beside)

    def split(self, rows: list[int]) -> Iterator["Fp8Matrix"]:
        """Those that lie below each other in this one, in the same memory, with nothing beside."""
        numbers, scales = (each.split(rows) for each in self.of_outputs)
        turned, of_inputs = self.of_inputs
        for *part, columns in zip(numbers, scales, turned.split(rows, 1), strict=True):
            yield Fp8Matrix((part[0], part[1]), (columns, of_inputs), self.beside[:0])

    @property
    def numbers(self) -> torch.Tensor:
        """In W's shape, without their scales: what takes W's place."""
        return self.of_outputs[0]

    def restored(self) -> torch.Tensor:
        """W as it was rounded, in its dtype."""
        numbers, scales = self.of_outputs
        return (numbers.float() * scales).to(self.beside.dtype)

    def forward(self, x: Rounded) -> torch.Tensor:
        """x Wᵀ"""
        return product(x, self.of_outputs, self.beside.dtype)

    def backward(self, dy: Rounded) -> torch.Tensor:
        """dy W"""
        return product(dy, self.of_inputs, self.beside.dtype)


def product(x: Rounded, w: Rounded, dtype: torch.dtype) -> torch.Tensor:
    """x wᵀ; torch scales rows in bf16 only. Without CUDA it has no rows, and on some processors
    takes hundreds of times as long as in 32 bits, which hold the same products."""
    (left, of_rows), (right, of_columns) = x, (w[0].contiguous().T, w[1].T)
    if not left.is_cuda:
        return (left.float() @ right.float()).mul_(of_rows).mul_(of_columns).to(dtype)
    made = torch._scaled_mm(
        left, right, of_rows, of_columns, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return made.to(dtype)
