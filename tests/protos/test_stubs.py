"""The committed stubs are what grpc_tools makes of the schemas, byte for byte."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMAS = ("teacher", "rollout")
STUBS = [f"{schema}_{kind}" for schema in SCHEMAS for kind in ("pb2.py", "pb2.pyi", "pb2_grpc.py")]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        *outputs,
        *(f"protos/v1/{schema}.proto" for schema in SCHEMAS),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return out / "protos" / "v1"


@pytest.mark.parametrize("name", STUBS)
def test_stubs_are_fresh(generated: Path, name: str) -> None:
    fresh, committed = (generated / name).read_bytes(), (ROOT / "protos" / "v1" / name).read_bytes()
    assert committed == fresh, (
        f"protos/v1/{name} is stale; generate it anew from the repository root"
    )


def test_nothing_else_is_generated(generated: Path) -> None:
    assert sorted(path.name for path in generated.iterdir()) == sorted(STUBS)
