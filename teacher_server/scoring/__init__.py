"""Data sets scored by a served teacher: `score_dataset`, and `select` for training data. docs/scoring.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teacher_server.scoring.scoring_run import score_dataset
    from teacher_server.scoring.selection import select

__all__ = ["score_dataset", "select"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: the commands' --help needs none of it."""
    if name == "score_dataset":
        from teacher_server.scoring.scoring_run import score_dataset

        return score_dataset
    if name == "select":
        from teacher_server.scoring.selection import select

        return select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
