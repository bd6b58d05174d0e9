"""The simulated engine with a chat template and a tokenizer: texts in, token texts out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import AutoProcessor

from benchmarks.service.engine import Device, SimulatedEngine, make_block
from protos.expansion import placeholder_token
from protos.scores import Scores
from protos.teacher_info import Limits, SpecialIds
from teacher_server.chat_format import ChatFormat

NEEDED = ("chat", "vds_only", "token_texts")


class ChattingEngine(SimulatedEngine):
    """Answers mode vds_only alone."""

    def __init__(
        self, device: Device, max_batch_tokens: int, teacher_id: str, limits: Limits, folder: Path
    ) -> None:
        """`folder` holds a processor."""
        super().__init__(device, max_batch_tokens, teacher_id, limits)
        processor = AutoProcessor.from_pretrained(folder)
        self.chat = ChatFormat(processor)
        image = processor.tokenizer.convert_tokens_to_ids(placeholder_token(processor))
        self.info = replace(
            self.info,
            special_ids=SpecialIds(image, forbidden_in_response=(image,)),
            capabilities=(*self.info.capabilities, *NEEDED),
        )
        self._blocks[0] = without_support(make_block(1, limits.max_response_tokens))


def without_support(block: Scores) -> Scores:
    """As mode vds_only answers."""
    nothing = np.empty(0, np.float32)
    return replace(
        block,
        row_splits=np.zeros_like(block.row_splits),
        support_ids=np.empty(0, np.int32),
        mm_logprobs=nothing,
        text_logprobs=nothing,
        mm_tail=np.zeros_like(block.mm_tail),
        text_tail=np.zeros_like(block.text_tail),
        tail_mask=np.zeros_like(block.tail_mask),
    )
