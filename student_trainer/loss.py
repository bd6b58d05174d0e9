r"""Visual Gradient Steering with Language Preservation, equation by equation.

"Decomposed On-Policy Distillation for Vision-Language Reasoning: Steering Gradients for Visual Grounding",
ICML 2026, arXiv 2606.00564. Equation numbers are the paper's.

    R  response tokens, packed: the rows of all responses, one after the other
    K  buckets of a row: the ids of its support, and the tail (all other ids together) as the last one

    paper               here
    p_S(. | I, x)       student_mm_logprobs     [R, K]
    p_S(. | x)          student_text_logprobs   [R, K]
    q_T(. | I, x)       teacher_mm_logprobs     [R, K]
    q_T(. | x)          teacher_text_logprobs   [R, K]
    q*                  visual_target(...)      [R, K]
                        bucket_mask             [R, K], false for padding and for the tail of a covered vocabulary

Row t scores response token t given the tokens before it. All log-probabilities are in nats; masked entries are 0 and
count for nothing. Arithmetic is float32, or float64 where the inputs are.

Differs from the paper, which sums over the vocabulary: here a row sums over its support and one tail bucket. Both
distributions are coarse-grained alike, so `standard`, `language` and `visual_dependency` are lower bounds of the full
divergences that never fall when the support grows. `visual` is no such bound, since q* of the buckets is not the
coarse-grained q*: its error has no sign. Where the support is the vocabulary (tail masked) all are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


def kl(p_logprobs: Tensor, q_logprobs: Tensor, bucket_mask: Tensor) -> Tensor:
    """KL(p || q) of each row over its buckets, [R, K] -> [R]."""
    p_logprobs, q_logprobs = _wide(p_logprobs), _wide(q_logprobs)
    return (p_logprobs.exp() * (p_logprobs - q_logprobs)).where(bucket_mask, 0.0).sum(-1)


def standard(
    student_mm_logprobs: Tensor, teacher_mm_logprobs: Tensor, bucket_mask: Tensor
) -> Tensor:
    """KL( p_S(.|I,x) || q_T(.|I,x) ), the reverse KL of on-policy distillation (Eq. 3)."""
    return kl(student_mm_logprobs, teacher_mm_logprobs, bucket_mask)


def language(
    student_text_logprobs: Tensor, teacher_text_logprobs: Tensor, bucket_mask: Tensor
) -> Tensor:
    """KL( p_S(.|x) || q_T(.|x) ), the part that needs no picture (Eq. 6)."""
    return kl(student_text_logprobs, teacher_text_logprobs, bucket_mask)


def visual_target(
    student_text_logprobs: Tensor,
    teacher_mm_logprobs: Tensor,
    teacher_text_logprobs: Tensor,
    bucket_mask: Tensor,
) -> Tensor:
    """Log q*: the student's language prior with the teacher's visual evidence on it (Eq. 10).

        log q* = log p_S(.|x) + log q_T(.|I,x) - log q_T(.|x) - log Z*

    Detach `student_text_logprobs` to make q* a target; the paper leaves that open.
    """
    evidence = _wide(teacher_mm_logprobs) - _wide(teacher_text_logprobs)
    unnormalised = _wide(student_text_logprobs) + evidence
    log_z = unnormalised.masked_fill(~bucket_mask, float("-inf")).logsumexp(-1, keepdim=True)
    return (unnormalised - log_z).where(bucket_mask, 0.0)


def visual(student_mm_logprobs: Tensor, target_logprobs: Tensor, bucket_mask: Tensor) -> Tensor:
    """KL( p_S(.|I,x) || q* ) (Eq. 11)."""
    return kl(student_mm_logprobs, target_logprobs, bucket_mask)


def visual_dependency(
    teacher_mm_logprobs: Tensor, teacher_text_logprobs: Tensor, bucket_mask: Tensor
) -> Tensor:
    """VDS = KL( q_T(.|I,x) || q_T(.|x) ) (Eq. 12).

    On a support it is only a lower bound: training uses the teacher's own, over the full vocabulary.
    """
    return kl(teacher_mm_logprobs, teacher_text_logprobs, bucket_mask)


def language_preservation(language_loss: Tensor, preserved_mask: Tensor) -> Tensor:
    """1[VDS > Q_0.7] KL( p_S(.|x) || q_T(.|x) ), [R] (Eq. 16); `preserved_mask` is the indicator."""
    return language_loss.where(preserved_mask, 0.0)


def visual_preservation(text_visual_loss: Tensor, preserved_mask: Tensor) -> Tensor:
    """1[VDS > Q_0.7] KL( p_S(.|x) || q* ), [R] (Eq. 20): the counterpart of language steering."""
    return text_visual_loss.where(preserved_mask, 0.0)


def adaptive_level(vds: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """gamma_t / gamma: 0 for VDS <= Q_0.4, 1/2 up to Q_0.7, 1 above (Eq. 24, 25), [R]."""
    return 0.5 * (vds > low).float() + 0.5 * (vds > high).float()


def steering_scale(standard_norm: float, steered_norm: float) -> float:
    """Eta = ||g_std|| / ||g_std + gamma g_steer||: gamma turns the direction, not the step size (Eq. 15).

    Without any gradient there is nothing to scale: 1.
    """
    return standard_norm / steered_norm if steered_norm > 0 else 1.0


Term = Literal["standard", "language", "visual", "text_visual"]
CONTEXTS: dict[Term, Literal["mm", "text"]] = {
    "standard": "mm",
    "visual": "mm",
    "language": "text",
    "text_visual": "text",
}
"""The context of the student whose gradient a term has, as long as q* is a target."""


@dataclass(frozen=True)
class Terms:
    """Per-token terms, [R] each; None where nobody asked for it."""

    preserved_mask: Tensor
    """1[VDS > Q_0.7]"""
    level: Tensor
    """gamma_t / gamma of adaptive steering."""
    standard: Tensor | None = None
    language: Tensor | None = None
    visual: Tensor | None = None
    text_visual: Tensor | None = None
    """KL( p_S(.|x) || q* )"""


@dataclass(frozen=True)
class Part:
    """One of the objective's summands: a term on all tokens, on those preserved, or by the level of steering."""

    term: Term
    tokens: Literal["all", "preserved", "level"] = "all"

    def per_token(self, terms: Terms) -> Tensor:
        """[R]"""
        value = getattr(terms, self.term)
        assert value is not None, f"nobody computed {self.term}"
        match self.term, self.tokens:
            case _, "all":
                return value
            case _, "level":
                return terms.level * value
            case "language", "preserved":
                return language_preservation(value, terms.preserved_mask)
            case _:
                return visual_preservation(value, terms.preserved_mask)


STANDARD = Part("standard")


@dataclass(frozen=True)
class Objective:
    """A row of the table: E[ standard + gamma steering + lambda preservation ], what eta multiplies (Eq. 17, 18)."""

    steering: Part | None = None
    preservation: Part | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """Its summands by name."""
        named = {
            "standard": STANDARD,
            "steering": self.steering,
            "preservation": self.preservation,
        }
        return {name: part for name, part in named.items() if part is not None}


_KEPT_LANGUAGE = Part("language", "preserved")

OBJECTIVES = {
    "standard": Objective(),  # Eq. 3
    "standard-lp": Objective(None, _KEPT_LANGUAGE),  # Eq. 17, gamma 0
    "vgs": Objective(Part("visual")),  # Eq. 13
    "vgs-lp": Objective(Part("visual"), _KEPT_LANGUAGE),  # Eq. 17
    # Eq. 24, 25. The paper does not say whether it preserves language; lambda 0 turns that off.
    "adaptive-vgs": Objective(Part("visual", "level"), _KEPT_LANGUAGE),
    "language-steering": Objective(Part("language"), Part("text_visual", "preserved")),  # Eq. 19-21
}


def response_weights(lengths: Tensor, global_responses: int) -> Tensor:
    """1 / (|tau_r| N) for each token of each response, [B] lengths -> f64 [R].

    Each term is averaged over a response's tokens, then over the N responses of the whole optimizer batch. Sums with
    these weights add up over microbatches and ranks, so that neither changes the loss.
    """
    per_response = 1.0 / (lengths.double() * global_responses)
    return per_response.repeat_interleave(lengths)


def token_weights(lengths: Tensor, global_tokens: int) -> Tensor:
    """1 / T for each of the T response tokens of the whole optimizer batch, which weigh the same, [B] -> f64 [R].

    Differs from the paper, which averages over a response's tokens first.
    """
    return torch.full((int(lengths.sum()),), 1.0 / global_tokens, dtype=torch.float64)


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum over rows, [R], [R] -> [], where and in what dtype the values are."""
    return (values * weights.to(values)).sum()


def _wide(logprobs: Tensor) -> Tensor:
    return logprobs if logprobs.dtype == torch.float64 else logprobs.float()
