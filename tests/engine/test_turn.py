"""Turns: who has one keeps it, and whoever waits gets it when it is given."""

import threading

import pytest
from brimful.engine.turn import Turn, turns


@pytest.mark.parametrize(("workers", "expected"), [(1, 2), (2, 2), (8, 2), (12, 3), (32, 8)])
def test_how_many_there_are(workers: int, expected: int) -> None:
    assert turns(workers) == expected


def test_a_turn_is_kept_until_it_is_given() -> None:
    there_are = threading.Semaphore(1)
    mine, other = Turn(there_are), Turn(there_are)
    assert not mine.take()
    assert mine.take()  # not a second one, for which it would wait for ever
    got = threading.Event()
    thread = threading.Thread(target=lambda: (other.take(), got.set()), daemon=True)
    thread.start()
    assert not got.wait(0.05)
    mine.give()
    assert got.wait(10)
    mine.give()  # there is nothing to give: the other's is not given away
    assert not there_are.acquire(blocking=False)
    other.give()
    assert there_are.acquire(blocking=False)
    thread.join(10)
