"""What sftflow.kernels computes is what it stands for: LoRA, packed attention, checkpointing.

Runs in ms-swift's environment: `envs/swift/.venv/bin/python tests/unit/check_kernels.py`, on the
GPU if there is one, else with Triton's interpreter. test_kernels.py does it.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
P = 0.05


def error(found, wanted) -> float:
    return float(
        (found.detach().double() - wanted.detach().double()).norm() / wanted.detach().norm()
    )


def short(device: str):
    """16 bits: Triton's interpreter multiplies no bfloat16."""
    import torch

    return torch.bfloat16 if device == "cuda" else torch.float16


def mask_of(rows: int, columns: int, p: float, seed: int, device: str):
    """The mask of a seed, as 0 and 1: with d_hidden = 1 and a = 1 it is in the gradient of x."""
    import torch
    from sftflow.triton_lora import adapt

    x = torch.ones(rows, columns, device=device, dtype=short(device))
    ones = torch.ones(1, columns, device=device)
    return (adapt(x, ones, x[:, :1].contiguous(), 1.0, p, seed, True)[1] != 0).double()


def check_dropout(device: str) -> None:
    """An element is dropped with probability p; each row, group and seed has another mask."""
    import torch

    mask = mask_of(64, 1024, P, 1, device)
    dropped = 1 - mask
    spread = (P * (1 - P)) ** 0.5
    assert abs(dropped.mean() - P) < 5 * spread / mask.numel() ** 0.5
    groups = dropped.view(-1, 8)  # each of eight has a number of its own
    assert (groups.mean(0) - P).abs().max() < 5 * spread / len(groups) ** 0.5
    together = groups.T @ groups / len(groups)
    assert (together - together.diag().diag()).max() < 2 * P * P
    assert not torch.equal(mask, mask_of(64, 1024, P, 2, device))
    assert not torch.equal(mask[0], mask[1])


def check_passes(device: str) -> None:
    """Both passes against float64 with the mask written out.

    Odd sizes leave parts of the last tiles empty; 700 rows are several shares of the sum over rows.
    """
    import torch
    from sftflow.triton_lora import adapt, project

    for rows, columns, rank, p in (
        (5, 64, 1, P), (700, 1032, 8, P), (70, 512, 16, 0.5), (33, 512, 64, P), (40, 264, 8, 0.0),
    ):  # fmt: skip
        x = torch.randn(rows, columns, device=device, dtype=short(device))
        a = torch.randn(rank, columns, device=device)
        d_hidden = torch.randn(rows, rank, device=device, dtype=short(device))
        hidden = project(x, a, 4.0, p, 7)
        da, dx = adapt(x, a, d_hidden, 4.0, p, 7, True)
        kept = mask_of(rows, columns, p, 7, device) * 4 / (1 - p)
        low_a = a.to(x.dtype).double()
        assert error(hidden, (x.double() * kept) @ low_a.T) < 4e-3
        assert error(da, d_hidden.double().T @ (x.double() * kept)) < 1e-3
        assert error(dx, (d_hidden.double() @ low_a) * kept) < 4e-3
        alone, nothing = adapt(x, a, d_hidden, 4.0, p, 7, False)
        assert torch.equal(da, alone) and nothing is None


def check_layer(device: str) -> None:
    """Output and all gradients of a layer, against float64 with the mask written out."""
    import torch
    from sftflow.kernels import LoraLinear, stay

    on_cuda = device == "cuda"
    dtype = torch.bfloat16 if on_cuda else torch.float32
    sizes = {"x": (96, 512), "weight": (256, 512), "bias": (256,), "a": (8, 512), "b": (256, 8)}
    given = {name: torch.randn(size, device=device) / 8 for name, size in sizes.items()}
    for name in ("x", "weight", "bias"):
        given[name] = given[name].to(dtype)
    for name in ("x", "a", "b"):
        given[name].requires_grad_()
    upstream = torch.randn(96, 256, device=device).to(dtype)
    kept = mask_of(96, 512, P, 3, device) if on_cuda else stay(given["x"], P, 3)
    kept = kept / (1 - P)
    x, weight, bias, a, b = (v.detach().double().requires_grad_() for v in given.values())
    wanted = x @ weight.T + bias + 4 * (x * kept) @ a.T @ b.T
    wanted.backward(upstream.double())
    found = LoraLinear.apply(*given.values(), 4.0, P, 3)
    found.backward(upstream)
    limit = 1e-2 if on_cuda else 1e-5
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


def check_checkpointing(device: str) -> None:
    """The first layers are computed twice, the others once; the gradients stay what they were."""
    import torch
    from sftflow.kernels import checkpoint_layers
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = LlamaConfig(**shape, num_hidden_layers=4, num_key_value_heads=1, vocab_size=64)
    model = LlamaForCausalLM(config).to(device).train()
    calls = []
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    ids = torch.arange(48, device=device).view(2, 24)
    gradients = []
    for count in (0, 3):
        model.zero_grad()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert checkpoint_layers(model, count) == count
        calls.clear()
        model(ids, labels=ids).loss.backward()
        assert sorted(calls) == sorted([*range(4), *range(count)])
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(error(a, b) < 1e-6 for a, b in zip(*gradients, strict=True))


def main() -> None:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(ROOT / "scripts"))
    torch.manual_seed(0)
    for check in (check_dropout, check_passes, check_layer, check_attention, check_checkpointing):
        check(device)
    print(f"kernels agree on {device}")


if __name__ == "__main__":
    main()
