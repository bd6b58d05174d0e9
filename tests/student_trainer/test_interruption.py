"""Signals while a run trains."""

import signal

import pytest

from student_trainer.interruption import Interruption, StopHere


@pytest.fixture
def interruption():
    found = Interruption()
    with found.listening():
        yield found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_until_the_run_may_stop(interruption, number):
    with interruption.later():
        signal.raise_signal(number)
        assert interruption.asked
        with pytest.raises(StopHere), interruption.at_once():
            pytest.fail("what may stop at once was begun")


def test_where_nothing_is_half_done_it_stops_at_once(interruption):
    with interruption.later(), interruption.at_once(), pytest.raises(StopHere):
        signal.raise_signal(signal.SIGTERM)


def test_before_a_run_it_stops_at_once(interruption):
    with pytest.raises(StopHere):
        signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_does_not_wait(interruption):
    with interruption.later():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, StopHere), "what is half done must not be kept"


def test_a_second_sigterm_asks_for_nothing_more(interruption):
    with interruption.later():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
