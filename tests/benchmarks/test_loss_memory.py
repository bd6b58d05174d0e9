"""What the memory benchmark counts, at a size that takes no time."""

import pytest
import torch

from benchmarks.trainer.loss_memory import (
    Inputs,
    Size,
    cross_entropy,
    fused_cross_entropy,
    peak_bytes,
    vgs_lp,
)

SIZE = Size(rows=256, chunk_rows=32, vocabulary=4000, width=64, buckets=40)


def test_both_peers_are_the_same_loss() -> None:
    one, other = Inputs(SIZE), Inputs(SIZE)
    cross_entropy(one)
    expected = torch.nn.functional.cross_entropy(one.head.logits(one.mm), one.ids)
    torch.testing.assert_close(fused_cross_entropy(other), expected.detach())
    for a, b in ((one.mm, other.mm), (one.head.weight, other.head.weight)):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_formula_is_what_is_allocated() -> None:
    peer = peak_bytes(fused_cross_entropy, SIZE)
    assert peer == pytest.approx(SIZE.cross_entropy_bytes(), rel=0.01)
    assert peer <= peak_bytes(cross_entropy, SIZE)
    # About forty bytes for each row and bucket: ids, the teacher's two, masks, and what the loss makes of them.
    ours = peak_bytes(vgs_lp, SIZE)
    assert SIZE.vgs_lp_bytes(30) < ours < SIZE.vgs_lp_bytes(45)
