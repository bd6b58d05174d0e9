"""Supervised training: cross-entropy on the response, AdamW, a cosine schedule."""

import logging
import math
import time
from dataclasses import dataclass

import torch
from transformers import Qwen3VLForConditionalGeneration

from examples.digits.batches import Batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stretch of training."""

    steps: int
    learning_rate: float  # at its height
    text_only: float  # the fraction of samples that come without their picture
    images_per_class: int | None = None  # of each of the ten digits; all there are where None
    noise: float = 0.0  # standard deviation added to pixels, which run from -1 to 1
    batch_size: int = 64
    warmup_steps: int = 50


def learning_rate_factor(step: int, stage: Stage) -> float:
    """Rise linearly over the warm-up, then fall along half a cosine to nothing."""
    warmup = min(1.0, (step + 1) / stage.warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / stage.steps))


def train(model: Qwen3VLForConditionalGeneration, batches: Batches, stage: Stage) -> None:
    """Train the model in place for one stage."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, stage)
    )
    started = time.monotonic()
    model.train()
    for step in range(stage.steps):
        batch = batches.draw(stage.batch_size, stage.text_only, stage.noise)
        loss = model(**batch).loss  # nats per token
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == stage.steps - 1:
            elapsed_s = time.monotonic() - started
            logger.info("step=%d loss=%.4f elapsed_s=%.0f", step, loss.item(), elapsed_s)
    model.eval()
