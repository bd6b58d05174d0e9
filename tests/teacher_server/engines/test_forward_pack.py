import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_server.engines.forward import pack

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "batches"),
    [
        ([], 100, []),
        ([10, 10, 10], 30, [[0, 1, 2]]),
        ([10, 10, 10], 29, [[0, 1], [2]]),
        ([4, 10, 5], 100, [[1, 2], [0]]),  # 4 * 2 < 10
        ([500, 10], 100, [[0], [1]]),
        ([3, 3], 1, [[0], [1]]),  # a budget of one token: a pass for each row
    ],
    ids=["none", "full", "budget", "padding", "above the budget", "one each"],
)
def test_examples(lengths: list[int], max_tokens: int, batches: list[list[int]]) -> None:
    assert pack(lengths, max_tokens) == batches


@given(LENGTHS, st.integers(1, 1000))
def test_every_row_once_within_budget_and_at_most_half_padding(
    lengths: list[int], max_tokens: int
) -> None:
    batches = pack(lengths, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[index] for index in batch]
        padded = len(batch) * max(own)
        assert padded <= max_tokens or len(batch) == 1
        assert 2 * sum(own) >= padded
        assert own == sorted(own, reverse=True)


@given(st.lists(st.integers(200, 300), min_size=1, max_size=20))
def test_a_row_above_the_budget_goes_alone(lengths: list[int]) -> None:
    assert sorted(pack(lengths, 100)) == [[index] for index in range(len(lengths))]
