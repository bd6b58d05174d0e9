"""What clients hold of the server at a time: tokens under way and bytes kept, each client's and all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from protos.errors import ErrorDetail, LimitExceeded
from protos.teacher_info import Limits
from teacher_server.client import Client

RETRY_AFTER_MS = 250
"""Hint to one who is refused: what is under way should be answered by then."""


@dataclass
class _Account:
    tokens: int = 0
    kept_bytes: int = 0


@dataclass
class Ledger:
    """Refuses what goes beyond a quota; the refused costs nothing but itself."""

    limits: Limits
    _accounts: dict[str, _Account] = field(default_factory=dict[str, _Account])
    _total: _Account = field(default_factory=_Account)

    @contextlib.contextmanager
    def under_way(self, client: Client, tokens: int, size: int) -> Iterator[None]:
        """Count an item of so many response tokens and bytes until it is answered; raises LimitExceeded."""
        limits = self.limits
        own = client.max_tokens or limits.max_client_tokens
        held = self._accounts.get(client.key, _Account()).tokens
        _check("tokens under way", client, tokens, held, own)
        _check_all("tokens under way", tokens, self._total.tokens, limits.max_total_tokens)
        self.keep(client, size)
        # It is there unless the item is empty, and its prompt was dropped.
        account = self._accounts.setdefault(client.key, _Account())
        account.tokens += tokens
        self._total.tokens += tokens
        try:
            yield
        finally:
            account.tokens -= tokens
            self._total.tokens -= tokens
            self.keep(client, -size)

    def keep(self, client: Client, change: int) -> None:
        """Count bytes that are kept for a client, or with a negative number no more; raises LimitExceeded."""
        account = self._accounts.get(client.key, _Account())
        if change > 0:
            own = client.max_bytes or self.limits.max_client_bytes
            _check("bytes", client, change, account.kept_bytes, own)
            _check_all("bytes", change, self._total.kept_bytes, self.limits.max_total_bytes)
        self._accounts[client.key] = account
        account.kept_bytes += change
        self._total.kept_bytes += change
        assert account.kept_bytes >= 0, "nobody gives back more than was taken"
        if not (account.kept_bytes or account.tokens):
            del self._accounts[client.key]

    @property
    def tokens(self) -> int:
        """Under way, of all clients."""
        return self._total.tokens

    @property
    def kept_bytes(self) -> int:
        """Of all clients."""
        return self._total.kept_bytes


def _check(what: str, client: Client, more: int, held: int, limit: int) -> None:
    if held + more > limit:
        raise LimitExceeded(
            f"{more} {what} more would bring client {client.name or client.key} to {held + more}, the limit is "
            f"{limit}; wait for answers, or drop prompts",
            ErrorDetail(what, str(held + more), str(limit), _retry_after_ms(more, limit)),
        )


def _check_all(what: str, more: int, held: int, limit: int) -> None:
    """Without saying what the others hold: that is theirs to know."""
    if held + more > limit:
        raise LimitExceeded(
            f"the server has no room for {more} {what} more: the limit of all clients together is {limit}; wait for "
            "answers",
            ErrorDetail(what, str(more), str(limit), _retry_after_ms(more, limit)),
        )


def _retry_after_ms(more: int, limit: int) -> int:
    """None for what is too much by itself: it never fits."""
    return RETRY_AFTER_MS if more <= limit else 0
