"""A simulated teacher to train with: the real server in a process of its own, over an engine that sleeps."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from transformers import AutoConfig, AutoProcessor

from benchmarks.service.engine import Device
from benchmarks.trainer.engine import Taught
from protos.expansion import placeholder_token
from protos.fingerprint import processor_fingerprint, tokenizer_fingerprint
from teacher_server.config import ServeConfig

END_TIMEOUT_S = 15.0


@contextlib.contextmanager
def simulated_teacher(device: Device, student: Path) -> Iterator[str]:
    """Its address; `student` is the folder of the model that is taught."""
    server = {"port": 0, "http_port": None, "grace_s": 1}
    settings = {
        "serve": ServeConfig.model_validate({"server": server}).model_dump(mode="json"),
        "device": asdict(device),
        "taught": asdict(_taught(student)),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "benchmarks.trainer.teacher_process", str(path)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                yield json.loads(_first_object(child.stdout))["address"]
            finally:
                child.stdin.close()
                try:
                    child.wait(END_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()


def _taught(student: Path) -> Taught:
    processor = AutoProcessor.from_pretrained(student)
    return Taught(
        tokenizer_fingerprint(processor.tokenizer),
        processor_fingerprint(processor),
        processor.tokenizer.convert_tokens_to_ids(placeholder_token(processor)),
        AutoConfig.from_pretrained(student).get_text_config().vocab_size,
    )


def _first_object(lines: Iterator[str]) -> str:
    """The first line that is JSON: a library may print others."""
    for line in lines:
        if line.startswith("{"):
            return line
    raise RuntimeError("the simulated teacher ended before it served")
