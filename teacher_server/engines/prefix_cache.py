"""Prefixes of prompts whose responses are still to come, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

from teacher_server.engines.forward import Prefix


class PrefixCache:
    """Holds at most `max_tokens` prompt tokens, both contexts counted. Keys are prompt digests."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: OrderedDict[bytes, tuple[Prefix, ...]] = OrderedDict()
        self._tokens = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._entries

    def get(self, digest: bytes) -> tuple[Prefix, ...] | None:
        """The prompt's prefixes, one per context, or None."""
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
        return entry

    def put(self, digest: bytes, prefixes: tuple[Prefix, ...]) -> None:
        """Keep a prompt's prefixes, letting the oldest go where room is needed."""
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
