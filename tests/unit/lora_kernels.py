"""The workflow's own LoRA passes compute what PEFT's would, with one dropout mask for both passes.

Runs in ms-swift's environment: `envs/swift/.venv/bin/python tests/unit/lora_kernels.py`, on the GPU
if there is one, else with Triton's interpreter. test_kernels.py does it.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
P = 0.05


def error(found, wanted) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def check_dropout(device: str) -> None:
    """Each element is kept with probability 1 - p and scaled; another row or seed, another mask."""
    import torch
    from sftflow.triton_lora import dropout

    ones = torch.ones(64, 4096, device=device, dtype=torch.bfloat16)
    mask = dropout(ones, P, 1) != 0
    share = 1 - mask.double().mean().item()
    assert abs(share - P) < 5 * (P * (1 - P) / mask.numel()) ** 0.5, share
    assert not torch.equal(mask[0], mask[1])
    assert not torch.equal(mask, dropout(ones, P, 2) != 0)
    x = torch.rand_like(ones) + 1
    assert torch.equal(dropout(x, P, 1) != 0, mask)
    assert error(dropout(x, P, 1), x * mask / (1 - P)) < 4e-3


def check_add(device: str) -> None:
    """The backward pass drops what the forward pass dropped, whether it stores the product or not.

    Odd sizes leave a part of the last block empty.
    """
    import torch
    from sftflow.triton_lora import add_dropped_product, dropout

    for rank, columns in ((1, 64), (8, 4096), (16, 2056), (32, 512)):
        a = torch.randn(5, rank, device=device, dtype=torch.bfloat16)
        b = torch.randn(rank, columns, device=device, dtype=torch.bfloat16)
        out = torch.randn(5, columns, device=device, dtype=torch.bfloat16)
        mask = dropout(torch.ones_like(out), P, 7) != 0
        wanted = out.double() + a.double() @ b.double() * mask / (1 - P)
        assert error(add_dropped_product(out, a, b, P, 7), wanted) < 6e-3, (rank, columns)


def check_layer(device: str) -> None:
    """Output and all gradients of a layer, against float64 with the mask written out."""
    import torch
    from sftflow.kernels import LoraLinear, dropped

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    sizes = {"x": (96, 512), "weight": (256, 512), "bias": (256,), "a": (8, 512), "b": (256, 8)}
    given = {name: torch.randn(size, device=device) / 8 for name, size in sizes.items()}
    for name in ("x", "weight", "bias"):
        given[name] = given[name].to(dtype)
    for name in ("x", "a", "b"):
        given[name].requires_grad_()
    upstream = torch.randn(96, 256, device=device).to(dtype)
    mask = dropped(torch.ones_like(given["x"]), P, 3) != 0
    x, weight, bias, a, b = (v.detach().double().requires_grad_() for v in given.values())
    wanted = x @ weight.T + bias + 4 * (x * mask / (1 - P)) @ a.T @ b.T
    wanted.backward(upstream.double())
    found = LoraLinear.apply(*given.values(), 4.0, P, 3)
    found.backward(upstream)
    limit = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert error(found, wanted) < limit
    for name, reference in (("x", x), ("a", a), ("b", b)):
        assert error(given[name].grad, reference.grad) < limit, name


def check_attention(device: str) -> None:
    """Dialogues in one row see what they would see alone."""
    import torch
    import torch.nn.functional as F
    from sftflow.kernels import varlen_attention

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    lengths = (5, 64, 27)
    bounds = torch.tensor((0, 5, 69, 96), device=device, dtype=torch.int32)
    query, key, value = (
        torch.randn(1, heads, 96, 64, device=device, dtype=dtype) for heads in (8, 2, 2)
    )
    found, _ = varlen_attention(
        None, query, key, value, None, cu_seq_lens_q=bounds, max_length_q=max(lengths)
    )
    alone = [
        F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        for parts in zip(
            *(each.double().split(lengths, 2) for each in (query, key, value)), strict=True
        )
    ]
    limit = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert error(found, torch.cat(alone, 2).transpose(1, 2)) < limit


def main() -> None:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(ROOT / "scripts"))
    torch.manual_seed(0)
    for check in (check_dropout, check_add, check_layer, check_attention):
        check(device)
    print(f"kernels agree on {device}")


if __name__ == "__main__":
    main()
