"""What crossed the wire."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class WireStats:
    """So far; message bytes, without HTTP/2 framing."""

    sent_bytes: int = 0
    received_bytes: int = 0
    scored_tokens: int = 0

    def __add__(self, other: WireStats) -> WireStats:
        return WireStats(
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
            self.scored_tokens + other.scored_tokens,
        )

    @property
    def bytes_per_token(self) -> float:
        """Bytes in both directions per scored response token; NaN before the first one."""
        if not self.scored_tokens:
            return float("nan")
        return (self.sent_bytes + self.received_bytes) / self.scored_tokens
