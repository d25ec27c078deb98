"""What runs inside ms-swift: a plug-in, and the program that starts `swift sft` with it.

    python plugin.py command.yaml      the same as `swift sft command.yaml`, in one process

Loaded by `external_plugins:` in command.yaml, it registers the callback `sftflow`, which writes one
JSON line per event into the file that the environment variable SFTFLOW_PLUGIN describes:
{"events": path, "train_rows": n, "validation_rows": n, "fused_lora": bool,
"checkpointed_layers": n, "stock": bool}. Without the variable it only watches the loss. On CUDA it
also brings the faster parts of sftflow.kernels; `stock` leaves ms-swift's training loop as it is.
The events:

    start       steps, rows, parameters, GPU memory before the first step
    step        loss (mean per labelled token over the optimizer step), learning rate, tokens
                (without padding), positions (with padding), seconds since the step before
    validation  loss, token accuracy
    saved       a checkpoint that is complete: its files and their sizes are beside it
    end         peak memory
    failed      kind (out_of_memory, diverged, rows, flags) and message
"""

import dataclasses
import difflib
import functools
import gc
import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from swift.callbacks import TrainerCallback, callbacks_map
from swift.dataloader import shard
from swift.utils import to_device

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sftflow.core.jsonio import write_json
from sftflow.kernels.fuse import (
    allow_packing,
    checkpoint_layers,
    compile_once,
    fuse_lora,
    fuse_loss,
)
from sftflow.training.checkpoints import COMPLETE, file_sizes
from sftflow.training.settings import RENAMED

GIB = 2**30


class Stop(Exception):
    """Ends the training for a reason that the event log names by `kind`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def event(name: str, **values) -> None:
    """Append one event; a line is written whole, so a reader never sees half of it as JSON."""
    asked = options()
    if "events" in asked:
        line = json.dumps({"event": name, "time": time.time(), **values}) + "\n"
        with open(asked["events"], "a", encoding="utf-8") as file:
            file.write(line)


def options() -> dict:
    return json.loads(os.environ.get("SFTFLOW_PLUGIN", "{}"))


class Monitor(TrainerCallback):
    """Counts tokens, writes the event log, marks complete checkpoints, stops a diverging run."""

    def on_train_begin(self, args, state, control, **kwargs):
        trainer, asked = self.trainer, options()
        self.main = state.is_world_process_zero
        rows = {"train_rows": len(trainer.train_dataset)}
        if trainer.eval_dataset is not None:
            rows["validation_rows"] = len(trainer.eval_dataset)
        for name, found in rows.items():
            if found != asked.get(name, found):
                raise Stop(
                    "rows",
                    f"ms-swift kept {found} of the {asked[name]} {name} that the receipt counts: "
                    "the template or max_length differs from the one the receipt was made with",
                )
        model = trainer.accelerator.unwrap_model(trainer.model)
        fused = fuse_lora(model) if asked.get("fused_lora", torch.cuda.is_available()) else 0
        checkpointed = checkpoint_layers(model, asked.get("checkpointed_layers", sys.maxsize))
        everything = sum(p.numel() for p in model.parameters())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        embedding = model.get_input_embeddings().weight
        tied = model.get_output_embeddings() is not None and (
            model.get_output_embeddings().weight is embedding
        )
        self.limit = 2 * math.log(len(embedding))  # twice the loss of a uniform guess
        self.first_loss = None
        self.pending = None
        self.begun = time.time()
        self._reset(args.device)
        if not asked.get("stock"):
            keep_gpu_busy(trainer)
            level_micro_batches(trainer)
            if trainer.args.use_liger_kernel:
                fuse_loss()
                compile_once()
        self._watch(trainer)
        self._event(
            "start",
            steps=state.max_steps,
            first_step=state.global_step,
            fused_layers=fused,
            checkpointed_layers=checkpointed,
            parameters=everything,
            trainable_parameters=trainable,
            # an embedding lookup multiplies nothing; a tied one is also the output matrix
            matmul_parameters=everything - (0 if tied else embedding.numel()),
            **rows,
        )

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.learning_rate = self.trainer._get_learning_rate()

    def on_step_end(self, args, state, control, **kwargs):
        self._settle()
        sums = torch.stack([self.loss, self.tokens, self.positions, self.gradient])
        if dist.is_initialized():
            dist.all_reduce(sums)
            sums[0] /= dist.get_world_size()  # the trainer scales each process's share up by that
        now = time.time()
        self.pending = (
            sums.to("cpu", non_blocking=True),
            arrival(sums.device),
            {
                "step": state.global_step,
                "epoch": state.epoch,
                "learning_rate": self.learning_rate,
                "seconds": now - self.begun,
            },
        )
        self.begun = now
        self._reset(args.device)
        if control.should_log or control.should_evaluate or control.should_save:
            self._settle()  # a diverged step takes no good checkpoint's place

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._check_gradient((logs or {}).get("grad_norm", 0.0), state.global_step)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self._settle()
        metrics = metrics or {}
        values = {"loss": metrics.get("eval_loss"), "token_accuracy": metrics.get("eval_token_acc")}
        self._event(
            "validation",
            step=state.global_step,
            **{name: value for name, value in values.items() if value is not None},
        )
        self.begun = time.time()

    def on_save(self, args, state, control, **kwargs):
        self._settle()
        if dist.is_initialized():
            dist.barrier()  # every process writes its own random state
        if self.main:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            os.sync()
            write_json(folder / COMPLETE, {"step": state.global_step, "files": file_sizes(folder)})
            self._event("saved", step=state.global_step)
        self.begun = time.time()

    def on_train_end(self, args, state, control, **kwargs):
        self._settle()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
        memory = {"host_memory_gib": peak * 1024 / GIB}
        if torch.cuda.is_available():
            memory["gpu_allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
            memory["gpu_reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        self._event("end", step=state.global_step, **memory)

    def _settle(self) -> None:
        """Look at the step before: its numbers have left the GPU while this one was prepared."""
        if self.pending is None:
            return
        (sums, arrived, step), self.pending = self.pending, None
        arrived()
        loss, tokens, positions, gradient = sums.tolist()
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss) or loss > max(self.limit, 2 * self.first_loss):
            self._diverged(f"the loss is {loss:.4g} (at first {self.first_loss:.4g})", step["step"])
        self._check_gradient(gradient, step["step"])
        self._event("step", **step, loss=loss, tokens=int(tokens), positions=int(positions))

    def _check_gradient(self, norm: float, step: int) -> None:
        # with a scaler (fp16) some are too large at first, and those updates are left out
        if not math.isfinite(norm) and self.trainer.accelerator.scaler is None:
            self._diverged("the gradient is not finite", step)

    @staticmethod
    def _diverged(what: str, step: int) -> None:
        hint = "lower learning_rate, or look for bad rows in the data"
        raise Stop("diverged", f"{what} at step {step}: {hint}")

    def _event(self, name: str, **values) -> None:
        if self.main:
            event(name, **values)

    def _reset(self, device) -> None:
        self.loss, self.tokens, self.positions, self.gradient = (
            torch.zeros((), dtype=torch.float64, device=device) for _ in range(4)
        )

    def _watch(self, trainer) -> None:
        """See every micro-batch and every gradient; nothing here waits for the GPU."""
        inner = trainer.training_step

        def training_step(model, inputs, *args, **kwargs):
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            self.positions += ids.numel()
            self.tokens += ids.numel() if mask is None else mask.sum().to(self.tokens.device)
            loss = inner(model, inputs, *args, **kwargs)
            self.loss += loss.to(self.loss.device)
            return loss

        trainer.training_step = training_step
        clip = trainer._clip_grad_norm

        def clip_grad_norm(model):
            norm = clip(model)
            if torch.is_tensor(norm):
                self.gradient += norm.detach().to(self.gradient.device)
            return norm

        trainer._clip_grad_norm = clip_grad_norm


def arrival(device: torch.device):
    """A function that waits until what was sent from `device` so far has come."""
    if device.type != "cuda":
        return lambda: None
    sent = torch.cuda.Event()
    sent.record()
    return sent.synchronize


def keep_gpu_busy(trainer) -> None:
    """Leave out what the GPU would wait for between two steps.

    That is: walks through thousands of modules, the garbage collector's too; moving rows to the GPU
    only when it has nothing left to do; and a look at every gradient's norm, to leave out an update
    that is not a number (the callback looks a step later, and stops).
    """
    model, inner = trainer.model_wrapped, trainer.model
    walk = model.train
    walk()  # now all parts agree with the whole, as they do after every later walk

    def train(mode: bool = True):
        # on several GPUs an evaluation turns the inner model alone, not what wraps it
        return model if model.training == inner.training == mode else walk(mode)

    model.train = train
    trainer.floating_point_ops = lambda inputs: 0.0  # useful FLOPs are counted from tokens
    gc.freeze()
    shard.to_device = functools.partial(to_device, non_blocking=True)
    if not trainer.is_deepspeed_enabled:  # its optimizer leaves this to the model
        model.zero_grad = trainer.optimizer.zero_grad
    plain = not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)
    if plain and trainer.accelerator.scaler is None:
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        trainer._clip_grad_norm = lambda model: torch.nn.utils.clip_grad_norm_(
            trained, trainer.args.max_grad_norm
        )


def level_micro_batches(trainer) -> None:
    """Packed micro-batches of one step get about as many tokens each."""
    rows = trainer.train_dataset
    columns = getattr(getattr(rows, "dataset", rows), "column_names", ())
    if trainer.template.padding_free and "lengths" in columns:
        lengths, deal = list(rows["lengths"]), shard.BatchSamplerShard.__iter__
        count = trainer.args.gradient_accumulation_steps
        shard.BatchSamplerShard.__iter__ = lambda sampler: level(deal(sampler), lengths, count)


def level(batches: Iterator[list[int]], lengths: list, count: int) -> Iterator[list[int]]:
    """Deal the rows of every `count` batches to as many, longest first, to and fro."""
    while step := list(itertools.islice(batches, count)):
        rows = sorted(itertools.chain(*step), key=lambda row: (lengths[row], row), reverse=True)
        dealt = [[] for _ in step]
        for i in range(0, len(rows), len(step)):
            for batch, row in zip(dealt, rows[i : i + len(step)], strict=False):
                batch.append(row)
            dealt.reverse()
        yield from dealt


callbacks_map["sftflow"] = Monitor
allow_packing()


def check_flags(command: dict) -> None:
    """Raise Stop for flags that the installed ms-swift does not know, with the nearest it does."""
    from swift.arguments import SftArguments

    known = {field.name for field in dataclasses.fields(SftArguments)}
    problems = []
    for name in sorted(set(command) - known - {"ENV"}):
        near = RENAMED.get(name) or next(iter(difflib.get_close_matches(name, known, 1)), None)
        problems.append(f"{name}" + (f" (did you mean {near}?)" if near else ""))
    if problems:
        raise Stop("flags", f"this ms-swift has no flag {', '.join(problems)}: see training.extra")


def main() -> int:
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main

    try:
        check_flags(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
        arguments = sys.argv[1:]
        parse_yaml_args(arguments)
        sft_main(arguments)
    except torch.OutOfMemoryError as error:
        event("failed", kind="out_of_memory", message=str(error).splitlines()[0])
        raise
    except Exception as error:
        # by attribute: ms-swift loads this file a second time, under its own module name
        event("failed", kind=getattr(error, "kind", "error"), message=f"{error}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
