"""The wish to stop: the first signal is heard between steps, the second does what it did before."""

import os
import signal

import pytest

from recipes.rl.stop import StopRequest


@pytest.fixture
def handled():
    """Signals that reach this process's own handlers, which are what a StopRequest finds and gives back."""
    found = []
    before = {number: signal.signal(number, lambda n, _: found.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish(handled, number):
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and handled == []


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_is_an_order(handled, first, second):
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        assert stop.requested and handled == [second]


def test_after_the_loop_signals_do_what_they_did(handled):
    """A demo goes on to evaluate in the same process: Ctrl-C must end that at once."""
    with StopRequest() as stop:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop.requested and handled == [signal.SIGINT]


def test_an_exception_gives_the_handlers_back(handled):
    with pytest.raises(ValueError, match="x"), StopRequest():
        raise ValueError("x")
    os.kill(os.getpid(), signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_a_rank_hears_one_wish_twice(handled, monkeypatch):
    """From a service manager, which asks every process, and from its launcher."""
    monkeypatch.setenv("CROSSTHINK_PARENT", str(os.getpid()))
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and handled == []
