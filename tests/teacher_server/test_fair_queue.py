import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_server.fair_queue import FairQueue, Turn


def serve(queue: FairQueue[str], tokens: int) -> dict[str, int]:
    """Tokens served to each client until so many are."""
    served: dict[str, int] = {}
    while sum(served.values()) < tokens and (turn := queue.peek()) is not None:
        queue.take(turn)
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
    queue: FairQueue[str] = FairQueue()
    chance = random.Random(2)
    for client, weight in weights.items():
        for _ in range(2000):
            queue.push("", client, chance.randint(10, 300), weight=weight)
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
    queue.push("", "polite", 100)
    assert position(queue, "polite") <= 7


def test_nor_does_it_wait_for_what_others_were_served_out_of_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for client in range(7):
        for _ in range(64):
            queue.push("", f"flood {client}", 100)
    first = queue.peek()
    assert first is not None
    queue.take(first)
    for turn in queue.line_of(first):  # the other responses to its prompt join its batch
        queue.take_along(turn)
    queue.push("", "polite", 100)
    assert position(queue, "polite") <= 7
    assert position(queue, first.client) is None  # it was charged for all of them


def position(queue: FairQueue[str], client: str) -> int | None:
    """How many are served before the client is; uses the queue up."""
    for place in range(len(queue)):
        turn = queue.peek()
        assert turn is not None
        if turn.client == client:
            return place
        queue.take(turn)
    return None


def test_training_goes_before_scoring() -> None:
    queue: FairQueue[str] = FairQueue()
    score = queue.push("", "a", 10, "score")
    train = queue.push("", "b", 10_000, "train")
    assert queue.peek() is train
    queue.take(train)
    assert queue.peek() is score


def test_what_is_withdrawn_costs_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    withdrawn = [queue.push("", "a", 1000) for _ in range(5)]
    kept = queue.push("", "a", 10)
    queue.push("", "b", 10)
    for turn in withdrawn:
        queue.withdraw(turn)
        queue.withdraw(turn)
    assert queue.peek() is kept
    assert len(queue) == 2
    queue.take(kept)
    queue.withdraw(kept)
    assert len(queue) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "take", "along", "withdraw"]),
            st.sampled_from("abcd"),
            st.integers(0, 100),
        ),
        max_size=80,
    )
)
def test_nothing_is_lost_and_a_client_keeps_its_order(calls: list[tuple[str, str, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    waiting: list[Turn[int]] = []
    for what, client, number in calls:
        if what == "push":
            waiting.append(queue.push(number, client, number))
        elif waiting:
            turn = queue.peek() if what == "take" else waiting[number % len(waiting)]
            assert turn is not None
            waiting.remove(turn)
            if what == "take":
                queue.take(turn)
            elif what == "along":
                queue.take_along(turn)
            else:
                queue.withdraw(turn)
        assert len(queue) == len(waiting)
    served: list[Turn[int]] = []
    while (turn := queue.peek()) is not None:
        queue.take(turn)
        served.append(turn)
    assert set(served) == set(waiting)
    for name in "abcd":
        own = [turn.number for turn in served if turn.client == name]
        assert own == sorted(own)


def test_clients_that_left_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("", "stays", 1)
    for number in range(500):
        for _ in range(2):
            queue.push("", f"client {number}", 1)
        turn = queue.peek()
        while turn is not None and turn.client != "stays":
            queue.take(turn)
            turn = queue.peek()
        if turn is not None:
            queue.take(turn)
            queue.push("", "stays", 1)
    assert len(queue._lines) < 10
