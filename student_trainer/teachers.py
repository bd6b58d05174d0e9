"""The teachers of a run, by name. A run has one, unless its rows say which of several they are for."""

from __future__ import annotations

import contextlib

from protos.credentials import Credentials, read_token
from protos.score_cache import ScoreCache
from protos.sync_client import SyncTeacherClient
from protos.teacher_info import TeacherInfo
from protos.wire_stats import WireStats
from student_trainer.teacher_config import TeacherConfig


class Teachers:
    """A client for each teacher, all with the same settings. Use as a context manager."""

    def __init__(
        self, config: TeacherConfig, *, tokenizer_fingerprint: str, processor_fingerprint: str
    ) -> None:
        """Connect to all; raises a TeacherError where one can't be reached or has another tokenizer."""
        with contextlib.ExitStack() as stack:
            cache = None
            if config.cache_dir is not None:
                cache = stack.enter_context(ScoreCache(config.cache_dir))
            self._clients = {
                name: stack.enter_context(
                    SyncTeacherClient(
                        addresses.split(","),
                        tokenizer_fingerprint=tokenizer_fingerprint,
                        processor_fingerprint=processor_fingerprint,
                        max_inflight_tokens=config.max_inflight_tokens,
                        deadline_s=config.deadline_s,
                        connect_timeout_s=config.connect_timeout_s,
                        outage_s=config.outage_s,
                        hedge_after_s=config.hedge_after_s,
                        credentials=credentials(config),
                        cache=cache,
                    )
                )
                for name, addresses in (config.named or {"": config.address}).items()
            }
            self._cache = cache
            self._stack = stack.pop_all()

    def __enter__(self) -> Teachers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> SyncTeacherClient:
        return self._clients[name]

    @property
    def infos(self) -> list[TeacherInfo]:
        """Who they are."""
        return [client.info for client in self._clients.values()]

    @property
    def vocab_size(self) -> int:
        """Ids that all of them know."""
        return min(info.vocab_size for info in self.infos)

    @property
    def cache_hits(self) -> int:
        """Responses that nobody had to score."""
        return 0 if self._cache is None else self._cache.stats.hits

    @property
    def bytes_per_token(self) -> float:
        """In both directions per scored response token; NaN before the first one."""
        stats = (client.stats for client in self._clients.values())
        return sum(stats, WireStats()).bytes_per_token

    def close(self) -> None:
        """End every stream; what still waits fails."""
        self._stack.close()


def credentials(config: TeacherConfig) -> Credentials:
    """The token is read from its file, or the environment: it never stands in a configuration."""
    return Credentials(
        token=read_token(config.token_file),
        tls=config.tls,
        ca_file=config.ca_file,
        certificate_file=config.certificate_file,
        key_file=config.key_file,
        server_name=config.server_name,
        plaintext_token=config.plaintext_token,
    )
