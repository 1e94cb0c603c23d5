"""Read permits: who has one keeps it, and whoever waits gets it when it is given back."""

import threading

import pytest
from engine_kit import PATIENCE_S, eventually, waits

from brimful.engine.read_permit import ReadPermit, permits


@pytest.mark.parametrize(("workers", "expected"), [(1, 2), (2, 2), (8, 2), (12, 3), (32, 8)])
def test_how_many_there_are(workers: int, expected: int) -> None:
    assert permits(workers) == expected


def test_a_permit_is_kept_until_it_is_released() -> None:
    there_are = threading.Semaphore(1)
    mine, other = ReadPermit(there_are), ReadPermit(there_are)
    assert not mine.acquire()
    assert mine.acquire()  # not a second one, for which it would wait for ever
    got = threading.Event()
    thread = threading.Thread(target=lambda: (other.acquire(), got.set()), daemon=True)
    thread.start()
    eventually(lambda: waits(thread), "the other worker waits for the permit")
    assert not got.is_set()
    mine.release()
    assert got.wait(PATIENCE_S)
    mine.release()  # there is nothing to release: the other's is not given away
    assert not there_are.acquire(blocking=False)
    other.release()
    assert there_are.acquire(blocking=False)
    thread.join(PATIENCE_S)
