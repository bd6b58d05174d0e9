import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_server.fair_queue import FairQueue, Turn


def serve(queue: FairQueue[str], tokens: int) -> dict[str, int]:
    """Tokens served to each client until so many are."""
    served: dict[str, int] = {}
    while sum(served.values()) < tokens and len(queue):
        turn = queue.in_order()[0]
        queue.take([turn])
        served[turn.client] = served.get(turn.client, 0) + turn.cost
    return served


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def test_a_flood_does_not_change_the_shares() -> None:
    queue: FairQueue[str] = FairQueue()
    chance = random.Random(1)
    for client in range(8):
        for _ in range(5000 if client == 0 else 100):
            queue.push("", f"client {client}", chance.randint(50, 150))
    served = serve(queue, 30_000)
    assert len(served) == 8
    assert jain(list(map(float, served.values()))) > 0.999


def test_weights_are_kept() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}
    queue: FairQueue[str] = FairQueue(weights.__getitem__)
    chance = random.Random(2)
    for client in weights:
        for _ in range(2000):
            queue.push("", client, chance.randint(10, 300))
    served = serve(queue, 200_000)
    for client, weight in weights.items():
        assert served[client] == pytest.approx(200_000 * weight / 7, rel=0.01)


def test_who_was_away_gains_nothing_by_it() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("", "here", 10)
    serve(queue, 500)
    for _ in range(100):
        queue.push("", "late", 10)
    served = serve(queue, 200)
    assert served == {"here": 100, "late": 100}


def test_a_polite_client_waits_for_one_turn_of_each_other() -> None:
    queue: FairQueue[str] = FairQueue()
    for client in range(7):
        for _ in range(50):
            queue.push("", f"flood {client}", 100)
    serve(queue, 700)
    polite = queue.push("", "polite", 100)
    assert queue.in_order().index(polite) <= 7


def test_training_goes_before_scoring() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("", "a", 10, "score")
    train = queue.push("", "b", 10_000, "train")
    assert queue.in_order()[0] is train
    queue.take([train])
    assert queue.in_order()[0].priority == "score"


def test_what_is_withdrawn_is_not_charged() -> None:
    queue: FairQueue[str] = FairQueue()
    other = queue.push("", "b", 10)
    for turn in [queue.push("", "a", 1000) for _ in range(5)]:
        queue.withdraw(turn)
        queue.withdraw(turn)
    first = queue.push("", "a", 10)
    assert first.start == other.start
    assert queue.waiting_tokens("a") == 10
    assert queue.waiting_tokens() == 20


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "take", "withdraw"]),
            st.sampled_from("abcd"),
            st.integers(0, 100),
        ),
        max_size=80,
    )
)
def test_accounts_are_right_after_anything(calls: list[tuple[str, str, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    waiting: list[Turn[int]] = []
    for what, client, number in calls:
        if what == "push":
            waiting.append(queue.push(number, client, number))
        elif waiting:
            turn = waiting.pop(number % len(waiting))
            if what == "take":
                queue.take([turn])
            else:
                queue.withdraw(turn)
        assert len(queue) == len(waiting)
        assert queue.waiting_tokens() == sum(turn.cost for turn in waiting)
        order = queue.in_order()
        assert set(map(id, order)) == set(map(id, waiting))
        for name in "abcd":  # a client's own items stay in their order
            own = [turn.start for turn in order if turn.client == name]
            assert own == sorted(own)


def test_clients_that_left_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("", "stays", 10**9)
    for number in range(5000):
        queue.take([queue.push("", f"client {number}", 1) for _ in range(2)])
    assert len(queue._ends) < 1100
