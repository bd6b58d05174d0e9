"""Peak memory of vgs-lp's loss against that of plain cross-entropy through the same chunked head.

`python -m benchmarks.trainer.loss_memory`, from the repository root, on a CPU. Both go from hidden states to the
gradients of states and weight, with the same [C, V] buffer. Cross-entropy is the leaner of two: `sampled_logprobs`, and
one written for nothing else, which makes its gradient in the forward pass. vgs-lp does what the learner does: first the
text context, where q* needs values on all rows and preservation a gradient on three tenths of them; its backward pass;
then the context with the picture.

Counted is every byte that is allocated on the way, inside operators too, as torch's profiler reports it; the support
and the teacher's scores on it count as the loss's own. Not counted, on either side: the weight, and the hidden states,
which are the model's. Both sides add the weight's gradient to its `.grad` in place (`OutputHead.into_grad`), which is
there before: so a step looks from its second microbatch on. A step's first microbatch allocates that [V, D] on both
sides, which brings the ratio nearer to 1. Where gradients go through autograd, each pass has a [V, D] of its own.

B responses of T tokens, R = B T rows, C rows of a chunk, D hidden size, V vocabulary, K buckets (k = 64: 2 * 64 ids of
the teacher's, the sampled one, 16 candidates, the tail). In float32 the peaks are, in bytes,

    cross-entropy    4 (C V + R D)
    vgs-lp           4 (C V + R D + 2 C D) + b R K

b, bytes for each row and bucket, is read off a run with T, C and D scaled down; a second run tells how well the
formula foretells another size. `loss_peak_memory_ratio` is the formula at full size: T = 2,048, C = 1,024.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from student_trainer.loss import (
    language,
    language_preservation,
    standard,
    visual,
    visual_target,
    weighted_sum,
)
from student_trainer.output_head import OutputHead
from student_trainer.support import Support
from student_trainer.support_head import sampled_logprobs, support_logprobs


@dataclass(frozen=True)
class Size:
    """Of one microbatch."""

    rows: int
    chunk_rows: int
    vocabulary: int = 151_936
    width: int = 2_048
    buckets: int = 146

    def cross_entropy_bytes(self) -> int:
        """Peak by the formula."""
        return 4 * (self.chunk_rows * self.vocabulary + self.rows * self.width)

    def vgs_lp_bytes(self, bytes_per_bucket: float) -> float:
        """Peak by the formula."""
        fixed = self.cross_entropy_bytes() + 8 * self.chunk_rows * self.width
        return fixed + bytes_per_bucket * self.rows * self.buckets


FULL = Size(rows=4 * 2048, chunk_rows=1024)
SCALED = Size(rows=4 * 128, chunk_rows=64, width=512)
OTHER = Size(rows=4 * 64, chunk_rows=64, width=256)


class Inputs:
    """What the model hands to the loss: states of both contexts, and the projection."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.size = size
        weight = torch.empty(size.vocabulary, size.width).normal_(std=size.width**-0.5)
        # Written to: pages of plain zeros would not be there yet.
        weight.requires_grad_().grad = torch.empty_like(weight).zero_()
        self.head = OutputHead(weight, None, None, size.vocabulary, into_grad=True)
        self.mm, self.text = (
            torch.randn(size.rows, size.width, requires_grad=True) for _ in range(2)
        )
        self.ids = torch.randint(size.vocabulary, (size.rows,))

    def support(self) -> Support:
        """As wide as it can be, with random scores."""
        rows, buckets = self.size.rows, self.size.buckets
        step = self.size.vocabulary // buckets
        mm, text = (torch.randn(rows, buckets).log_softmax(-1) for _ in range(2))
        ids = torch.randint(step, (rows, buckets - 1)).add_(torch.arange(buckets - 1) * step)
        there = torch.ones(rows, buckets, dtype=torch.bool)
        return Support(ids, there[:, 1:], there[:, 0], mm, text)


Loss = Callable[[Inputs], object]


def vgs_lp(inputs: Inputs) -> None:
    """Both contexts, one after the other, each with its backward pass."""
    support, head, chunk_rows = inputs.support(), inputs.head, inputs.size.chunk_rows
    mask, weights = support.bucket_mask, torch.full((len(inputs.ids),), 1 / len(inputs.ids))
    preserved = torch.arange(len(inputs.ids)) % 10 < 3
    text = support_logprobs(inputs.text, head, support, chunk_rows)
    kept = language_preservation(language(text, support.teacher_text_logprobs, mask), preserved)
    (0.01 * weighted_sum(kept, weights)).backward()
    inputs.text.grad = None  # the model's backward pass has used it up
    target = visual_target(
        text.detach(), support.teacher_mm_logprobs, support.teacher_text_logprobs, mask
    )
    mm = support_logprobs(inputs.mm, head, support, chunk_rows)
    per_token = standard(mm, support.teacher_mm_logprobs, mask) + 2.0 * visual(mm, target, mask)
    weighted_sum(per_token, weights).backward()


def cross_entropy(inputs: Inputs) -> None:
    """Of one id per row, through our function."""
    chunk_rows = inputs.size.chunk_rows
    (-sampled_logprobs(inputs.mm, inputs.head, inputs.ids, chunk_rows).mean()).backward()


@torch.no_grad()
def fused_cross_entropy(inputs: Inputs) -> Tensor:
    """The loss; each chunk's gradient is made as soon as its logits are there, so none is computed twice."""
    head, states, ids, step = inputs.head, inputs.mm, inputs.ids, inputs.size.chunk_rows
    buffer = torch.empty(step, head.vocab_size)
    grad_states, grad_weight = torch.empty_like(states), head.weight.grad
    assert grad_weight is not None
    total = torch.zeros(())
    for first in range(0, len(states), step):
        chunk, wanted = states[first : first + step], ids[first : first + step, None]
        logits = buffer[: len(chunk)]
        head.logits_into(logits, chunk)
        logits.sub_(logits.amax(1, keepdim=True))
        sampled = logits.gather(1, wanted)
        sums = logits.exp_().sum(1, keepdim=True)
        total += (sums.log() - sampled).sum() / len(states)
        logits.div_(sums * len(states))
        logits.scatter_add_(1, wanted, torch.full_like(sampled, -1 / len(states)))
        torch.mm(logits, head.weight, out=grad_states[first : first + step])
        grad_weight.addmm_(logits.T, chunk)
    states.grad = grad_states
    return total


LOSSES: dict[str, Loss] = {
    "vgs_lp": vgs_lp,
    "cross_entropy": cross_entropy,
    "fused_cross_entropy": fused_cross_entropy,
}


def allocations(run: Callable[[], object]) -> list[int]:
    """Bytes of every allocation on the CPU, those inside an operator too, and of every release, below 0; in order."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event["name"] == "[memory]"]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]


def peak_bytes(loss: Loss, size: Size) -> int:
    """Most bytes alive at a time, of those that the loss allocated."""
    inputs = Inputs(size)
    alive = peak = 0
    for change in allocations(lambda: loss(inputs)):
        alive += change
        peak = max(peak, alive)
    return peak


def rss_bytes(name: str) -> int:
    """How much the process grows beyond what it is with its inputs, on Linux; once in a process."""
    LOSSES[name](Inputs(Size(rows=4, chunk_rows=2, vocabulary=512, width=64)))
    inputs = Inputs(SCALED)
    before = _status_bytes("VmRSS")
    LOSSES[name](inputs)
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    """Of this process: resident now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _rss_in_a_process(name: str) -> int:
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--rss", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure() -> dict[str, float]:
    """Peaks at the scaled size, the formula, and the formula at full size."""
    torch.set_num_threads(1)
    ours = peak_bytes(vgs_lp, SCALED)
    peers = {n: peak_bytes(LOSSES[n], SCALED) for n in ("cross_entropy", "fused_cross_entropy")}
    leaner = min(peers, key=lambda name: peers[name])
    per_bucket = (ours - SCALED.vgs_lp_bytes(0)) / (SCALED.rows * SCALED.buckets)
    full_ours, full_peer = FULL.vgs_lp_bytes(per_bucket), FULL.cross_entropy_bytes()
    foretold, seen = OTHER.vgs_lp_bytes(per_bucket), peak_bytes(vgs_lp, OTHER)
    whole = 4 * FULL.vocabulary * FULL.width
    return {
        "loss_peak_memory_ratio": full_ours / full_peer,
        "loss_peak_memory_ratio_scaled": ours / peers[leaner],
        "loss_peak_memory_ratio_first_microbatch": (whole + full_ours) / (whole + full_peer),
        "loss_peak_memory_bytes_ours": ours,
        "loss_peak_memory_bytes_cross_entropy": peers[leaner],
        "loss_peak_memory_rss_bytes_ours": _rss_in_a_process("vgs_lp"),
        "loss_peak_memory_rss_bytes_cross_entropy": _rss_in_a_process(leaner),
        "loss_peak_memory_bytes_per_bucket": per_bucket,
        "loss_peak_memory_full_size_bytes_ours": full_ours,
        "loss_peak_memory_full_size_bytes_cross_entropy": full_peer,
        "loss_peak_memory_formula_error_ours": foretold / seen - 1,
        "loss_peak_memory_formula_error_cross_entropy": SCALED.cross_entropy_bytes() / peers[leaner]
        - 1,
    }


def main() -> None:
    """Print the figures, or one process's growth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rss", choices=LOSSES, help="run one loss and print the bytes it took")
    name = parser.parse_args().rss
    print(rss_bytes(name) if name else json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
