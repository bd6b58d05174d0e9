"""Pure pairs x_to_proto / x_from_proto. Every count and shape is checked against the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from protos.arrays import AnyArray, Ids
from protos.errors import ErrorDetail, InvalidItem, TeacherError, code_number, error_from_code
from protos.item import Candidates, Priority, ScoreDType, ScoreItem
from protos.prompt import Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.v1 import teacher_pb2 as pb

_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.F32: np.dtype("<f4"),
    pb.F16: np.dtype("<f2"),
    pb.I32: np.dtype("<i4"),
    pb.U8: np.dtype("u1"),
}
_WIRE_DTYPES: dict[ScoreDType, pb.DType] = {"f32": pb.F32, "f16": pb.F16}
_WIRE_PRIORITIES: dict[Priority, pb.Priority] = {
    "train": pb.PRIORITY_TRAIN,
    "score": pb.PRIORITY_SCORE,
}
_PRIORITIES: dict[int, Priority] = {wire: name for name, wire in _WIRE_PRIORITIES.items()}
F16_MAX = float(np.finfo(np.float16).max)
CHUNK_BYTES = 1 << 20
"""A chunk of scores aims to stay below it, so that no single message holds up a stream."""


# ---------------------------------------------------------------------------------------------- arrays


def array_to_proto(array: AnyArray, dtype: pb.DType) -> pb.Array:
    """Little-endian bytes of `array` cast to `dtype`."""
    packed = np.ascontiguousarray(array, dtype=_DTYPES[dtype])
    return pb.Array(data=packed.tobytes(), dtype=dtype, shape=packed.shape)


def array_from_proto(message: pb.Array, field: str, *dtypes: pb.DType) -> AnyArray:
    """A read-only view of the message's bytes. Raises InvalidItem where dtype, shape and bytes disagree."""
    if message.dtype not in dtypes:
        names = " or ".join(pb.DType.Name(dtype) for dtype in dtypes)
        got = message.dtype
        known = pb.DType.Name(got) if got in pb.DType.values() else str(int(got))
        raise InvalidItem(
            f"{field} has dtype {known}; send {names}",
            ErrorDetail(field=field, value=known, limit=names),
        )
    dtype, dimensions = _DTYPES[message.dtype], len(message.shape)
    # One dimension, so nothing is multiplied: the product of a million of them would take hours.
    if dimensions != 1 or message.shape[0] * dtype.itemsize != len(message.data):
        shape = str(list(message.shape)) if dimensions <= 4 else f"of {dimensions} dimensions"
        raise InvalidItem(
            f"{field} has shape {shape} but {len(message.data)} bytes; send one dimension of n entries, "
            f"{dtype.itemsize} bytes each",
            ErrorDetail(field=field, value=shape, limit=f"{len(message.data)} bytes"),
        )
    return np.frombuffer(message.data, dtype=dtype)


def _ids_to_proto(ids: Ids) -> pb.Array:
    return array_to_proto(ids, pb.I32)


def _ids_from_proto(message: pb.Array, field: str) -> Ids:
    return array_from_proto(message, field, pb.I32).astype(np.int32, copy=False)


# --------------------------------------------------------------------------------------------- prompts


def prompt_to_proto(prompt: Prompt, prompt_id: int) -> pb.PutPrompt:
    """`prompt` under the id that responses will refer to."""
    return pb.PutPrompt(
        prompt_id=prompt_id,
        tokens=pb.TokenPrompt(
            mm_ids=_ids_to_proto(prompt.mm_ids), text_ids=_ids_to_proto(prompt.text_ids)
        ),
        media=[pb.Media(image=image) for image in prompt.images],
        tokenizer_fingerprint=prompt.tokenizer_fingerprint,
        processor_fingerprint=prompt.processor_fingerprint,
        expected_responses=prompt.expected_responses,
    )


def prompt_from_proto(message: pb.PutPrompt) -> Prompt:
    """The token form of a prompt; `unsupported_prompt_part` must have been asked before."""
    if not message.HasField("tokens"):
        raise InvalidItem("a prompt needs token ids; set `tokens`", ErrorDetail(field="form"))
    return Prompt(
        mm_ids=_ids_from_proto(message.tokens.mm_ids, "mm_ids"),
        text_ids=_ids_from_proto(message.tokens.text_ids, "text_ids"),
        images=tuple(media.image for media in message.media),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        processor_fingerprint=message.processor_fingerprint,
        expected_responses=message.expected_responses,
    )


def unsupported_prompt_part(message: pb.PutPrompt) -> str | None:
    """The capability word that a prompt needs and version 1 servers of this code don't have, if any."""
    if message.HasField("chat"):
        return "chat"
    if any(media.HasField("video") for media in message.media):
        return "video"
    if message.HasField("media_bounds"):
        return "media_bounds"
    if message.text_context == pb.TEXT_CONTEXT_GREY:
        return "grey_context"
    if message.text_context != pb.TEXT_CONTEXT_DROP:
        return f"text_context {message.text_context}"
    return None


# ----------------------------------------------------------------------------------------------- items


def item_to_proto(item: ScoreItem, request_id: int, prompt_id: int) -> pb.ScoreRequest:
    """`item` as a request about the response to a prompt that was put before."""
    message = pb.ScoreRequest(
        request_id=request_id,
        prompt_id=prompt_id,
        response_ids=_ids_to_proto(item.response_ids),
        k=item.k,
        dtype=_WIRE_DTYPES[item.dtype],
        deadline_ms=0 if item.deadline_s is None else max(1, round(item.deadline_s * 1000)),
        priority=_WIRE_PRIORITIES[item.priority],
        vocab_size=item.vocab_size,
    )
    if item.candidates is not None:
        message.candidate_splits.CopyFrom(_ids_to_proto(item.candidates.splits))
        message.candidate_ids.CopyFrom(_ids_to_proto(item.candidates.ids))
    return message


def item_from_proto(message: pb.ScoreRequest) -> ScoreItem:
    """The request's item; `unsupported_request_part` must have been asked before."""
    if not message.HasField("response_ids"):
        raise InvalidItem(
            "a request needs a response; set response_ids", ErrorDetail(field="response")
        )
    if message.dtype not in (pb.F32, pb.F16):
        raise InvalidItem(
            f"dtype {message.dtype} can't carry scores; ask for F32 or F16",
            ErrorDetail(field="dtype", value=str(int(message.dtype)), limit="F32, F16"),
        )
    candidates = None
    if message.HasField("candidate_splits") or message.HasField("candidate_ids"):
        candidates = Candidates(
            splits=_ids_from_proto(message.candidate_splits, "candidate_splits"),
            ids=_ids_from_proto(message.candidate_ids, "candidate_ids"),
        )
    return ScoreItem(
        response_ids=_ids_from_proto(message.response_ids, "response_ids"),
        k=message.k,
        candidates=candidates,
        dtype="f16" if message.dtype == pb.F16 else "f32",
        deadline_s=message.deadline_ms / 1000 if message.deadline_ms else None,
        priority=_PRIORITIES[message.priority],
        vocab_size=message.vocab_size,
    )


def unsupported_request_part(message: pb.ScoreRequest) -> str | None:
    """The capability word that a request needs and version 1 servers of this code don't have, if any."""
    modes = {
        pb.MODE_TOPK: None,
        pb.MODE_VDS_ONLY: "vds_only",
        pb.MODE_SAMPLED_ONLY: "sampled_only",
        pb.MODE_HIDDEN_STATES: "hidden_states",
    }
    if message.mode != pb.MODE_TOPK:
        return modes.get(message.mode, f"mode {message.mode}")
    if message.HasField("response_text"):
        return "chat"
    if message.HasField("response_mask"):
        return "response_mask"
    if message.first_row or message.end_row:
        return "row_range"
    if message.priority not in _PRIORITIES:
        return f"priority {message.priority}"
    return None


# ---------------------------------------------------------------------------------------------- scores


def scores_to_protos(
    scores: Scores, request_id: int, dtype: ScoreDType, max_rows: int
) -> Iterator[pb.Scores]:
    """The response in chunks of at most `max_rows` rows and about a MiB.

    Raises InvalidItem where f16 can't hold a log-probability (below -65,504 nats).
    """
    if dtype == "f16":
        lowest = min(
            float(scores.mm_logprobs.min(initial=0)), float(scores.text_logprobs.min(initial=0))
        )
        if lowest < -F16_MAX:
            raise InvalidItem(
                f"log-probability {lowest:.0f} is outside f16; ask for F32",
                ErrorDetail("dtype", "F16", f"{-F16_MAX:.0f}"),
            )
    first = 0
    while first < scores.rows:
        end = _chunk_end(scores.row_splits, first, min(first + max_rows, scores.rows))
        chunk = scores.slice_rows(first, end)
        message = pb.Scores(
            request_id=request_id,
            teacher_id=scores.teacher_id,
            first_row=first,
            total_rows=scores.rows,
            last=end == scores.rows,
            row_splits=_ids_to_proto(chunk.row_splits),
            support_ids=_ids_to_proto(chunk.support_ids),
            mm_logprobs=array_to_proto(chunk.mm_logprobs, _WIRE_DTYPES[dtype]),
            text_logprobs=array_to_proto(chunk.text_logprobs, _WIRE_DTYPES[dtype]),
            mm_tail=array_to_proto(chunk.mm_tail, pb.F32),
            text_tail=array_to_proto(chunk.text_tail, pb.F32),
            tail_mask=array_to_proto(chunk.tail_mask, pb.U8),
            vds=array_to_proto(chunk.vds, pb.F32),
            sampled_mm_logprobs=array_to_proto(chunk.sampled_mm_logprobs, pb.F32),
            sampled_text_logprobs=array_to_proto(chunk.sampled_text_logprobs, pb.F32),
            response_ids=_ids_to_proto(chunk.response_ids),
        )
        if message.last:
            message.echo = scores.echo
            message.queue_s = scores.queue_s
            message.engine_s = scores.engine_s
        yield message
        first = end


def _chunk_end(row_splits: Ids, first: int, end: int) -> int:
    """The last row end such that the rows' support stays near CHUNK_BYTES; at least one row."""
    entry_bytes = 12  # id, mm and text log-probability
    most = int(row_splits[first]) + CHUNK_BYTES // entry_bytes
    fitting = int(np.searchsorted(row_splits[: end + 1], most, side="right")) - 1
    return max(first + 1, fitting)


def scores_from_proto(message: pb.Scores) -> Scores:
    """One chunk. Raises InvalidItem where its arrays don't fit each other."""

    def floats(field: str) -> AnyArray:
        array = array_from_proto(getattr(message, field), field, pb.F32, pb.F16)
        return array.astype(np.float32, copy=False)

    chunk = Scores(
        row_splits=_ids_from_proto(message.row_splits, "row_splits"),
        support_ids=_ids_from_proto(message.support_ids, "support_ids"),
        mm_logprobs=floats("mm_logprobs"),
        text_logprobs=floats("text_logprobs"),
        mm_tail=floats("mm_tail"),
        text_tail=floats("text_tail"),
        tail_mask=array_from_proto(message.tail_mask, "tail_mask", pb.U8).astype(np.bool_),
        vds=floats("vds"),
        sampled_mm_logprobs=floats("sampled_mm_logprobs"),
        sampled_text_logprobs=floats("sampled_text_logprobs"),
        response_ids=_ids_from_proto(message.response_ids, "response_ids"),
        teacher_id=message.teacher_id,
        echo=message.echo,
        queue_s=message.queue_s,
        engine_s=message.engine_s,
    )
    rows = chunk.rows
    lengths = {name: len(getattr(chunk, name)) for name in PER_ROW}
    if len(chunk.row_splits) != rows + 1 or set(lengths.values()) != {rows}:
        raise InvalidItem(f"scores with {rows} rows carry arrays of other lengths: {lengths}")
    entries = {len(getattr(chunk, name)) for name in PER_ENTRY}
    splits = chunk.row_splits  # compared, not subtracted: a difference of two i32 may not fit one
    splits_ok = splits[0] == 0 and bool((splits[1:] >= splits[:-1]).all())
    if not splits_ok or entries != {int(splits[-1])}:
        raise InvalidItem(f"row_splits don't fit the {sorted(entries)} support entries")
    return chunk


# ------------------------------------------------------------------------------------------- errors


def error_to_proto(
    error: TeacherError, *, request_id: int | None = None, prompt_id: int | None = None
) -> pb.ItemError:
    """The in-band answer that ends an item."""
    detail = error.detail
    return pb.ItemError(
        request_id=request_id,
        prompt_id=prompt_id,
        code=code_number(error),
        message=error.message,
        field=detail.field,
        value=detail.value,
        limit=detail.limit,
        retry_after_ms=detail.retry_after_ms,
        error_id=detail.error_id,
    )


def error_from_proto(message: pb.ItemError) -> TeacherError:
    """The exception that an in-band error stands for."""
    detail = ErrorDetail(
        field=message.field,
        value=message.value,
        limit=message.limit,
        retry_after_ms=message.retry_after_ms,
        error_id=message.error_id,
    )
    return error_from_code(message.code, message.message, detail)
