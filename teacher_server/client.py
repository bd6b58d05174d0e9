"""Who asks: the unit of turns, quotas and the log."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protos.teacher_info import TeacherInfo


@dataclass(frozen=True)
class Client:
    """A configured client has its name over all of its connections; an anonymous one is its connection."""

    key: str
    """Whose turn it takes and whose quota it spends."""
    name: str = ""
    """As configured; empty for an anonymous one."""
    weight: float = 1.0
    """Share of the engine beside others that have work waiting."""
    max_tokens: int | None = None
    """Response tokens under way; None: the server's `max_client_tokens`."""
    max_bytes: int | None = None
    """Bytes of prompts kept and items under way; None: the server's `max_client_bytes`."""

    def info(self, info: TeacherInfo) -> TeacherInfo:
        """Who the teacher is, with the client's own quotas among the limits."""
        limits = replace(
            info.limits,
            max_client_tokens=self.max_tokens or info.limits.max_client_tokens,
            max_client_bytes=self.max_bytes or info.limits.max_client_bytes,
        )
        return replace(info, limits=limits)


ANONYMOUS = Client("")
"""Where nobody is told apart: inside the process, and in tests."""
