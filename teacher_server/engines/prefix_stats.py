"""How much of the prompts an engine did not have to compute again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class PrefixStats:
    """Prompt tokens by context: `cached` of `asked` were not computed again."""

    asked: Counter[str] = field(default_factory=Counter[str])
    cached: Counter[str] = field(default_factory=Counter[str])
    recomputed: int = 0
    """Requests run again because a cached prefix reached into the response."""

    def hit_rate(self, context: str) -> float:
        """Share of 1 of the tokens that came from the cache."""
        return self.cached[context] / max(1, self.asked[context])
