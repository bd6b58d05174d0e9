"""An engine without vLLM: the student's model in transformers, with the server's own files around it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from protos.expansion import expand_image, splice
from protos.item import Candidates
from protos.policy import Policy
from protos.rollout_info import RolloutInfo, RolloutLimits
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from rollout_server.checkpoint_layout import CheckpointLayout
from rollout_server.images import decode_images
from rollout_server.validation import barred_ids, check_length
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.student import Student


class StandIn:
    """One token of one response at a time: slow, and plain enough to be right."""

    alive = True

    def __init__(self, folder: Path) -> None:
        self.student = Student(str(folder), "cpu", "float32")
        builder = PromptBuilder(self.student.processor, DataConfig())
        self.placeholder_id = builder.placeholder_id
        self.layout = CheckpointLayout.read(folder, tied=False)
        self.loads = 0
        self.info = RolloutInfo(
            model_id=str(folder),
            tokenizer_fingerprint=builder.tokenizer_fingerprint,
            processor_fingerprint=builder.processor_fingerprint,
            vocab_size=self.student.vocab_size,
            context_length=256,
            dtype="F32",
            limits=RolloutLimits(),
        )

    async def sample(
        self, request: RolloutRequest, policy: Policy | None
    ) -> AsyncGenerator[SampledResponse, None]:
        for index, prompt in enumerate(request.prompts):
            for response in range(prompt.responses):
                generator = torch.Generator().manual_seed((prompt.seed + response) % 2**63)
                yield self._respond(request, policy, index, response, prompt, generator)
                await asyncio.sleep(0)

    async def load(self, path: Path, policy: Policy) -> None:
        missing, unknown = self.student.model.load_state_dict(load_file(path), strict=False)
        assert not missing
        assert not unknown
        self.loads += 1

    def close(self) -> None:
        pass

    @torch.no_grad()
    def _respond(
        self,
        request: RolloutRequest,
        policy: Policy | None,
        index: int,
        response: int,
        prompt: RolloutPrompt,
        generator: torch.Generator,
    ) -> SampledResponse:
        processor = self.student.processor
        field = f"prompts[{index}]"
        pictures = decode_images(prompt.images, field, self.info.limits)
        images = [expand_image(processor, picture) for picture in pictures]
        expanded, types = splice(prompt.ids, self.placeholder_id, images)
        check_length(field, prompt, len(expanded), request.max_new_tokens, self.info)
        tensors = {
            name: torch.cat([image.tensors[name] for image in images])
            for name in (images[0].tensors if images else ())
        }
        barred = sorted(barred_ids(request, self.info.vocab_size))
        ids, tops, logprobs = expanded.tolist(), [], []
        for _ in range(request.max_new_tokens):
            grown = {n: [*t, *[0] * (len(ids) - len(t))] for n, t in types.items()}
            self.student.model.model.rope_deltas = None
            logits = self.student.model(
                input_ids=torch.tensor([ids]),
                **{n: torch.tensor([t]) for n, t in grown.items()},
                **tensors,
            ).logits[0, -1]
            own = logits.log_softmax(-1)
            known = own[: request.vocab_size or None]
            tops.append(known.topk(request.candidates).indices.tolist())
            logits[barred] = float("-inf")
            drawn = logits.softmax(-1).multinomial(1, generator=generator)
            ids.append(int(logits.argmax() if request.greedy else drawn))
            logprobs.append(float(own[ids[-1]]))
            if ids[-1] in request.stop_ids:
                break
        return SampledResponse(
            prompt_index=index,
            response_index=response,
            policy=policy,
            response_ids=np.array(ids[len(expanded) :], dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            candidates=Candidates.from_rows(tops) if request.candidates else None,
            finished=ids[-1] in request.stop_ids,
        )
