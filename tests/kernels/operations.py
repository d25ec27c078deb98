"""Each operation of sftflow.kernels against its definition in float64, masks written out.

Odd sizes leave parts of the last tiles empty; more rows than a share are summed in parts.
"""

import itertools

import torch
import torch.nn.functional as F
from cases import (
    DEVICE,
    DTYPES,
    ENGINES,
    LIMITS,
    MODES,
    ON_GPU,
    compare,
    draw,
    each,
    engine,
    error,
    kept,
    weigh,
)
from sftflow.kernels import fp8, functions, loss
from sftflow.kernels.attention import varlen_attention
from sftflow.kernels.fp8 import Fp8Matrix
from sftflow.kernels.functions import LoraLinear, LoraMlp, LoraQkv, ResidualRmsNorm
from sftflow.kernels.triton import fp8 as triton_fp8
from sftflow.kernels.triton import lora, rope
from sftflow.kernels.triton.loss import cross_entropy

S, EPS = 4.0, 1e-6
FP8 = 0.05  # relative error of a product whose factors both have 4 significant bits
# ((rows, columns, rank), dtype, dropout); the interpreter is slow: there each value once or twice
SETTINGS = [
    ((5, 64, 1), "float32", 0.0), ((70, 80, 8), "float16", 0.05), ((33, 48, 16), "float32", 0.5),
]  # fmt: skip
if ON_GPU:
    shapes = (5, 64, 1), (2500, 1040, 8), (33, 512, 64), (700, 4096, 16)
    SETTINGS = list(itertools.product(shapes, DTYPES, (0.0, 0.05, 0.5)))


@each()
def dropout_is_independent():
    """An element is dropped with probability p, whatever becomes of its neighbours or elsewhere."""
    p = 0.05
    dropped = [1 - kept(64, 1024, p, seed) * (1 - p) for seed in (1, 2)]
    spread = (p * (1 - p) / dropped[0].numel()) ** 0.5
    assert all(abs(one.mean() - p) < 5 * spread for one in dropped)
    pairs = [(dropped[0], dropped[1])]  # the same places with another seed
    pairs += [(one[:, :-lag], one[:, lag:]) for one in dropped for lag in (*range(1, 17), 256)]
    pairs += [(one[:-lag], one[lag:]) for one in dropped for lag in (1, 2, 16, 32)]
    for one, other in pairs:
        assert abs((one * other).mean() - p * p) < 5 * p / one.numel() ** 0.5
    for one in dropped:  # four at the corners of a rectangle, too
        rest = one - p
        for down, right in ((1, 1), (2, 7), (16, 64), (32, 512)):
            corners = rest[:-down] * rest[down:]
            corners = corners[:, :-right] * corners[:, right:]
            assert abs(corners.mean()) < 5 * (p * (1 - p)) ** 2 / corners.numel() ** 0.5


@each(setting=SETTINGS)
def lora_a(setting):
    """h, dA and dx, and dA alone where x has no gradient."""
    (rows, columns, rank), dtype, p = setting
    x, a = draw(rows, columns, dtype=dtype), weigh(rank, columns)
    given = draw(rows, columns + rank, dtype=dtype).split((columns, rank), 1)
    elsewhere, dh = (part.double() for part in given)
    m, low_a = kept(rows, columns, p, 7), a.to(x.dtype).double()
    h = lora.lora_a_forward(x, a, S, p, 7)
    da, dx = lora.lora_a_backward(x, a, *given, S, p, 7)
    wanted = (
        S * (x.double() * m) @ low_a.T,
        S * dh.T @ (x.double() * m),
        elsewhere + S * (dh @ low_a) * m,
    )
    compare("forward", lambda: (h, da, dx), lambda: wanted, (), LIMITS[dtype])
    alone, nothing = lora.lora_a_backward(x, a, None, given[1], S, p, 7)
    assert torch.equal(da, alone) and nothing is None


@each(by=ENGINES, setting=SETTINGS, mode=MODES)
def lora_linear(by, setting, mode):
    """Two layers with the same input; the second has no bias, another rank, another width."""
    (rows, columns, rank), dtype, p = setting
    low = {"dtype": "float32", "learns": True}
    given = (
        draw(rows, columns, dtype=dtype, learns=True),
        *(weigh(48, columns, dtype=dtype), draw(48, dtype=dtype)),
        *(weigh(rank, columns, **low), weigh(48, rank, **low)),
        *(weigh(32, columns, dtype=dtype), None),
        *(weigh(2 * rank, columns, **low), weigh(32, 2 * rank, **low)),
    )
    if by == "triton":
        m = kept(rows, columns, p, 3)
    else:
        m = functions.dropout_mask(given[0], p, 3).double() / (1 - p)

    def reference(x, *layers):
        return [
            x @ w.T + S * (x * m) @ a.T @ b.T + (0 if bias is None else bias)
            for w, bias, a, b in (layers[:4], layers[4:])
        ]

    with engine(by):
        compare(mode, lambda x, *each: LoraLinear.apply(x, S, p, 3, *each), reference, given,
                LIMITS[dtype])  # fmt: skip


@each(shape=((5, 64), (33, 1040), (3, 28672 if ON_GPU else 2000)), dtype=DTYPES)
def rounding(shape, dtype):
    """Every row fills the range of e4m3, a part of a wider matrix too; a NaN stays one."""
    x = draw(shape[0], shape[1] + 16, dtype=dtype)[:, :-16]
    x[1] = 0
    x[2] *= 1000
    numbers, scales = triton_fp8.rounded(x)
    wanted, of_rows = fp8.rounded(x.cpu())
    assert torch.equal(numbers.float().abs().amax(1)[:2].cpu(), torch.tensor([fp8.LARGEST, 0.0]))
    assert torch.allclose(scales.cpu(), of_rows)
    assert error(wanted.float() * of_rows, x.cpu()) < 0.03
    # Triton's interpreter loses what it carries from 1.11… to 2, and writes a NaN as a number
    differ = numbers.cpu().float() != wanted.float()
    assert differ.float().mean() < (1e-3 if ON_GPU else 0.05)
    x[0, 3] = float("nan")
    for made in (fp8.rounded, triton_fp8.rounded)[: 1 + ON_GPU]:
        numbers, scales = made(x)
        assert (numbers.float() * scales)[0, 3].isnan()


@each(shape=((5, 64, 48), (33, 1040, 128)), dtype=DTYPES)
def fp8_products(shape, dtype):
    """With W and with its transpose; large and small rows and columns spoil no others."""
    rows, columns, outs = shape
    of_x, of_w = (torch.ones(size, 1, device=DEVICE) for size in (rows, outs))
    of_x[2], of_w[3] = 1000, 0.01
    x, dy, w = draw(rows, columns) * of_x, draw(rows, outs), weigh(outs, columns) * of_w
    x, dy, w = (one.to(getattr(torch, dtype)) for one in (x, dy, w))
    matrix = Fp8Matrix.of(w)
    assert error(matrix.restored(), w) < 0.03 and matrix.restored().dtype == w.dtype
    found, wanted = matrix.forward(fp8.rounded(x)), x.double() @ w.double().T
    assert found.dtype == x.dtype
    assert error(found / of_x / of_w.T, wanted / of_x / of_w.T) < FP8
    assert error(matrix.backward(fp8.rounded(dy)), dy.double() @ w.double()) < FP8


@each(setting=SETTINGS)
def adapters_of_gate_and_up_are_added_where_they_are_read(setting):
    """With an Fp8Matrix both ways: as if they had been added to what is read."""
    (rows, columns, rank), dtype, p = setting
    both, of_both = draw(rows, 2 * columns, dtype=dtype), draw(rows, 2 * rank, dtype=dtype)
    b = torch.zeros(2 * columns, 2 * rank, device=DEVICE, dtype=both.dtype)
    for number in (0, 1):
        part = weigh(columns, rank, dtype=dtype)
        b[number * columns :, number * rank :][:columns, :rank] = part
    a, elsewhere = weigh(rank, columns), draw(rows, columns, dtype=dtype)
    d_hidden = draw(rows, rank, dtype=dtype)
    act, wanted_act = (torch.empty_like(elsewhere) for _ in range(2))
    added = (both.float() + of_both.float() @ b.float().T).to(both.dtype)
    found = lora.swiglu_lora_a_forward(both, of_both, b, a, act, S, p, 6)
    wanted = lora.swiglu_lora_a_forward(added, of_both, None, a, wanted_act, S, p, 6)
    pairs = [(found, wanted), (act, wanted_act)]
    given = a, elsewhere, d_hidden, S, p, 6
    pairs += zip(
        lora.swiglu_lora_a_backward(both, of_both, b, *given),
        lora.swiglu_lora_a_backward(added, of_both, None, *given),
        strict=True,
    )
    assert max(error(*pair) for pair in pairs) < LIMITS[dtype]


@each(layer=("linear", "qkv", "mlp"))
def fp8_layers(layer):
    """With W in 8 bits, what comes out and what is learned is nearly that of W as it was."""
    rows, columns, size, rank, dtype = 70, 64, 32, 8, DTYPES[0]
    outs = {"linear": [48, 32], "qkv": [3 * size, size, size], "mlp": [80, 80]}[layer]
    x, norm = draw(rows, columns, dtype=dtype, learns=True), draw(columns, dtype=dtype)
    shift = draw(sum(outs), dtype=dtype)
    turn = [torch.full((rows, size), 0.5**0.5, device=DEVICE, dtype=x.dtype)] * 2
    sizes = [size for out in outs for size in ((rank, columns), (out, rank))]
    sizes += [(rank, outs[0]), (columns, rank)] if layer == "mlp" else []
    ab = [weigh(*size, learns=True) for size in sizes]
    w, down = weigh(sum(outs), columns, dtype=dtype), weigh(columns, outs[0], dtype=dtype)

    def wide(w, ranks, eight):
        return Fp8Matrix.of(w, ranks) if eight else torch.cat((w, w.new_zeros(len(w), ranks)), 1)

    def run(eight):
        if layer == "qkv":
            given = wide(w, 3 * rank, eight), shift, *turn, (3, 1)
            return LoraQkv.apply(x, norm, EPS, (S, 0.1, 5), *given, *ab)
        if layer == "mlp":
            given = wide(w, 2 * rank, eight), wide(down, rank, eight)
            return (LoraMlp.apply(x, None, norm, EPS, S, 0.1, [5, 6], *given, *ab),)
        both = [Fp8Matrix.of(part) if eight else part for part in w.split(outs)]
        parts = zip(both, shift.split(outs), ab[::2], ab[1::2], strict=True)
        return LoraLinear.apply(x, S, 0.1, 3, *itertools.chain(*parts))

    with engine("triton"):
        wanted, found = run(False), run(True)
        upstream = [torch.randn_like(one) for one in wanted]
        pairs = [
            (*made, *torch.autograd.grad(made, (x, *ab), upstream)) for made in (found, wanted)
        ]
    errors = [error(*pair) for pair in zip(*pairs, strict=True)]
    assert 0 < max(errors) < 2 * FP8, errors


@each(setting=SETTINGS, mode=MODES, bias=(True, False))
def lora_qkv(setting, mode, bias):
    """What is handed through, q, k and v, of 3 heads and 1."""
    (rows, columns, rank), dtype, p = setting
    heads, size = (3, 1), 24
    outs = [count * size for count in (3, 1, 1)]
    rank = min(rank, 16)
    sizes = [size for out in outs for size in ((rank, columns), (out, rank))]
    ab = [weigh(*size, learns=True) for size in sizes]
    x = draw(rows, columns, dtype=dtype, learns=True)
    norm, weight = draw(columns, dtype=dtype), weigh(sum(outs), columns, dtype=dtype)
    shift = draw(sum(outs), dtype=dtype) if bias else None
    angles = torch.rand(rows, size // 2, device=DEVICE).repeat(1, 2) * 6
    turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    m = kept(rows, columns, p, 5)

    def run(x, *ab):
        matrix = torch.cat((weight, weight.new_zeros(sum(outs), 3 * rank)), 1)
        return LoraQkv.apply(x, norm, EPS, (S, p, 5), matrix, shift, *turn, heads, *ab)

    def reference(x, *ab):
        n = F.rms_norm(x, (columns,), norm.double(), EPS)
        made, biases = [x], shift.double().split(outs) if bias else (0, 0, 0)
        for w, b0, a, b in zip(weight.double().split(outs), biases, ab[::2], ab[1::2], strict=True):
            y = (n @ w.T + b0 + S * (n * m) @ a.T @ b.T).unflatten(1, (-1, size))
            if len(made) < 3:
                left, right = y.chunk(2, 2)
                cos, sin = (one.double()[:, None] for one in turn)
                y = y * cos + torch.cat((-right, left), 2) * sin
            made.append(y)
        return made

    compare(mode, run, reference, (x, *ab), 2 * LIMITS[dtype])


@each(setting=SETTINGS, mode=MODES, both=(True, False))
def lora_mlp(setting, mode, both):
    """A gated layer with its norm and residual sums, of one residual or of two to be summed."""
    (rows, columns, rank), dtype, p = setting
    inner = 80 if not ON_GPU else 1200
    x = draw(rows, columns, dtype=dtype, learns=True)
    more = draw(rows, columns, dtype=dtype, learns=True) if both else None
    norm = draw(columns, dtype=dtype)
    gate_up, down = weigh(2 * inner, columns, dtype=dtype), weigh(columns, inner, dtype=dtype)
    sizes = ((rank, columns), (inner, rank)) * 2 + ((rank, inner), (columns, rank))
    ab = [weigh(*size, learns=True) for size in sizes]
    masks = kept(rows, columns, p, 5), kept(rows, inner, p, 6)

    def run(x, more, *ab):
        wide = [torch.cat((one, one.new_zeros(len(one), extra)), 1)
                for one, extra in ((gate_up, 2 * rank), (down, rank))]  # fmt: skip
        return (LoraMlp.apply(x, more, norm, EPS, S, p, [5, 6], *wide, *ab),)

    def reference(x, more, *ab):
        # the sum is stored in the activations' dtype
        total = x if more is None else x + more
        total = total + (total.to(norm.dtype).double() - total).detach()
        n = F.rms_norm(total, (columns,), norm.double(), EPS)
        gate, up = (
            n @ w.T + S * (n * masks[0]) @ a.T @ b.T
            for w, a, b in zip(gate_up.double().chunk(2), ab[:4:2], ab[1:4:2], strict=True)
        )
        act = F.silu(gate) * up
        return [total + act @ down.double().T + S * (act * masks[1]) @ ab[4].T @ ab[5].T]

    compare(mode, run, reference, (x, more, *ab), 3 * LIMITS[dtype])


@each(shape=((33, 80), (4, 4096)), dtype=DTYPES, mode=MODES)
def residual_rms_norm(shape, dtype, mode):
    x, weight = draw(*shape, dtype=dtype, learns=True), draw(shape[1], dtype=dtype)

    def reference(x):
        return x * 1, F.rms_norm(x, shape[1:], weight.double(), EPS)

    compare(mode, lambda x: ResidualRmsNorm.apply(x, weight, EPS), reference, (x,), LIMITS[dtype])


@each(heads=((3, 1), (8, 8)), size=(24, 64), dtype=DTYPES)
def rope_passes(heads, size, dtype):
    """q and k rotated, v as it is; and a rotation back gives what was there."""
    joint = draw(7, (heads[0] + 2 * heads[1]) * size, dtype=dtype)
    angles = torch.rand(7, size // 2, device=DEVICE).repeat(1, 2) * 6
    turn = angles.cos(), angles.sin()

    def reference(joint):
        parts = joint.unflatten(1, (-1, size)).split((*heads, heads[1]), 1)
        (left, right), cos, sin = (
            torch.cat(parts[:2], 1).chunk(2, 2),
            *(one.double()[:, None] for one in turn),
        )
        turned = torch.cat((left, right), 2) * cos + torch.cat((-right, left), 2) * sin
        return *turned.split(heads, 1), parts[2]

    run = lambda joint: rope.rope_forward(joint, *turn, *heads)  # noqa: E731
    compare("forward", run, reference, (joint,), LIMITS[dtype])
    back = lambda joint: (rope.rope_backward(*run(joint), *turn),)  # noqa: E731
    compare("forward", back, lambda joint: (joint,), (joint,), LIMITS[dtype])


@each(
    vocabulary=(300, 10000) if ON_GPU else (300,), dtype=DTYPES, mode=MODES,
    reduction=("mean", "sum"),
)  # fmt: skip
def linear_cross_entropy(vocabulary, dtype, mode, reduction):
    """Several chunks of rows, and a label that counts nothing."""
    x, weight = draw(20, 64, dtype=dtype, learns=True), weigh(vocabulary, 64, dtype=dtype)
    labels = torch.randint(vocabulary, (20,), device=DEVICE)
    labels[5] = -100

    def run(x):
        return (loss.linear_cross_entropy(x, weight, labels, reduction, -100),)

    def reference(x):
        return (F.cross_entropy(x @ weight.double().T, labels, reduction=reduction),)

    compare(mode, run, reference, (x,), 2 * LIMITS[dtype])
    assert x.grad is None or not x.grad[5].any()


@each(where=("first", "label", "last"))
def nan_reaches_the_loss(where):
    """A diverged training has to be seen."""
    logits = draw(3, 300)
    logits[1, {"first": 0, "label": 7, "last": 299}[where]] = float("nan")
    losses = cross_entropy(logits, torch.tensor([7, 7, 7], device=DEVICE))
    assert losses.isnan().tolist() == [False, True, False]


LENGTHS = (5, 64, 27)


@each(size=(64, 128), window=(None, 16), dtype=DTYPES[:-1] if ON_GPU else ("float32",), mode=MODES)
def packed_attention(size, window, dtype, mode):
    """Dialogues in one row see what they would see alone, or of that a window."""
    ends = torch.tensor((0, *LENGTHS), device=DEVICE).cumsum(0).int()
    given = [draw(1, heads, sum(LENGTHS), size, dtype=dtype, learns=True) for heads in (8, 2, 2)]
    seen = torch.ones(64, 64, dtype=torch.bool, device=DEVICE).tril().triu(1 - (window or 64))

    def run(*given):
        bounds = {"cu_seq_lens_q": ends, "max_length_q": max(LENGTHS)}
        return varlen_attention(None, *given, None, **bounds, sliding_window=window)[:1]

    def reference(*given):
        alone = [
            F.scaled_dot_product_attention(
                *parts, attn_mask=seen[: parts[0].shape[2], : parts[0].shape[2]], enable_gqa=True
            )
            for parts in zip(*(one.split(LENGTHS, 2) for one in given), strict=True)
        ]
        return (torch.cat(alone, 2).transpose(1, 2),)

    compare(mode, run, reference, given, 2 * LIMITS[dtype])
