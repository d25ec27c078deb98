"""What sftflow.kernels and sftflow.kernels.functions compute is what they stand for.

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
    from sftflow.kernels.triton.lora import adapt

    x = torch.ones(rows, columns, device=device, dtype=short(device))
    ones = torch.ones(1, columns, device=device)
    d_wide = torch.zeros(rows, columns + 1, device=device, dtype=x.dtype)
    d_wide[:, -1] = 1
    return (adapt(x, ones, d_wide, 1.0, p, seed)[1] != 0).double()


def check_dropout(device: str) -> None:
    """An element is dropped with probability p, whatever becomes of its neighbours or elsewhere."""
    dropped = [1 - mask_of(64, 1024, P, seed, device) for seed in (1, 2)]
    spread = (P * (1 - P) / dropped[0].numel()) ** 0.5
    assert all(abs(each.mean() - P) < 5 * spread for each in dropped)
    pairs = [(dropped[0], dropped[1])]  # the same places with another seed
    pairs += [(each[:, :-lag], each[:, lag:]) for each in dropped for lag in (*range(1, 17), 256)]
    pairs += [(each[:-lag], each[lag:]) for each in dropped for lag in (1, 2, 16, 32)]
    for one, other in pairs:
        both = (one * other).mean()
        assert abs(both - P * P) < 5 * P / one.numel() ** 0.5
    for each in dropped:  # four at the corners of a rectangle, too
        rest = each - P
        for down, right in ((1, 1), (2, 7), (16, 64), (32, 512)):
            corners = rest[:-down] * rest[down:]
            corners = corners[:, :-right] * corners[:, right:]
            assert abs(corners.mean()) < 5 * (P * (1 - P)) ** 2 / corners.numel() ** 0.5


def check_passes(device: str) -> None:
    """Both passes against float64 with the mask written out.

    Odd sizes leave parts of the last tiles empty; 700 rows are several shares of the sum over rows.
    """
    import torch
    from sftflow.kernels.triton.lora import adapt, project

    for rows, columns, rank, p in (
        (5, 64, 1, P), (700, 1040, 8, P), (70, 512, 16, 0.5), (33, 512, 64, P), (40, 272, 8, 0.0),
    ):  # fmt: skip
        x = torch.randn(rows, columns, device=device, dtype=short(device))
        a = torch.randn(rank, columns, device=device)
        d_wide = torch.randn(rows, columns + rank, device=device, dtype=short(device))
        elsewhere, d_hidden = d_wide.double().split((columns, rank), 1)
        hidden = project(x, a, 4.0, p, 7)
        da, dx = adapt(x, a, d_wide, 4.0, p, 7)
        kept = mask_of(rows, columns, p, 7, device) * 4 / (1 - p)
        low_a = a.to(x.dtype).double()
        assert error(hidden, (x.double() * kept) @ low_a.T) < 4e-3
        assert error(da, d_hidden.T @ (x.double() * kept)) < 1e-3
        assert error(dx, elsewhere + (d_hidden @ low_a) * kept) < 4e-3
        alone, nothing = adapt(x, a, d_wide[:, columns:], 4.0, p, 7)
        assert torch.equal(da, alone) and nothing is None


def check_layers(device: str) -> None:
    """Outputs and all gradients of two layers with the same input, against float64.

    The dropout's mask is written out; the second layer has no bias and another rank.
    """
    import torch
    from sftflow.kernels.functions import LoraLinear, stay

    on_cuda = device == "cuda"
    dtype = torch.bfloat16 if on_cuda else torch.float32
    draw = lambda *size, dtype=dtype: (torch.randn(size, device=device) / 8).to(dtype)  # noqa: E731
    x = draw(96, 512).requires_grad_()
    layers = [draw(256, 512), draw(256), draw(8, 512, dtype=torch.float32), draw(256, 8),
              draw(64, 512), None, draw(16, 512, dtype=torch.float32), draw(64, 16)]  # fmt: skip
    for i in (2, 3, 6, 7):
        layers[i].requires_grad_()
    upstream = draw(96, 256), draw(96, 64)
    kept = mask_of(96, 512, P, 3, device) if on_cuda else stay(x, P, 3)
    kept = kept / (1 - P)
    found = LoraLinear.apply(x, 4.0, P, 3, *layers)
    torch.autograd.backward(found, upstream)

    exact = lambda t: t if t is None else t.detach().double().requires_grad_()  # noqa: E731
    precise_x, precise = exact(x), [exact(each) for each in layers]
    wanted = [
        precise_x @ weight.T + 4 * (precise_x * kept) @ a.T @ b.T + (0 if bias is None else bias)
        for weight, bias, a, b in (precise[:4], precise[4:])
    ]
    torch.autograd.backward(wanted, [each.double() for each in upstream])
    limit = 1e-2 if on_cuda else 1e-5
    assert all(error(*pair) < limit for pair in zip(found, wanted, strict=True))
    assert error(x.grad, precise_x.grad) < limit
    assert all(error(layers[i].grad, precise[i].grad) < limit for i in (2, 3, 6, 7))


def check_mlp(device: str) -> None:
    """A gated layer and all its gradients, against float64 with the masks written out.

    Odd sizes leave parts of the last tiles empty; 700 rows are several shares of the sum over rows.
    """
    import torch
    from sftflow.kernels.functions import LoraMlp

    draw = lambda *size: (torch.randn(size, device=device) / 8).to(short(device))  # noqa: E731
    low = lambda *size: draw(*size).float().requires_grad_()  # noqa: E731
    for rows, rank, p in ((700, 8, P), (33, 16, 0.5), (40, 4, 0.0)):
        x, more = ((4 * draw(rows, 64)).requires_grad_() for _ in range(2))
        norm = draw(64)
        layers = [draw(416, 64), draw(64, 208), low(rank, 64), low(208, rank),
                  low(rank, 64), low(208, rank), low(rank, 208), low(64, rank)]  # fmt: skip
        upstream = draw(rows, 64)
        wides = [torch.cat((each, torch.zeros_like(each[:, :extra])), 1)
                 for each, extra in zip(layers[:2], (2 * rank, rank), strict=True)]  # fmt: skip
        found = LoraMlp.apply(x, more, norm, 1e-6, 4.0, p, [5, 6], *wides, *layers[2:])
        found.backward(upstream)

        precise_sum, *precise = (t.detach().double().requires_grad_() for t in (x + more, *layers))
        precise_x = torch.nn.functional.rms_norm(precise_sum, (64,), norm.double(), 1e-6)
        masks = [mask_of(rows, columns, p, seed, device) / (1 - p)
                 for columns, seed in ((64, 5), (208, 6))]  # fmt: skip
        both, weight, *ab, a, b = precise
        gate, up = (
            precise_x @ w.T + 4 * (precise_x * masks[0]) @ low_a.T @ low_b.T
            for w, low_a, low_b in zip(both.chunk(2), ab[::2], ab[1::2], strict=True)
        )
        act = torch.nn.functional.silu(gate) * up
        wanted = precise_sum + act @ weight.T + 4 * (act * masks[1]) @ a.T @ b.T
        wanted.backward(upstream.double())
        assert error(found, wanted) < 1e-2
        assert error(x.grad, precise_sum.grad) < 1e-2 and torch.equal(x.grad, more.grad)
        for mine, exact in zip(layers, precise, strict=True):
            assert not mine.requires_grad or error(mine.grad, exact.grad) < 1e-2


def check_qkv(device: str) -> None:
    """q, k, v and what is handed through, and all gradients, against float64 with the mask."""
    import torch
    from sftflow.kernels.functions import LoraQkv

    draw = lambda *size: (torch.randn(size, device=device) / 8).to(short(device))  # noqa: E731
    low = lambda *size: draw(*size).float().requires_grad_()  # noqa: E731
    rows, heads, size, rank, p, seed = 70, (3, 1), 24, 4, P, 5
    outs = [count * size for count in (3, 1, 1)]
    x, norm, bias = (8 * draw(rows, 48)).requires_grad_(), draw(48), draw(sum(outs))
    ab = [each for out in outs for each in (low(rank, 48), low(out, rank))]
    weight = draw(sum(outs), 48)
    matrix = torch.cat((weight, torch.zeros_like(weight[:, : 3 * rank])), 1)
    angles = torch.rand(rows, size // 2, device=device).repeat(1, 2) * 6
    turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    upstream = draw(rows, 48), *(draw(rows, out // size, size) for out in outs)
    found = LoraQkv.apply(x, norm, 1e-6, (4.0, p, seed), matrix, bias, *turn, heads, *ab)
    torch.autograd.backward(found, upstream)

    precise_x, *precise = (t.detach().double().requires_grad_() for t in (x, *ab))
    n = torch.nn.functional.rms_norm(precise_x, (48,), norm.double(), 1e-6)
    dropped = n * mask_of(rows, 48, p, seed, device) / (1 - p)
    wanted = [precise_x]
    parts = zip(weight.split(outs), bias.split(outs), precise[::2], precise[1::2], strict=True)
    for w, shift, a, b in parts:
        y = (n @ w.double().T + shift.double() + 4 * dropped @ a.T @ b.T).unflatten(1, (-1, size))
        if len(wanted) < 3:
            left, right = y.chunk(2, 2)
            cos, sin = (each.double()[:, None] for each in turn)
            y = y * cos + torch.cat((-right, left), 2) * sin
        wanted.append(y)
    torch.autograd.backward(wanted, [each.double() for each in upstream])
    assert all(error(*pair) < 1e-2 for pair in zip(found, wanted, strict=True))
    for mine, exact in zip((x, *ab), (precise_x, *precise), strict=True):
        assert error(mine.grad, exact.grad) < 1e-2


def check_norm(device: str) -> None:
    """A norm with what goes on beside it, and the gradient through both, against float64."""
    import torch
    from sftflow.kernels.functions import ResidualNorm

    draw = lambda *size: torch.randn(size, device=device).to(short(device))  # noqa: E731
    x, weight, upstream = draw(33, 80).requires_grad_(), draw(80), draw(2, 33, 80)
    found = ResidualNorm.apply(x, weight, 1e-6)
    torch.autograd.backward(found, list(upstream))
    precise = x.detach().double().requires_grad_()
    wanted = precise * 1, torch.nn.functional.rms_norm(precise, (80,), weight.double(), 1e-6)
    torch.autograd.backward(wanted, list(upstream.double()))
    assert all(error(*pair) < 4e-3 for pair in zip(found, wanted, strict=True))
    assert error(x.grad, precise.grad) < 4e-3


def check_loss(device: str) -> None:
    """The loss through Liger's door and its gradient, against float64; a label counts nothing."""
    import torch
    from liger_kernel.transformers import functional
    from sftflow.kernels import fuse

    fuse.fuse_loss()
    fuse.CHUNK = 16
    draw = lambda *size: torch.randn(size, device=device).to(short(device))  # noqa: E731
    weight, labels = draw(10000, 64) / 8, torch.randint(10000, (37,), device=device)
    labels[5] = -100
    for reduction in ("mean", "sum"):
        x = draw(37, 64).requires_grad_()
        found = functional.liger_fused_linear_cross_entropy(
            x, weight, labels, reduction=reduction, softcap=None, return_token_accuracy=False
        )
        assert type(found.grad_fn).__name__ != "LigerFusedLinearCrossEntropyFunctionBackward"
        (found / 3).backward()
        precise = x.detach().double().requires_grad_()
        logits = precise @ weight.double().T
        wanted = torch.nn.functional.cross_entropy(logits, labels, reduction=reduction)
        (wanted / 3).backward()
        assert error(found, wanted) < 1e-3
        assert error(x.grad, precise.grad) < 1e-2 and not x.grad[5].any()
    weight[(labels[0] + 1) % 10000] = float("nan")  # a diverged training has to be seen
    assert functional.liger_fused_linear_cross_entropy(x, weight, labels).isnan()


def check_model(device: str) -> None:
    """A model whose parts are computed together answers and learns as PEFT's own does.

    Also where one layer's rank keeps it out, where layers are recomputed, with a sliding window, or
    where a Llama's configuration names one that it does not have.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from sftflow.kernels.fuse import fuse_lora, varlen_attention

    transformers.AttentionInterface.register("varlen", varlen_attention)

    shape = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 3, "head_dim": 16}
    ids, kept = torch.arange(48, device=device).view(2, 24), torch.tensor([3, 4, 23], device=device)
    limit = 1e-2 if device == "cuda" else 1e-5  # a GPU may multiply in tf32
    for family, ranks in (
        ("Llama", {}), ("Llama", {"v_proj": 4}), ("Llama", {"up_proj": 4}),
        ("Mistral", {}), ("Qwen2", {}), ("Qwen3", {}),
    ):  # fmt: skip
        config = getattr(transformers, f"{family}Config")(
            **shape, num_hidden_layers=2, num_key_value_heads=1, vocab_size=64, sliding_window=5
        )
        plain = getattr(transformers, f"{family}ForCausalLM")(config)
        lora = LoraConfig(
            r=8, target_modules="all-linear", init_lora_weights=False, rank_pattern=ranks
        )
        for name, parameter in plain.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        model = get_peft_model(plain, lora).to(device).train()

        def learn(model=model) -> list[torch.Tensor]:
            model.zero_grad()
            logits = model(ids, logits_to_keep=kept, use_cache=False).logits
            logits.pow(2).sum().backward()
            return [logits, *(p.grad for p in model.parameters() if p.requires_grad)]

        wanted = learn()
        assert fuse_lora(model) == 14
        plain.config._attn_implementation = "varlen"
        found = learn()
        with torch.no_grad():  # with a cache of keys and values, too
            assert error(model(ids, logits_to_keep=kept).logits, found[0]) < limit
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
        for seen in (found, learn()):
            assert all(error(*pair) < limit for pair in zip(seen, wanted, strict=True)), family
        with model.disable_adapter(), torch.no_grad():
            logits = model(ids, logits_to_keep=kept).logits
            assert error(logits, model(ids).logits[:, kept]) < 1e-5
            mask = torch.zeros(24, dtype=torch.bool, device=device).index_fill_(0, kept, True)
            assert torch.equal(model(ids, logits_to_keep=mask).logits, logits)
            assert error(logits, wanted[0]) > 0.01


def check_attention(device: str) -> None:
    """Dialogues in one row see what they would see alone, or of that a window; gradients too."""
    import torch
    import torch.nn.functional as F
    from sftflow.kernels.fuse import varlen_attention

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    limit = 1e-2 if dtype == torch.bfloat16 else 1e-5
    lengths = (5, 64, 27)
    bounds = torch.tensor((0, 5, 69, 96), device=device, dtype=torch.int32)
    for size, window in ((64, None), (128, None), (64, 16)):
        given = [
            torch.randn(1, heads, 96, size, device=device, dtype=dtype).requires_grad_()
            for heads in (8, 2, 2)
        ]
        upstream = torch.randn(1, 96, 8, size, device=device, dtype=dtype)
        found, _ = varlen_attention(
            None, *given, None, cu_seq_lens_q=bounds, max_length_q=64, sliding_window=window
        )
        found.backward(upstream)
        precise = [each.detach().double().requires_grad_() for each in given]
        seen = torch.ones(64, 64, dtype=torch.bool, device=device).tril().triu(1 - (window or 64))
        alone = [
            F.scaled_dot_product_attention(
                *parts, attn_mask=seen[: parts[0].shape[2], : parts[0].shape[2]], enable_gqa=True
            )
            for parts in zip(*(each.split(lengths, 2) for each in precise), strict=True)
        ]
        wanted = torch.cat(alone, 2).transpose(1, 2)
        wanted.backward(upstream.double())
        assert error(found, wanted) < limit
        for each, exact in zip(given, precise, strict=True):
            assert error(each.grad, exact.grad) < limit


def check_checkpointing(device: str) -> None:
    """The first layers are computed twice, the others once; the gradients stay what they were."""
    import torch
    from sftflow.kernels.fuse import checkpoint_layers
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
    from sftflow.kernels import functions

    for check in (check_dropout, check_passes, check_layers, check_attention, check_checkpointing):
        check(device)
    check_model(device)
    if device == "cpu":
        functions.by_triton = lambda x: True
        check_model(device)
    check_loss(device)
    check_mlp(device)
    check_qkv(device)
    check_norm(device)
    print(f"kernels agree on {device}")


if __name__ == "__main__":
    main()
