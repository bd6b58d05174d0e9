"""Which weights an answer came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """The weights of one run after so many of its optimizer steps."""

    run: str
    """Name of the run, one per trainer process: equal versions of two trainers are different policies."""
    version: int
    """Optimizer steps, >= 0."""

    def __str__(self) -> str:
        return f"{self.run}@{self.version}"
