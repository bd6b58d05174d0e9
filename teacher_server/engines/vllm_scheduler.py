"""vLLM's scheduler, but for how far a cached prefix may reach: not into the rows that are scored.

A response's first row is the prompt's last token. Were its state skipped because the cache holds its keys and values,
it could not be scored. That is no rare case: a prompt may end with a block of the cache, and responses of one student
often begin alike.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class ScoringScheduler(Scheduler):
    """Looks prefixes up to `first_row` of a scoring request; any other request as ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        manager = self.kv_cache_manager
        look_up = manager.get_computed_blocks

        def look_up_before_rows(request: Request) -> tuple[KVCacheBlocks, int, int]:
            blocks, hit, boundary = look_up(request)
            params = request.pooling_params
            first_row = ((params and params.extra_kwargs) or {}).get("first_row")
            if first_row is None or hit <= first_row:
                return blocks, hit, boundary
            within, hit, _ = manager.coordinator.find_longest_cache_hit(
                request.block_hashes, first_row
            )
            return manager.create_kv_cache_blocks(within), hit, 0

        manager.get_computed_blocks = look_up_before_rows  # type: ignore[method-assign]
