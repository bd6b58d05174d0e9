"""Batched forward passes to the hidden states that score responses, with and without a shared prefix.

B rows of a batch, L padded length, P prompt tokens, T response tokens, D hidden size, A position axes. Padding
stands on the right, masked; positions are explicit, so it moves nobody. Row t of a result scores token t: the state
of the last prompt token scores the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from teacher_server.engines.context import Context


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt's context, already run: keys and values of each layer, and its last state."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values, [heads, P, head size] each."""
    last_hidden: Tensor
    """[D], scores the first response token."""
    next_position: int

    @property
    def length(self) -> int:
        """P"""
        return self.layers[0][0].shape[1]


def cache_can_be_shared(model: Any) -> bool:
    """Whether every layer keeps all keys and values (no sliding window, no recurrent state)."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped into batches of at most `max_tokens` padded tokens and at most half padding.

    A row longer than `max_tokens` gets a batch of its own. Longest first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            longest = lengths[batches[-1][0]]
            fits = (len(batches[-1]) + 1) * longest <= max_tokens
            if fits and lengths[index] * 2 >= longest:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


class Forward:
    """Runs a model's body (no output head) on packed rows. `device` and `dtype` are the weights'."""

    def __init__(self, body: Any, device: torch.device, dtype: torch.dtype, pad_id: int) -> None:
        self._body = body
        self._device = device
        self._dtype = dtype
        self._pad_id = pad_id

    def whole(self, contexts: Sequence[Context], responses: Sequence[Tensor]) -> list[Tensor]:
        """States [T, D] of each response, its prompt run along with it."""
        ids = [torch.cat([c.ids, r[:-1]]) for c, r in zip(contexts, responses, strict=True)]
        positions = [
            torch.cat([c.positions, _following(c.next_position, len(r) - 1, c.positions)], dim=1)
            for c, r in zip(contexts, responses, strict=True)
        ]
        hidden = self._run(
            input_ids=self._pad(ids, self._pad_id),
            attention_mask=self._mask([len(i) for i in ids]),
            position_ids=self._pad_positions(positions),
            use_cache=False,
            **self._extras(contexts, max(len(i) for i in ids)),
        ).last_hidden_state
        return [
            hidden[row, c.length - 1 : c.length - 1 + len(r)]
            for row, (c, r) in enumerate(zip(contexts, responses, strict=True))
        ]

    def prefill(self, contexts: Sequence[Context]) -> list[Prefix]:
        """Run prompts alone and keep what their responses need."""
        cache: Any = DynamicCache()
        hidden = self._run(
            input_ids=self._pad([c.ids for c in contexts], self._pad_id),
            attention_mask=self._mask([c.length for c in contexts]),
            position_ids=self._pad_positions([c.positions for c in contexts]),
            past_key_values=cache,
            use_cache=True,
            **self._extras(contexts, max(c.length for c in contexts)),
        ).last_hidden_state
        return [
            Prefix(
                layers=[
                    (
                        layer.keys[row, :, : c.length].clone(),
                        layer.values[row, :, : c.length].clone(),
                    )
                    for layer in cache.layers
                ],
                last_hidden=hidden[row, c.length - 1].clone(),
                next_position=c.next_position,
            )
            for row, c in enumerate(contexts)
        ]

    def extend(self, prefixes: Sequence[Prefix], responses: Sequence[Tensor]) -> list[Tensor]:
        """States [T, D] of each response after its prefix, which is copied, never written."""
        first = [prefix.last_hidden[None] for prefix in prefixes]
        longest = max(len(r) for r in responses) - 1
        if longest == 0:
            return first
        axes = 3 if hasattr(self._body, "get_rope_index") else 1
        template = torch.empty(axes, 0, dtype=torch.long)
        positions = [
            _following(p.next_position, len(r) - 1, template)
            for p, r in zip(prefixes, responses, strict=True)
        ]
        mask = torch.cat(
            [
                self._mask([prefix.length for prefix in prefixes]),
                self._mask([len(r) - 1 for r in responses]),
            ],
            dim=1,
        )
        hidden = self._run(
            input_ids=self._pad([r[:-1] for r in responses], self._pad_id),
            attention_mask=mask,
            position_ids=self._pad_positions(positions),
            past_key_values=self._join(prefixes),
            use_cache=True,
        ).last_hidden_state
        return [
            torch.cat([first[row], hidden[row, : len(r) - 1]]) for row, r in enumerate(responses)
        ]

    def _run(self, **inputs: Any) -> Any:
        return self._body(**inputs, return_dict=True)

    def _join(self, prefixes: Sequence[Prefix]) -> DynamicCache:
        """One cache [B, heads, longest P, head size] per layer, zeros behind shorter prefixes."""
        cache = DynamicCache()
        longest = max(prefix.length for prefix in prefixes)
        for layer in range(len(prefixes[0].layers)):
            joined: list[Tensor] = []
            for part in (0, 1):
                like = prefixes[0].layers[layer][part]
                rows = like.new_zeros(len(prefixes), like.shape[0], longest, like.shape[2])
                for row, prefix in enumerate(prefixes):
                    rows[row, :, : prefix.length] = prefix.layers[layer][part]
                joined.append(rows)
            cache.update(joined[0], joined[1], layer)
        return cache

    def _pad(self, rows: Sequence[Tensor], value: int) -> Tensor:
        padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
        return padded.to(self._device)

    def _pad_positions(self, rows: Sequence[Tensor]) -> Tensor:
        padded = self._pad([row.T for row in rows], 0)  # [B, L, A]
        return padded[..., 0] if padded.shape[-1] == 1 else padded.permute(2, 0, 1).contiguous()

    def _mask(self, lengths: Sequence[int]) -> Tensor:
        index = torch.arange(max(lengths))
        return (index[None] < torch.tensor(lengths)[:, None]).long().to(self._device)

    def _extras(self, contexts: Sequence[Context], length: int) -> dict[str, Tensor]:
        """Image inputs of all rows, in order, and per-token types padded with 0 to `length`."""
        extras: dict[str, Tensor] = {}
        for name in sorted({name for c in contexts for name in c.tensors}):
            joined = torch.cat([c.tensors[name] for c in contexts if name in c.tensors])
            joined = joined.to(self._dtype) if joined.is_floating_point() else joined
            extras[name] = joined.to(self._device)
        for name in sorted({name for c in contexts for name in c.token_types}):
            types = torch.zeros(len(contexts), length, dtype=torch.long)
            for row, c in enumerate(contexts):
                if name in c.token_types:
                    types[row, : c.length] = c.token_types[name]
            extras[name] = types.to(self._device)
        return extras


def _following(start: int, count: int, like: Tensor) -> Tensor:
    """Positions [A, count] from `start`, the same on every axis of `like` [A, *]."""
    return torch.arange(start, start + count).expand(like.shape[0], -1)
