"""Overlap of sampling with training: while one batch trains, the next may be sampled already.

    max_lag 0    sample 0 | train 0 | sample 1 | train 1 | ...
    max_lag 1    sample 0 | train 0 | train 1 | ...
                          | sample 1 | sample 2 | ...

The teacher works beside both, since answers go to it as they are finished. At lag 1 a batch is sampled from weights
that are exactly one batch older than those it trains, or after a pause from those themselves; never from whichever are
there by chance: the same run gives the same numbers, however fast its stages are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Pipeline(Generic[Batch]):
    """Hands out sampled batches in order. Use as a context manager."""

    def __init__(
        self, sample: Callable[[int], Batch], publish: Callable[[], None], max_lag: int
    ) -> None:
        """`sample(index)` runs on a thread of its own at lag 1; `publish()` makes it sample from the present weights,
        and is called on the caller's thread while nothing is being sampled.
        """
        self._sample = sample
        self._publish = publish
        self._max_lag = max_lag
        self._executor = ThreadPoolExecutor(1, "sampler")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Pipeline[Batch]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being sampled, and let go of it."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._ahead = None

    @property
    def ahead(self) -> int:
        """Batches that are sampled, or being sampled, and not yet handed out."""
        return 0 if self._ahead is None else 1

    def take(self, index: int, may_sample_next: bool) -> Batch:
        """Batch `index`. Where `may_sample_next`, the one after it is begun, from the weights as they are now.

        Say false before weights are wanted for something else, such as a checkpoint that a resumed run goes on from.
        Where sampling fails it raises only after publishing, in which other ranks take part.
        """
        goes_on = bool(self._max_lag) and may_sample_next
        if self._ahead is None:
            self._publish()
            batch = self._sample(index)
        else:
            begun, future = self._ahead
            assert begun == index, f"batch {index} was asked for while {begun} is being sampled"
            self._ahead = None
            wait([future])
            if goes_on:
                self._publish()
            batch = future.result()
        if goes_on:
            self._ahead = index + 1, self._executor.submit(self._sample, index + 1)
        return batch
