"""The breaker: it opens after failures in a row, and a success closes the count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.breaker import MOST_FAILURES, PROBE_DELAYS_S, Breaker


def test_it_opens_at_the_last_of_so_many_failures_in_a_row():
    breaker = Breaker()
    opened = []
    for _ in range(MOST_FAILURES):
        assert not breaker.open
        breaker.failed()
        opened.append(breaker.open)
    assert opened == [False] * (MOST_FAILURES - 1) + [True]


def test_a_success_starts_the_count_anew():
    breaker = Breaker(2)
    for _ in range(5):
        breaker.failed()
        assert not breaker.open
        breaker.succeeded()


def test_a_device_is_probed_at_once_and_then_after_growing_pauses():
    assert PROBE_DELAYS_S[0] == 0
    assert list(PROBE_DELAYS_S) == sorted(PROBE_DELAYS_S)
    assert len(PROBE_DELAYS_S) > 1


@given(st.lists(st.booleans()), st.integers(1, 9))
def test_it_is_open_exactly_after_so_many_failures_in_a_row(outcomes, most):
    breaker = Breaker(most)
    for number, good in enumerate(outcomes, 1):
        breaker.succeeded() if good else breaker.failed()
        last = outcomes[max(0, number - most) : number]
        assert breaker.open == (len(last) == most and not any(last))
