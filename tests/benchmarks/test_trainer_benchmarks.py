"""The trainer benchmark in a short form: it runs and its figures make sense. The targets are the long form's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.service.engine import Device
from benchmarks.trainer import overlap, step_cost
from benchmarks.trainer.__main__ import main, write
from benchmarks.trainer.engine import Taught, TrainingEngine
from benchmarks.trainer.overlap import Load
from benchmarks.trainer.shape import QWEN3_VL_2B, QWEN3_VL_8B, SMALL, Lengths, Shape
from benchmarks.trainer.step_cost import LENGTHS, Setup
from protos.arrays import as_ids
from protos.item import Candidates, ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import Limits
from teacher_server.engines.engine import Job

TINY = Setup(
    shape=Shape(16, 32, 2, 2, 1, 8, 64, 16, 32, 2, 2, (0,)),
    lengths=Lengths(image=4, text=6, response=6),
    max_new_tokens=8,
    ends=4,
    microbatch=2,
    overlapped=(2, 4),
    warm_up=2,
    steps=2,
    turn=2,
    rows=6,
)


def test_the_teachers_answers_are_on_the_students_vocabulary() -> None:
    taught = Taught("tokenizer", "processor", image_id=5, vocab_size=40)
    engine = TrainingEngine(Device(0.0), 4096, "simulated", Limits(), taught)
    assert engine.info.tokenizer_fingerprint == "tokenizer"
    prompt = engine.prepare(Prompt(as_ids([1, 5]), as_ids([1])), ())
    candidates = Candidates.from_array(np.full((3, 2), 7, np.int32))
    item = ScoreItem(as_ids([9, 8, 7]), k=4, candidates=candidates, vocab_size=30)
    (scores,) = engine.score_batch([Job(prompt, item, "")])
    assert isinstance(scores, Scores)
    assert np.diff(scores.row_splits).tolist() == [2 * 4 + 1 + 2] * 3
    for row in scores.support_ids.reshape(3, -1):
        assert (np.diff(row) > 0).all()
        assert 0 <= row[0] <= row[-1] < 30
    assert scores.tail_mask.all()


def test_what_is_left_to_score_when_the_last_answer_has_ended() -> None:
    load = Load(stage_s=2.0, answers=50)
    assert load.tail_s("even") == pytest.approx(2.0 / 50)
    assert load.tail_s("at_end") == pytest.approx(2.0)
    # Work comes in as t^2 / S: the teacher, idle until S / 2, has S / 4 of it left.
    assert load.tail_s("by_length") == pytest.approx(2.0 / 4, rel=0.1)
    assert sum(load.lengths("by_length")) == pytest.approx(50 * load.tokens, rel=0.01)


def test_the_small_student_has_the_large_ones_proportions() -> None:
    """Qwen3-VL-2B has 0.4 of 2.1 billion parameters in its vision tower."""
    assert QWEN3_VL_2B.text(1) / 2 + QWEN3_VL_2B.head(1) / 2 == pytest.approx(1.72e9, rel=0.01)
    for share in ("vision_share", "head_share", "update_ratio"):
        small, large = (getattr(shape, share)(LENGTHS) for shape in (SMALL, QWEN3_VL_2B))
        assert small == pytest.approx(large, rel=0.05), share
    assert 1.4 < QWEN3_VL_8B.contexts_ratio(LENGTHS) < 1.5


def test_overlap_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "ENDINGS", ("even",))
    load = Load(stage_s=0.1, answers=4, tokens=10, warm_up=1, steps=2)
    figures = overlap.measure(load)
    assert figures["lag0_step_s_even"] > 2 * load.stage_s
    assert figures["lag1_step_s_even"] > load.stage_s
    assert figures["lag1_over_lag0_wall"] == figures["lag1_over_lag0_wall_even"]
    assert 0 <= figures["teacher_wait_share"] < 1
    assert figures["teacher_wait_share_even_bound"] == pytest.approx(1 / 9)


def test_step_cost_in_short() -> None:
    figures = step_cost.measure(TINY)
    assert figures["step_time_vgs_lp_over_standard_answers"] == 4
    assert (
        figures["step_time_vgs_lp_over_standard"]
        == figures["step_time_vgs_lp_over_standard_overlap_4_answers"]
        != figures["step_time_vgs_lp_over_standard_overlap_2_answers"]
    )
    assert figures["step_time_vgs_lp_over_standard_no_overlap"] > 0
    parts = ("sampler_wait_s", "teacher_wait_s", "update_s")
    whole = sum(figures[f"{part}_vgs_lp_no_overlap"] for part in parts)
    assert whole == pytest.approx(figures["step_s_vgs_lp_no_overlap"], rel=0.5)
    assert 1 < figures["step_cost_response_tokens"] <= TINY.max_new_tokens


def test_parts_keep_what_other_parts_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "trainer.json"
    write(out, {"loss_peak_memory_ratio": 1.1, "teacher_wait_share": 0.5})
    monkeypatch.setattr(overlap, "measure", lambda: {"teacher_wait_share": 0.01})
    monkeypatch.setattr(sys, "argv", ["trainer", "--only", "overlap", "--out", str(out)])
    main()
    result = json.loads(out.read_text())
    assert result["loss_peak_memory_ratio"] == 1.1
    assert result["teacher_wait_share"] == 0.01
    assert {"machine", "versions", "date", "date_overlap", "cores_of_others_overlap"} <= set(result)
