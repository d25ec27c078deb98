"""What a training is: its settings, its cost, its checkpoints, its record. Pure functions.

Words: a *micro-batch* is what one forward pass sees; an *optimizer step* accumulates several, and
always holds the same dialogues, however they are cut into micro-batches. *Tokens* are real ones;
*positions* also count padding.
"""

from sftflow.core import code
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest
from sftflow.kernels.limits import LIGER_TYPES, PACKED_TYPES, PACKING, supports
from sftflow.training.cost import largest_micro_batch, memory_gib, split_batch

# Packages, and code of ours, that compute weights.
PACKAGES = (
    "ms-swift", "transformers", "peft", "torch", "accelerate", "liger-kernel", "triton",
    "nvidia-cudnn-frontend",
)  # fmt: skip
KERNELS = ("scripts/sftflow/kernels", "scripts/sftflow/training/patches.py")

# Settings that are ours; every other key of `training` is a flag of ms-swift under its own name
# (`flags` in the schema; tests/unit/test_training.py holds the two together).
OURS = {
    "too_long", "device", "gpus", "max_memory_gib", "fused_lora", "checkpointed_layers", "extra",
    "checkpoints", "precision",
}  # fmt: skip

# --- sizes ---------------------------------------------------------------------------------------


# --- decisions -----------------------------------------------------------------------------------


ENCODERS = 8  # processes that encode rows: 5,500 dialogues took one of them 21 s


def choose(
    training: dict, shape: dict, parameters: int, receipt: dict, hardware: dict,
    refused: dict[str, str] | None = None,
) -> dict:  # fmt: skip
    """Decide every setting that says "auto": {name: {"value": …, "why": …}}.

    hardware: {"kind": "cuda" | "cpu", "cores": usable CPU cores, and of the smallest GPU
    "memory_gib", "capability": [major, minor]}. refused: why a patch of patches.py may not be
    applied to the installed versions, by its name. What the user asked for stands. The memory
    estimate decides about checkpointing: a checkpointed layer costs a second forward pass (half as
    much again), so there are only as many as it takes for the activations to fit.
    """
    asked = {**training, **(training.get("extra") or {})}
    cuda, family = hardware["kind"] == "cuda", shape.get("model_type")
    short = training["torch_dtype"] in ("bfloat16", "float16")
    refused = refused or {}
    out: dict[str, dict] = {}

    def decide(name: str, value: object, why: str) -> object:
        if asked.get(name, "auto") != "auto":
            value, why = asked[name], "asked for"
        out[name] = {"value": value, "why": why}
        return value

    liger = decide(
        "use_liger_kernel",
        cuda and family in LIGER_TYPES,
        f"{'has' if family in LIGER_TYPES else 'no'} kernels for {family}" if cuda else "no CUDA",
    )
    if not cuda:
        attention = decide("attn_impl", "sdpa", "no CUDA")
    elif not short or hardware["capability"] < [8, 0] or family not in PACKED_TYPES:
        attention = decide("attn_impl", "sdpa", "packed attention needs 16 bits, Ampere, Llama's")
    elif "packed_rows" in refused:
        attention = decide("attn_impl", "sdpa", refused["packed_rows"])
    else:
        attention = decide("attn_impl", "varlen", "packed rows need an attention that keeps apart")
    packed = decide(
        "padding_free",
        attention in PACKING,
        f"{attention} takes rows without padding"
        if attention in PACKING
        else f"{attention} needs padded rows",
    )
    decide("group_by_length", False, "every step holds the dialogues of the shuffled order")
    unfit = unfusable(asked, shape, hardware)
    unfit += [refused["fused_lora"]] if "fused_lora" in refused else []
    fused = decide(
        "fused_lora",
        not unfit,
        "; ".join(unfit) or "fewer kernels, less memory, the same numbers",
    )
    if training["torch_dtype"] == "bfloat16":
        decide(
            "bf16",
            not fused,
            "the fused layer casts by itself, autocast only costs time"
            if fused
            else "autocast: LoRA's matrices are float32",
        )
    positions = largest_micro_batch(training, receipt, hardware, not packed)
    layers = shape["num_hidden_layers"]
    need = lambda checkpointed: memory_gib(  # noqa: E731
        shape, parameters, training, positions,
        checkpointed=checkpointed, liger=bool(liger), fused_lora=bool(fused),
    )  # fmt: skip
    why, fewest = "no CUDA: time counts more than memory", 0
    if cuda:
        budget = training.get("max_memory_gib") or 0.9 * hardware["memory_gib"]
        fewest = next((n for n in range(layers) if need(n) <= budget), layers)
        why = f"about {need(0):.0f} GiB without it, {budget:.0f} GiB to use"
    if decide("gradient_checkpointing", fewest > 0, why):
        if asked.get("gradient_checkpointing", "auto") != "auto":
            fewest = layers
        why = f"about {need(fewest):.0f} GiB with {fewest} of {layers} layers recomputed"
        decide("checkpointed_layers", fewest, why)
    workers, cores = training["dataloader_num_workers"], hardware["cores"]
    out["dataloader_num_workers"] = {
        "value": min(workers, max(0, cores - 1)) if cuda else 0,
        "why": f"{workers} asked for, {cores} cores" if cuda else "no GPU to keep busy",
    }
    decide(
        "dataset_num_proc",
        min(ENCODERS, cores) if cuda else 1,
        "a GPU waits while rows are encoded" if cuda else "the cores are the training's",
    )
    return out


def unfusable(asked: dict, shape: dict, hardware: dict) -> list[str]:
    """Why a training's LoRA layers can't be computed by sftflow.kernels; empty if they can."""
    if hardware["kind"] != "cuda":
        return ["no CUDA"]
    if asked["tuner_type"] != "lora":
        return [f"tuner_type is {asked['tuner_type']}"]
    reasons = supports(shape, {"r": asked["lora_rank"], "use_dora": asked.get("use_dora")})
    if asked["torch_dtype"] not in ("bfloat16", "float16") or hardware["capability"] < [8, 0]:
        reasons.append("needs 16 bits and Ampere or newer")
    whole = [name for name in ("quant_method", "deepspeed", "fsdp") if asked.get(name)]
    return reasons + [f"{name} leaves no whole matrices" for name in whole]


def refuse_fp8(run: str, training: dict, choices: dict, hardware: dict) -> None:
    """UserError where `precision: fp8` is asked for and can't be had."""
    fused = choices["fused_lora"]
    if training.get("precision") != "fp8":
        return
    why = None if fused["value"] else f"fused_lora is off ({fused['why']})"
    if training["torch_dtype"] != "bfloat16":
        why = f"torch_dtype is {training['torch_dtype']}, not bfloat16"
    if hardware["kind"] == "cuda" and hardware["capability"] < [8, 9]:
        why = "this GPU has no products in 8 bits: that begins with Ada and Hopper"
    if why:
        raise UserError(f"training.precision of {run} can't be fp8: {why}; take torch_dtype")


def command(
    training: dict, choices: dict, *, model: dict, weights: str, train: str, validation: str | None,
    output: str, plugin: str, gpus: int, hardware: dict, micro_batch: int | None = None,
) -> dict:  # fmt: skip
    """The ms-swift configuration file of one training, as a dict (see `swift sft FILE.yaml`).

    `micro_batch` lowers the dialogues per forward pass; accumulation rises, the step stays.
    """
    extra = dict(training.get("extra") or {})
    batch, accumulation = split_batch(training, gpus)
    if micro_batch and micro_batch != batch:
        accumulation = accumulation * batch // micro_batch
        batch = micro_batch
    flags = {k: v for k, v in training.items() if k not in OURS and v is not None}
    flags |= {name: choice["value"] for name, choice in choices.items() if name not in OURS}
    lora = training["tuner_type"] != "full"
    if not lora:
        flags = {k: v for k, v in flags.items() if not k.startswith("lora_")}
        for name in ("target_modules", "use_dora", "use_rslora"):
            flags.pop(name, None)
    flags |= {
        "model": weights,
        "model_type": model["model_type"],
        "template": model["template"],
        "agent_template": model.get("agent_template"),
        "system": model.get("system"),
        "enable_thinking": model.get("thinking"),
        "dataset": [train],
        "val_dataset": [validation] if validation else None,
        "output_dir": output,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "data_seed": training["seed"],
        "truncation_strategy": "right" if training.get("too_long") == "truncate" else "delete",
        "strict": True,  # a row that fails to encode is an error, not silently another row
        "check_model": False,
        "add_version": False,
        "save_strategy": "steps",
        "eval_strategy": "steps" if validation else "no",
        "eval_on_start": bool(validation),  # what the training changed needs a before
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        # torch waits 5 s, at the very end, for each worker that was to stay: 80 s for 16, on a GPU.
        "dataloader_persistent_workers": False,
        "report_to": ["none"],
        "external_plugins": [plugin, *extra.pop("external_plugins", [])],
        "callbacks": ["sftflow", *extra.pop("callbacks", [])],
    }
    if hardware["kind"] == "cpu":
        flags["use_cpu"] = True
    if training["torch_dtype"] == "float32":
        flags |= {"fp16": False, "bf16": False}
    flags |= {name: value for name, value in extra.items() if name not in OURS}
    return {name: value for name, value in flags.items() if value is not None}


def identity(made_with: dict, manifest: dict, receipt: dict, kind: str, versions: dict) -> str:
    """What a checkpoint may be resumed for, or a finished training taken for: everything that can
    change a weight, nothing else.

    made_with: the deciding keys (config/jobs.py); names of runs, models and datasets among them are
    left out, since digests stand for them, and so are keys that older trainings do not know and
    that change nothing by default. kind: cuda or cpu. The kernels' own code counts.
    """
    nothing = {"models.thinking": None, "training.precision": "torch_dtype"}
    unstated = {key for key, value in nothing.items() if made_with.get(key, value) == value}
    return digest(
        {
            "config": {
                k: v
                for k, v in made_with.items()
                if not k.startswith("runs.") and k not in unstated
            },
            "weights": manifest["digest"],
            "data": receipt["digest"],
            "device": kind,
            "versions": {k: versions[k] for k in PACKAGES if k in versions},
            "kernels": code.files_digest(*KERNELS),
        }
    )


# --- checkpoints ---------------------------------------------------------------------------------


# --- cost before training ------------------------------------------------------------------------


# --- the event log -------------------------------------------------------------------------------


# --- the record ----------------------------------------------------------------------------------
