from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_image

from tests.loopback import serving
from tests.pictures import encode
from tests.reference import Reference
from tests.tiny_models import make_llava, make_qwen3_vl

torch.set_num_threads(1)

TOY = Path("examples/digits/models")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("qwen"), seed=1)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"), seed=2)


@pytest.fixture(scope="session")
def qwen_reference(qwen: Path) -> Reference:
    return Reference.load(qwen)


@pytest.fixture(scope="session")
def qwen_server(qwen: Path) -> Iterator[str]:
    with serving(qwen) as address:
        yield address


@pytest.fixture(scope="session")
def photographs() -> tuple[bytes, bytes]:
    """scikit-learn's temple and flower, at different sizes and proportions."""
    temple = encode(load_sample_image("china.jpg"), "JPEG", (96, 64))
    flower = encode(load_sample_image("flower.jpg"), "PNG", (50, 120))
    return temple, flower
