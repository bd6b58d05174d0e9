"""The two commands as a person types them."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout_server import cli as rollout_cli
from student_trainer import cli as student_cli
from student_trainer.config import TrainConfig
from student_trainer.sampler_config import VllmSamplerConfig
from teacher_server import cli as teacher_cli

COMMANDS = {
    "teacher-server": ["serve"],
    "rollout-server": ["serve"],
    "student-trainer": ["train", "demo", "report", "geometry"],
}
ALL = [
    [tool, *command] for tool, names in COMMANDS.items() for command in [[], *[[n] for n in names]]
]


def run(*command: str, **settings) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name(command[0])
    return subprocess.run([str(tool), *command[1:]], capture_output=True, text=True, **settings)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_tells_what_there_is(command):
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    for name in COMMANDS[command[0]]:
        assert name in done.stdout or len(command) > 1


@pytest.mark.parametrize(
    "module", ["teacher_server.cli", "rollout_server.cli", "student_trainer.cli"]
)
def test_help_needs_no_torch(module):
    code = (
        f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (teacher_cli.main, ["serve"], "--model"),
        (teacher_cli.main, ["serve", "--model", "m", "--server.host", "0.0.0.0"], "--server.insecure"),
        (teacher_cli.main, ["serve", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (teacher_cli.main, ["serve", "--model", "/no/such/model"], "/no/such/model"),
        (teacher_cli.main, ["fly"], "unknown command 'fly'"),
        (teacher_cli.main, [], "usage"),
        (rollout_cli.main, ["serve"], "--model"),
        (rollout_cli.main, ["serve", "--model", "m", "--server.host", "0.0.0.0"], "--server.insecure"),
        (rollout_cli.main, ["fly"], "unknown command 'fly'"),
        (student_cli.main, ["train"], "--data.train"),
        (student_cli.main, ["train", "--sampler.kind", "vlm"], "'vlm'"),
        (student_cli.main, ["demo", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (student_cli.main, ["fly"], "unknown command 'fly'"),
    ],
)  # fmt: skip
def test_wrong_settings_end_with_2_and_say_what_to_do(main, arguments, says, capfd):
    try:
        status = main(arguments)
    except SystemExit as ended:  # tyro ends by itself where a flag's value is wrong
        status = ended.code
    assert status == 2
    out, err = capfd.readouterr()
    assert says in out + err
    assert "Traceback" not in out + err


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is here")
def test_without_vllm_the_rollout_server_says_so(capfd):
    assert rollout_cli.main(["serve", "--model", "m"]) == 2
    assert "run rollout-server in the vLLM environment" in capfd.readouterr().err


def test_the_kind_of_sampler_may_be_a_flag(tmp_path):
    path = tmp_path / "student.toml"
    path.write_text("[sampler]\ncandidates = 3\n")
    arguments = ["--config", str(path), "--sampler.kind", "vllm", "--sampler.address", "there:1"]
    sampler = student_cli._read_config("train", TrainConfig, arguments).sampler
    assert sampler == VllmSamplerConfig(candidates=3, address="there:1")
    assert (
        student_cli._read_config("train", TrainConfig, arguments[:2]).sampler.kind == "transformers"
    )


def test_a_wrong_flag_is_named(capfd):
    with pytest.raises(SystemExit) as caught:
        teacher_cli.main(["serve", "--modle", "m"])
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert "--modle" in out + err


def test_an_unknown_key_is_refused(tmp_path, capfd):
    path = tmp_path / "wrong.toml"
    path.write_text("model = 'm'\n[objektive]\nname = 'vgs'\n")
    assert student_cli.main(["train", "--config", str(path)]) == 2
    assert "objektive" in capfd.readouterr().err


def test_the_server_says_where_it_is_and_ends_with_0(qwen, tmp_path):
    port_file = tmp_path / "address"
    tool = Path(sys.executable).with_name("teacher-server")
    command = [str(tool), "serve", "--model", str(qwen), "--server.port", "0"]
    command += ["--server.port-file", str(port_file), "--engine.device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        _wait_for(port_file.exists, server)
        assert port_file.read_text().startswith("127.0.0.1:")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_ctrl_c_leaves_no_process_behind(tmp_path):
    tool = Path(sys.executable).with_name("student-trainer")
    command = [
        str(tool),
        "demo",
        "--config",
        "examples/digits/demo.toml",
        "--run-dir",
        str(tmp_path),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as demo:
        metrics = tmp_path / "standard" / "metrics.jsonl"
        _wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, demo)
        os.killpg(demo.pid, signal.SIGINT)  # what a terminal does
        assert demo.wait(60) == 130
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        os.killpg(demo.pid, 0)


def _wait_for(condition, process: subprocess.Popen) -> None:
    ends_s = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < ends_s, "never came"
        time.sleep(0.05)
