"""What is sampled when, and from which weights: stages that take turns by events, never by sleeping."""

import threading

import pytest

from student_trainer.pipeline import Pipeline


class Weights:
    """A step counter that sampling reads through a published copy."""

    def __init__(self) -> None:
        self.step = 0
        self.published = -1

    def publish(self) -> None:
        self.published = self.step

    def sample(self, index: int) -> tuple[int, int]:
        return index, self.published


def policies(max_lag: int, batches: int, pauses: set[int] = frozenset()) -> list[int]:
    """The step whose weights each batch was sampled from; no batch is begun ahead of one in `pauses`."""
    weights, found = Weights(), []
    with Pipeline(weights.sample, weights.publish, max_lag) as pipeline:
        for index in range(batches):
            may = index + 1 < batches and index + 1 not in pauses
            got, policy = pipeline.take(index, may_sample_next=may)
            assert got == index
            found.append(policy)
            weights.step += 1
        assert pipeline.ahead == 0
    return found


def test_without_lag_every_batch_is_of_the_weights_it_trains() -> None:
    assert policies(0, 4) == [0, 1, 2, 3]


def test_with_lag_every_batch_is_exactly_one_older() -> None:
    assert policies(1, 5) == [0, 0, 1, 2, 3]


def test_nothing_is_sampled_ahead_of_a_pause() -> None:
    assert policies(1, 6, pauses={3}) == [0, 0, 1, 3, 3, 4]


def test_the_next_batch_is_sampled_while_this_one_trains() -> None:
    begun = threading.Event()

    def sample(index: int) -> int:
        if index == 1:
            begun.set()
        return index

    with Pipeline(sample, lambda: None, 1) as pipeline:
        assert pipeline.take(0, may_sample_next=True) == 0
        assert begun.wait(30), "batch 1 is under way before anybody asked for it"
        assert pipeline.ahead == 1
        assert pipeline.take(1, may_sample_next=False) == 1


def test_an_error_of_the_sampler_reaches_the_loop() -> None:
    def sample(index: int) -> int:
        if index == 1:
            raise OSError("no sampler")
        return index

    with Pipeline(sample, lambda: None, 1) as pipeline:
        pipeline.take(0, may_sample_next=True)
        with pytest.raises(OSError, match="no sampler"):
            pipeline.take(1, may_sample_next=True)


def test_leaving_waits_for_what_is_being_sampled() -> None:
    release, ended = threading.Event(), threading.Event()

    def sample(index: int) -> int:
        if index == 1:
            release.wait(30)
            ended.set()
        return index

    with Pipeline(sample, lambda: None, 1) as pipeline:
        pipeline.take(0, may_sample_next=True)
        release.set()
    assert ended.is_set()


def test_weights_are_published_though_sampling_failed() -> None:
    """Other ranks publish then, and weights that are shared out are gathered from all."""
    weights = Weights()

    def sample(index: int) -> int:
        if index == 1:
            raise OSError("the sampler is gone")
        return index

    with Pipeline(sample, weights.publish, 1) as pipeline:
        pipeline.take(0, may_sample_next=True)
        weights.step = 1
        with pytest.raises(OSError, match="the sampler is gone"):
            pipeline.take(1, may_sample_next=True)
    assert weights.published == 1
