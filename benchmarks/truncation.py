"""What the teacher's truncation to a support costs: errors of the terms, and of their gradients.

`python -m benchmarks.truncation`, from the repository root, writes benchmarks/results/truncation.json. A support is
what training uses: the union of the teacher's top-k in both contexts, the student's own top-k as candidates, and the
sampled token; all other ids are one tail bucket. Every error is truncated minus full vocabulary, per response token.

(a) The toy: teacher and student of examples/digits/models, held-out prompts, answers sampled by the student.
(b) Synthetic rows over 150,000 ids, see `synthetic_logits`: no model, but tails as heavy as a language model's.

R rows (response tokens), V vocabulary, K buckets.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protos.arrays import as_ids
from protos.item import Candidates, ScoreItem
from protos.scores import Scores
from protos.teacher_info import Limits
from student_trainer.data import DataSet
from student_trainer.data_config import DataConfig
from student_trainer.loss import (
    language,
    response_weights,
    standard,
    visual,
    visual_target,
    weighted_sum,
)
from student_trainer.output_head import OutputHead
from student_trainer.prompting import PromptBuilder, StudentPrompt, decode_image
from student_trainer.rollout import Rollout
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig
from student_trainer.student import Context, Student
from student_trainer.support import Support
from student_trainer.support_head import support_logprobs
from teacher_server.config import TransformersEngineConfig
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.engines.row_scores import score_rows
from teacher_server.engines.transformers_engine import TransformersEngine

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
RESULT = ROOT / "benchmarks" / "results" / "truncation.json"
SIZES = (4, 8, 16, 32, 64)
GRADIENT_SIZE = 8
TERMS = ("standard", "vis", "lang")
SYNTHETIC_VOCABULARY = 150_000

Results = dict[str, float | str]


def term_values(student_mm: Tensor, student_text: Tensor, support: Support) -> dict[str, Tensor]:
    """The three terms of each row, [R]; q* is a target, as in training."""
    mask = support.bucket_mask
    teacher_mm, teacher_text = support.teacher_mm_logprobs, support.teacher_text_logprobs
    target = visual_target(student_text.detach(), teacher_mm, teacher_text, mask)
    return {
        "standard": standard(student_mm, teacher_mm, mask),
        "vis": visual(student_mm, target, mask),
        "lang": language(student_text, teacher_text, mask),
    }


# ----------------------------------------------------------------------------------------------- the toy


class Toy:
    """Held-out prompts, the student's sampled answers, and the teacher in process."""

    def __init__(self, prompts: int, seed: int = 0) -> None:
        self.student = Student(str(DIGITS / "models" / "student"), "cpu", "float32")
        config = TransformersEngineConfig(device="cpu")
        teacher = str(DIGITS / "models" / "teacher")
        self.engine = TransformersEngine(teacher, config, teacher_id="toy", limits=Limits())
        data_config = DataConfig()
        data = DataSet(DIGITS / "data" / "heldout.parquet", data_config)
        builder = PromptBuilder(self.student.processor, data_config)
        self.prompts = [builder.build(data[i], 1) for i in data.indices(0, prompts, seed)]
        self.rollouts = self._sample(seed)
        self.lengths = torch.tensor([len(rollout.response_ids) for rollout in self.rollouts])

    def _sample(self, seed: int) -> list[Rollout]:
        rollouts: dict[int, Rollout] = {}
        config = TransformersSamplerConfig(max_new_tokens=25, candidates=max(SIZES))
        sampler = TransformersSampler(self.student, config, self.student.vocab_size)
        sampler.sample(self.prompts, 0, sampler.generator(seed), rollouts.__setitem__)
        return [rollouts[i] for i in range(len(self.prompts))]

    def support(self, k: int | None) -> Support:
        """Of all rows; None: the whole vocabulary."""
        prepared = [self._prepare(prompt) for prompt in self.prompts]
        items = [
            ScoreItem(
                rollout.response_ids,
                k or self.student.vocab_size,
                None
                if k is None
                else Candidates.from_array(rollout.candidates.ids.reshape(-1, max(SIZES))[:, :k]),
            )
            for rollout in self.rollouts
            if rollout.candidates is not None
        ]
        jobs = [Job(prompt, item) for prompt, item in zip(prepared, items, strict=True)]
        answers = self.engine.score_batch(jobs)
        scores = [answer for answer in answers if isinstance(answer, Scores)]
        assert len(scores) == len(answers), answers
        return Support.from_scores(scores, self.student.vocab_size)

    def _prepare(self, prompt: StudentPrompt) -> PreparedPrompt:
        images = [decode_image(data) for data in prompt.wire.images]
        return self.engine.prepare(prompt.wire, images)

    def student_logprobs(self, support: Support) -> tuple[Tensor, Tensor]:
        """[R, K] under mm and under text, with their graphs."""

        def read(hidden: Tensor, head: OutputHead) -> Tensor:
            # `gradients` asks for each term's apart.
            head = replace(head, into_grad=False)
            return support_logprobs(hidden, head, support, chunk_rows=1024)

        contexts: tuple[Context, Context] = ("mm", "text")
        mm, text = (self.student.read(self.prompts, self.rollouts, c, read) for c in contexts)
        return mm, text

    def gradients(self, support: Support) -> dict[str, Tensor]:
        """Of each term over all of the student's parameters, flat."""
        terms = term_values(*self.student_logprobs(support), support)
        weights = response_weights(self.lengths, len(self.lengths))
        parameters = self.student.parameters
        flat: dict[str, Tensor] = {}
        for name, values in terms.items():
            grads = torch.autograd.grad(
                weighted_sum(values, weights),
                parameters,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            flat[name] = torch.cat([grad.double().flatten() for grad in grads])
        return flat

    def cosines(self, k: int) -> dict[str, float]:
        """Between each term's gradient on the support and on the whole vocabulary."""
        full, truncated = self.gradients(self.support(None)), self.gradients(self.support(k))
        return {
            name: torch.cosine_similarity(full[name], truncated[name], dim=0).item()
            for name in TERMS
        }


def measure_toy(prompts: int) -> Results:
    """Errors for every k, and cosines of the gradients for one."""
    toy = Toy(prompts)
    whole = toy.support(None)
    assert not whole.tail_mask.any()
    results: Results = {
        "toy_prompts": prompts,
        "toy_rows": int(toy.lengths.sum()),
        "toy_vocabulary": toy.student.vocab_size,
    }
    with torch.no_grad():
        full = term_values(*toy.student_logprobs(whole), whole)
        for k in SIZES:
            support = toy.support(k)
            student_mm, student_text = toy.student_logprobs(support)
            values = term_values(student_mm, student_text, support)
            results |= _errors(f"toy_{{}}_k{k}", values, full)
            results |= _coverage(f"toy_{{}}_k{k}", student_mm, student_text, support)
    results |= _means("toy_{}_full_nats", full)
    cosines = toy.cosines(GRADIENT_SIZE)
    return results | {f"toy_cosine_{n}_k{GRADIENT_SIZE}": c for n, c in cosines.items()}


# --------------------------------------------------------------------------------------------- synthetic


def synthetic_logits(rows: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Float32 [4, R, V]: student mm, student text, teacher mm, teacher text.

    A row is a context. Its language prior is Zipf's law, logit = -s log(rank + 1), over a ranking of its own, with s
    drawn from 1 to 2.5 (from a flat distribution to a nearly certain one). Teacher and student see it with independent
    noise of 0.3 nats on every id. What the picture says is a shift of every id, Student-t with 3 degrees of freedom
    (heavy-tailed: most ids hardly move, some by many nats) times a strength of the context drawn from the exponential
    distribution of mean 0.5 (most tokens hardly depend on the picture). The teacher adds it whole, the student
    half of it and noise of 0.3 nats.
    """
    rng = np.random.default_rng(seed)
    logits = np.empty((4, rows, vocabulary), dtype=np.float32)
    for row in range(rows):
        rank = rng.permutation(vocabulary) + 1.0
        prior = -rng.uniform(1.0, 2.5) * np.log(rank)
        shift = rng.exponential(0.5) * rng.standard_t(3, vocabulary)
        noise = 0.3 * rng.standard_normal((3, vocabulary))
        student_text, teacher_text = prior + noise[0], prior + noise[1]
        logits[:, row] = (
            student_text + 0.5 * shift + noise[2],
            student_text,
            teacher_text + shift,
            teacher_text,
        )
    return torch.from_numpy(logits)


def measure_synthetic(rows: int) -> Results:
    """Errors for every k; the full terms are computed in float64 over all ids."""
    logits = synthetic_logits(rows, SYNTHETIC_VOCABULARY)
    student_mm, student_text, teacher_mm, teacher_text = logits
    generator = torch.Generator().manual_seed(0)
    sampled = torch.multinomial(student_mm.softmax(-1), 1, generator=generator)[:, 0]
    candidates = student_mm.topk(max(SIZES)).indices
    full = _full_terms(logits)
    results: Results = {"synthetic_rows": rows, "synthetic_vocabulary": SYNTHETIC_VOCABULARY}
    results |= _means("synthetic_{}_full_nats", full)
    for k in SIZES:
        item = ScoreItem(as_ids(sampled), k, Candidates.from_rows(candidates[:, :k].tolist()))
        scores = score_rows(teacher_mm, teacher_text, lambda h: h, item, chunk_rows=16)
        support = Support.from_scores([scores], SYNTHETIC_VOCABULARY)
        mm, text = (_buckets(one, support) for one in (student_mm, student_text))
        results |= _errors(f"synthetic_{{}}_k{k}", term_values(mm, text, support), full)
        results |= _coverage(f"synthetic_{{}}_k{k}", mm, text, support)
    return results


def _buckets(logits: Tensor, support: Support) -> Tensor:
    """Log-probabilities [R, K] on a support that leaves a tail to every row."""
    logprobs = logits.log_softmax(-1)
    inside = logprobs.gather(1, support.ids).where(support.id_mask, 0.0)
    row, column = support.id_mask.nonzero(as_tuple=True)
    logprobs[row, support.ids[row, column]] = float("-inf")
    return torch.cat([inside, logprobs.logsumexp(1, keepdim=True)], dim=1)


def _full_terms(logits: Tensor) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    for rows in logits.split(16, dim=1):
        p_mm, p_text, q_mm, q_text = rows.double().log_softmax(-1)
        everything = torch.ones_like(p_mm, dtype=torch.bool)
        no_tail = torch.zeros(len(p_mm), dtype=torch.bool)
        support = Support(torch.empty(0), everything, no_tail, _no_tail(q_mm), _no_tail(q_text))
        parts.append(term_values(_no_tail(p_mm), _no_tail(p_text), support))
    return {name: torch.cat([part[name] for part in parts]) for name in TERMS}


def _no_tail(logprobs: Tensor) -> Tensor:
    return torch.nn.functional.pad(logprobs, (0, 1))


# ----------------------------------------------------------------------------------------------- figures


def _errors(key: str, values: dict[str, Tensor], full: dict[str, Tensor]) -> Results:
    """Mean over rows of the signed error, also relative to the full term's mean, and of its absolute value."""
    results: Results = {}
    for name in TERMS:
        error = values[name].double() - full[name].double()
        mean = error.mean().item()
        results[key.format(f"{name}_signed_error_nats")] = mean
        results[key.format(f"{name}_signed_error_relative")] = mean / full[name].mean().item()
        results[key.format(f"{name}_absolute_error_nats")] = error.abs().mean().item()
    return results


def _coverage(key: str, student_mm: Tensor, student_text: Tensor, support: Support) -> Results:
    """Mean mass on the support of each of the four distributions, and how many ids it has."""
    rows = {
        "student_mm": student_mm,
        "student_text": student_text,
        "teacher_mm": support.teacher_mm_logprobs,
        "teacher_text": support.teacher_text_logprobs,
    }
    inside = {n: r[:, :-1].exp().where(support.id_mask, 0.0).sum(-1) for n, r in rows.items()}
    results = {key.format(f"coverage_{n}"): mass.mean().item() for n, mass in inside.items()}
    sizes = support.id_mask.sum(-1).double()
    return results | {key.format("support_ids"): sizes.mean().item()}


def _means(key: str, terms: dict[str, Tensor]) -> Results:
    return {key.format(name): values.mean().item() for name, values in terms.items()}


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, 1 thread"


def _versions() -> str:
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    return ", ".join([f"python {platform.python_version()}", *packages])


def _table(results: Results) -> str:
    lines = [f"{'':>14}" + "".join(f"{f'k={k}':>11}" for k in SIZES)]
    for source in ("toy", "synthetic"):
        for name in (*(f"{t}_signed_error_nats" for t in TERMS), "coverage_student_mm"):
            cells = [float(results[f"{source}_{name}_k{k}"]) for k in SIZES]
            label = f"{source[:5]} {name.replace('_signed_error_nats', '')}"[:14]
            lines.append(f"{label:<14}" + "".join(f"{cell:>11.2g}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts of the toy")
    parser.add_argument("--rows", type=int, default=128, help="synthetic rows")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = measure_toy(args.prompts) | measure_synthetic(args.rows)
    results |= {
        "machine": _machine(),
        "versions": _versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(_table(results))
    cosines = {name: results[f"toy_cosine_{name}_k{GRADIENT_SIZE}"] for name in TERMS}
    print(f"toy, cosine of gradients at k={GRADIENT_SIZE}: {cosines}")


if __name__ == "__main__":
    main()
