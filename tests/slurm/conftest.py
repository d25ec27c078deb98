"""A real Slurm on this machine: one controller, one node, two stand-in GPUs (terminals)."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
HOME = Path("/etc/slurm")  # where jobs look: Snakemake hands them no SLURM_CONF

CLUSTER = "sftflow-test"
CONFIG = """\
ClusterName={cluster}
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
GresTypes=gpu
NodeName={host} CPUs={cpus} RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def left_by_a_killed_test() -> bool:
    ours = f"ClusterName={CLUSTER}\n" in (HOME / "slurm.conf").read_text()
    return ours and bool(
        subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).returncode
    )


@pytest.fixture(scope="session")
def slurm(tmp_path_factory, watch) -> Iterator[None]:
    """The cluster, up and idle."""
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing or os.geteuid() != 0:
        pytest.skip("needs root and Debian's slurm-wlm and munge")
    if (HOME / "slurm.conf").exists() and not left_by_a_killed_test():
        pytest.skip("this machine belongs to a cluster already")
    folder = Path(tmp_path_factory.mktemp("slurm"))
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    host = socket.gethostname().split(".")[0]
    files = {
        "slurm.conf": CONFIG.format(
            cluster=CLUSTER, host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count()
        ),
        "gres.conf": "Name=gpu File=/dev/tty1\nName=gpu File=/dev/tty2\n",
    }
    for name, text in files.items():
        (HOME / name).write_text(text)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    munge = folder / "munge"
    munge.mkdir()
    for path in (key, munge):
        shutil.chown(path, "munge", "munge")
        path.chmod(0o700 if path.is_dir() else 0o400)
    os.symlink(munge / "socket", folder / "munge.socket")
    daemons = [
        subprocess.Popen(command)
        for command in (
            [
                *("runuser", "-u", "munge", "--", "munged", "--foreground", "--force"),
                *(f"--key-file={key}", f"--seed-file={munge}/seed", f"--log-file={munge}/log"),
                *(f"--socket={munge}/socket", f"--pid-file={munge}/pid"),
            ],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
        )
    ]
    try:
        wait_until_idle()
        watch.forget()  # its folder: Slurm keeps the environment of every job, for itself
        yield
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"])  # of a failed test
        for name in files:
            (HOME / name).unlink()
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


def wait_until_idle(seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(1)
    pytest.fail(f"the cluster did not come up: {state.stdout}{state.stderr}")
