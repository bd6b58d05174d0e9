"""The batch scripts in bash, with stand-ins for what Slurm brings."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SLURM = Path("deploy/slurm").resolve()
SRUN = """#!/bin/sh
trap 'echo stopped; exit 0' TERM
echo "started with $SRUN_CPUS_PER_TASK cores"
while :; do sleep 0.05; done
"""
SCONTROL = """#!/bin/sh
echo "$*"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "VGS_TEACHER": "teacher.lab:50051",
    }


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGUSR1, "stopped\nrequeue 7\n"), (signal.SIGTERM, "stopped\n")],
    ids=["time is nearly over", "cancelled"],
)
def test_only_time_that_is_over_queues_a_run_again(
    slurm: dict[str, str], number: signal.Signals, said: str
):
    with subprocess.Popen(
        ["bash", SLURM / "train.sbatch", "my.toml", "runs/mine"],
        stdout=subprocess.PIPE,
        text=True,
        env=slurm,
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "started with 16 cores\n"
        job.send_signal(number)
        assert job.stdout.read() == said
    assert job.returncode == 128 + number


def test_the_signal_is_the_one_that_the_script_waits_for():
    text = (SLURM / "train.sbatch").read_text()
    assert "#SBATCH --signal=B:USR1@" in text
    assert "#SBATCH --requeue\n" in text


def test_a_teacher_has_the_cores_that_it_asked_for(slurm: dict[str, str]):
    srun = next(iter(slurm["PATH"].split(":")))
    Path(srun, "srun").write_text(SRUN.replace("while :; do sleep 0.05; done\n", ""))
    command = ["bash", SLURM / "teacher.sbatch", "my.toml"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, env=slurm).stdout
    assert said.splitlines()[1:] == ["started with 16 cores"]
