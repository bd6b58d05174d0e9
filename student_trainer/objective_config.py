"""Settings of what is minimised."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from student_trainer.settings import Settings

ObjectiveName = Literal[
    "standard", "standard-lp", "vgs", "vgs-lp", "adaptive-vgs", "language-steering", "grpo"
]


class ObjectiveConfig(Settings):
    """What is minimised; docs/method.md has the equations."""

    name: ObjectiveName = "vgs-lp"
    """Row of the table in student_trainer/loss.py; "grpo" distils nothing and needs no teacher."""
    gamma: float | Literal["auto"] = 2.0
    """Weight of the term that steers: the visual one, or the language one of "language-steering". "auto": whatever
    gives its gradient the weight that `gamma_share` or `gamma_angle` asks for."""
    lambda_: float | Literal["auto"] = Field(default=0.01, alias="lambda")
    """Weight of preservation, `lambda` in TOML. "auto": as much as keeps language from getting worse where it is
    preserved."""
    gamma_share: float = Field(default=0.5, gt=0, lt=1)
    """What gamma "auto" makes of the steering gradient, weighted: this share of the sum of its norm and the standard
    gradient's."""
    gamma_angle: float | None = Field(default=None, gt=0, lt=90)
    """Instead of a share: degrees between the update and the gradient of the term that steers."""
    gamma_max: float = Field(default=4.0, gt=0)
    """Largest gamma that "auto" may choose."""
    lambda_max: float = Field(default=10.0, gt=0)
    """Largest lambda that "auto" may choose."""
    measure_every: int = Field(default=10, ge=1)
    """Steps between measurements of the gradients where gamma or lambda is "auto"; each takes a backward pass a
    term."""
    prior: Literal["student", "frozen", "average"] = "student"
    """Whose text prior q* stands on: the student's own, the initial student's, or that of a moving average of its
    weights. The last two keep a second copy of the model."""
    prior_decay: float = Field(default=0.99, ge=0, lt=1)
    """How much of the averaged weights each step keeps."""
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
    """Scale of the loss: a number; "auto": measured over the first `eta_steps` and then frozen, or with gamma "auto"
    whenever gamma is; "dynamic": measured in every step. Objectives that do not steer have eta 1."""
    eta_steps: int = Field(default=5, ge=1)
    """Steps over which "auto" measures."""
    detach_target: bool = True
    """Whether q* is a target: no gradient through the student's own prior in it."""

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _in_range(self) -> ObjectiveConfig:
        if isinstance(self.eta, int | float) and not self.eta > 0:
            raise ValueError(f'eta is {self.eta}; give a positive number, "auto" or "dynamic"')
        for name, weight in (("gamma", self.gamma), ("lambda", self.lambda_)):
            if isinstance(weight, int | float) and not weight >= 0:
                raise ValueError(f'{name} is {weight}; give a number of at least 0, or "auto"')
        if self.low_quantile > self.quantile:
            raise ValueError(
                f"low_quantile {self.low_quantile} is above quantile {self.quantile}; put the lower one first"
            )
        if self.name == "language-steering" and self.lambda_ == "auto":
            raise ValueError(
                'lambda "auto" holds the language loss down, which is not what "language-steering" preserves; give a '
                "number"
            )
        if self.prior != "student" and not self.detach_target:
            raise ValueError(
                f'prior "{self.prior}" is not the student\'s own, so no gradient can go through it; leave '
                "detach_target at true"
            )
        return self
