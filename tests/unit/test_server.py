"""A server comes up proven, is watched, and leaves nothing behind; faults end in a clear error."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.core.jsonio import write_record
from sftflow.serving import backends, client, server
from support import VLLM, with_openai

with_openai()

STUB = Path(__file__).parent.parent / "faults" / "stub_server.py"


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A Spec whose "interpreter" is the stub server; behaviour as keyword arguments."""

    def make(serving=(), **behaviour):
        monkeypatch.setattr(server, "POLL", 0.02)  # a stub is up at once
        monkeypatch.setenv("STUB", json.dumps(behaviour))
        monkeypatch.setenv("SFTFLOW_PASS", "STUB")
        (tmp_path / "config.json").write_text('{"dtype": "float32"}')
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n')
        python.chmod(0o755)
        settings = {"backend": "transformers", "ready_timeout": 20, **dict(serving)}
        return backends.Spec(serving=settings, weights=tmp_path, python=str(python))

    return make


def gone(pids, seconds=5.0):
    end = time.monotonic() + seconds
    while any(process._stat(pid) for pid in pids):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.05)


def test_comes_up_proven_and_leaves_nothing(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-the-shell")
    with server.serve(spec(), tmp_path / "log") as running:
        pids = [running.process.pid, *process.descendants(running.process.pid)]
        told = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
        assert all(b"PATH=" in text and b"canary" not in text for text in told)
        assert running.models == [running.model]
        assert running.probe.startswith("ANSWER")
        assert set(running.seconds) == {"ready", "first_answer"}
        assert running.chat([{"role": "user", "content": "x"}], 8)["choices"][0]["message"]
    gone(pids)


def test_key_is_needed_and_shown_nowhere(spec, tmp_path):
    log = tmp_path / "log"
    with server.serve(spec(), log) as running:
        for pid in process.descendants(running.process.pid):
            assert running.key not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        stranger = client.Server(running.url, running.model, key="guessed")
        with pytest.raises(client.ServerError, match="400"):
            stranger.chat([{"role": "user", "content": "x"}], 8)
        key = running.key
    assert key not in log.read_text()


def test_a_server_of_other_packages_than_recorded_is_refused(spec, tmp_path):
    """An identity states the recorded versions, so an answer must come from no other."""
    record = tmp_path / "environments/swift.json"
    for version in ("5.12.1", "5.17.0"):
        write_record(record, {"packages": {"transformers": version, "torch": "2"}})
        chosen = replace(spec(session={"versions": {"transformers": "5.12.1"}}), record=record)
        if version == "5.12.1":
            with server.serve(chosen, tmp_path / "log") as running:
                assert running.probe
        else:
            with (
                pytest.raises(client.ServerError, match=r"5\.12\.1, where .*swift\.json has 5\.17"),
                server.serve(chosen, tmp_path / "log"),
            ):
                pass


def test_names_and_keys_are_new_each_time(spec, tmp_path):
    seen = []
    for _ in range(2):
        with server.serve(spec(), tmp_path / "log") as running:
            seen.append((running.model, running.key))
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]


def test_nobody_else_gets_the_port(spec, tmp_path):
    """From its choice on: while the server still starts, and after it has died."""
    chosen = []

    def look(command, env=None, log=None, cwd=None):
        port = int(env["SFTFLOW_PORT"])
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        chosen.append(port)
        return start(command, env=env, log=log, cwd=cwd)

    start, process_start = process.start, "sftflow.core.process.start"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_start, look)
        with server.serve(spec(), tmp_path / "log") as running:
            process.stop(running.process)
            with socket.socket() as other, pytest.raises(OSError):
                other.bind(("127.0.0.1", chosen[0]))
            with pytest.raises(client.NotReached):  # refused, not swallowed by the held socket
                running.get("/models", timeout=5)


@pytest.mark.parametrize("option", backends.SHARED_BY.values())
def test_a_held_port_can_be_shared_by_its_server_only(option):
    with socket.socket() as held, socket.socket() as ours, socket.socket() as other:
        for shared in (held, ours):
            shared.setsockopt(socket.SOL_SOCKET, option, 1)
        held.bind(("127.0.0.1", 0))
        ours.bind(held.getsockname())
        ours.listen()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            other.bind(held.getsockname())
        with socket.create_connection(held.getsockname(), timeout=5):
            ours.accept()


def test_another_server_is_not_believed(spec, tmp_path):
    with pytest.raises(client.ServerError, match="serves \\['other'\\], not sftflow-"):
        with server.serve(spec(name="other"), tmp_path / "log"):
            pass


def test_end_before_ready_shows_the_log(spec, tmp_path):
    with pytest.raises(client.ServerError, match=r"(?s)status 3.*ValueError: no such model"):
        with server.serve(spec(exit=3), tmp_path / "log"):
            pass


@pytest.mark.slow
def test_what_ended_an_engine_is_named(spec, tmp_path):
    """Its error lies further up in the log than the lines that are shown."""
    with pytest.raises(client.ServerError) as told:
        with server.serve(spec(engine="dead"), tmp_path / "log"):
            pass
    message = str(told.value)
    assert "the server ended with status 1" in message and "HTTP 500" not in message
    named = message.partition("Its log names:")[2].partition("The end of")[0].split("\n")
    assert [line.strip() for line in named[1:-1]] == [
        "torch.OutOfMemoryError: CUDA out of memory.",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [{"start_delay": 60}, {"ready": False}])
def test_never_ready_ends_at_the_deadline(spec, tmp_path, behaviour):
    begun = time.monotonic()
    with pytest.raises(client.ServerError, match=r"(?s)not ready after 2 s.*line one of its log"):
        with server.serve(spec({"ready_timeout": 2}, **behaviour), tmp_path / "log"):
            pass
    assert time.monotonic() - begun < 10


def test_death_is_noticed_within_five_seconds(spec, tmp_path):
    errors = []
    with server.serve(spec(die_after=1), tmp_path / "log") as running:
        with server.Watch(running, errors.append):
            begun = time.monotonic()
            running.chat([{"role": "user", "content": "x"}], 8)
            while not errors and time.monotonic() - begun < 5:
                time.sleep(0.05)
    assert "illegal memory access" in str(errors[0])


def test_proxies_are_not_asked(spec, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    with server.serve(spec(), tmp_path / "log") as running:
        assert running.probe
    assert backends.without_proxy(dict(os.environ))["no_proxy"].startswith("example.org,127.0.0.1")


def test_endpoint(spec, tmp_path, monkeypatch):
    with server.serve(spec(), tmp_path / "log") as running:
        monkeypatch.setenv("MY_KEY", running.key)
        endpoint = {"url": running.url, "model": running.model, "key_env": "MY_KEY"}
        there = backends.Spec(serving={"backend": "endpoint"}, endpoint=endpoint)
        with server.serve(there, tmp_path / "unused") as remote:
            assert remote.probe == running.probe
        assert not (tmp_path / "unused").exists()
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(client.ServerError, match="set the environment variable MY_KEY"):
            server.connect(there)
    with pytest.raises(client.ServerError, match="does not answer"):
        monkeypatch.setenv("MY_KEY", "x")
        server.connect(there)


def test_number_type(spec, tmp_path):
    auto = spec({"torch_dtype": "auto"})
    assert backends._dtype(auto) == "float32"  # of the weights
    assert backends._dtype(spec({"torch_dtype": "bfloat16"})) == "bfloat16"
    (tmp_path / "config.json").write_text('{"torch_dtype": "float16"}')  # as older files have it
    assert backends._dtype(auto) == "float16"


def test_device_that_is_not_there(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(server.gpu, "describe", lambda: [])
    with pytest.raises(client.ServerError, match="shows no GPU"):
        with server.serve(spec({"device": "cuda"}), tmp_path / "log"):
            pass
    with pytest.raises(client.ServerError, match="vllm needs a GPU"):
        with server.serve(spec({"backend": "vllm"}), tmp_path / "log"):
            pass
    monkeypatch.setattr(server.gpu, "describe", lambda: [{"uuid": "GPU-0"}])
    with pytest.raises(UserError, match=r"2 GPUs asked for.*lower gpus"):
        with server.serve(spec({"gpus": 2}), tmp_path / "log"):
            pass


def test_a_server_that_was_given_a_gpu_and_computes_on_the_cpu(spec, tmp_path):
    given = replace(spec(session={"device": "cpu", "versions": {}}), cards=("GPU-0",))
    with pytest.raises(client.ServerError, match="computes on the CPU, though it was given a GPU"):
        with server.serve(given, tmp_path / "log"):
            pass


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_server_of_ours_needs_weights_and_an_interpreter(backend):
    lacking = backends.Spec(serving={"backend": backend}, python="py")
    with pytest.raises(client.ServerError, match="--weights"):
        backends.COMMANDS[backend](lacking, client.Server("", "sftflow-1", "secret"), 1)


def test_the_form_of_tools_reaches_the_server(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for model, given in (({}, False), ({"agent_template": "hermes"}, True)):
        spec = backends.Spec({"backend": "transformers"}, model, weights=tmp_path, python="py")
        words, _ = backends.COMMANDS["transformers"](spec, client.Server("", "m", "key"), 1)
        assert ("--agent_template hermes" in " ".join(words)) is given


def test_flags():
    flags = backends._flags({"a": 1, "b": "", "c": None, "d": ["x", 2], "e": {"f": 3}})
    assert flags == ["--a", "1", "--b", "--d", "x", "2", "--e", '{"f": 3}']


@pytest.fixture
def vllm_command(tmp_path):
    """vLLM's command for an adapter on some weights, and its environment."""
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    extra = {"enforce-eager": True, "enable-prefix-caching": False, "seed": 3,
             "compilation-config": {"mode": 0}, "host": "0.0.0.0"}  # fmt: skip
    spec = backends.Spec(
        serving={"backend": "vllm", "torch_dtype": "bfloat16", "max_batch_size": 9, "extra": extra},
        weights=Path("w"), adapter=tmp_path, python="py",
    )  # fmt: skip
    return backends.COMMANDS["vllm"](spec, client.Server("", "sftflow-1", "secret"), 1)


def test_models_of_one_shape_are_compiled_once(tmp_path, monkeypatch):
    """vLLM's cache of compiled code goes by its variables, the key among them, and by the model's
    path: 21 to 26 s of each start of a 7B model on an H100."""
    monkeypatch.chdir(tmp_path)
    commands = []
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"dtype": "bfloat16"}')
        spec = backends.Spec({"backend": "vllm"}, weights=Path(name), python="py")
        running = client.Server("", "sftflow-1", server.kept_key())
        with server.place(spec) as cwd:
            assert Path(cwd, backends.MODEL).resolve() == tmp_path / name
            assert str(tmp_path) not in " ".join(backends.COMMANDS["vllm"](spec, running, 1)[0])
        commands.append(backends.COMMANDS["vllm"](spec, running, 1))
    assert commands[0] == commands[1]
    assert (server.SCRATCH / "server.key").stat().st_mode & 0o077 == 0


def test_vllm_command_for_an_adapter(vllm_command, tmp_path):
    command, env = vllm_command
    text = " ".join(command)
    assert "secret" not in text and env["VLLM_API_KEY"] == "secret"
    assert f"--lora-modules sftflow-1={tmp_path}" in text and "--max-lora-rank 16" in text
    assert "--served-model-name sftflow-1-base" in text
    assert "--dtype bfloat16" in text
    assert "--generation-config vllm" in text  # a model's own would change answers unseen
    assert "--host 127.0.0.1" in text and "0.0.0.0" not in text  # whatever `extra` says


PARSE = """
import json, sys
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()  # without a GPU vLLM names no arguments
from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
validate_parsed_serve_args(args)
print(json.dumps({name: value for name, value in vars(args).items()}, default=str))
"""


@pytest.mark.slow
@pytest.mark.skipif(not VLLM.exists(), reason="needs envs/vllm")
def test_vllm_understands_its_command(vllm_command, tmp_path):
    command = vllm_command[0]
    own = command[command.index(str(backends.__file__).replace("backends", "vllm_serve")) + 1 :]
    done = subprocess.run([VLLM, "-P", "-c", PARSE, *own], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    args = json.loads(done.stdout.splitlines()[-1])
    assert args["host"] == "127.0.0.1" and args["port"] == 1 and args["api_key"] is None
    assert args["served_model_name"] == ["sftflow-1-base"] and args["model"] == "model"
    assert args["disable_uvicorn_access_log"] and not args["enable_log_requests"]
    assert args["max_num_seqs"] == 9 and args["max_lora_rank"] == 16 and args["seed"] == 3
    assert "sftflow-1" in str(args["lora_modules"]) and str(tmp_path) in str(args["lora_modules"])
    assert args["enforce_eager"] is True and args["enable_prefix_caching"] is False
    assert "mode" in str(args["compilation_config"])


FORK = """
import os, runpy, sys
launcher = sys.argv[1]
def engine(*_, **__):
    if (pid := os.fork()) == 0:
        from vllm.model_executor.kernels.linear.cute_dsl import ll_bf16
        from vllm.model_executor.warmup import kernel_warmup
        compiled, ll_bf16._cutedsl_available = [], True
        type(ll_bf16.ll_bf16_gemm_kernel).compile = lambda self, key: compiled.append(key)
        kernel_warmup._warmup_ll_bf16_router_gemm()
        os._exit(len(compiled))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
run, runpy.run_module = runpy.run_path, engine
run(launcher, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(not VLLM.exists(), reason="needs envs/vllm")
def test_vllm_compiles_no_kernels_of_other_models():
    """It did at every start: 12 s of an H100."""
    launcher = str(backends.__file__).replace("backends", "vllm_serve")
    done = subprocess.run([VLLM, "-P", "-c", FORK, launcher], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
