"""An exception that nobody foresaw, as an answer that leaks nothing."""

from __future__ import annotations

import logging
import uuid

from protos.errors import ErrorDetail, InternalFault, TeacherError

log = logging.getLogger(__name__)


def as_teacher_error(error: Exception) -> TeacherError:
    """The error itself where it is one, else an InternalFault whose id stands in the log beside what happened."""
    if isinstance(error, TeacherError):
        return error
    error_id = uuid.uuid4().hex[:12]
    log.error("item_failed error_id=%s", error_id, exc_info=error)
    return InternalFault(
        f"the teacher failed on this item; error id {error_id} stands in its log",
        ErrorDetail(error_id=error_id),
    )
