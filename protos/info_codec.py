"""TeacherInfo <-> its message."""

from __future__ import annotations

from typing import Literal

from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from protos.v1 import teacher_pb2 as pb

_INFO_SCALARS = (
    "teacher_id",
    "model_id",
    "model_revision",
    "model_fingerprint",
    "tokenizer_fingerprint",
    "processor_fingerprint",
    "vocab_size",
    "context_length",
    "engine",
    "dtype",
    "deterministic",
    "text_fingerprint",
)
_LIMIT_NAMES = tuple(Limits.__dataclass_fields__)


def info_to_proto(info: TeacherInfo) -> pb.TeacherInfo:
    """The answer to Describe."""
    special = info.special_ids
    return pb.TeacherInfo(
        **{name: getattr(info, name) for name in _INFO_SCALARS},
        special_ids=pb.SpecialIds(
            image_placeholder=special.image_placeholder,
            video_placeholder=special.video_placeholder,
            forbidden_in_response=special.forbidden_in_response,
            eos=special.eos,
        ),
        limits=pb.Limits(**{name: getattr(info.limits, name) for name in _LIMIT_NAMES}),
        capabilities=info.capabilities,
        versions=info.versions,
    )


def info_from_proto(message: pb.TeacherInfo) -> TeacherInfo:
    """Who the teacher is, from its answer."""
    special = message.special_ids
    limits = {name: getattr(message.limits, name) for name in _LIMIT_NAMES}
    limits["image_formats"] = tuple(message.limits.image_formats)
    return TeacherInfo(
        **{name: getattr(message, name) for name in _INFO_SCALARS},
        special_ids=SpecialIds(
            image_placeholder=_optional_id(special, "image_placeholder"),
            video_placeholder=_optional_id(special, "video_placeholder"),
            forbidden_in_response=tuple(special.forbidden_in_response),
            eos=tuple(special.eos),
        ),
        limits=Limits(**limits),
        capabilities=tuple(message.capabilities),
        versions=dict(message.versions),
    )


def _optional_id(
    special: pb.SpecialIds, name: Literal["image_placeholder", "video_placeholder"]
) -> int | None:
    return getattr(special, name) if special.HasField(name) else None
