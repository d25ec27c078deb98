"""What runs inside ms-swift: a plug-in, and the program that starts `swift sft` with it.

    python plugin.py command.yaml      the same as `swift sft command.yaml`, in one process

Loaded by `external_plugins:` in command.yaml, it registers the callback `sftflow`, which writes one
JSON line per event into the file that the environment variable SFTFLOW_PLUGIN describes:
{"events": path, "device": cuda|cpu, "train_rows": n, "validation_rows": n, "fused_lora": bool,
"checkpointed_layers": n, "precision": "fp8" or absent, "stock": bool, "keep": checkpoints whose
weights outlive the trainer's own (all or steps), "until": the step of a rung, where it stops}.
Without the variable it only watches the loss. On CUDA it also brings the faster parts of
sftflow.kernels; `stock` leaves ms-swift's training loop as it is. What it changes in other packages
stands in patches.py. The events:

    start       steps, rows, parameters, uniform_loss (of a uniform guess over the vocabulary, in
                nats), patches (see patches.apply)
    step        loss (mean per labelled token over the optimizer step, in nats), labelled (tokens
                that carry loss; absent if the trainer does not count them), learning rate, tokens
                (without padding), positions (with padding), seconds since the step before
    validation  before the first step (step 0), every eval_steps, after the last: loss (mean per
                labelled token), token accuracy, and of each batch, in order, losses and labelled
    saved       a checkpoint that is complete: its files and their sizes are beside it
    stopped     at the step of a rung (validated and saved), before the last one
    end         peak memory
    failed      kind (out_of_memory, diverged, device, rows, flags, precision) and message
"""

import dataclasses
import difflib
import gc
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sftflow.core.jsonio import write_json
from sftflow.training import alarm, patches
from sftflow.training.checkpoints import COMPLETE, asked_for, file_sizes, keep

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
        if asked.get("device") == "cuda" and args.device.type == "cpu":
            raise Stop(
                "device",
                "it was given a GPU, and computes on the CPU: its torch can't use that GPU (is the "
                "driver as new as torch's CUDA wants it, are /dev/nvidia* there?)",
            )
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
        records = [patches.apply_once(patches.packed_rows)[1]]

        def apply(patch, *given):
            made, record = patches.apply(patch, *given)
            records.append(record)
            return made

        model = trainer.accelerator.unwrap_model(trainer.model)
        fused = asked.get("fused_lora", torch.cuda.is_available())
        fp8 = asked.get("precision") == "fp8"
        fused = apply(patches.fused_lora, model, fp8) if fused else None
        if fp8 and not (fused and fused.rounded):
            raise Stop(
                "precision",
                "no LoRA layer could be computed with its base in fp8: set training.precision to "
                f"torch_dtype ({records[-1]['why'] or 'no plain LoRA layers'})",
            )
        count = asked.get("checkpointed_layers", sys.maxsize)
        checkpointed = apply(patches.checkpointed_layers, model, count)
        everything = sum(p.numel() for p in model.parameters())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        embedding = model.get_input_embeddings().weight
        tied = model.get_output_embeddings() is not None and (
            model.get_output_embeddings().weight is embedding
        )
        uniform = math.log(len(embedding))
        self.limit = 2 * uniform
        self.checked: list[torch.Tensor] = []
        self.first_loss = None
        self.pending = None
        self.begun = time.time()
        self._reset(args.device)
        if not asked.get("stock"):
            gc.freeze()  # its walks through what stays for good, the GPU would wait for, too
            apply(patches.modes_switched_once, trainer)
            apply(patches.flops_not_counted, trainer)
            apply(patches.rows_sent_ahead)
            apply(patches.gradients_cleared_by_optimizer, trainer)
            apply(patches.gradients_clipped_unseen, trainer)
            apply(patches.level_micro_batches, trainer)
            if trainer.args.use_liger_kernel:
                apply(patches.linear_cross_entropy)
                apply(patches.rope_compiled_once)
        apply(patches.gradient_norm_seen, trainer, self._see_gradient)
        self._watch(trainer)
        self._event(
            "start",
            steps=state.max_steps,
            first_step=state.global_step,
            fused_layers=fused.layers if fused else 0,
            fp8_layers=len(fused.rounded) if fused else 0,
            checkpointed_layers=checkpointed,
            parameters=everything,
            trainable_parameters=trainable,
            # an embedding lookup multiplies nothing; a tied one is also the output matrix
            matmul_parameters=everything - (0 if tied else embedding.numel()),
            uniform_loss=uniform,
            patches=records,
            **rows,
        )

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.learning_rate = self.trainer._get_learning_rate()

    def on_step_end(self, args, state, control, **kwargs):
        self._settle()
        if state.global_step == options().get("until"):
            control.should_evaluate = control.should_save = control.should_training_stop = True
        counts = [self.tokens, self.positions, self.gradient]
        sums = torch.stack([self.loss, self.labelled, *counts])
        if dist.is_initialized():
            dist.all_reduce(sums)
            # the trainer scales each process's loss up by that, and counts labels over them all
            sums[:2] /= dist.get_world_size()
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
        values = {"token_accuracy": (metrics or {}).get("eval_token_acc")} | self._validated()
        if not math.isfinite(loss := values.get("loss", 0.0)):
            self._diverged(f"the validation loss is {loss}", state.global_step)
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
            if asked_for(state.global_step, options().get("keep")):
                keep(folder, state.global_step)
            os.sync()
            write_json(folder / COMPLETE, {"step": state.global_step, "files": file_sizes(folder)})
            self._event("saved", step=state.global_step)
        self.begun = time.time()

    def on_train_end(self, args, state, control, **kwargs):
        self._settle()
        if state.global_step == options().get("until") != state.max_steps:
            self._event("stopped", step=state.global_step)
            return
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
        loss, labelled, tokens, positions, gradient = sums.tolist()
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss) or loss > max(self.limit, 2 * self.first_loss):
            self._diverged(f"the loss is {loss:.4g} (at first {self.first_loss:.4g})", step["step"])
        self._check_gradient(gradient, step["step"])
        counts = {"tokens": int(tokens), "positions": int(positions)}
        self._event(
            "step", **step, loss=loss, **counts, **({"labelled": int(labelled)} if labelled else {})
        )

    def _validated(self) -> dict:
        """Of the validation that has just ended: loss, and losses and labelled of each batch.

        transformers' own eval_loss gives every batch the same weight, however few its labels.
        """
        if not self.checked:
            return {}
        losses, labelled = torch.stack(self.checked).T  # (batches,)
        nats = losses * labelled
        if dist.is_initialized():
            everywhere = labelled.clone()
            dist.all_reduce(everywhere)
            # as in on_step_end; rows that fill up the last batches were counted before
            share = self._first_seen(len(losses)).to(losses)
            nats = losses * everywhere / dist.get_world_size() * share
            labelled = labelled * share
        nats = nats.where(labelled > 0, 0.0)  # the mean of nothing is no number
        if dist.is_initialized():
            for sums in (nats, labelled):
                dist.all_reduce(sums)
        return {
            "loss": (nats.sum() / labelled.sum()).item(),
            "losses": (nats / labelled.clamp(min=1)).tolist(),
            "labelled": labelled.round().int().tolist(),
        }

    def _first_seen(self, batches: int) -> torch.Tensor:
        """(batches,): share of the rows in each of this process's batches that no batch before had.

        Batches are dealt to the processes in turn, and filled up so that each gets as many.
        """
        size, rows = self.trainer.args.per_device_eval_batch_size, len(self.trainer.eval_dataset)
        place = torch.arange(batches) * dist.get_world_size() + dist.get_rank()
        return (rows / size - place).clamp(0, 1)

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
        self.loss, self.labelled, self.tokens, self.positions, self.gradient = (
            torch.zeros((), dtype=torch.float64, device=device) for _ in range(5)
        )

    def _watch(self, trainer) -> None:
        """See every micro-batch; nothing here waits for the GPU."""
        train, predict, evaluate = (
            trainer.training_step, trainer.prediction_step, trainer.evaluate,
        )  # fmt: skip
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []

        def training_step(model, inputs, num_items_in_batch=None):
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            self.positions += ids.numel()
            self.tokens += ids.numel() if mask is None else mask.sum().to(self.tokens.device)
            loss = train(model, inputs, num_items_in_batch)
            self.loss += loss.to(self.loss.device)
            if num_items_in_batch is not None:  # of the whole step, not of this micro-batch
                self.labelled.fill_(num_items_in_batch)
            return loss

        def prediction_step(model, inputs, *args, **kwargs):
            labels = inputs.get("labels")  # computing the loss may take them out
            result = predict(model, inputs, *args, **kwargs)
            if result[0] is not None and labels is not None:
                loss = result[0].double()
                self.checked.append(torch.stack([loss, labelled(labels).to(loss)]))
            return result

        def evaluation(*args, **kwargs):
            self.checked = []
            # it draws (a seed for its rows, at least): nothing of that may reach the dropout
            with torch.random.fork_rng(devices):
                return evaluate(*args, **kwargs)

        trainer.training_step = training_step
        trainer.prediction_step = prediction_step
        trainer.evaluate = evaluation

    def _see_gradient(self, norm) -> None:
        if torch.is_tensor(norm):
            self.gradient += norm.detach().to(self.gradient.device)


def labelled(labels: torch.Tensor) -> torch.Tensor:
    """How many of `labels` (rows, positions) carry loss; nothing predicts the first of a row."""
    return labels[:, 1:].ne(-100).sum()


def arrival(device: torch.device):
    """A function that waits until what was sent from `device` so far has come."""
    if device.type != "cuda":
        return lambda: None
    sent = torch.cuda.Event()
    sent.record()
    return sent.synchronize


callbacks_map["sftflow"] = Monitor
alarm.silence()
patches.apply_once(patches.packed_rows)  # before ms-swift checks its arguments


def check_flags(command: dict) -> None:
    """Raise Stop for flags that the installed ms-swift does not know, with the nearest it does."""
    from swift.arguments import SftArguments

    known = {field.name for field in dataclasses.fields(SftArguments)}
    problems = []
    for name in sorted(set(command) - known - {"ENV"}):
        near = next(iter(difflib.get_close_matches(name, known, 1)), None)
        problems.append(f"{name}" + (f" (did you mean {near}?)" if near else ""))
    if problems:
        raise Stop("flags", f"this ms-swift has no flag {', '.join(problems)}: see training.extra")


def main() -> int:
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main

    try:
        command = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
        check_flags(command)
        arguments = sys.argv[1:]
        parse_yaml_args(arguments)
        _, packing = patches.apply_once(patches.packed_rows)
        if command.get("attn_impl") == "varlen" and not packing["applied"]:
            arguments += ["--attn_impl", "sdpa", "--padding_free", "false"]  # the later one counts
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
