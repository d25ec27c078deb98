"""What runs inside ms-swift: a plug-in, and the program that starts `swift sft` with it.

    python swift_plugin.py command.yaml      the same as `swift sft command.yaml`, in one process

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
import json
import math
import os
import resource
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from swift.callbacks import TrainerCallback, callbacks_map

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sftflow.jsonio import write_json
from sftflow.kernels import allow_packing, checkpoint_layers, fuse_lora
from sftflow.training import COMPLETE, RENAMED, file_sizes

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
        self.begun = time.time()
        self._reset(args.device)
        self._wrap_training_step(trainer)
        if not asked.get("stock"):
            spare_walks(trainer)
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
        loss, tokens, positions = self._totals()
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss) or loss > max(self.limit, 2 * self.first_loss):
            self._diverged(f"the loss is {loss:.4g} (at first {self.first_loss:.4g})", state)
        now = time.time()
        self._event(
            "step",
            step=state.global_step,
            epoch=state.epoch,
            loss=loss,
            learning_rate=self.learning_rate,
            tokens=tokens,
            positions=positions,
            seconds=now - self.begun,
        )
        self.begun = now
        self._reset(args.device)

    def on_log(self, args, state, control, logs=None, **kwargs):
        # ms-swift leaves out an update whose gradient is not a number, and says nothing
        if not math.isfinite((logs or {}).get("grad_norm", 0.0)):
            self._diverged("the gradient is not finite", state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics = metrics or {}
        values = {"loss": metrics.get("eval_loss"), "token_accuracy": metrics.get("eval_token_acc")}
        self._event(
            "validation",
            step=state.global_step,
            **{name: value for name, value in values.items() if value is not None},
        )
        self.begun = time.time()

    def on_save(self, args, state, control, **kwargs):
        if dist.is_initialized():
            dist.barrier()  # every process writes its own random state
        if self.main:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            os.sync()
            write_json(folder / COMPLETE, {"step": state.global_step, "files": file_sizes(folder)})
            self._event("saved", step=state.global_step)
        self.begun = time.time()

    def on_train_end(self, args, state, control, **kwargs):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
        memory = {"host_memory_gib": peak * 1024 / GIB}
        if torch.cuda.is_available():
            memory["gpu_allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
            memory["gpu_reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        self._event("end", step=state.global_step, **memory)

    def _totals(self) -> tuple[float, int, int]:
        """Loss, tokens and positions of the optimizer step, over all GPUs."""
        positions = torch.tensor(self.positions, device=self.loss.device)
        sums = torch.stack([each.double() for each in (self.loss, self.tokens, positions)])
        if dist.is_initialized():
            dist.all_reduce(sums)
            sums[0] /= dist.get_world_size()  # the trainer scales each process's share up by that
        loss, tokens, positions = sums.tolist()
        return loss, int(tokens), int(positions)

    @staticmethod
    def _diverged(what: str, state) -> None:
        hint = "lower learning_rate, or look for bad rows in the data"
        raise Stop("diverged", f"{what} at step {state.global_step}: {hint}")

    def _event(self, name: str, **values) -> None:
        if self.main:
            event(name, **values)

    def _reset(self, device) -> None:
        self.loss = torch.zeros((), device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)
        self.positions = 0

    def _wrap_training_step(self, trainer) -> None:
        """See every micro-batch; nothing here waits for the GPU."""
        inner = trainer.training_step

        def training_step(model, inputs, *args, **kwargs):
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            self.positions += ids.numel()
            self.tokens += ids.numel() if mask is None else mask.sum().to(self.tokens.device)
            loss = inner(model, inputs, *args, **kwargs)
            self.loss += loss.to(self.loss.device)
            return loss

        trainer.training_step = training_step


def spare_walks(trainer) -> None:
    """Leave out what walks through thousands of modules each time, while the GPU waits."""
    model, inner = trainer.model_wrapped, trainer.model
    walk = model.train
    walk()  # now all parts agree with the whole, as they do after every later walk

    def train(mode: bool = True):
        # on several GPUs an evaluation turns the inner model alone, not what wraps it
        return model if model.training == inner.training == mode else walk(mode)

    model.train = train
    if not trainer.is_deepspeed_enabled:  # its optimizer leaves this to the model
        model.zero_grad = trainer.optimizer.zero_grad
    trainer.floating_point_ops = lambda inputs: 0.0  # useful FLOPs are counted from tokens


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
