"""The student's model: what is read off its states under a context, and saving.

B responses, L padded length, T response tokens, R rows (all responses' tokens, packed), D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from student_trainer.output_head import OutputHead
from student_trainer.prompting import StudentContext, StudentPrompt
from student_trainer.rollout import Rollout
from student_trainer.sharding import (
    gather_up,
    refuse_other_weights,
    shard,
    whole,
    whole_state,
)
from student_trainer.world import World, own_device

Side = Literal["left", "right"]
Context = Literal["mm", "text"]
Reader = Callable[[Tensor, OutputHead], Tensor]
"""Takes states [R, D] and the output projection; what it makes of them may have a gradient through both."""


class _Pass(torch.nn.Module):
    """Backbone and output projection in one call: what shards weights has them whole from its begin to its end."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        text = model.config.get_text_config()
        self._softcap = getattr(text, "final_logit_softcapping", None)

    def head(self) -> OutputHead:
        """The output projection as it is now."""
        module = self.model.get_output_embeddings()
        return OutputHead(module.weight, module.bias, self._softcap, module.weight.shape[0])

    def forward(self, inputs: dict[str, Tensor], rows: Tensor, reader: Reader) -> Tensor:
        """`rows` i64 [R] counts positions over [B, L]."""
        output = self.model.model(**inputs, use_cache=False, return_dict=True)
        return reader(output.last_hidden_state.flatten(0, 1)[rows], self.head())


class Student:
    """Any AutoModelForImageTextToText. Kept in evaluation mode: dropout would part it from its own rollouts.

    Weights are float32 whatever `precision` the passes run in: at a learning rate of 1e-6 nearly every step of a
    bfloat16 weight would round to nothing.
    """

    def __init__(self, model: str, device: str, precision: Literal["float32", "bfloat16"]) -> None:
        self.device = own_device(device)
        self._precision: Literal["float32", "bfloat16"] = precision
        self.model: Any = AutoModelForImageTextToText.from_pretrained(model, dtype="float32")
        self.model.to(self.device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(model)
        self._pass = _Pass(self.model)
        self.uniform = False
        """Whether all ranks must run the same passes, whatever their rows: so where weights are sharded."""
        self._writes = True
        # Sampling settings that a checkpoint brings along (top-k, penalties) would change the policy.
        self._shipped_generation_config = self.model.generation_config
        self.eos_ids = self._eos_ids()
        self.pad_id = self._pad_id()
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.eos_ids), pad_token_id=self.pad_id
        )

    @property
    def vocab_size(self) -> int:
        """V, width of the logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: everything, the vision encoder too."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def whole_parameters(self) -> Iterator[Tensor]:
        """All parameters in the model's order, one at a time; all ranks take part."""
        gather_up(self._pass)
        for parameter in self.model.parameters():
            yield whole(parameter)

    def shard(self, world: World) -> None:
        """Make ready for its ranks: the same weights on all of them, or from now on a part on each. Copies that are
        to be whole are made before. Raises ValueError where the ranks have loaded different ones.
        """
        refuse_other_weights(self.model.parameters(), world)
        self._writes = world.first
        if world.sharded:
            layers = self.model.get_decoder().layers
            shard(self._pass, layers, world.mesh(), self._precision)
            self.uniform = True

    def vision_ids(self) -> set[int]:
        """Ids that may not be sampled: whatever stands for, begins, ends or pads an image or a video."""
        names = (
            "image_token_id",
            "video_token_id",
            "boi_token_id",
            "eoi_token_id",
            "image_token_index",
            "vision_start_token_id",
            "vision_end_token_id",
        )
        found = {getattr(o, n, None) for o in (self.model.config, self.processor) for n in names}
        ids = {i for i in (*found, self.pad_id) if isinstance(i, int) and 0 <= i < self.vocab_size}
        return ids - set(self.eos_ids)

    def precision(self) -> AbstractContextManager[object]:
        """The context that forward passes run in."""
        if self._precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def read(
        self,
        prompts: Sequence[StudentPrompt],
        rollouts: Sequence[Rollout],
        context: Context,
        reader: Reader,
    ) -> Tensor:
        """What `reader` makes of the states [R, D] before each response token; row t scores token t. One pass."""
        contexts = [getattr(prompt, context) for prompt in prompts]
        responses = [torch.tensor(r.response_ids, dtype=torch.long) for r in rollouts]
        inputs = self.inputs(contexts, [response[:-1] for response in responses], "right")
        longest = inputs["input_ids"].shape[1]
        rows = [
            torch.arange(len(r)) + i * longest + len(c.ids) - 1
            for i, (c, r) in enumerate(zip(contexts, responses, strict=True))
        ]
        with self.precision():
            return self._pass(inputs, torch.cat(rows).to(self.device), reader)

    def inputs(
        self, contexts: Sequence[StudentContext], responses: Sequence[Tensor] | None, side: Side
    ) -> dict[str, Tensor]:
        """Model inputs of a batch, prompts with or without responses, padded on one side."""
        tails = responses or [torch.empty(0, dtype=torch.long)] * len(contexts)
        ids = [torch.cat([c.ids, tail]) for c, tail in zip(contexts, tails, strict=True)]
        inputs = {
            "input_ids": _pad(ids, self.pad_id, side),
            "attention_mask": _pad([torch.ones_like(i) for i in ids], 0, side),
        }
        for name in sorted({n for c in contexts for n in c.token_types}):
            kinds = [torch.zeros_like(i) for i in ids]
            for row, c in zip(kinds, contexts, strict=True):
                if name in c.token_types:
                    row[: len(c.ids)] = c.token_types[name]
            inputs[name] = _pad(kinds, 0, side)
        for name in sorted({n for c in contexts for n in c.tensors}):
            inputs[name] = torch.cat([c.tensors[name] for c in contexts if name in c.tensors])
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def checkpoint_weights(self) -> dict[str, Tensor]:
        """All weights as `save` would write them: under the checkpoint's names, tied ones once. Not copies, unless they
        are sharded; then all ranks take part.
        """
        gather_up(self._pass)
        state = remove_tied_weights_from_state_dict(whole_state(self.model, keep=True), self.model)
        return revert_weight_conversion(self.model, state)

    def save(self, folder: Path) -> None:
        """An ordinary Hugging Face folder that `from_pretrained` loads. All ranks take part, and the first writes."""
        gather_up(self._pass)
        state = whole_state(self.model, keep=self._writes)
        if not self._writes:
            return
        own, self.model.generation_config = (
            self.model.generation_config,
            self._shipped_generation_config,
        )
        try:
            self.model.save_pretrained(folder, state_dict=state)
            self.processor.save_pretrained(folder)
        finally:
            self.model.generation_config = own

    def _eos_ids(self) -> tuple[int, ...]:
        eos = self.model.generation_config.eos_token_id
        eos = eos if eos is not None else self.processor.tokenizer.eos_token_id
        if eos is None:
            raise ValueError(
                "the student names no end of sequence; set eos_token_id in its generation_config"
            )
        return (eos,) if isinstance(eos, int) else tuple(eos)

    def _pad_id(self) -> int:
        pad = self.model.generation_config.pad_token_id
        pad = pad if pad is not None else self.processor.tokenizer.pad_token_id
        return pad if pad is not None else self.eos_ids[0]


def _pad(rows: Sequence[Tensor], value: int, side: Side) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value, padding_side=side
    )
