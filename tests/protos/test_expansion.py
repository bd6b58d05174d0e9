from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protos.expansion import ExpandedImage, expand_image, placeholder_token, splice

HOLE = 9


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def image(*values: int, **types: list[int]) -> ExpandedImage:
    return ExpandedImage(ids(*values), {name: ids(*row) for name, row in types.items()}, {})


@pytest.mark.parametrize(
    ("before", "images", "after"),
    [
        ([1, 2], [], [1, 2]),
        ([1, HOLE, 2], [[5, 6]], [1, 5, 6, 2]),
        ([HOLE, 1, HOLE], [[5], [6, 7, 8]], [5, 1, 6, 7, 8]),
        ([1, HOLE, HOLE, HOLE], [[5], [6, 6], [7]], [1, 5, 6, 6, 7]),
        ([HOLE], [[HOLE, HOLE]], [HOLE, HOLE]),  # as Qwen: an image's tokens are the placeholder's
    ],
    ids=["none", "one", "several", "adjacent", "of placeholders"],
)
def test_each_placeholder_becomes_its_image(before, images, after) -> None:
    expanded, types = splice(ids(*before), HOLE, [image(*one) for one in images])
    assert expanded.tolist() == after
    assert expanded.dtype == np.int32
    assert types == {}


def test_per_token_inputs_are_zero_for_text_and_for_images_without_them() -> None:
    images = [image(5, 6, 7, kind=[0, 1, 1]), image(8, 8, other=[2, 3])]
    expanded, types = splice(ids(1, HOLE, 2, HOLE, 3), HOLE, images)
    assert expanded.tolist() == [1, 5, 6, 7, 2, 8, 8, 3]
    assert {name: row.tolist() for name, row in types.items()} == {
        "kind": [0, 0, 1, 1, 0, 0, 0, 0],
        "other": [0, 0, 0, 0, 0, 2, 3, 0],
    }


def test_the_prompt_is_left_as_it_was() -> None:
    before = ids(1, HOLE)
    splice(before, HOLE, [image(5, 6)])
    assert before.tolist() == [1, HOLE]


@pytest.mark.parametrize(("before", "count"), [([1, 2], 1), ([1, HOLE], 0), ([HOLE, HOLE, 1], 3)])
def test_placeholders_and_images_must_be_equally_many(before: list[int], count: int) -> None:
    holes = before.count(HOLE)
    with pytest.raises(ValueError, match=f"{holes} placeholders for {count} images"):
        splice(ids(*before), HOLE, [image(5)] * count)


class Processor:
    """Two tokens per image, and notes what it was asked."""

    def __init__(self, **names: str) -> None:
        self.tokenizer = SimpleNamespace(**names)
        self.asked: dict[str, Any] = {}

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        self.asked = inputs
        return {
            "input_ids": np.array([[3, HOLE, HOLE, 4]], dtype=np.int64),
            "attention_mask": np.ones((1, 4)),
            "mm_token_type_ids": np.array([[0, 1, 1, 0]]),
            "pixel_values": "pixels",
        }


def test_a_lone_placeholder_is_expanded_by_the_models_own_processor() -> None:
    processor = Processor(image_token="<image>")
    got = expand_image(processor, "picture")
    assert processor.asked["text"] == ["<image>"]
    assert processor.asked["images"] == ["picture"]
    assert processor.asked["add_special_tokens"] is False
    assert got.ids.tolist() == [3, HOLE, HOLE, 4]
    assert got.ids.dtype == np.int32
    assert {name: row.tolist() for name, row in got.token_types.items()} == {
        "mm_token_type_ids": [0, 1, 1, 0]
    }
    assert got.tensors == {"pixel_values": "pixels"}


def test_the_placeholder_is_what_stands_in_a_rendered_prompt() -> None:
    assert placeholder_token(Processor(image_token="<image>")) == "<image>"
    assert placeholder_token(Processor(image_token="<soft>", boi_token="<boi>")) == "<boi>"
    with pytest.raises(ValueError, match="image_token or boi_token is needed"):
        placeholder_token(Processor())
