"""Imports point one way: both servers -> protos <- student_trainer, and heavy ones wait."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "protos": {
        *("torch", "transformers", "vllm", "PIL", "pydantic"),
        *("teacher_server", "rollout_server", "student_trainer", "examples", "benchmarks"),
    },
    "teacher_server": {"rollout_server", "student_trainer", "examples", "benchmarks"},
    "rollout_server": {"teacher_server", "student_trainer", "examples", "benchmarks"},
    "student_trainer": {"teacher_server", "rollout_server", "examples", "benchmarks", "vllm"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of all that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names.add(path.relative_to(ROOT).parts[0] if node.level else module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", list(FORBIDDEN))
def test_imports_point_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    offences = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := imported(path) & FORBIDDEN[package])
    }
    assert offences == {}


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = ROOT / "protos" / "connection.py"
    assert {"grpc", "protos", "asyncio"} <= imported(path)
    sneaky = tmp_path / "sneaky.py"
    sneaky.write_text("def f():\n    from torch.nn import Linear\n    import PIL.Image as I\n")
    assert imported(sneaky) == {"torch", "PIL"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("protos.client", {"torch", "transformers", "vllm", "PIL", "pydantic"}),
        ("protos.sync_client", {"torch", "transformers", "vllm", "PIL", "pydantic"}),
        ("protos.rollout_client", {"torch", "transformers", "vllm", "PIL", "pydantic"}),
        ("teacher_server.cli", {"torch", "transformers", "vllm"}),
        ("rollout_server.cli", {"torch", "transformers", "vllm"}),
        ("student_trainer.cli", {"torch", "transformers"}),
    ],
)
def test_importing_stays_light(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {absent!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
