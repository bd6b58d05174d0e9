r"""Group relative policy optimisation, equation by equation.

"DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", arXiv 2402.03300, here without its
KL penalty; "Understanding R1-Zero-Like Training: A Critical Perspective", arXiv 2503.20783 (Dr. GRPO), for advantages
that are not divided. The learner mixes it with distillation (Eq. 22 of arXiv 2606.00564, whose other equations stand in
loss.py).

    B  responses
    R  response tokens, packed: the rows of all responses, one after the other

    paper                               here
    r_i                                 rewards              [B]
    group of i, the answers to a prompt groups               [B], any integers
    A_i                                 advantages(...)      [B], token_advantages [R] once for each of its tokens
    log pi(o_t | q, o_<t)               sampled_logprobs     [R], of the student that learns; nats
    log pi_old(o_t | q, o_<t)           behaviour_logprobs   [R], of the policy that sampled; nats

What a response's tokens weigh is that of every objective: loss.response_weights is the paper's 1 / (G |o_i|),
loss.token_weights that of DAPO. Arithmetic on tokens is float32, or float64 where the student's log-probabilities are.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEVIATION_FLOOR = 1e-6
"""Added to the deviation of a group's rewards."""
MAX_LOG_RATIO = 20.0
"""Nats; e^20 still leaves room in float32."""


def advantages(rewards: Tensor, groups: Tensor, *, normalise: bool = True) -> Tensor:
    """A = (r - mean) / (std + 1e-6) over the answers to the same prompt, [B], [B] -> [B].

    `normalise` false: r - mean alone (Dr. GRPO). Exactly 0 where a group's rewards are all equal, and so in a group of
    one: rounding in the mean would else be blown up to an advantage. A group need not stand together.

    The paper does not say which deviation. It is the sample's, over n - 1, as in verl and TRL, so that figures compare.
    Arithmetic is float64, the result of the rewards' dtype.
    """
    values = rewards.double()
    _, group = groups.unique(return_inverse=True)
    empty = values.new_zeros(int(group.max()) + 1 if len(group) else 0)
    count = empty.index_add(0, group, torch.ones_like(values))
    mean = empty.index_add(0, group, values) / count
    advantage = values - mean[group]
    if normalise:
        squares = empty.index_add(0, group, advantage.square())
        deviation = (squares / (count - 1).clamp(min=1)).sqrt()
        advantage = advantage / (deviation[group] + DEVIATION_FLOOR)
    lowest = empty.scatter_reduce(0, group, values, "amin", include_self=False)
    highest = empty.scatter_reduce(0, group, values, "amax", include_self=False)
    return advantage.where((lowest < highest)[group], 0.0).to(rewards.dtype)


def ratio(sampled_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """Ratio pi / pi_old of the sampled tokens, [R]; the gradient is that of pi.

    Differs from the paper: held within e^-20 and e^20, so that neither it nor its gradient overflows.
    """
    difference = _wide(sampled_logprobs) - behaviour_logprobs.detach()
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(
    sampled_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    token_advantages: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """min( ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A ), [R], to be maximised.

    GRPO's objective before its averages, and PPO's (arXiv 1707.06347, Eq. 7).
    """
    now = ratio(sampled_logprobs, behaviour_logprobs)
    advantage = token_advantages.to(now.dtype)
    return torch.minimum(now * advantage, now.clamp(1 - clip_low, 1 + clip_high) * advantage)


def clipped(
    sampled_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    token_advantages: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Tokens that no longer push, bool [R]: the clip is below the ratio's own term. Its mean is a metric."""
    now = ratio(sampled_logprobs.detach(), behaviour_logprobs)
    raised = (token_advantages > 0) & (now > 1 + clip_high)
    lowered = (token_advantages < 0) & (now < 1 - clip_low)
    return raised | lowered


def _wide(logprobs: Tensor) -> Tensor:
    return logprobs if logprobs.dtype == torch.float64 else logprobs.float()
