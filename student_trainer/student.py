"""The student's model: what is read off its states under a context, and saving.

B sequences, L padded length, T response tokens, R rows (all responses' tokens, packed), D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from student_trainer.lora import add_adapters, load_adapters, merged, save_adapters
from student_trainer.output_head import OutputHead
from student_trainer.packing_check import refuse_unpackable
from student_trainer.prompting import StudentContext, StudentPrompt
from student_trainer.rollout import Rollout
from student_trainer.sharding import (
    gather_up,
    refuse_other_weights,
    shard,
    whole,
    whole_state,
)
from student_trainer.student_config import StudentConfig
from student_trainer.student_inputs import Sequences
from student_trainer.student_layers import (
    checkpointed_layers,
    checkpointing,
    compile_layers,
    uncompiled,
)
from student_trainer.world import World, own_device

Context = Literal["mm", "text"]
Reader = Callable[[Tensor, OutputHead], Tensor]
"""Takes states [R, D] and the output projection; what it makes of them may have a gradient through both."""


class _Pass(torch.nn.Module):
    """Backbone and output projection in one call: what shards weights has them whole from its begin to its end."""

    def __init__(self, model: Any, checkpointed: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.model = model
        self._checkpointed = list(checkpointed)
        text = model.config.get_text_config()
        self._softcap = getattr(text, "final_logit_softcapping", None)
        self.uniform = False
        """Whether all ranks must run the same passes, whatever their rows: so where weights are sharded."""

    def head(self) -> OutputHead:
        """The output projection as it is now."""
        module = self.model.get_output_embeddings()
        weight: Tensor = module.weight
        return OutputHead(
            weight,
            module.bias,
            self._softcap,
            len(weight),
            into_grad=weight.is_leaf and not self.uniform,
        )

    def forward(
        self, inputs: dict[str, Tensor], reads: Sequence[tuple[Tensor, Reader]]
    ) -> tuple[Tensor, ...]:
        """What each reader makes of its rows, i64 [R], which count positions over [B, L]."""
        with checkpointing(self._checkpointed):
            output = self.model.model(**inputs, use_cache=False, return_dict=True)
        states = output.last_hidden_state.flatten(0, 1)
        found = (reader(states[rows], self.head()) for rows, reader in reads)
        # Sharding hooks its backward pass to these, and can't to views that somebody might write to.
        return tuple(one.clone() if one._is_view() else one for one in found)


class Student:
    """Any AutoModelForImageTextToText. Kept in evaluation mode: dropout would part it from its own rollouts.

    Weights are float32 whatever `precision` the passes run in: at a learning rate of 1e-6 nearly every step of a
    bfloat16 weight would round to nothing.
    """

    def __init__(
        self,
        model: str,
        device: str,
        precision: Literal["float32", "bfloat16"],
        config: StudentConfig = StudentConfig(),  # noqa: B008
        checkpoint: Path | None = None,
    ) -> None:
        """`model` is the initial one, a folder or hub id; `checkpoint` a folder of `save` to go on from."""
        self.device = own_device(device)
        self._precision: Literal["float32", "bfloat16"] = precision
        self._lora = config.lora
        newest = str(checkpoint or model)
        # A checkpoint's own weights have its adapters in them.
        self.model: Any = AutoModelForImageTextToText.from_pretrained(
            model if config.lora else newest, dtype="float32", attn_implementation=config.attention
        )
        if config.lora:
            add_adapters(self.model, config.lora)
            if checkpoint:
                load_adapters(self.model, checkpoint)
        self.model.to(self.device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(newest)
        again = checkpointed_layers(self.model) if config.activation_checkpointing else []
        self._pass = _Pass(self.model, again)
        self.packing = False
        """Whether passes go without padding."""
        self._writes = True
        # Sampling settings that a checkpoint brings along (top-k, penalties) would change the policy.
        self._shipped_generation_config = self.model.generation_config
        self.eos_ids = self._eos_ids()
        self.pad_id = self._pad_id()
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.eos_ids), pad_token_id=self.pad_id
        )
        self._compiled = config.compile
        if self._compiled:
            compile_layers(self.model, self.device)
        if config.packing:
            refuse_unpackable(self, precision)
            self.packing = True

    @property
    def vocab_size(self) -> int:
        """V, width of the logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: everything, the vision encoder too, or adapters alone."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def uniform(self) -> bool:
        """Whether all ranks must run the same passes, whatever their rows: so where weights are sharded."""
        return self._pass.uniform

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
            embeddings, layers = self.model.get_input_embeddings(), self.model.get_decoder().layers
            shard(self._pass, embeddings, layers, world.mesh(), self._precision)
            self._pass.uniform = True

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

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """The context that `generate` runs in, on the model itself."""
        with self.precision(), uncompiled() if self._compiled else contextlib.nullcontext():
            yield

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
        return self.read_together(prompts, rollouts, {context: reader})[context]

    def read_together(
        self,
        prompts: Sequence[StudentPrompt],
        rollouts: Sequence[Rollout],
        readers: Mapping[Context, Reader],
    ) -> dict[Context, Tensor]:
        """`read` of several contexts in one pass, which leaves one graph."""
        tails = [torch.tensor(r.response_ids, dtype=torch.long) for r in rollouts]
        contexts = {name: [getattr(prompt, name) for prompt in prompts] for name in readers}
        sequences = Sequences.of(
            [one for each in contexts.values() for one in each],
            [tail[:-1] for tail in tails] * len(readers),
        )
        starts = iter(sequences.starts(self.packing))
        reads = []
        for name, reader in readers.items():
            rows = [
                torch.arange(len(tail)) + next(starts) + len(context.ids) - 1
                for context, tail in zip(contexts[name], tails, strict=True)
            ]
            reads.append((torch.cat(rows).to(self.device), reader))
        inputs = (
            sequences.packed(self.model.model)
            if self.packing
            else sequences.padded(self.pad_id, "right")
        )
        with self.precision():
            found = self._pass(self._on_device(inputs), reads)
        return dict(zip(readers, found, strict=True))

    def prompt_inputs(self, contexts: Sequence[StudentContext]) -> dict[str, Tensor]:
        """Inputs of prompts alone, padded on the left as `generate` wants them."""
        return self._on_device(Sequences.of(contexts).padded(self.pad_id, "left"))

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def checkpoint_weights(self) -> dict[str, Tensor]:
        """All weights as `save` would write them: under the checkpoint's names, tied ones once, adapters added. Not
        copies, unless they are sharded (then all ranks take part) or have an adapter.
        """
        gather_up(self._pass)
        state = self._without_adapters(whole_state(self.model, keep=True))
        state = remove_tied_weights_from_state_dict(state, self.model)
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
            self.model.save_pretrained(folder, state_dict=self._without_adapters(state))
            self.processor.save_pretrained(folder)
        finally:
            self.model.generation_config = own
        if self._lora:
            save_adapters(state, folder)

    def _without_adapters(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return merged(state, self._lora) if self._lora else state

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
