"""Scores <-> messages, in chunks. Every count and shape is checked against the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from protos.array_codec import array_from_proto, array_to_proto, ids_from_proto, ids_to_proto
from protos.arrays import AnyArray, Ids
from protos.errors import ErrorDetail, InvalidItem
from protos.item import ScoreDType
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.v1 import teacher_pb2 as pb

_WIRE_DTYPES: dict[ScoreDType, pb.DType] = {"f32": pb.F32, "f16": pb.F16}
F16_MAX = float(np.finfo(np.float16).max)
CHUNK_BYTES = 1 << 20
"""A chunk of scores aims to stay below it, so that no single message holds up a stream."""


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
            row_splits=ids_to_proto(chunk.row_splits),
            support_ids=ids_to_proto(chunk.support_ids),
            mm_logprobs=array_to_proto(chunk.mm_logprobs, _WIRE_DTYPES[dtype]),
            text_logprobs=array_to_proto(chunk.text_logprobs, _WIRE_DTYPES[dtype]),
            mm_tail=array_to_proto(chunk.mm_tail, pb.F32),
            text_tail=array_to_proto(chunk.text_tail, pb.F32),
            tail_mask=array_to_proto(chunk.tail_mask, pb.U8),
            sampled_mm_logprobs=array_to_proto(chunk.sampled_mm_logprobs, pb.F32),
            sampled_text_logprobs=array_to_proto(chunk.sampled_text_logprobs, pb.F32),
            response_ids=ids_to_proto(chunk.response_ids),
            token_texts=chunk.token_texts,
        )
        if not np.isnan(chunk.vds).all():
            message.vds.CopyFrom(array_to_proto(chunk.vds, pb.F32))
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

    response_ids = ids_from_proto(message.response_ids, "response_ids")
    chunk = Scores(
        row_splits=ids_from_proto(message.row_splits, "row_splits"),
        support_ids=ids_from_proto(message.support_ids, "support_ids"),
        mm_logprobs=floats("mm_logprobs"),
        text_logprobs=floats("text_logprobs"),
        mm_tail=floats("mm_tail"),
        text_tail=floats("text_tail"),
        tail_mask=array_from_proto(message.tail_mask, "tail_mask", pb.U8).astype(np.bool_),
        # Not asked for is not zero.
        vds=floats("vds") if message.HasField("vds") else np.full(len(response_ids), np.nan, "f4"),
        sampled_mm_logprobs=floats("sampled_mm_logprobs"),
        sampled_text_logprobs=floats("sampled_text_logprobs"),
        response_ids=response_ids,
        teacher_id=message.teacher_id,
        echo=message.echo,
        queue_s=message.queue_s,
        engine_s=message.engine_s,
        token_texts=tuple(message.token_texts),
    )
    rows = chunk.rows
    lengths = {name: len(getattr(chunk, name)) for name in PER_ROW}
    if len(chunk.row_splits) != rows + 1 or set(lengths.values()) != {rows}:
        raise InvalidItem(f"scores with {rows} rows carry arrays of other lengths: {lengths}")
    if len(chunk.token_texts) not in (0, rows):
        raise InvalidItem(f"scores with {rows} rows carry {len(chunk.token_texts)} token texts")
    entries = {len(getattr(chunk, name)) for name in PER_ENTRY}
    splits = chunk.row_splits  # compared, not subtracted: a difference of two i32 may not fit one
    splits_ok = splits[0] == 0 and bool((splits[1:] >= splits[:-1]).all())
    if not splits_ok or entries != {int(splits[-1])}:
        raise InvalidItem(f"row_splits don't fit the {sorted(entries)} support entries")
    return chunk
