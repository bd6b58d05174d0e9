"""Prefixes of prompts whose responses are still to come, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

from teacher_server.engines.forward import Prefix
from teacher_server.engines.prefix_stats import PrefixStats


class PrefixCache:
    """Holds at most `max_tokens` prompt tokens, both contexts counted. Keys are prompt digests."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: OrderedDict[bytes, tuple[Prefix, ...]] = OrderedDict()
        self._tokens = 0
        self.stats = PrefixStats()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._entries

    def get(self, digest: bytes, responses: int = 1) -> tuple[Prefix, ...] | None:
        """The prompt's prefixes, one per context, or None. So many `responses` need them."""
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
            self._count(entry, responses, saved=responses)
        return entry

    def put(self, digest: bytes, prefixes: tuple[Prefix, ...], responses: int = 1) -> None:
        """Keep a prompt's prefixes, run once for `responses`, letting the oldest go where room is needed."""
        self._count(prefixes, responses, saved=responses - 1)
        self.drop(digest)
        self._entries[digest] = prefixes
        self._tokens += sum(prefix.length for prefix in prefixes)
        while self._tokens > self._max_tokens and self._entries:
            self.drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._tokens = 0

    def drop(self, digest: bytes) -> None:
        """Forget a prompt; one that is not held is no matter."""
        for prefix in self._entries.pop(digest, ()):
            self._tokens -= prefix.length

    def _count(self, prefixes: tuple[Prefix, ...], responses: int, saved: int) -> None:
        names = ("mm", "text") if len(prefixes) == 2 else ("alone",)
        for name, prefix in zip(names, prefixes, strict=True):
            self.stats.asked[name] += responses * prefix.length
            self.stats.cached[name] += saved * prefix.length
