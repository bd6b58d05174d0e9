"""Settings of `student-trainer train`: TOML first, then command-line overrides. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import Field, model_validator

from student_trainer.data_config import DataConfig
from student_trainer.grpo_config import GrpoConfig
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.sampler_config import SamplerConfig, TransformersSamplerConfig
from student_trainer.settings import Settings
from student_trainer.student_config import StudentConfig
from student_trainer.teacher_config import TeacherConfig


class OptimizerConfig(Settings):
    """AdamW."""

    lr: float = Field(default=1e-6, gt=0)
    """Learning rate after warm-up, constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled, on all parameters."""
    warmup_steps: int = Field(default=0, ge=0)
    """Linear from lr / warmup_steps."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0: not clipped."""


class BatchConfig(Settings):
    """Sizes, over all ranks together."""

    prompts: int = Field(default=32, ge=1)
    """Questions sampled together."""
    responses_per_prompt: int = Field(default=1, ge=1)
    """Answers sampled to each: the group of GRPO."""
    steps_per_rollout: int = Field(default=1, ge=1)
    """Optimizer steps that share what was sampled together, each with its part of the questions."""
    microbatch: int = Field(default=16, ge=1)
    """Responses of a rank in one forward and backward pass; changes memory, not the gradient."""
    chunk_rows: int = Field(default=1024, ge=1)
    """Response tokens whose logits over the vocabulary exist at a time."""

    @model_validator(mode="after")
    def _whole_steps(self) -> BatchConfig:
        if self.prompts % self.steps_per_rollout:
            raise ValueError(
                f"prompts {self.prompts} can't be dealt evenly to steps_per_rollout {self.steps_per_rollout}; choose a "
                "multiple"
            )
        return self


class CheckpointConfig(Settings):
    """What is kept of a run."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay; the best one stays beside them."""


class EvalConfig(Settings):
    r"""Greedy answers to the validation rows, compared in \boxed{}."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations, with one before the first step and one after the last; 0: none."""
    limit: int | None = Field(default=None, ge=1)
    """First rows only."""
    batch_size: int = Field(default=128, ge=1)
    """Questions answered at a time."""


class TrainConfig(Settings):
    """Everything that `student-trainer train` needs to know."""

    model: str = ""
    """Folder or hub id of the initial student."""
    run_dir: Path = Path("runs/train")
    """Where configuration, metrics and checkpoints go."""
    steps: int = Field(default=100, ge=1)
    """Optimizer steps."""
    seed: int = 0
    """Of data order and sampling."""
    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda"."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the student's forward and backward passes; its weights and the optimizer stay float32."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves torch's choice."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """Under torchrun: every rank holds the whole student, or its part of it (fully_shard)."""
    max_lag: Literal[0, 1] = 0
    """0: answers are sampled from the weights that they train. 1: the next ones are sampled and scored while this step
    trains, from weights that are one sampling older."""
    resume: bool = False
    """Go on from the newest checkpoint in `run_dir`."""
    data: DataConfig = DataConfig()
    """What the student is asked."""
    student: StudentConfig = StudentConfig()
    """How its model is run, and what of it is trained."""
    sampler: tyro.conf.AvoidSubcommands[SamplerConfig] = TransformersSamplerConfig()
    """How it answers."""
    teacher: TeacherConfig = TeacherConfig()
    """Who scores the answers."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""
    grpo: GrpoConfig | None = None
    """Rewards as well (Eq. 22); None: none. The objective "grpo" is these alone."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How."""
    batch: BatchConfig = BatchConfig()
    """Sizes of a step."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept."""
    eval: EvalConfig = EvalConfig()
    """Accuracy on the validation rows."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl."""
    geometry_every: int = Field(default=0, ge=0)
    """Steps between measurements of the terms' gradients, their norms and angles; 0: none."""
    trace: bool = False
    """Write trace-<rank>.json, which ui.perfetto.dev shows: what sampler, teacher and learner did when."""

    @property
    def rewards(self) -> GrpoConfig | None:
        """How rewards are followed; None where they are not. The objective "grpo" needs no table to say so."""
        return self.grpo or (GrpoConfig() if self.objective.name == "grpo" else None)

    @model_validator(mode="after")
    def _rows_name_their_teacher(self) -> TrainConfig:
        if bool(self.teacher.named) != (self.data.teacher_column is not None):
            raise ValueError(
                f"teacher.named has {len(self.teacher.named)} teachers and data.teacher_column is "
                f"{self.data.teacher_column!r}: give both, or neither"
            )
        return self

    @model_validator(mode="after")
    def _rollouts_end_with_checkpoints(self) -> TrainConfig:
        shared = self.batch.steps_per_rollout
        named = {"steps": self.steps, "checkpoint.every": self.checkpoint.every}
        for name, steps in (named | {"eval.every": self.eval.every}).items():
            if steps % shared:
                raise ValueError(
                    f"{name} {steps} is no multiple of batch.steps_per_rollout {shared}: a run could not pause there, "
                    "and go on exactly"
                )
        return self

    @model_validator(mode="after")
    def _rewards_have_groups(self) -> TrainConfig:
        if self.rewards and self.batch.responses_per_prompt < 2:
            raise ValueError(
                "batch.responses_per_prompt is 1, and GRPO compares a prompt's answers with each other: give at least 2"
            )
        return self
