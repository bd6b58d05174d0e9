"""Prompts and items <-> messages. Every count and shape is checked against the bytes that came."""

from __future__ import annotations

import numpy as np

from protos.array_codec import array_from_proto, array_to_proto, ids_from_proto, ids_to_proto
from protos.arrays import no_ids
from protos.errors import ErrorDetail, InvalidItem
from protos.item import Candidates, Mode, Priority, ScoreDType, ScoreItem
from protos.prompt import AnyPrompt, ChatPrompt, Prompt, TextContext
from protos.v1 import teacher_pb2 as pb

_WIRE_DTYPES: dict[ScoreDType, pb.DType] = {"f32": pb.F32, "f16": pb.F16}
_WIRE_PRIORITIES: dict[Priority, pb.Priority] = {
    "train": pb.PRIORITY_TRAIN,
    "score": pb.PRIORITY_SCORE,
}
_PRIORITIES: dict[int, Priority] = {wire: name for name, wire in _WIRE_PRIORITIES.items()}
_WIRE_MODES: dict[Mode, pb.Mode] = {
    "topk": pb.MODE_TOPK,
    "vds_only": pb.MODE_VDS_ONLY,
    "sampled_only": pb.MODE_SAMPLED_ONLY,
}
_MODES: dict[int, Mode] = {wire: name for name, wire in _WIRE_MODES.items()}
_WIRE_CONTEXTS: dict[TextContext, pb.TextContext] = {
    "drop": pb.TEXT_CONTEXT_DROP,
    "grey": pb.TEXT_CONTEXT_GREY,
}
_CONTEXTS: dict[int, TextContext] = {wire: name for name, wire in _WIRE_CONTEXTS.items()}


# --------------------------------------------------------------------------------------------- prompts


def prompt_to_proto(prompt: AnyPrompt, prompt_id: int) -> pb.PutPrompt:
    """`prompt` under the id that responses will refer to."""
    message = pb.PutPrompt(
        prompt_id=prompt_id,
        media=[pb.Media(image=image) for image in prompt.images],
        text_context=_WIRE_CONTEXTS[prompt.text_context],
        expected_responses=prompt.expected_responses,
    )
    if isinstance(prompt, ChatPrompt):
        message.chat.messages_json = prompt.messages
        return message
    message.tokens.mm_ids.CopyFrom(ids_to_proto(prompt.mm_ids))
    message.tokens.text_ids.CopyFrom(ids_to_proto(prompt.text_ids))
    message.tokenizer_fingerprint = prompt.tokenizer_fingerprint
    message.processor_fingerprint = prompt.processor_fingerprint
    return message


def prompt_from_proto(message: pb.PutPrompt) -> AnyPrompt:
    """The prompt in either form; `unsupported_prompt_part` must have been asked before."""
    images = tuple(media.image for media in message.media)
    text_context = _CONTEXTS[message.text_context]
    if message.HasField("chat"):
        messages = message.chat.messages_json
        return ChatPrompt(messages, images, text_context, message.expected_responses)
    if not message.HasField("tokens"):
        raise InvalidItem(
            "a prompt needs token ids or messages; set `tokens` or `chat`",
            ErrorDetail(field="form"),
        )
    return Prompt(
        mm_ids=ids_from_proto(message.tokens.mm_ids, "mm_ids"),
        text_ids=ids_from_proto(message.tokens.text_ids, "text_ids"),
        images=images,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        processor_fingerprint=message.processor_fingerprint,
        expected_responses=message.expected_responses,
        text_context=text_context,
    )


def unsupported_prompt_part(message: pb.PutPrompt) -> str | None:
    """The capability word that a prompt needs and servers of this code don't have, if any."""
    if any(media.HasField("video") for media in message.media):
        return "video"
    if message.HasField("media_bounds"):
        return "media_bounds"
    if message.text_context not in _CONTEXTS:
        return f"text_context {message.text_context}"
    return None


# ----------------------------------------------------------------------------------------------- items


def item_to_proto(item: ScoreItem, request_id: int, prompt_id: int) -> pb.ScoreRequest:
    """`item` as a request about the response to a prompt that was put before."""
    message = pb.ScoreRequest(
        request_id=request_id,
        prompt_id=prompt_id,
        k=item.k,
        mode=_WIRE_MODES[item.mode],
        dtype=_WIRE_DTYPES[item.dtype],
        deadline_ms=0 if item.deadline_s is None else max(1, round(item.deadline_s * 1000)),
        priority=_WIRE_PRIORITIES[item.priority],
        vocab_size=item.vocab_size,
        token_texts=item.token_texts,
    )
    if item.response_text is not None:
        message.response_text = item.response_text
    elif item.response_turns is not None:
        message.response_turns = item.response_turns
    else:
        message.response_ids.CopyFrom(ids_to_proto(item.response_ids))
    if item.response_mask is not None:
        message.response_mask.CopyFrom(array_to_proto(item.response_mask, pb.U8))
    if item.candidates is not None:
        message.candidate_splits.CopyFrom(ids_to_proto(item.candidates.splits))
        message.candidate_ids.CopyFrom(ids_to_proto(item.candidates.ids))
    return message


def item_from_proto(message: pb.ScoreRequest) -> ScoreItem:
    """The request's item; `unsupported_request_part` must have been asked before."""
    form = message.WhichOneof("response")
    if form is None:
        raise InvalidItem(
            "a request needs a response; set response_ids, response_text or response_turns",
            ErrorDetail(field="response"),
        )
    if message.dtype not in (pb.F32, pb.F16):
        raise InvalidItem(
            f"dtype {message.dtype} can't carry scores; ask for F32 or F16",
            ErrorDetail(field="dtype", value=str(int(message.dtype)), limit="F32, F16"),
        )
    candidates = mask = None
    if message.HasField("candidate_splits") or message.HasField("candidate_ids"):
        candidates = Candidates(
            splits=ids_from_proto(message.candidate_splits, "candidate_splits"),
            ids=ids_from_proto(message.candidate_ids, "candidate_ids"),
        )
    if message.HasField("response_mask"):
        mask = array_from_proto(message.response_mask, "response_mask", pb.U8).astype(np.bool_)
    given = form == "response_ids"
    return ScoreItem(
        response_ids=ids_from_proto(message.response_ids, "response_ids") if given else no_ids(),
        k=message.k,
        candidates=candidates,
        dtype="f16" if message.dtype == pb.F16 else "f32",
        deadline_s=message.deadline_ms / 1000 if message.deadline_ms else None,
        vocab_size=message.vocab_size,
        priority=_PRIORITIES[message.priority],
        mode=_MODES[message.mode],
        response_mask=mask,
        response_text=message.response_text if form == "response_text" else None,
        response_turns=message.response_turns if form == "response_turns" else None,
        token_texts=message.token_texts,
    )


def unsupported_request_part(message: pb.ScoreRequest) -> str | None:
    """The capability word that a request needs and servers of this code don't have, if any."""
    if message.mode == pb.MODE_HIDDEN_STATES:
        return "hidden_states"
    if message.mode not in _MODES:
        return f"mode {message.mode}"
    if message.first_row or message.end_row:
        return "row_range"
    if message.priority not in _PRIORITIES:
        return f"priority {message.priority}"
    return None
