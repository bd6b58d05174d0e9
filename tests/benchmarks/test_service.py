"""The service benchmark in a short form: it runs and its figures make sense. The targets are the long form's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.service import capacity, fairness, priority, scaling, soak
from benchmarks.service.__main__ import write
from benchmarks.service.engine import VOCAB_SIZE, Device, SimulatedEngine, make_block
from benchmarks.service.load import Asker, Shape, photograph
from benchmarks.service.server import SimulatedServer
from protos.arrays import as_ids
from protos.errors import Unauthenticated
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.teacher_info import Limits
from teacher_server.engines.engine import Job

LIMITS = Limits(max_response_tokens=64)
INSTANT = Device(token_s=0.0)


def engine(device: Device = INSTANT) -> SimulatedEngine:
    return SimulatedEngine(device, 4096, "simulated", LIMITS)


def job(an_engine: SimulatedEngine, tokens: int, k: int = 4, client: str = "") -> Job:
    prompt = an_engine.prepare(Prompt(as_ids([1, 2, 3]), as_ids([1, 2, 3])), ())
    return Job(prompt, ScoreItem(as_ids(range(tokens)), k=k), client)


def test_answers_are_whole_scores_of_what_was_asked() -> None:
    simulated = engine()
    jobs = [job(simulated, tokens) for tokens in (1, 20, 64, 30)]
    for asked, answer in zip(jobs, simulated.score_batch(jobs), strict=True):
        assert isinstance(answer, Scores)
        assert np.array_equal(answer.response_ids, asked.item.response_ids)
        rows, entries = answer.rows, len(answer.support_ids)
        assert answer.row_splits[0] == 0
        assert answer.row_splits[-1] == entries
        assert {len(getattr(answer, name)) for name in PER_ROW} == {rows}
        assert {len(getattr(answer, name)) for name in PER_ENTRY} == {entries}
        assert answer.mm_logprobs.dtype == np.float32
        assert (answer.mm_logprobs <= 0).all()


def test_supports_are_as_wide_as_two_contexts_that_share_little() -> None:
    block = make_block(k=64, rows=2000)
    widths = np.diff(block.row_splits)
    assert widths.max() == 129
    assert widths.mean() == pytest.approx(128.7, abs=0.1)
    for first, end in zip(block.row_splits[:50], block.row_splits[1:51], strict=True):
        ids = block.support_ids[first:end]
        assert (np.diff(ids) > 0).all()
        assert ids[0] >= 0
        assert ids[-1] < VOCAB_SIZE


def test_the_device_takes_its_time_and_is_counted_by_client() -> None:
    simulated = engine(Device(token_s=0.001, batch_s=0.05))
    jobs = [job(simulated, 10, client="a"), job(simulated, 20, client="b")]
    assert simulated.device_s(jobs) == pytest.approx(0.08)
    simulated.score_batch(jobs)
    assert simulated.served == {"a": 10, "b": 20}


async def test_a_server_process_answers_those_it_knows() -> None:
    async with SimulatedServer.start(Device(0.0), {"known": 1.0}) as server:
        async with server.client("known") as teacher:
            asker = Asker(teacher, Shape(picture=photograph(), k=8), seed=1)
            await asker.group()
        assert asker.answers.tokens == [200] * 8
        state = await server.state()
        assert state["served"] == {"known": 1600}
        assert state["resident_mib"] > 10
        with pytest.raises(Unauthenticated):
            async with server.client():
                pass


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small answers and short batches, so that seconds are enough."""
    monkeypatch.setattr(fairness, "DEVICE", Device(token_s=1 / 30_000, batch_s=0.002))
    monkeypatch.setattr(fairness, "MIXED", replace(fairness.MIXED, k=8))
    monkeypatch.setattr(fairness, "EVEN", replace(fairness.EVEN, k=8))
    monkeypatch.setattr(priority, "PROMPTS", 4)
    monkeypatch.setattr(priority, "TRAINED", replace(priority.TRAINED, k=8))
    monkeypatch.setattr(priority, "SCORED", replace(priority.SCORED, k=8))


@pytest.mark.usefixtures("faster")
async def test_fairness_in_short() -> None:
    short = fairness.Duration(repeats=1, seconds=1.5, warm_up_s=0.7)
    figures = await fairness.fairness(short)
    assert figures["jain_index"] > 0.8
    assert figures["weights_max_rel_err"] < 0.3
    assert figures["polite_wait_p99_flooded_s"] > 0
    assert figures["polite_responses"] > 40
    assert -1 < figures["polite_added_wait_over_bound"] < 5


@pytest.mark.usefixtures("faster")
async def test_priority_in_short() -> None:
    figures = await priority.priority(steps=2, update_s=0.2)
    assert figures["train_steps"] == 2
    assert figures["score_tokens_per_s_beside_training"] > 100
    assert 0.8 < figures["train_step_ratio_under_score"] < 2


async def test_the_other_parts_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (capacity, scaling):
        monkeypatch.setattr(part, "WARM_UP_S", 0.5)
    monkeypatch.setattr(capacity, "KINDS", {"f32": ("f32", 0.0)})
    monkeypatch.setattr(scaling, "REPLICAS", 2)
    figures = await capacity.capacity(repeats=1, seconds=0.5)
    assert figures["sustained_scored_tokens_per_s"] > 100
    assert sum(figures["profile_client"].values()) > 0.2
    assert sum(figures["profile_server"].values()) > 0.2
    figures = await scaling.scaling(repeats=1, seconds=1.0)
    assert figures["replica_scaling_4"] > 1.1
    figures = await soak.soak(minutes=0.2)
    assert figures["soak_scored_tokens"] > 1000
    assert figures["soak_clients_that_left_in_the_middle"] >= 1


def test_what_others_put_into_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    path.write_text(json.dumps({"recovery_p50_s": 1.5, "jain_index": 0.1, "versions": {"a": "1"}}))
    write(path, {"jain_index": 1.0})
    result = json.loads(path.read_text())
    assert result["recovery_p50_s"] == 1.5
    assert result["jain_index"] == 1.0
    assert result["versions"].keys() > {"a", "grpcio"}


def test_jains_index() -> None:
    assert fairness.jain([5, 5, 5, 5]) == 1.0
    assert fairness.jain([8, 0, 0, 0]) == 0.25
