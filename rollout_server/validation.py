"""What a request may ask for, checked before anything is sampled."""

from __future__ import annotations

from protos.arrays import Ids
from protos.errors import ErrorDetail, InvalidItem, LimitExceeded
from protos.rollout_info import RolloutInfo
from protos.rollout_request import RolloutPrompt, RolloutRequest


def check_size(field: str, size_bytes: int, limit: int) -> None:
    """Raise LimitExceeded where a request, or a piece of the weights, is larger than what is taken."""
    if size_bytes > limit:
        raise LimitExceeded(
            f"{field} has {size_bytes} bytes, the limit is {limit}; send it in parts",
            ErrorDetail(field, str(size_bytes), str(limit)),
        )


def check_request(request: RolloutRequest, info: RolloutInfo, placeholder_id: int) -> None:
    """Raise InvalidItem where no answer could be right, naming field, value and limit."""
    limits = info.limits
    if not request.prompts:
        raise InvalidItem("the request has no prompts", ErrorDetail("prompts", "0"))
    for i, prompt in enumerate(request.prompts):
        _check_prompt(f"prompts[{i}]", prompt, info, placeholder_id)
    responses = sum(prompt.responses for prompt in request.prompts)
    _check_range("responses of all prompts", responses, 1, limits.max_responses)
    _check_range("max_new_tokens", request.max_new_tokens, 1, limits.max_new_tokens)
    _check_range("candidates", request.candidates, 0, min(limits.max_candidates, info.vocab_size))
    _check_range("vocab_size", request.vocab_size, 0, info.vocab_size)
    for field in ("stop_ids", "suppressed_ids"):
        _check_ids(field, getattr(request, field), info.vocab_size)
    if len(barred_ids(request, info.vocab_size)) >= info.vocab_size:
        raise InvalidItem("every id is barred; nothing could be sampled")


def barred_ids(request: RolloutRequest, vocab_size: int) -> set[int]:
    """Ids that may not be sampled: the suppressed ones, and those that the client does not have."""
    beyond = range(request.vocab_size or vocab_size, vocab_size)
    return {*request.suppressed_ids.tolist(), *beyond}


def check_length(
    field: str, prompt: RolloutPrompt, expanded: int, new: int, info: RolloutInfo
) -> None:
    """Raise InvalidItem where the expanded prompt is not what the client has, or leaves no room for the response."""
    if prompt.expanded_length not in (0, expanded):
        raise InvalidItem(
            f"{field} expands to {expanded} tokens here and {prompt.expanded_length} for the client: the two "
            "preprocess its images differently; use the same processor settings",
            ErrorDetail(f"{field}.expanded_length", str(prompt.expanded_length), str(expanded)),
        )
    if expanded + new > info.context_length:
        raise InvalidItem(
            f"{field} has {expanded} tokens, and with {new} new ones that is more than the context of "
            f"{info.context_length}; shorten it, or lower max_new_tokens",
            ErrorDetail(field, str(expanded + new), str(info.context_length)),
        )


def _check_prompt(
    field: str, prompt: RolloutPrompt, info: RolloutInfo, placeholder_id: int
) -> None:
    if not len(prompt.ids):
        raise InvalidItem(f"{field} is empty", ErrorDetail(f"{field}.ids", "0 ids"))
    _check_ids(f"{field}.ids", prompt.ids, info.vocab_size)
    _check_range(f"{field}.responses", prompt.responses, 1, info.limits.max_responses)
    _check_range(f"{field}.images", len(prompt.images), 0, info.limits.max_images)
    placeholders = int((prompt.ids == placeholder_id).sum())
    if placeholders != len(prompt.images):
        raise InvalidItem(
            f"{field} has {placeholders} placeholders (id {placeholder_id}) for {len(prompt.images)} images; send "
            "one for each",
            ErrorDetail(f"{field}.ids", str(placeholders), str(len(prompt.images))),
        )


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidItem(
            f"{field} is {value}; the range is {low} to {high}",
            ErrorDetail(field, str(value), f"{low} to {high}"),
        )


def _check_ids(field: str, ids: Ids, vocab_size: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise InvalidItem(
            f"{field} has id {worst}; the model's are 0 to {vocab_size - 1}",
            ErrorDetail(field, str(worst), str(vocab_size)),
        )
