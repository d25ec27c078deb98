"""Every change to the internals of ms-swift, PEFT, Liger, transformers and torch.

A `Patch` states what it changes and the versions it was tested with; `apply` makes the change, or
leaves everything as it was and says why: other versions, a target that is missing or takes other
parameters, a change that fails. Nothing here raises, at import or later, and importing it imports
none of these packages.

Not listed is what they offer to be replaced: callbacks, plug-ins, subclasses (the server's in
serving/swift_deploy.py), `Trainer.training_step`.
"""

import functools
import inspect
import itertools
import pkgutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

# What envs/swift/uv.lock holds, and what else was tried.
TESTED = {
    "ms-swift": "~=4.6.0",
    "transformers": ">=5.12.1,<5.20",
    "peft": ">=0.20,<0.22",
    "torch": ">=2.11,<2.14",
    "liger-kernel": "~=0.8.5",
}


class Unfit(Exception):
    """A patch does not go with how a training is run; the message says why."""


@dataclass(frozen=True, eq=False)
class Patch:
    """One change.

    targets: dotted name → the parameters that it takes first, and no others that must be given;
    None for what is not called. packages: those whose versions count. change: makes the change, or
    raises and leaves everything as it was.
    """

    name: str
    targets: dict[str, str | None]
    packages: tuple[str, ...]
    change: Callable


def patch(targets: dict[str, str | None], *packages: str) -> Callable[[Callable], Patch]:
    """Declare the function below as the change of a patch that has its name."""
    return lambda change: Patch(change.__name__, targets, packages, change)


def apply(wanted: Patch, *given) -> tuple[object, dict]:
    """(what the change returns, or None if it was left out; its entry in training.json)"""
    made, why = None, unfit(wanted)
    if not why:
        try:
            made = wanted.change(*given)
        except Exception as error:
            why = str(error) if isinstance(error, Unfit) else f"{type(error).__name__}: {error}"
    return made, {
        "name": wanted.name,
        "target": list(wanted.targets),
        "tested": {package: TESTED[package] for package in wanted.packages},
        "found": {package: installed(package) for package in wanted.packages},
        "applied": not why,
        "why": why,
    }


apply_once = functools.cache(apply)  # in a process, however often a plug-in is loaded


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def untested(wanted: Patch) -> str:
    """Why the installed versions forbid a patch; empty if they do not. Imports nothing."""
    for package in wanted.packages:
        found, tested = installed(package), TESTED[package]
        if found is None:
            return f"{package} is not installed"
        try:
            fits = SpecifierSet(tested).contains(found, prereleases=True)
        except InvalidVersion:  # of a build of one's own
            fits = False
        if not fits:
            return f"{package} {found} is not among the tested versions, {tested}"
    return ""


def unfit(wanted: Patch) -> str:
    """Why a patch cannot be applied; empty if it can."""
    why = untested(wanted)
    for target, parameters in {} if why else wanted.targets.items():
        try:
            found = pkgutil.resolve_name(target)
        except (ImportError, AttributeError, ValueError) as error:
            return f"{target} is missing: {error}"
        if parameters is not None and not takes(found, parameters.split()):
            return f"{target} does not take {parameters.replace(' ', ', ')}"
    return why


def takes(function: Callable, first: list[str]) -> bool:
    """The parameters begin with these, and the others need not be given."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    others = parameters[len(first) :]
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [each.name for each in parameters[: len(first)]] == first and all(
        each.default is not each.empty or each.kind in optional for each in others
    )


# --- rows without padding ------------------------------------------------------------------------


@patch(
    {
        "swift.arguments.SftArguments._check_padding_free": "self",
        "swift.template.Template._data_collator": "self batch",
        "transformers.AttentionInterface.register": "key value",
        "torch.nn.attention.varlen.varlen_attn": "query key value cu_seq_q cu_seq_k max_q max_k",
    },
    "ms-swift", "transformers", "torch",
)  # fmt: skip
def packed_rows() -> None:
    """Register the attention `varlen`, and let ms-swift pack rows for it.

    ms-swift prepares such rows (`padding_free`) but allows them with the flash-attn packages only.
    """
    from sftflow.kernels.attention import packed, varlen_attention
    from swift.arguments import SftArguments
    from swift.template import Template
    from transformers import AttentionInterface

    AttentionInterface.register("varlen", varlen_attention)
    check, collate = SftArguments._check_padding_free, Template._data_collator

    def data_collator(self, batch, **kwargs):
        row = collate(self, batch, **kwargs)
        return packed(row) if self.padding_free else row

    def check_padding_free(self) -> None:
        if self.attn_impl == "varlen":
            if self.acc_strategy == "seq" or self.enable_channel_loss:
                raise ValueError("acc_strategy seq and enable_channel_loss need attn_impl sdpa")
            Template._data_collator = data_collator
            self.use_logits_to_keep = False  # `packed` has seen to it
        else:
            check(self)

    SftArguments._check_padding_free = check_padding_free


@patch({"swift.dataloader.shard.BatchSamplerShard.__iter__": "self"}, "ms-swift")
def level_micro_batches(trainer) -> None:
    """Packed micro-batches of one step get about as many tokens each."""
    from swift.dataloader import shard

    rows = trainer.train_dataset
    columns = getattr(getattr(rows, "dataset", rows), "column_names", ())
    if not (trainer.template.padding_free and "lengths" in columns):
        raise Unfit("rows are padded, or their lengths unknown")
    lengths, deal = list(rows["lengths"]), shard.BatchSamplerShard.__iter__
    count = trainer.args.gradient_accumulation_steps
    shard.BatchSamplerShard.__iter__ = lambda sampler: level(deal(sampler), lengths, count)


def level(batches: Iterator[list[int]], lengths: list, count: int) -> Iterator[list[int]]:
    """Deal the rows of every `count` batches to as many, longest first, to and fro."""
    while step := list(itertools.islice(batches, count)):
        rows = sorted(itertools.chain(*step), key=lambda row: (lengths[row], row), reverse=True)
        dealt: list[list[int]] = [[] for _ in step]
        for i in range(0, len(rows), len(step)):
            for batch, row in zip(dealt, rows[i : i + len(step)], strict=False):
                batch.append(row)
            dealt.reverse()
        yield from dealt


# --- the model -----------------------------------------------------------------------------------


@patch(
    {
        "peft.tuners.lora.layer.Linear.forward": "self x",
        "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS": None,
        "transformers.models.llama.modeling_llama.LlamaDecoderLayer.forward": "self hidden_states",
        "transformers.models.llama.modeling_llama.LlamaAttention.forward": "self hidden_states",
    },
    "peft", "transformers", "torch",
)  # fmt: skip
def fused_lora(model, fp8: bool = False):
    """LoRA's layers by sftflow.kernels; returns the handle of `fuse`."""
    from sftflow.kernels.fuse import fuse

    return fuse(model, fp8)


@patch(
    {"transformers.modeling_layers.GradientCheckpointingLayer.gradient_checkpointing": None},
    "transformers",
)
def checkpointed_layers(model, count: int) -> int:
    """Recompute only the first `count` of the layers that would all be; returns how many are.

    The first, because they are recomputed last, when what the others kept is gone.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    for layer in layers[count:]:
        layer.gradient_checkpointing = False
    return len(layers[:count])


@patch(
    {
        "liger_kernel.transformers.functional.liger_fused_linear_cross_entropy":
            "input weight target",
    },
    "liger-kernel", "torch",
)  # fmt: skip
def linear_cross_entropy() -> None:
    """Let Liger's models take the loss of sftflow.kernels where it is all they ask for."""
    import torch
    from liger_kernel.transformers import functional
    from sftflow.kernels import functions, loss

    stock = functional.liger_fused_linear_cross_entropy

    @functools.wraps(stock)
    def fused(input, weight, target, *args, **asked):
        others = asked.keys() - {"reduction", "ignore_index"}
        plain = not args and all(asked[name] is None or asked[name] is False for name in others)
        reduction = asked.get("reduction", "mean")
        fits = reduction in ("mean", "sum") and input.dtype == weight.dtype
        if torch.is_autocast_enabled("cuda"):
            fits = fits and torch.get_autocast_dtype("cuda") == input.dtype
        learns = input.requires_grad and not weight.requires_grad
        if not (plain and fits and learns and functions.by_triton(input)):
            return stock(input, weight, target, *args, **asked)
        ignored = asked.get("ignore_index", -100)
        return loss.linear_cross_entropy(input, weight, target, reduction, ignored)

    functional.liger_fused_linear_cross_entropy = fused


@patch({"liger_kernel.ops.rope._triton_rope": None}, "liger-kernel")
def rope_compiled_once() -> None:
    """Let Liger's rotation take every number of tokens as it comes.

    Triton would compile it anew, in the middle of a training, for one that is a multiple of 16.
    """
    from liger_kernel.ops.rope import _triton_rope

    for parameter in getattr(_triton_rope, "params", ()):
        parameter.do_not_specialize |= parameter.name == "sl"


# --- the training loop: what the GPU would wait for between two steps ----------------------------


@patch({"torch.nn.Module.train": "self mode"}, "torch", "transformers")
def modes_switched_once(trainer) -> None:
    """No walk through thousands of modules to tell them that they are in training mode already."""
    model, inner = trainer.model_wrapped, trainer.model
    walk = model.train
    walk()  # now all parts agree with the whole, as they do after every later walk

    def train(mode: bool = True):
        # on several GPUs an evaluation turns the inner model alone, not what wraps it
        return model if model.training == inner.training == mode else walk(mode)

    model.train = train


@patch({"transformers.Trainer.floating_point_ops": "self inputs"}, "transformers")
def flops_not_counted(trainer) -> None:
    """No count of parameters in every micro-batch: useful FLOPs are counted from tokens."""
    trainer.floating_point_ops = lambda inputs: 0.0


@patch({"swift.dataloader.shard.to_device": "data device"}, "ms-swift")
def rows_sent_ahead() -> None:
    """Rows move to the GPU while it still works, not only when it has nothing left to do."""
    from swift.dataloader import shard

    shard.to_device = functools.partial(shard.to_device, non_blocking=True)


@patch({"torch.nn.Module.zero_grad": "self"}, "torch", "transformers")
def gradients_cleared_by_optimizer(trainer) -> None:
    """Only what is trained has a gradient, and the optimizer knows it without a walk."""
    if trainer.is_deepspeed_enabled:
        raise Unfit("deepspeed's optimizer leaves this to the model")
    trainer.model_wrapped.zero_grad = trainer.optimizer.zero_grad


@patch({"transformers.Trainer._clip_grad_norm": "self model"}, "transformers")
def gradients_clipped_unseen(trainer) -> None:
    """Clip without a look at every gradient's norm.

    accelerate looks, to leave out an update that is not a number; the callback looks a step later,
    and stops.
    """
    import torch

    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise Unfit("deepspeed and fsdp clip by themselves")
    if trainer.accelerator.scaler is not None:
        raise Unfit("with a scaler (fp16) gradients have to be scaled back first")
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    trainer._clip_grad_norm = lambda model: torch.nn.utils.clip_grad_norm_(
        trained, trainer.args.max_grad_norm
    )


@patch({"transformers.Trainer._clip_grad_norm": "self model"}, "transformers")
def gradient_norm_seen(trainer, see: Callable) -> None:
    """Call `see` with the norm of every step's gradient, a tensor that nobody has waited for."""
    clip = trainer._clip_grad_norm

    def clip_grad_norm(model):
        norm = clip(model)
        see(norm)
        return norm

    trainer._clip_grad_norm = clip_grad_norm


# --- the server ----------------------------------------------------------------------------------

LINGER = 0.05  # seconds without a new request after which a batch is closed


@patch({"swift.infer_engine.TransformersEngine._fetch_infer_requests": "self"}, "ms-swift")
def full_batches(engine) -> None:
    """Let a batch wait while requests still arrive, up to its size.

    ms-swift takes whatever lies in its queue the moment it is free. A batch is answered as a whole,
    so the next questions come together a moment later: the first of them would be taken alone, and
    all others would wait for it.
    """
    fetch, queue, size = engine._fetch_infer_requests, engine._queue, engine.max_batch_size

    def fetch_together():
        before = 0
        while before < (waiting := queue.qsize()) < size:
            before = waiting
            time.sleep(LINGER)
        return fetch()

    engine._fetch_infer_requests = fetch_together
