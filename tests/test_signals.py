"""Signals that reach a process at a bad moment: while it starts, outside its trainings, or in what must not be cut."""

import signal
import time

import pytest

from sparselt.runs.workers import Workers
from sparselt.stopping import Terminated, ending_with_its_code, holding_back


@pytest.fixture(autouse=True)
def handlers():
    """Puts back the handlers of the tests: a block that a signal has ended ignores further ones."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_signals_to_end_wait_for_the_end_of_a_block_and_are_then_raised_once(number, error):
    done = []
    with pytest.raises(KeyboardInterrupt) as raised, ending_with_its_code():
        with holding_back():
            for _ in range(3):
                signal.raise_signal(number)
            done.append("all")
        done.append("more")
    assert done == ["all"] and raised.type is error


def test_a_block_that_holds_signals_back_leaves_the_handlers_of_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with holding_back():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_request_to_save_does_nothing_in_a_run_where_no_training_runs():
    with ending_with_its_code():
        signal.raise_signal(signal.SIGUSR1)


def test_a_request_to_save_does_not_end_a_worker_that_is_starting():
    with Workers(1) as workers:
        answer = workers.submit(abs, -1)
        while not answer.done():
            workers.signal(signal.SIGUSR1)
            time.sleep(0.05)
        assert answer.result() == 1
