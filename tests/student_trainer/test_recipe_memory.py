"""The recipes' memory by arithmetic, against the models of transformers and what autograd keeps of them."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel

from examples.vision_sr1.memory import (
    HEAD_WIDTH,
    KEY_HEADS,
    LONGEST,
    MODELS,
    POSITIONS,
    VOCABULARY,
    Model,
    activations,
    layer_activations,
    rollout_memory,
    table,
    training_memory,
    vision_layer_activations,
)
from student_trainer.config import TrainConfig

FOLDER = Path("examples/vision_sr1")


def configuration(model: Model, vocabulary: int = VOCABULARY) -> Qwen3VLConfig:
    """What config.json of such a model says."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": model.width,
            "num_hidden_layers": model.layers,
            "intermediate_size": model.inner,
            "num_attention_heads": model.heads,
            "num_key_value_heads": KEY_HEADS,
            "head_dim": HEAD_WIDTH,
            "tie_word_embeddings": model.tied,
        },
        vision_config={
            "depth": model.vision_layers,
            "hidden_size": model.vision_width,
            "intermediate_size": model.vision_inner,
            "num_heads": 16,
            "out_hidden_size": model.width,
            "deepstack_visual_indexes": [0, 1, 2],
            "num_position_embeddings": POSITIONS,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        tie_word_embeddings=model.tied,
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_parameters_are_counted_exactly(name: str):
    model = MODELS[name]
    with torch.device("meta"):
        real = Qwen3VLForConditionalGeneration(configuration(model))
    real.tie_weights()
    assert sum(p.numel() for p in real.parameters()) == model.parameters
    assert sum(p.numel() for p in real.model.visual.parameters()) == model.vision_parameters
    layer = real.model.language_model.layers[0]
    assert sum(p.numel() for p in layer.parameters()) == model.layer_parameters
    block = real.model.visual.blocks[0]
    assert sum(p.numel() for p in block.parameters()) == model.vision_layer_parameters
    assert model.rest_parameters > model.embedding_parameters


SMALL = Model(2, 128, 320, 16, True, vision_layers=3, vision_width=64, vision_inner=192)


def kept_bytes(module: torch.nn.Module, *inputs: torch.Tensor, **named: object) -> int:
    """What autograd keeps of a forward pass under bfloat16 autocast, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        output = module(*inputs, **named)
    assert output is not None
    return sum(s.nbytes() for address, s in kept.items() if address not in own)


def test_a_layer_keeps_what_is_reckoned():
    def kept(layers: int, tokens: int) -> int:
        config: Any = configuration(replace(SMALL, layers=layers), 50)
        model = Qwen3VLTextModel(config.text_config)
        ids = torch.zeros(1, tokens, dtype=torch.long)
        positions = torch.arange(tokens).expand(3, 1, tokens)
        return kept_bytes(model.eval(), input_ids=ids, position_ids=positions, use_cache=False)

    # Casts of weights do not grow with tokens, nor what is around the layers with their number.
    slope = (kept(3, 96) - kept(2, 96)) - (kept(3, 32) - kept(2, 32))
    assert slope / 64 == pytest.approx(layer_activations(SMALL), rel=0.01)


def test_a_layer_of_the_vision_encoder_keeps_what_is_reckoned():
    def kept(layers: int, patches: int) -> int:
        config: Any = configuration(replace(SMALL, vision_layers=layers))
        model = Qwen3VLVisionModel(config.vision_config)
        grid = torch.tensor([[1, patches // 8, 8]])
        return kept_bytes(model.eval(), torch.zeros(patches, 3 * 2 * 16 * 16), grid_thw=grid)

    slope = (kept(4, 128) - kept(3, 128)) - (kept(4, 64) - kept(3, 64))
    assert slope / 64 == pytest.approx(vision_layer_activations(SMALL), rel=0.01)


@pytest.fixture
def student() -> TrainConfig:
    return TrainConfig.model_validate(tomllib.loads((FOLDER / "student-2b.toml").read_text()))


def test_what_is_shared_out_and_what_is_not(student: TrainConfig):
    alone, eighth = training_memory(student, 1), training_memory(student, 8)
    parameters = MODELS[student.model].parameters
    assert alone.weights + alone.gradients + alone.moments == 16 * parameters
    assert eighth.weights + eighth.gradients + eighth.moments == 2 * parameters
    assert (alone.head, alone.activations) == (eighth.head, eighth.activations)
    assert alone.gathered == eighth.copy == 0
    assert alone.copy == 2 * parameters
    assert training_memory(student, 1, microbatch=1).activations * 4 == alone.activations
    assert training_memory(student, 1, LONGEST, 1).activations == activations(student, LONGEST)


def test_packing_and_checkpoints_change_activations(student: TrainConfig):
    def of(**settings: bool) -> float:
        changed = student.student.model_copy(update=settings)
        return activations(student.model_copy(update={"student": changed}), LONGEST)

    assert of() < of(packing=True), "both contexts at once"
    assert of() < of(activation_checkpointing=False) / 5


def test_the_recipes_fit_80_gigabytes_where_the_readme_says_so(student: TrainConfig):
    assert training_memory(student, 1).total < 70e9
    assert rollout_memory(student) < 80e9
    for name in ("student-4b", "teacher-grpo"):
        config = TrainConfig.model_validate(tomllib.loads((FOLDER / f"{name}.toml").read_text()))
        assert training_memory(config, 1).total > 80e9
        assert training_memory(config, 8).total < 70e9
        assert training_memory(config, 8, LONGEST, 1).total < 80e9


def test_the_readme_has_the_table():
    assert table() in (FOLDER / "README.md").read_text()
