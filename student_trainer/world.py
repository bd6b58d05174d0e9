"""The ranks of a run: one process alone, or those that torchrun started. What is counted over all of them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from protos.errors import TeacherError
from protos.replica_set import TeacherAway
from student_trainer.errors import RankFailed

TIMEOUT = datetime.timedelta(hours=4)
"""How long a rank waits for the others: answers may be long, a teacher away, a checkpoint large. A rank that is dead
torchrun notices by itself."""
BUCKET = 2**24
"""Numbers of small gradients that are summed over the ranks at a time, 64 MiB in float32."""


def own_device(name: str) -> torch.device:
    """A configuration's `device` as this process has it: under torchrun each its own GPU of the machine."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)


class World:
    """A rank among the others. Every method but `close` is called by all ranks, in the same order."""

    def __init__(self, device: torch.device, *, sharded: bool = False) -> None:
        """Joins the others where torchrun's environment names them; `sharded`: each holds its part of the weights."""
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.size > 1 else 0
        self.device = device
        self.sharded = sharded and self.size > 1
        self._joined = self.size > 1 and not dist.is_initialized()
        if self._joined:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)

    def close(self) -> None:
        """Leave the group, if this object joined it."""
        if self._joined:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def mesh(self) -> DeviceMesh:
        """All ranks in a row, over which weights are sharded."""
        return init_device_mesh(self.device.type, (self.size,))

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sums([0])

    def leave_together(self, failure: Exception | None) -> None:
        """Raise on all ranks if one has failed: alone it would leave the others waiting for it."""
        own = failure is not None and not isinstance(failure, TeacherError)
        failed, broken = self.sums([failure is not None, own])
        if failure is not None and (own or not broken):
            raise failure
        if broken:
            raise RankFailed("another rank failed; its log says why") from failure
        if failed:
            raise TeacherAway("another rank lost its teacher")

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def most(self, value: int) -> int:
        """Largest over the ranks."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, values: Tensor) -> Tensor:
        """All ranks' values, rank by rank; [n] here and [m] there -> [n + m ...]."""
        if self.size == 1:
            return values
        longest = self.most(len(values))
        counts = [torch.zeros((), dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor(len(values)))
        padded = torch.zeros(longest, dtype=values.dtype)
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])

    def add_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Sum over the ranks, in place. Where weights are sharded, the backward pass has done it already."""
        if self.size == 1 or self.sharded:
            return
        for bucket in _buckets(gradients):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0])
                continue
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            sums = flat.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def dot(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        """Inner product of two whole gradients, in float64."""
        total = sum(
            float((_local(x).double() * _local(y).double()).sum())
            for x, y in zip(a, b, strict=True)
        )
        return self.sums([total])[0] if self.sharded else total


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """As many at a time as come to BUCKET numbers; a large one alone."""
    bucket, numbers = [], 0
    for gradient in gradients:
        if bucket and numbers + gradient.numel() > BUCKET:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(gradient)
        numbers += gradient.numel()
    if bucket:
        yield bucket


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
