"""What the README tells people to paste, pasted."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.teacher_process import free_port

README = Path("README.md").read_text()


@contextlib.contextmanager
def served_toy() -> Iterator[str]:
    """The HTTP address of the server that the README starts; curl waits for it."""
    command = re.search(r"^teacher-server (serve .*?) &$", README, re.MULTILINE)
    assert command is not None
    port = free_port()
    ports = ["--server.port", "0", "--server.http-port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "teacher_server", *command[1].split(), *ports],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"localhost:{port}"
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_of_the_readme_works_as_pasted():
    found = re.search(r"^(curl .*?^END)$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert "localhost:8080" in found[1]
    with served_toy() as http:
        command = found[1].replace("localhost:8080", http)
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
        )
    answer = json.loads(done.stdout)
    vds = {token["text"]: token["vds"] for token in reversed(answer["tokens"])}
    assert vds[" 2"] > 1 > vds[" right"]
    assert answer["summary"]["sequence_gain"] > 1
