"""Calls that the poll thread makes for others."""

from __future__ import annotations

import threading

import pytest

from streamserve.errors import SourceError
from streamserve.worker.calls import PollCalls
from tests.memory import until


class Caller:
    """Has a call made from a thread of its own."""

    def __init__(self, calls, call, **options):
        self.outcome = None
        self._thread = threading.Thread(target=self._run, args=(calls, call, options), daemon=True)
        self._thread.start()

    def _run(self, calls, call, options):
        try:
            calls.run(call, **{"timeout_s": 20, **options})
            self.outcome = "done"
        except Exception as error:
            self.outcome = error

    def join(self):
        self._thread.join(20)
        return self.outcome


def test_the_call_is_made_by_the_thread_that_serves():
    calls, made_by = PollCalls(), []
    caller = Caller(calls, lambda: made_by.append(threading.current_thread()))
    until(lambda: calls._waiting)
    calls.serve()
    assert caller.join() == "done"
    assert made_by == [threading.current_thread()]


def test_calls_are_made_in_order():
    calls, order, callers = PollCalls(), [], []
    for n in range(5):
        callers.append(Caller(calls, lambda n=n: order.append(n)))
        until(lambda n=n: len(calls._waiting) == n + 1)
    calls.serve()
    assert [caller.join() for caller in callers] == ["done"] * 5
    assert order == [0, 1, 2, 3, 4]


def test_the_caller_gets_what_the_call_raises_and_the_server_goes_on():
    calls, error, done = PollCalls(), SourceError("no"), []

    def failing():
        raise error

    first = Caller(calls, failing)
    until(lambda: len(calls._waiting) == 1)
    second = Caller(calls, lambda: done.append(1))
    until(lambda: len(calls._waiting) == 2)
    calls.serve()
    assert first.join() is error
    assert second.join() == "done"
    assert done == [1]


def test_within_a_rebalance_only_calls_that_fit_are_made():
    calls, order = PollCalls(), []
    rewind = Caller(calls, lambda: order.append("rewind"))
    until(lambda: len(calls._waiting) == 1)
    commit = Caller(calls, lambda: order.append("commit"), in_rebalance=True)
    until(lambda: len(calls._waiting) == 2)
    calls.serve(in_rebalance=True)
    assert commit.join() == "done"
    assert order == ["commit"]
    calls.serve()
    assert rewind.join() == "done"
    assert order == ["commit", "rewind"]


def test_without_an_answer_in_time_the_caller_gets_a_retryable_error_and_the_call_is_never_made():
    calls, made = PollCalls(), []
    with pytest.raises(SourceError) as caught:
        calls.run(lambda: made.append(1), timeout_s=0.01)
    assert caught.value.retryable
    calls.serve()
    assert made == []


def test_serving_nothing_is_nothing():
    PollCalls().serve()


def test_who_waits_for_a_poll_thread_that_ends_is_told():
    calls = PollCalls()
    caller = Caller(calls, lambda: None)
    until(lambda: calls._waiting)
    calls.close()
    error = caller.join()
    assert isinstance(error, SourceError)
    assert error.retryable


def test_a_poll_thread_that_has_ended_is_asked_nothing():
    calls = PollCalls()
    calls.close()
    with pytest.raises(SourceError, match="has ended"):
        calls.run(lambda: None, timeout_s=20)
