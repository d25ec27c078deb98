"""The changes of sftflow.training.patches to what is installed: what they change, what stays."""

import importlib
import itertools
import logging
from types import SimpleNamespace

import torch
import transformers
from cases import DEVICE, draw, each, engine, error
from sftflow.training import patches

logging.disable(logging.INFO)  # ms-swift's
DECLARED = {name: one for name, one in vars(patches).items() if isinstance(one, patches.Patch)}


def need(patch: patches.Patch) -> None:
    """ModuleNotFoundError where one of its packages is not there, which leaves a case out."""
    modules = {"ms-swift": "swift", "liger-kernel": "liger_kernel"}
    for package in patch.packages:
        importlib.import_module(modules.get(package, package))


@each(name=tuple(DECLARED))
def fits_what_is_installed(name):
    """Every target is there, takes what it should, and has a tested version."""
    need(DECLARED[name])
    assert patches.unfit(DECLARED[name]) == ""


def changed(patch: patches.Patch, *given) -> object:
    need(patch)
    made, record = patches.apply(patch, *given)
    assert record["applied"], record
    return made


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel: what is trained is inside."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module


@each(wrap=(Wrapped, lambda model: model))
def loop_without_walks(wrap):
    """Training mode comes back after an evaluation; gradients are cleared and clipped."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).to(DEVICE)
    wrapped, seen = wrap(model), []
    trainer = SimpleNamespace(
        model=model, model_wrapped=wrapped, optimizer=torch.optim.SGD(wrapped.parameters()),
        is_deepspeed_enabled=False, is_fsdp_enabled=False, _clip_grad_norm=None,
        accelerator=SimpleNamespace(scaler=None), args=SimpleNamespace(max_grad_norm=1.0),
    )  # fmt: skip
    changed(patches.modes_switched_once, trainer)
    changed(patches.gradients_cleared_by_optimizer, trainer)
    changed(patches.gradients_clipped_unseen, trainer)
    changed(patches.gradient_norm_seen, trainer, seen.append)
    for _ in range(2):
        model.eval()  # as Trainer.evaluation_loop does
        assert not model[1].training
        wrapped.train()  # as Trainer.training_step does
        assert wrapped.training and all(part.training for part in wrapped.modules())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm = trainer._clip_grad_norm(wrapped)
    assert seen == [norm] and abs(float(norm) - 20**0.5) < 1e-5
    assert abs(float(model[0].weight.grad.norm()) - (16 / 20) ** 0.5) < 1e-5
    wrapped.zero_grad()
    assert model[0].weight.grad is None
    model[1].train(False)  # a second call walks nowhere
    wrapped.train()
    assert not model[1].training


@each(what=("is_deepspeed_enabled", "scaler"))
def loop_that_needs_stock_keeps_it(what):
    stock = object()
    trainer = SimpleNamespace(
        is_deepspeed_enabled=what == "is_deepspeed_enabled", is_fsdp_enabled=False,
        accelerator=SimpleNamespace(scaler=what == "scaler" or None), _clip_grad_norm=stock,
    )  # fmt: skip
    _, record = patches.apply(patches.gradients_clipped_unseen, trainer)
    assert not record["applied"] and what.split("_")[-2:][0] in record["why"]
    assert trainer._clip_grad_norm is stock


@each()
def steps_keep_their_dialogues():
    """Rows are dealt anew to the micro-batches of a step, which get about as many tokens each."""
    lengths = [100, 900, 20, 30, 500, 480, 10, 700, 60, 610]
    batches = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    dealt = list(patches.level(iter(batches), lengths, 2))
    assert [len(batch) for batch in dealt] == [3, 3, 2, 2]
    for before, after in ((batches[:2], dealt[:2]), (batches[2:], dealt[2:])):
        assert sorted(itertools.chain(*before)) == sorted(itertools.chain(*after))
    assert [sum(lengths[row] for row in batch) for batch in dealt] == [1000, 1030, 710, 670]


@each()
def first_layers_are_recomputed():
    """They are computed twice, the others once; the gradients stay what they were."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        **shape, num_hidden_layers=4, num_key_value_heads=1, vocab_size=64
    )
    model = transformers.LlamaForCausalLM(config).to(DEVICE).train()
    calls, gradients = [], []
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    ids = torch.arange(48, device=DEVICE).view(2, 24)
    for count in (0, 3):
        model.zero_grad()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert changed(patches.checkpointed_layers, model, count) == count
        calls.clear()
        model(ids, labels=ids).loss.backward()
        assert sorted(calls) == sorted([*range(4), *range(count)])
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(error(a, b) < 1e-6 for a, b in zip(*gradients, strict=True))


@each()
def loss_through_ligers_door():
    """Ours where it is all that is asked for, Liger's own where it is not."""
    need(patches.linear_cross_entropy)
    from liger_kernel.transformers import functional

    stock, asked = functional.liger_fused_linear_cross_entropy, []
    functional.liger_fused_linear_cross_entropy = lambda input, weight, target, *args, **kwargs: (
        asked.append(kwargs)
    )
    try:
        changed(patches.linear_cross_entropy)
        loss = functional.liger_fused_linear_cross_entropy
        x, weight = draw(20, 64, learns=True), draw(300, 64)
        labels = torch.arange(20, device=DEVICE)
        labels[5] = -100
        with engine("triton"):
            plain = {"softcap": None, "return_token_accuracy": False}
            found = loss(x, weight, labels, reduction="mean", **plain)
            wanted = torch.nn.functional.cross_entropy(x @ weight.T, labels)
            assert error(found, wanted) < 1e-3 and not asked
            for others in ({"softcap": 30.0}, {"return_token_accuracy": True},
                           {"reduction": "none"}):  # fmt: skip
                loss(x, weight, labels, **others)
                assert asked.pop() == others
            loss(x, weight.requires_grad_(), labels)
            assert asked.pop() == {}
    finally:
        functional.liger_fused_linear_cross_entropy = stock


@each()
def rows_are_packed():
    """The bounds of the dialogues, the labels that count, and the places that predict them."""
    from sftflow.kernels.attention import packed

    row = packed({
        "position_ids": torch.tensor([[0, 1, 2, 0, 1]]),
        "labels": torch.tensor([[-100, 7, 8, -100, 9]]),
    })  # fmt: skip
    assert row["cu_seq_lens_q"].tolist() == [0, 3, 5] and row["max_length_q"] == 3
    assert row["labels"].tolist() == [[-100, 7, 8, 9]]
    assert row["logits_to_keep"].tolist() == [0, 1, 3, 4]


@each()
def batches_are_full():
    """The queue grows while requests arrive; a batch is fetched when it is full or none comes."""
    need(patches.full_batches)
    sizes = iter((1, 2, 3, 3))
    engine = SimpleNamespace(
        _fetch_infer_requests=lambda: "batch", max_batch_size=8,
        _queue=SimpleNamespace(qsize=lambda: next(sizes)),
    )  # fmt: skip
    changed(patches.full_batches, engine)
    assert engine._fetch_infer_requests() == "batch" and next(sizes, None) is None
    _, record = patches.apply(patches.full_batches, SimpleNamespace())
    assert not record["applied"] and "_fetch_infer_requests" in record["why"]
