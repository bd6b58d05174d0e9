"""Sequences as a model takes them: side by side with padding, or one after the other without.

B sequences, L length of the longest of them, N of all together.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from student_trainer.prompting import StudentContext

Side = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Prompts, each with the tokens that follow it."""

    contexts: Sequence[StudentContext]
    ids: Sequence[Tensor]
    """i64 [P + T] each"""

    @classmethod
    def of(
        cls, contexts: Sequence[StudentContext], tails: Sequence[Tensor] | None = None
    ) -> Sequences:
        """`tails` i64 [T] each; None: prompts alone."""
        if tails is None:
            return cls(contexts, [c.ids for c in contexts])
        return cls(contexts, [torch.cat([c.ids, t]) for c, t in zip(contexts, tails, strict=True)])

    def starts(self, packed: bool) -> list[int]:
        """Where each begins, counted over [B, L] padded on the right, or over [1, N]."""
        lengths = [len(ids) for ids in self.ids]
        if packed:
            return [sum(lengths[:i]) for i in range(len(lengths))]
        return [i * max(lengths) for i in range(len(lengths))]

    def padded(self, pad_id: int, side: Side) -> dict[str, Tensor]:
        """Ids, their mask and types [B, L], and the images' tensors."""
        inputs = {
            "input_ids": _pad(self.ids, pad_id, side),
            "attention_mask": _pad([torch.ones_like(ids) for ids in self.ids], 0, side),
        }
        inputs |= {name: _pad(types, 0, side) for name, types in self._token_types().items()}
        return inputs | self._image_tensors()

    def packed(self, backbone: Any) -> dict[str, Tensor]:
        """Ids, types [1, N], positions that begin anew with each sequence, and the images' tensors.

        transformers tells sequences apart by these positions where there is neither a mask nor a second row.
        """
        inputs = {
            "input_ids": torch.cat(list(self.ids))[None],
            "position_ids": self._positions(backbone),
        }
        inputs |= {name: torch.cat(types)[None] for name, types in self._token_types().items()}
        return inputs | self._image_tensors()

    def _positions(self, backbone: Any) -> Tensor:
        """[1, N], or for rotary positions in three dimensions [4, 1, N]: those of the text, then the three."""
        plain = torch.cat([torch.arange(len(ids)) for ids in self.ids])[None]
        if not hasattr(backbone, "get_rope_index"):
            return plain
        known = inspect.signature(backbone.get_rope_index).parameters
        types, places = self._token_types(), []
        for i, (context, ids) in enumerate(zip(self.contexts, self.ids, strict=True)):
            if not context.tensors:
                places.append(torch.arange(len(ids)).expand(3, 1, -1))
                continue
            own = context.tensors | {name: rows[i][None] for name, rows in types.items()}
            own = {name: tensor for name, tensor in own.items() if name in known}
            places.append(backbone.get_rope_index(ids[None], **own)[0])
        return torch.cat([plain[None], torch.cat(places, dim=-1)])

    def _token_types(self) -> dict[str, list[Tensor]]:
        """Per-token inputs of each sequence; 0 for what follows the prompt."""
        found: dict[str, list[Tensor]] = {}
        for name in sorted({n for c in self.contexts for n in c.token_types}):
            found[name] = [torch.zeros_like(ids) for ids in self.ids]
            for row, context in zip(found[name], self.contexts, strict=True):
                if name in context.token_types:
                    row[: len(context.ids)] = context.token_types[name]
        return found

    def _image_tensors(self) -> dict[str, Tensor]:
        """In the order of their sequences."""
        names = sorted({n for c in self.contexts for n in c.tensors})
        return {
            n: torch.cat([c.tensors[n] for c in self.contexts if n in c.tensors]) for n in names
        }


def _pad(rows: Sequence[Tensor], value: int, side: Side) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value, padding_side=side
    )
