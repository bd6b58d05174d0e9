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

from collections.abc import Callable
from dataclasses import dataclass

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


def steering_scale(standard_norm: Tensor, steered_norm: Tensor) -> Tensor:
    """Eta = ||g_std|| / ||g_std + gamma g_steer||: gamma turns the direction, not the step size (Eq. 15).

    Without any gradient there is nothing to scale: 1.
    """
    return (standard_norm / steered_norm).where(steered_norm > 0, 1.0)


@dataclass(frozen=True)
class Terms:
    """Per-token terms, [R] each; None where the objective has no use for it."""

    standard: Tensor
    preserved_mask: Tensor
    """1[VDS > Q_0.7]"""
    level: Tensor
    """gamma_t / gamma of adaptive steering."""
    language: Tensor | None = None
    visual: Tensor | None = None
    text_visual: Tensor | None = None
    """KL( p_S(.|x) || q* )"""


Part = Callable[[Terms], Tensor]


@dataclass(frozen=True)
class Objective:
    """A row of the table: E[ standard + gamma steering + lambda preservation ], what eta multiplies (Eq. 17, 18)."""

    reads: frozenset[str] = frozenset()
    """Names of the terms that its parts need beside the standard one."""
    steering: Part | None = None
    preservation: Part | None = None

    def per_token(self, terms: Terms, gamma: float, lambda_: float) -> Tensor:
        """[R]"""
        total = terms.standard
        if self.steering is not None:
            total = total + gamma * self.steering(terms)
        if self.preservation is not None:
            total = total + lambda_ * self.preservation(terms)
        return total


def _visual(terms: Terms) -> Tensor:
    return _present(terms.visual)


def _adaptive_visual(terms: Terms) -> Tensor:
    return terms.level * _present(terms.visual)


def _language(terms: Terms) -> Tensor:
    return _present(terms.language)


def _kept_language(terms: Terms) -> Tensor:
    return language_preservation(_present(terms.language), terms.preserved_mask)


def _kept_visual(terms: Terms) -> Tensor:
    return visual_preservation(_present(terms.text_visual), terms.preserved_mask)


OBJECTIVES = {
    "standard": Objective(),  # Eq. 3
    "standard-lp": Objective(frozenset({"language"}), None, _kept_language),  # Eq. 17, gamma 0
    "vgs": Objective(frozenset({"visual"}), _visual),  # Eq. 13
    "vgs-lp": Objective(frozenset({"visual", "language"}), _visual, _kept_language),  # Eq. 17
    # Eq. 24, 25. The paper does not say whether it preserves language; lambda 0 turns that off.
    "adaptive-vgs": Objective(frozenset({"visual", "language"}), _adaptive_visual, _kept_language),
    "language-steering": Objective(
        frozenset({"language", "text_visual"}), _language, _kept_visual
    ),  # Eq. 19 to 21
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


def _present(term: Tensor | None) -> Tensor:
    assert term is not None, "the objective's table row must name every term that it reads"
    return term
