"""`serving.backend: auto`: what it stands for, why, and that it never changes under a study."""

import sys
from pathlib import Path

import made_up
import pytest
from sftflow.config import backend, jobs, resolve
from sftflow.core import environments
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import Results
from sftflow.reporting import records

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "capability": [9, 0], "uuid": "GPU-1"}
VLLM = {"name": "vllm", "reason": "a card"}


@pytest.mark.parametrize(
    ("cards", "had", "serving", "name", "reason"),
    [
        ([H100], True, {}, "vllm", "NVIDIA H100 80GB HBM3"),
        ([], True, {}, "transformers", "no GPU"),
        ([H100], False, {}, "transformers", "environment"),
        ([H100], True, {"device": "cpu"}, "transformers", "serving.device is cpu"),
        ([H100 | {"capability": [7, 0]}], True, {}, "transformers", "7.5"),
        (None, True, {}, "vllm", "jobs run elsewhere"),
    ],
)
def test_a_gpu_and_its_environment_make_it_vllm(cards, had, serving, name, reason):
    chosen = backend.decide({"serving": serving}, cards, lambda software: had)
    assert chosen["name"] == name and reason in chosen["reason"]


def test_what_a_results_folder_was_asked_with_stays(tmp_path: Path):
    """Else every score would be stale where tables are rebuilt: on a laptop, a login node."""
    first = backend.choose(tmp_path, {}, cards=lambda: [H100], had=lambda software: True)
    assert first["name"] == "vllm"
    assert backend.choose(tmp_path, {}, cards=list, had=bool)["name"] == "transformers"
    backend.keep(tmp_path, first)
    assert backend.choose(tmp_path, {}, cards=list, had=bool) == first
    backend.keep(tmp_path, {"name": "transformers", "reason": "another day"})
    assert backend.choose(tmp_path, {}, cards=list, had=bool) == first


def test_a_folder_from_before_stays_with_its_backend(tmp_path: Path):
    record = {"backend": {"name": "transformers"}}
    write_record(tmp_path / "subjects/base/readiness.json", record)
    chosen = backend.choose(tmp_path, {}, cards=lambda: [H100], had=lambda software: True)
    assert chosen == {"name": "transformers", "reason": "base was served so before"}


def test_each_subject_knows_its_backend_its_limits_and_why():
    raw = made_up.RAW | {"serving": {}}
    study = resolve.load(raw, auto=VLLM)
    serving = study["subjects"]["base"]["serving"]
    assert (serving["backend"], serving["max_batch_size"], serving["concurrency"]) == (
        "vllm", 384, 384,
    )  # fmt: skip
    assert jobs.serve_subject(study, "base")["chosen"] == "auto: a card"
    assert serving["time_both_forms"] is False
    stated = resolve.load(made_up.RAW | {"serving": {"backend": "transformers"}}, auto=VLLM)
    serving = stated["subjects"]["base"]["serving"]
    assert (serving["backend"], serving["max_batch_size"]) == ("transformers", 64)
    assert serving["time_both_forms"] is True
    assert jobs.serve_subject(stated, "base")["chosen"] == "stated in the config"


def test_what_vllm_cannot_serve_is_left_to_transformers():
    models = {name: dict(model) for name, model in made_up.RAW["models"].items()}
    models["base"] |= {"allow_remote_code": True}
    study = resolve.load(made_up.RAW | {"models": models, "serving": {}}, auto=VLLM)
    assert study["subjects"]["base"]["serving"]["backend"] == "transformers"
    on_cpu = made_up.RAW | {"serving": {"backend": "auto", "device": "cpu"}}
    assert resolve.load(on_cpu, auto=VLLM)["subjects"]["base"]["serving"]["backend"] == (
        "transformers"
    )


def test_the_choice_does_not_change_identities():
    """Of the same backend, stated or chosen."""
    chosen, stated = (
        resolve.load(made_up.RAW | {"serving": serving}, auto=VLLM)
        for serving in ({}, {"backend": "vllm"})
    )
    assert jobs.backend(chosen, "base") == jobs.backend(stated, "base")
    made_with = [jobs.serve_subject(study, "base")["made_with"] for study in (chosen, stated)]
    assert made_with[0] == made_with[1]


def test_an_active_environment_may_be_several(tmp_path: Path, monkeypatch):
    """vLLM's pins and ms-swift's never meet in one; PYTHON_VLLM names the other interpreter."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PYTHON_VLLM", str(wrapper))
    assert environments.interpreter("vllm", "active") == str(wrapper)
    assert environments.interpreter("swift", "active") != str(wrapper)
    assert environments.can_be_had("vllm", "active", "json")
    assert not environments.can_be_had("vllm", "active", "no_such_package")


def test_without_a_network_a_missing_environment_cannot_be_had(tmp_path: Path, monkeypatch):
    lock = tmp_path / "envs/vllm/uv.lock"
    lock.parent.mkdir(parents=True)
    wheel = {"url": "http://127.0.0.1:9/vllm-0.26.0.whl"}
    lock.write_text(f'[[package]]\nname = "vllm"\nwheels = [\n  {{ url = "{wheel["url"]}" }},\n]\n')
    monkeypatch.setattr(environments, "HOME", tmp_path)
    monkeypatch.delenv("SFTFLOW_PYTHON_VLLM", raising=False)
    assert not environments.can_be_had("vllm", "managed", "vllm")
    python = lock.parent / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    assert environments.can_be_had("vllm", "managed", "vllm")


def test_sides_that_were_served_differently_are_flagged(tmp_path: Path):
    """A difference between two servers would be read as one between two models."""
    study = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, study)
    flags = list(records.served_flags(study, Results(tmp_path)))
    assert flags == []
    path = tmp_path / "subjects/tuned/readiness.json"
    record = read_record(path)
    record["backend"]["name"] = "vllm"
    write_record(path, record)
    (flag,) = records.served_flags(study, Results(tmp_path))
    assert flag.kind == "served unlike" and "backend vllm" in flag.values["after"]


@pytest.mark.parametrize(
    ("extra", "name", "flags"),
    [
        ({}, "vllm", backend.FLAGS["vllm"]),
        ({"compilation_config": {"mode": 3}}, "vllm", {"compilation_config": {"mode": 3}}),
        ({"seed": 1}, "vllm", backend.FLAGS["vllm"] | {"seed": 1}),
        ({}, "transformers", {}),
    ],
)
def test_a_server_is_told_what_the_config_leaves_open_and_answers_are_known_by_it(
    extra, name, flags
):
    """vLLM would compile for half a minute at each start. What it computes with instead can change
    the last bits of an answer, so it is a part of what answers are kept by."""
    raw = made_up.RAW | {"serving": {"extra": extra}}
    study = resolve.load(raw, auto=VLLM | {"name": name})
    assert jobs.serve_subject(study, "base")["serving"]["extra"] == flags
    assert jobs.backend(study, "base")["extra"] == flags
