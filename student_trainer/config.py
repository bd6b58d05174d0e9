"""Settings of `student-trainer`: TOML first, then command-line overrides. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class Settings(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Settings):
    """What the student is asked."""

    train: str = ""
    """JSONL or Parquet file of training rows."""
    validation: str | None = None
    """Rows for every choice of a setting; evaluated during training if `eval.every` says so."""
    image_column: str = "image"
    """A path (relative to the file), encoded bytes, a `datasets.Image` struct, a list of these, or nothing; "" for
    data without images."""
    question_column: str = "question"
    """Text of the user's turn."""
    answer_column: str = "answer"
    """Final answer as text, for evaluation; distillation itself does not read it."""
    teacher_column: str | None = None
    """Which of the teachers in `teacher.named` scores a row; None: there is one."""
    system_prompt: str | None = None
    """System turn; None: none."""
    after_images: str = "\n"
    """Stands between the images and the question."""
    image_marker: str | None = None
    """Text inside the question that stands for an image, such as "<image>"; a question without it has its images first.
    None: no text does."""
    text_context: Literal["drop", "grey"] = "drop"
    """What both models see where there is to be no picture: nothing, or a uniform grey one of the same size."""


class Sampling(Settings):
    """How the student answers. Always at temperature 1 and top-p 1: the loss is an expectation under the student."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Longest response, tokens."""
    candidates: int = Field(default=16, ge=0)
    """Student's own top ids of every step, sent along to be in the support."""


class TransformersSamplerConfig(Sampling):
    """The trainer samples itself, with transformers' generate."""

    kind: Literal["transformers"] = "transformers"
    """What generates."""
    batch_size: int = Field(default=64, ge=1)
    """Responses generated at a time."""


class VllmSamplerConfig(Sampling):
    """A rollout server samples, and gets the new weights after every step."""

    kind: Literal["vllm"] = "vllm"
    """What generates."""
    batch_size: int = Field(default=512, ge=1)
    """Responses asked for at a time; the teacher holds their prompts meanwhile. How many grow at once is the server's
    `engine.max_running`."""
    address: str = "127.0.0.1:50061"
    """host:port of the rollout server; it serves one trainer."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that `batch_size` responses, or an update of the weights, may take."""
    connect_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds to wait for the server when training starts."""


def _sampler_kind(value: Any) -> str:
    """Tables without a `kind` mean the trainer's own sampler."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind or "transformers"


SamplerConfig = Annotated[
    Annotated[TransformersSamplerConfig, Tag("transformers")]
    | Annotated[VllmSamplerConfig, Tag("vllm")],
    Discriminator(_sampler_kind),
]


class TeacherConfig(Settings):
    """Who scores the answers."""

    address: str = "127.0.0.1:50051"
    """host:port of the teacher; of its replicas, with commas between; or dns:///name:port for all that a name has."""
    named: dict[str, str] = Field(default_factory=dict)
    """Several teachers instead, by name, each with addresses as above; `data.teacher_column` says whose a row is."""
    k: int = Field(default=32, ge=1)
    """Teacher's top-k in each context."""
    dtype: Literal["f32", "f16"] = "f32"
    """Wire type of the support's log-probabilities."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Seconds that a response may wait for its scores."""
    connect_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for the teacher when training starts."""
    outage_s: float = Field(default=600.0, ge=0)
    """Seconds to wait for a teacher that went away; then the run leaves a checkpoint and ends with status 75."""
    hedge_after_s: float | None = Field(default=None, gt=0)
    """Ask a second replica for scores that take longer; the first answer counts. None: never."""
    cache_dir: Path | None = None
    """Folder to keep scores in, so that a step repeated after a resume is not scored again. None: none are kept."""
    token_file: Path | None = None
    """File that holds the token alone; without it VGS_TOKEN of the environment, if set."""
    tls: bool = False
    """Speak TLS, and trust the system's authorities. Naming a file below says so too."""
    ca_file: Path | None = None
    """PEM of the authorities to trust instead."""
    certificate_file: Path | None = None
    """PEM of the trainer's certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its key."""
    server_name: str = ""
    """Name that the teacher's certificate bears, if not the host's."""
    plaintext_token: bool = False
    """Send the token without TLS, on a network that is yours alone."""
    max_inflight_tokens: int = Field(default=65_536, ge=1)
    """Response tokens sent and not yet scored, of each replica."""
    max_dropped_share: float = Field(default=0.1, ge=0, le=1)
    """Share of a step's responses that may be lost, to unreadable rows or missing scores; above it the run stops."""


ObjectiveName = Literal[
    "standard", "standard-lp", "vgs", "vgs-lp", "adaptive-vgs", "language-steering"
]


class ObjectiveConfig(Settings):
    """What is minimised; docs/method.md has the equations."""

    name: ObjectiveName = "vgs-lp"
    """Row of the table in student_trainer/loss.py."""
    gamma: float = Field(default=2.0, ge=0)
    """Weight of the term that steers: the visual one, or the language one of "language-steering"."""
    lambda_: float = Field(default=0.01, ge=0, alias="lambda")
    """Weight of preservation, `lambda` in TOML."""
    quantile: float = Field(default=0.7, ge=0, lt=1)
    """Language is preserved, and "adaptive-vgs" steers fully, on tokens whose VDS is above this quantile."""
    low_quantile: float = Field(default=0.4, ge=0, lt=1)
    """Between this quantile and the other "adaptive-vgs" steers by half, below it not at all."""
    quantiles: Literal["batch", "running"] = "batch"
    """Of the optimizer batch's tokens, or averaged over the steps so far."""
    quantile_decay: float = Field(default=0.9, ge=0, lt=1)
    """How much of the running quantiles each step keeps."""
    averaging: Literal["response", "token"] = "response"
    """Over a response's tokens and then over the responses, or over all tokens alike."""
    eta: float | Literal["auto", "dynamic"] = "auto"
    """Scale of the loss: a number; "auto": measured over the first `eta_steps` and then frozen; "dynamic": measured in
    every step. Objectives that do not steer have eta 1."""
    eta_steps: int = Field(default=5, ge=1)
    """Steps over which "auto" measures."""
    detach_target: bool = True
    """Whether q* is a target: no gradient through the student's own prior in it."""

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _eta_positive(self) -> ObjectiveConfig:
        if isinstance(self.eta, int | float) and not self.eta > 0:
            raise ValueError(f'eta is {self.eta}; give a positive number, "auto" or "dynamic"')
        if self.low_quantile > self.quantile:
            raise ValueError(
                f"low_quantile {self.low_quantile} is above quantile {self.quantile}; put the lower one first"
            )
        return self


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
    """Sizes of an optimizer step."""

    prompts: int = Field(default=32, ge=1)
    """Questions."""
    responses_per_prompt: int = Field(default=1, ge=1)
    """Answers sampled to each."""
    microbatch: int = Field(default=16, ge=1)
    """Responses in one forward and backward pass; changes memory, not the gradient."""
    chunk_rows: int = Field(default=1024, ge=1)
    """Response tokens whose logits over the vocabulary exist at a time."""


class CheckpointConfig(Settings):
    """What is kept of a run."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay."""


class EvalConfig(Settings):
    r"""Greedy answers to the validation rows, compared in \boxed{}."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0: none."""
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
    resume: bool = False
    """Go on from the newest checkpoint in `run_dir`."""
    data: DataConfig = DataConfig()
    """What the student is asked."""
    sampler: tyro.conf.AvoidSubcommands[SamplerConfig] = TransformersSamplerConfig()
    """How it answers."""
    teacher: TeacherConfig = TeacherConfig()
    """Who scores the answers."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How."""
    batch: BatchConfig = BatchConfig()
    """Sizes of a step."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept."""
    eval: EvalConfig = EvalConfig()
    """Accuracy on the validation rows."""

    @model_validator(mode="after")
    def _rows_name_their_teacher(self) -> TrainConfig:
        if bool(self.teacher.named) != (self.data.teacher_column is not None):
            raise ValueError(
                f"teacher.named has {len(self.teacher.named)} teachers and data.teacher_column is "
                f"{self.data.teacher_column!r}: give both, or neither"
            )
        return self
