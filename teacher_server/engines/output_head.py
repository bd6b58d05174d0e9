"""A model's output projection in float32, checked against the model itself when it is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class OutputHead:
    """Hidden states [R, D] of any dtype -> float32 logits [R, V].

    Half-precision logits would drown a small VDS. Products of bfloat16 numbers are exact in float32, so the weights
    stay as they are on a GPU and only the sums are float32; elsewhere a float32 copy of the weights is kept.
    """

    def __init__(self, model: Any) -> None:
        projection = model.get_output_embeddings()
        text_config = model.config.get_text_config()
        self._weight: Tensor = projection.weight.detach()
        bias = getattr(projection, "bias", None)
        self._bias: Tensor | None = None if bias is None else bias.detach().float()
        self._soft_cap: float | None = getattr(text_config, "final_logit_softcapping", None)
        self._mixed = self._weight.dtype != torch.float32 and self._weight.is_cuda
        if not self._mixed:
            self._weight = self._weight.float()
        self._check(model)

    @property
    def vocab_size(self) -> int:
        """V, the logits' width."""
        return self._weight.shape[0]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Float32 logits [R, V]."""
        if self._mixed:
            logits = torch.mm(hidden, self._weight.T, out_dtype=torch.float32)
            if self._bias is not None:
                logits += self._bias
        else:
            logits = functional.linear(hidden.float(), self._weight, self._bias)
        if self._soft_cap is not None:
            logits = self._soft_cap * torch.tanh(logits / self._soft_cap)
        return logits

    def _check(self, model: Any) -> None:
        """The model's own logits of a short text must be these, or scores would be wrong without a word."""
        probe = torch.arange(8, device=self._weight.device)[None] % self.vocab_size
        with torch.inference_mode():
            expected = model(input_ids=probe, use_cache=False).logits[0].float()
            got = self(model.model(input_ids=probe, use_cache=False).last_hidden_state[0])
        tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
        scale = max(1.0, float(expected.abs().max()))
        worst = float((got - expected).abs().max())
        if expected.shape != got.shape or not worst <= tolerance * scale:
            raise ValueError(
                f"{type(model).__name__} does not make its logits from its last hidden states alone (off by "
                f"{worst:.3g}); this engine can't serve it"
            )
