"""The pure part of training: decisions, costs, checkpoints, the record."""

import json
import os
import re

import made_up
import pytest
import train
from sftflow.config import jobs, resolve
from sftflow.config.schema import section
from sftflow.core import code
from sftflow.core.cli import UserError
from sftflow.core.jsonio import tree_digest, tree_files, write_json
from sftflow.training import checkpoints, cost, estimate, record
from sftflow.training import settings as training
from support import ROOT

SHAPE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 92544,
}  # fmt: skip
PARAMETERS = 7_737_708_544  # InternLM2.5-7B
RECEIPT = {
    "train_rows": 5000, "validation_rows": 0, "digest": "d", "padded_share": 0.43,
    "tokens": {"train": 4_460_000, "mean": 892, "max": 2044},
}  # fmt: skip
H200 = {"kind": "cuda", "cores": 16, "memory_gib": 139.8, "capability": [9, 0], "name": "H200"}
A100 = H200 | {"memory_gib": 79.3, "capability": [8, 0], "name": "A100-SXM4-80GB"}
SMALL = H200 | {"memory_gib": 24.0, "capability": [8, 9]}
CPU = {"kind": "cpu", "cores": 2}
SETTINGS = {
    "tuner_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05,
    "target_modules": "all-linear", "use_dora": False, "use_rslora": False,
    "torch_dtype": "bfloat16", "num_train_epochs": 1, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4, "max_length": 2048, "too_long": "drop",
    "dataloader_num_workers": 8, "seed": 42, "device": "auto", "gpus": 1, "extra": {},
}  # fmt: skip
MODEL = {"name": "m", "model_type": "llama", "template": "chatml"}
VERSIONS = {"ms-swift": "4", "transformers": "5", "peft": "0", "torch": "2"}


@pytest.mark.parametrize("thinking", [True, False, None])
def test_whether_to_think_is_told_to_ms_swift(thinking):
    choices = training.choose(SETTINGS, SHAPE, PARAMETERS, RECEIPT, H200)
    flags = training.command(
        SETTINGS, choices, model=MODEL | {"thinking": thinking}, weights="w", train="t",
        validation="v", output="o", plugin="p", gpus=1, hardware=H200, micro_batch=None,
    )  # fmt: skip
    assert flags.get("enable_thinking", None) is thinking


def chosen_with_reasons(**changes) -> dict:
    hardware = changes.pop("hardware", H200)
    shape = SHAPE | changes.pop("shape", {})
    refused = changes.pop("refused", None)
    return training.choose(SETTINGS | changes, shape, PARAMETERS, RECEIPT, hardware, refused)


def values(**changes) -> dict:
    chosen = chosen_with_reasons(**changes)
    assert all(choice["why"] for choice in chosen.values())
    return {name: choice["value"] for name, choice in chosen.items()}


def command(gpus: int = 1, micro_batch: int | None = None, **changes) -> dict:
    settings = SETTINGS | changes
    choices = training.choose(settings, SHAPE, PARAMETERS, RECEIPT, H200)
    return training.command(
        settings, choices, model=MODEL, weights="w", train="t", validation="v", output="o",
        plugin="p", gpus=gpus, hardware=H200, micro_batch=micro_batch,
    )  # fmt: skip


def test_choices_on_large_gpus_need_no_checkpointing():
    for hardware in (H200, A100):
        chosen = values(hardware=hardware)
        assert chosen["attn_impl"] == "varlen" and chosen["padding_free"]
        assert chosen["use_liger_kernel"] and chosen["fused_lora"] and not chosen["bf16"]
        assert not chosen["gradient_checkpointing"]


def test_choices_on_a_small_gpu_checkpoint():
    assert values(hardware=SMALL)["gradient_checkpointing"]
    assert values(max_memory_gib=30)["gradient_checkpointing"]


def test_no_more_layers_are_recomputed_than_the_memory_asks_for():
    layers = SHAPE["num_hidden_layers"]
    counts = [values(max_memory_gib=gib)["checkpointed_layers"] for gib in (42, 36, 30)]
    assert 0 < counts[0] < counts[1] < counts[2] <= layers
    assert values(max_memory_gib=1)["checkpointed_layers"] == layers
    for asked in ({}, {"max_memory_gib": 36}):
        assert values(gradient_checkpointing=True, **asked)["checkpointed_layers"] == layers
    assert values(max_memory_gib=36, extra={"checkpointed_layers": 3})["checkpointed_layers"] == 3
    assert "checkpointed_layers" not in values(max_memory_gib=1, gradient_checkpointing=False)
    assert "checkpointed_layers" not in command(max_memory_gib=36)  # ms-swift has no such flag
    seconds = [
        estimate.estimate(
            SETTINGS | {"max_memory_gib": gib}, RECEIPT, SHAPE, PARAMETERS, H200 | {"name": "H200"}
        )["seconds"]
        for gib in (100, 36, 1)
    ]
    assert seconds[0] < seconds[1] < seconds[2] == pytest.approx(1.5 * seconds[0], rel=0.01)


def test_choices_without_gpu():
    chosen = values(hardware=CPU, torch_dtype="float32")
    assert not any(
        chosen[name]
        for name in ("use_liger_kernel", "padding_free", "fused_lora", "gradient_checkpointing")
    )
    assert chosen["attn_impl"] == "sdpa" and chosen["dataloader_num_workers"] == 0


def test_choices_for_other_models_and_old_gpus_are_padded():
    assert not values(shape={"model_type": "chatglm"})["padding_free"]
    assert not values(hardware=H200 | {"capability": [7, 5]})["padding_free"]
    for changed in (
        {"use_dora": True}, {"lora_rank": 128}, {"extra": {"deepspeed": "zero3"}},
        {"extra": {"quant_method": "bnb", "quant_bits": 4}},
    ):  # fmt: skip
        # autocast, where PEFT computes LoRA
        assert not values(**changed)["fused_lora"] and values(**changed)["bf16"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_rank": 128}, "rank 128 is over 64"),
        ({"shape": {"intermediate_size": 14340}}, "layers 14340 wide"),
        ({"extra": {"deepspeed": "zero3"}}, "deepspeed leaves no whole matrices"),
        ({"hardware": H200 | {"capability": [7, 5]}}, "Ampere"),
        ({"tuner_type": "full"}, "tuner_type is full"),
        ({"hardware": CPU}, "no CUDA"),
        ({"refused": {"fused_lora": "peft 0.30 is untested"}}, "peft 0.30 is untested"),
    ],
)
def test_lora_that_is_not_fused_says_why(changes, why):
    chosen = chosen_with_reasons(**changes)["fused_lora"]
    assert chosen["value"] is False and why in chosen["why"]


@pytest.mark.parametrize(
    ("hardware", "changes", "why"),
    [
        (H200, {}, None),
        (SMALL, {}, None),  # Ada
        (A100, {}, "no products in 8 bits: that begins with Ada"),
        (CPU, {}, "fused_lora is off (no CUDA)"),
        (H200, {"tuner_type": "full"}, "fused_lora is off (tuner_type is full)"),
        (H200, {"extra": {"quant_method": "bnb"}}, "quant_method leaves no whole matrices"),
        (H200, {"torch_dtype": "float16"}, "torch_dtype is float16, not bfloat16"),
    ],
)
def test_fp8_is_refused_where_it_cannot_be_had(hardware, changes, why):
    settings = SETTINGS | {"precision": "fp8"} | changes
    choices = training.choose(settings, SHAPE, PARAMETERS, RECEIPT, hardware)
    training.refuse_fp8("tuned", settings | {"precision": "torch_dtype"}, choices, hardware)
    if why is None:
        return training.refuse_fp8("tuned", settings, choices, hardware)
    with pytest.raises(UserError, match=f"precision of tuned can't be fp8: .*{re.escape(why)}"):
        training.refuse_fp8("tuned", settings, choices, hardware)


def test_a_training_in_its_number_type_is_what_it_was_before_there_was_another():
    made_with = jobs.train_run(resolve.load(made_up.RAW), "tuned")["made_with"]

    def key(precision: dict) -> str:
        given = {k: v for k, v in made_with.items() if k != "training.precision"} | precision
        return training.identity(given, {"digest": "m"}, {"digest": "d"}, "cuda", VERSIONS)

    assert made_with["training.precision"] == "torch_dtype"
    assert key({}) == key({"training.precision": "torch_dtype"})
    assert key({}) != key({"training.precision": "fp8"})


def test_versions_that_rows_were_never_packed_with_get_padded_ones():
    chosen = chosen_with_reasons(refused={"packed_rows": "ms-swift 4.9 is untested"})
    assert chosen["attn_impl"] == {"value": "sdpa", "why": "ms-swift 4.9 is untested"}
    assert not chosen["padding_free"]["value"]


def test_what_is_asked_for_stands():
    chosen = values(gradient_checkpointing=True, attn_impl="sdpa")
    assert chosen["gradient_checkpointing"] and not chosen["padding_free"]
    assert not values(extra={"padding_free": False})["padding_free"]


def test_step_holds_the_same_dialogues_on_any_machine():
    for flags in (command(), command(gpus=2), command(micro_batch=2)):
        gpus = 2 if flags["gradient_accumulation_steps"] == 2 else 1
        product = flags["per_device_train_batch_size"] * flags["gradient_accumulation_steps"]
        assert product * gpus == 32
    with pytest.raises(UserError, match="multiple"):
        command(gpus=3)


def test_command_has_no_key_of_ours_and_keeps_what_is_ours():
    assert command()["dataloader_persistent_workers"] is False  # see there: 80 s of a held GPU
    flags = command(extra={"neftune_noise_alpha": 5, "callbacks": ["lisa"]})
    assert not set(flags) & training.OURS
    assert flags["neftune_noise_alpha"] == 5 and flags["callbacks"] == ["sftflow", "lisa"]


def test_the_form_of_tools_reaches_the_training():
    assert "agent_template" not in command()
    flags = training.command(
        SETTINGS, {}, model=MODEL | {"agent_template": "hermes"}, weights="w", train="t",
        validation=None, output="o", plugin="p", gpus=1, hardware=H200,
    )  # fmt: skip
    assert flags["agent_template"] == "hermes"


def test_keys_of_ours_are_those_that_the_schema_gives_no_flag_of_their_own_name():
    keys = section("training")["properties"]
    ours = {key for key, node in keys.items() if key not in node.get("flags", [key])}
    assert ours | {"checkpointed_layers"} == training.OURS  # a choice, no key


def test_full_tuning_has_no_lora_flag():
    assert not [name for name in command(tuner_type="full") if "lora" in name]


def test_identity_changes_with_whatever_changes_weights():
    def key(receipt="d", kind="cpu", versions=VERSIONS, weights="m", **changes):
        raw = made_up.RAW | {"training": {key: changes.pop(key) for key in list(changes)}}
        made_with = jobs.train_run(resolve.load(raw), "tuned")["made_with"]
        return training.identity(
            made_with, {"digest": weights}, {"digest": receipt}, kind, versions
        )

    assert key() == key(dataloader_num_workers=1) == key(max_memory_gib=10) == key(save_steps=7)
    assert key() == key(logging_steps=3) == key(eval_steps=9) == key(gpus=2) == key(device="cpu")
    different = [
        key(), key(seed=1), key(lora_rank=4), key(extra={"neftune_noise_alpha": 5}), key("e"),
        key(kind="cuda"), key(weights="n"), key(versions=VERSIONS | {"liger-kernel": "0.9"}),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "logging_steps", 10), ("training", "save_steps", 9),
        ("training", "eval_steps", 9), ("training", "save_total_limit", 9),
        ("training", "per_device_eval_batch_size", 9), ("training", "dataloader_num_workers", 1),
        ("training", "device", "cpu"), ("training", "max_memory_gib", 9),
        ("tracking", "swanlab", {"mode": "disabled", "project": "another"}),
        ("tracking", "swanlab", {"host": "http://elsewhere:8000", "workspace": "another"}),
    ],
)  # fmt: skip
def test_what_can_change_no_weight_costs_no_training(section, key, value):
    """By name, whatever the schema says of it: a wrong annotation would cost GPU hours."""

    def made(raw: dict) -> dict:
        study = resolve.load(raw)
        rules = ("tokenize_run", "train_run", "merge_run")
        return {rule: jobs.JOBS[rule](study, "tuned")["made_with"] for rule in rules}

    assert made(made_up.RAW | {section: {key: value}}) == made(made_up.RAW)


def test_what_computes_weights_counts(monkeypatch):
    """A killed run must not go on with other kernels, or other packages, than it began with."""
    packages = {
        "ms-swift", "transformers", "peft", "torch", "accelerate", "liger-kernel", "triton",
        "nvidia-cudnn-frontend",
    }  # fmt: skip
    made_with = jobs.train_run(resolve.load(made_up.RAW), "tuned")["made_with"]

    def key(versions: dict) -> str:
        return training.identity(made_with, {"digest": "m"}, {"digest": "d"}, "cpu", versions)

    before = dict.fromkeys(packages, "1")
    assert len({key(before | {package: "2"}) for package in packages} | {key(before)}) == 9
    files = {path.relative_to(ROOT).as_posix() for path in code._files(training.KERNELS)}
    assert "scripts/sftflow/training/patches.py" in files
    assert {p.relative_to(ROOT).as_posix() for p in ROOT.glob("scripts/sftflow/kernels/*.py")} < (
        files
    )
    unchanged = key(before)
    monkeypatch.setattr(code, "files_digest", lambda *names: "of other kernels")
    assert key(before) != unchanged


def test_report_would_have_known_its_steps():
    cost = estimate.estimate(SETTINGS, RECEIPT, SHAPE, PARAMETERS, H200)
    assert cost["steps"] == 157 and cost["effective_batch"] == 32
    assert cost["tokens"] == cost["positions"] == 4_460_000
    assert cost["trainable_parameters"] == 20_971_520  # what PEFT counts on this shape
    assert 40 < cost["memory_gib"] < 72
    assert 3 < cost["seconds"] / 60 < 12


def test_estimate_says_nothing_it_cannot_know():
    assert "seconds" not in estimate.estimate(
        SETTINGS, RECEIPT, SHAPE, PARAMETERS, H200 | {"name": "Unheard-of 9000"}
    )
    cost = estimate.estimate(SETTINGS | {"torch_dtype": "float32"}, RECEIPT, SHAPE, PARAMETERS, CPU)
    assert cost["positions"] > cost["tokens"] and cost["seconds"] > 0


def test_memory_estimate_is_near_what_was_measured():
    """On an H200: tests/performance at two sizes; STACK's loop with PEFT's own LoRA and dropout."""
    for positions, fused, measured, near in (
        (8177, True, 45.5, 0.03), (16354, True, 73.2, 0.03), (7200, False, 61.1, 0.2),
    ):  # fmt: skip
        found = cost.memory_gib(
            SHAPE, PARAMETERS, SETTINGS, positions, checkpointed=0, liger=True, fused_lora=fused
        )
        assert found == pytest.approx(measured, rel=near)


def test_peak_rates():
    assert cost.peak_flops("NVIDIA H200") == cost.peak_flops("NVIDIA H100 80GB HBM3")
    assert cost.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert cost.peak_flops("NVIDIA H20") == 148e12
    assert cost.peak_flops("GeForce GTX 1080") is None


def checkpoint(folder, step: int):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "optimizer.pt").write_bytes(b"0123456789")
    write_json(path / checkpoints.COMPLETE, {"step": step, "files": checkpoints.file_sizes(path)})
    return path


def test_only_complete_checkpoints_count(tmp_path):
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 10) / "optimizer.pt").write_bytes(b"0123")  # truncated
    (checkpoint(tmp_path, 15) / "optimizer.pt").unlink()
    (checkpoint(tmp_path, 20) / checkpoints.COMPLETE).unlink()  # killed while it was written
    (checkpoint(tmp_path, 25) / checkpoints.COMPLETE).write_text('{"st')
    assert [step for step, _ in checkpoints.checkpoints(tmp_path)] == [5]


def test_event_log_survives_a_cut(tmp_path):
    path = tmp_path / "events.jsonl"
    log = record.Events(path)
    assert log.new() == []
    path.write_text('{"event": "step", "step": 1}\n{"event": "st')
    assert [e["step"] for e in log.new()] == [1]
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"event": "step", "step": 2}\n{"event": "step", "step": 3}\n')
    assert [e["step"] for e in log.new()] == [3]  # 2 stands in the line that was cut


def step(n: int, loss: float, labelled: int = 40) -> dict:
    return {
        "event": "step", "step": n, "epoch": n / 4, "loss": loss, "learning_rate": 1e-4,
        "tokens": 80, "positions": 100, "seconds": 2.0, "labelled": labelled,
    }  # fmt: skip


def check(step: int, *losses: float) -> dict:
    """A validation of batches with these losses, the first with as many labels as all others."""
    labelled = [10 * (len(losses) - 1), *[10] * (len(losses) - 1)]
    loss = sum(map(float.__mul__, losses, map(float, labelled))) / sum(labelled)
    return {"event": "validation", "step": step, "loss": loss, "token_accuracy": 0.5} | {
        "losses": list(losses), "labelled": labelled,
    }  # fmt: skip


START = {
    "event": "start", "steps": 4, "first_step": 0, "parameters": 1000, "matmul_parameters": 900,
    "trainable_parameters": 100, "train_rows": 16, "validation_rows": 2, "uniform_loss": 6.0,
    "patches": [{"name": "packed_rows", "applied": True, "why": ""}],
}  # fmt: skip


def test_resumed_steps_count_once():
    events = [START, step(1, 4.0), step(2, 3.0), step(3, 9.9), START, step(3, 2.5), step(4, 2.0)]
    assert [e["loss"] for e in record.history(events)] == [4.0, 3.0, 2.5, 2.0]


def test_a_resumed_training_took_the_time_of_all_its_attempts():
    """69.5 s became 5.1 s when a training was resumed at its end."""
    times = [("start", 100), ("step", 130), ("start", 500), ("step", 520), ("end", 525)]
    events = [{"event": event, "time": float(time)} for event, time in times]
    assert record.seconds(events) == 30 + 25


def test_summary():
    events = [
        START, check(0, 4.0, 4.4), step(1, 4.0), step(2, 1.5), step(3, 2.5), step(4, 2.0),
        check(4, 2.0, 2.4),
        {"event": "end", "step": 4, "host_memory_gib": 1.0},
    ]  # fmt: skip
    out = record.summary(events, [])
    assert (out["steps"], out["epochs"], out["final_loss"]) == (4, 1.0, 2.5), "of all 4 steps"
    assert out["validation_loss_before"] == 4.2 and out["validation_loss"] == 2.2
    assert out["token_accuracy"] == 0.5 and out["uniform_loss"] == 6.0
    assert out["samples_per_second"] == 2.0 and out["tokens_per_second"] == 40.0
    assert out["padded_share"] == 0.2
    assert out["useful_flops"] == (4 * 900 + 2 * 100) * 320
    assert "flop_utilisation" not in out and "gpu_memory_gib" not in out
    assert out["patches"] == START["patches"]
    json.dumps(out, allow_nan=False)
    on_gpu = record.summary(events, ["NVIDIA H200"])
    assert on_gpu["flop_utilisation"] == pytest.approx(out["useful_flops"] / 8 / 989e12, abs=1e-4)


def losses_of(*events: dict) -> dict:
    end = {"event": "end", "step": 4, "host_memory_gib": 1.0}
    return record.summary([START, *events, end], [])


@pytest.mark.parametrize(
    "steps, wide", [(1, 1), (7, 7), (15, 10), (60, 10), (370, 37), (5000, 100)]
)
def test_window_is_a_tenth_of_the_steps_but_10_to_100(steps, wide):
    assert record.window(steps) == wide


def test_first_and_final_loss_are_means_per_labelled_token_over_windows():
    """Of the last ten steps the very last has few labels, and is the luckiest."""
    events = [step(n, 2.0 if n <= 10 else 0.3) for n in range(1, 20)] + [step(20, 0.05, labelled=3)]
    out = losses_of(*events)
    assert out["window_steps"] == 10 and out["loss_weights"] == "labelled tokens"
    assert out["first_loss"] == 2.0 and out["first_loss_se"] == 0.0
    assert out["final_loss"] == pytest.approx((9 * 40 * 0.3 + 3 * 0.05) / (9 * 40 + 3))
    assert "best_loss" not in out
    assert out["curve"]["labelled"] == [40] * 19 + [3] and len(out["curve"]["loss"]) == 20


def test_steps_count_alike_where_labels_were_not_counted_and_that_is_said():
    events = [step(n, float(n)) for n in range(1, 5)]
    del events[2]["labelled"]
    out = losses_of(*events)
    assert out["final_loss"] == 2.5 and "not known" in out["loss_weights"]
    assert "labelled" not in out["curve"]


def test_standard_error_of_a_mean():
    assert record.mean([1.0, 2.0, 3.0, 6.0], [5, 5, 5, 5]) == (3.0, pytest.approx(1.0801, abs=1e-4))
    # weights: as numpy.average, and the usual estimator for a ratio
    middle, error = record.mean([1.0, 2.0, 4.0], [1, 2, 1])
    assert middle == 2.25
    assert error == pytest.approx(((1.25**2 + 0.5**2 + 1.75**2) * 3 / 2) ** 0.5 / 4)
    assert record.mean([2.0], [7]) == (2.0, None)


def test_change_in_validation_is_paired_by_batch():
    """Batches differ by 3 nats, their changes by 0.2: the noise is that of the changes."""
    steps = [step(n, 2.0) for n in range(1, 5)]
    out = losses_of(check(0, 1.0, 4.0), *steps, check(4, 0.9, 3.7))
    assert out["validation_change"] == pytest.approx(-0.2)
    assert out["validation_change_se"] == pytest.approx(0.1)
    assert out["validation_rise"] == 0.0
    assert out["validation_curve"]["step"] == [0, 4]


def test_rise_of_validation_is_counted_from_the_lowest():
    steps = [step(n, 2.0) for n in range(1, 5)]
    out = losses_of(check(0, 3.0, 3.0), check(2, 2.0, 2.0), *steps, check(4, 2.6, 2.4))
    assert out["best_validation_loss"] == 2.0 and out["validation_rise"] == pytest.approx(0.5)
    assert out["validation_change"] == pytest.approx(-0.5)


def test_without_a_validation_at_the_beginning_there_is_no_before():
    """As in a training that went on from an older version's checkpoint."""
    steps = [step(n, 2.0) for n in range(1, 5)]
    old = {"event": "validation", "step": 2, "loss": 2.4}
    out = losses_of(*steps, old, check(4, 2.0, 2.4))
    assert out["validation_loss"] == 2.2 and out["validation_rise_se"] == 0.0
    assert "validation_loss_before" not in out and "validation_change" not in out
    out = losses_of(*steps, check(2, 2.0, 2.0), {**old, "step": 4})
    assert out["validation_rise"] == pytest.approx(0.4) and out["validation_rise_se"] is None


def test_validation_without_a_loss_is_none():
    out = losses_of(step(1, 2.0), {"event": "validation", "step": 0, "token_accuracy": 0.1})
    assert "validation_loss" not in out


@pytest.mark.parametrize(("load", "policy"), [(0.1, None), (0.9, "PASSIVE")])
def test_threads_do_not_spin_beside_other_load(load, policy, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load * os.cpu_count(), 0, 0))
    assert train.patient().get("OMP_WAIT_POLICY") == policy


def test_equal_trainings_have_equal_digests(tmp_path):
    """PEFT writes the names of its modules in the order of a set, which differs by process."""
    digests = set()
    for number, modules in enumerate(
        (["q_proj", "v_proj", "k_proj"], ["v_proj", "k_proj", "q_proj"])
    ):
        checkpoint = tmp_path / f"checkpoint-{number}"
        write_json(checkpoint / "adapter_config.json", {"target_modules": modules, "r": 8})
        (checkpoint / "adapter_model.safetensors").write_bytes(b"weights")
        checkpoints.take_weights(checkpoint, tmp_path / str(number), "base", full=False)
        digests.add(tree_digest(tree_files(tmp_path / str(number))))
    assert len(digests) == 1
