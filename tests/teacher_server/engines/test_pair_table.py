from hypothesis import given
from hypothesis import strategies as st

from teacher_server.engines.pair_table import PairTable


def test_the_second_half_meets_the_first_in_either_order() -> None:
    for first, second in (("mm", "text"), ("text", "mm")):
        table: PairTable[str] = PairTable(8)
        assert table.join("a", first, "one", 1) is None
        assert table.join("b", first, "other", 1) is None
        assert table.join("a", second, "two", 1) == "one"
        assert table.keys() == ["b"]


def test_the_same_half_again_replaces_itself() -> None:
    table: PairTable[str] = PairTable(8)
    assert table.join("a", "mm", "old", 1) is None
    assert table.join("a", "mm", "new", 1) is None
    assert table.join("a", "text", "text", 1) == "new"
    assert len(table) == 0


def test_the_oldest_goes_first() -> None:
    table: PairTable[int] = PairTable(2)
    for number, key in enumerate("abc"):
        table.join(key, "mm", number, 1)
    assert table.keys() == ["b", "c"]
    assert table.join("a", "text", 9, 1) is None  # its other half is gone, so it waits


def test_dropped_halves_are_forgotten() -> None:
    table: PairTable[int] = PairTable(8)
    table.join("a", "mm", 1, 1)
    table.drop(["a", "never seen"])
    assert len(table) == 0
    assert table.join("a", "text", 2, 1) is None


def test_rows_are_what_is_bounded() -> None:
    table: PairTable[int] = PairTable(10)
    table.join("a", "mm", 1, 4)
    table.join("b", "mm", 2, 4)
    table.join("c", "mm", 3, 6)
    assert table.keys() == ["b", "c"]
    assert table.join("b", "text", 9, 4) == 2
    table.join("d", "mm", 4, 4)
    assert table.keys() == ["c", "d"]
    assert table.join("larger than all", "mm", 5, 11) is None
    assert table.keys() == []


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["mm", "text"])), max_size=60),
    st.integers(1, 4),
)
def test_never_more_than_its_capacity_and_never_a_half_with_itself(
    calls: list[tuple[str, str]], capacity: int
) -> None:
    table: PairTable[tuple[str, str]] = PairTable(capacity)
    for call in calls:
        other = table.join(*call, call, 1)
        assert other is None or (other[0] == call[0] and other[1] != call[1])
        assert len(table) <= capacity
