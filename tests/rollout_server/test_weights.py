"""From the student's tensors to a file that vLLM's workers map: names, shapes, bytes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protos.errors import InvalidItem
from protos.weights import Weight, WeightSet, pieces
from rollout_server.checkpoint_layout import CheckpointLayout
from rollout_server.staging import Staging
from student_trainer.student import Student

TOY = Path("examples/digits/models/student")


def as_set(state: dict[str, torch.Tensor], dtype: str) -> WeightSet:
    return WeightSet(tuple(Weight(n, tuple(t.shape)) for n, t in state.items()), dtype)


@pytest.mark.parametrize("family", ["qwen", "llava", "tied"])
def test_the_students_weights_are_what_its_checkpoint_has(family, request, tmp_path):
    folder = TOY if family == "tied" else request.getfixturevalue(family)
    student = Student(str(folder), "cpu", "float32")
    state = student.checkpoint_weights()
    student.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    CheckpointLayout.read(folder, tied=family == "tied").check(as_set(state, "F32"))


def test_a_tied_head_may_come_or_not(tmp_path):
    save_file(
        {"embed": torch.ones(2), "lm_head.weight": torch.ones(2)}, tmp_path / "model.safetensors"
    )
    without, both = (
        as_set({"embed": torch.ones(2)}, "F32"),
        as_set(load_file(tmp_path / "model.safetensors"), "F32"),
    )
    tied, untied = (CheckpointLayout.read(tmp_path, tied=tied) for tied in (True, False))
    tied.check(without)
    tied.check(both)
    untied.check(both)
    with pytest.raises(InvalidItem, match=r"'lm_head\.weight' is missing"):
        untied.check(without)


def test_a_checkpoint_in_several_files(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(3, 1)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    layout = CheckpointLayout.read(tmp_path, tied=False)
    layout.check(WeightSet((Weight("b", (3, 1)), Weight("a", (2,))), "F32"))
    with pytest.raises(InvalidItem, match=r"'b' has shape \[3\], the model's is \[3, 1\]"):
        layout.check(WeightSet((Weight("b", (3,)), Weight("a", (2,))), "F32"))


def test_a_folder_without_safetensors(tmp_path):
    with pytest.raises(ValueError, match="save the model as safetensors"):
        CheckpointLayout.read(tmp_path, tied=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_file_is_what_was_sent(dtype, tmp_path):
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    state = {
        "a.weight": torch.randn(3, 5).to(dtype),
        "b": torch.randn(()).to(dtype),
        "empty": torch.randn(0, 4).to(dtype),
        "ä": torch.randn(1).to(dtype),
    }
    raw = (t.flatten().view(torch.uint8).numpy().data for t in state.values() if t.numel())
    with Staging(as_set(state, names[dtype]), tmp_path) as staging:
        for piece in pieces(raw, 7):
            staging.write(piece)
        path = staging.complete()
        got = load_file(path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)
    assert not path.exists()


def test_too_few_and_too_many_bytes(tmp_path):
    weights = WeightSet((Weight("a", (2,)),), "F32")
    with Staging(weights, tmp_path) as staging:
        staging.write(b"1234")
        with pytest.raises(InvalidItem, match="4 bytes in all, the header's shapes need 8"):
            staging.complete()
        with pytest.raises(InvalidItem, match="9 bytes or more, the header's shapes need 8"):
            staging.write(b"56789")
    assert list(tmp_path.iterdir()) == []
