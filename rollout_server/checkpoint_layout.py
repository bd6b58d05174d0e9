"""Which weights a model has: names and shapes, read from the headers of its checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from protos.errors import ErrorDetail, InvalidItem
from protos.weights import WeightSet

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TIED_HEAD = "lm_head.weight"


class CheckpointLayout:
    """Names and shapes that an update must bring, no more and no fewer."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], optional: frozenset[str]) -> None:
        self._shapes = shapes
        self._optional = optional

    @classmethod
    def read(cls, folder: Path, tied: bool) -> CheckpointLayout:
        """Of a Hugging Face folder. `tied`: the output embedding is the input's, whether or not the folder has both.

        Raises ValueError where the folder has no safetensors files.
        """
        if (folder / INDEX).is_file():
            files = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        elif (folder / SINGLE).is_file():
            files = {SINGLE}
        else:
            raise ValueError(
                f"{folder} has neither {SINGLE} nor {INDEX}: save the model as safetensors"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for name in sorted(files):
            with safe_open(folder / name, framework="np") as file:
                for key in file.offset_keys():
                    shapes[key] = tuple(file.get_slice(key).get_shape())
        return cls(shapes, frozenset({TIED_HEAD} if tied else ()))

    def check(self, weights: WeightSet) -> None:
        """Raise InvalidItem where names or shapes are others than the checkpoint's, naming the first of them."""
        seen: set[str] = set()
        for weight in weights.weights:
            expected = self._shapes.get(weight.name)
            if expected is None and weight.name not in self._optional:
                raise _wrong(weight.name, "is no weight of this model", "", "its names")
            if expected is not None and weight.shape != expected:
                raise _wrong(
                    weight.name,
                    f"has shape {list(weight.shape)}, the model's is {list(expected)}",
                    str(list(weight.shape)),
                    str(list(expected)),
                )
            if weight.name in seen:
                raise _wrong(weight.name, "comes twice", "2", "1")
            seen.add(weight.name)
        missing = sorted(self._shapes.keys() - seen - self._optional)
        if missing:
            raise _wrong(missing[0], f"is missing ({len(missing)} in all)", "absent", "all weights")


def _wrong(name: str, what: str, value: str, limit: str) -> InvalidItem:
    return InvalidItem(
        f"weight {name!r} {what}; send the student's weights as its checkpoint has them",
        ErrorDetail(f"header.weights[{name}]", value, limit),
    )
