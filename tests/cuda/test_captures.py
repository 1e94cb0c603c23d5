"""Captures and what waits for the device, which must not happen together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from brimful.cuda.captures import CaptureGuard
from brimful.errors import RuntimeFailedError

SOON, LONG, FOR_EVER = 0.05, 120.0, 1000.0


class Holder:
    """A thread that enters a context, and leaves it when told."""

    def __init__(self, context: AbstractContextManager[None]) -> None:
        self.entered, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(context,), daemon=True)
        self._thread.start()

    def _hold(self, context: AbstractContextManager[None]) -> None:
        with context:
            self.entered.set()
            assert self._leave.wait(LONG)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(LONG)
        assert not self._thread.is_alive()


Kind = Callable[[CaptureGuard], AbstractContextManager[None]]
CAPTURING: Kind = CaptureGuard.capturing
WAITING: Kind = CaptureGuard.waiting


@pytest.mark.parametrize(
    ("first", "second"), [(CAPTURING, WAITING), (WAITING, CAPTURING), (CAPTURING, CAPTURING)]
)
def test_one_goes_after_the_other(first: Kind, second: Kind) -> None:
    guard = CaptureGuard(FOR_EVER)
    one = Holder(first(guard))
    assert one.entered.wait(LONG)
    other = Holder(second(guard))
    assert not other.entered.wait(SOON)
    one.leave()
    assert other.entered.wait(LONG)
    other.leave()


def test_many_may_wait_at_a_time() -> None:
    guard = CaptureGuard(FOR_EVER)
    holders = [Holder(guard.waiting()) for _ in range(3)]
    assert all(holder.entered.wait(LONG) for holder in holders)
    capture = Holder(guard.capturing())
    for holder in holders:
        assert not capture.entered.wait(SOON)
        holder.leave()
    assert capture.entered.wait(LONG)
    capture.leave()


def test_a_capture_goes_before_those_that_come_later() -> None:
    """Else videos, which wait for each packet, would keep it off for ever."""
    guard = CaptureGuard(FOR_EVER)
    one = Holder(guard.waiting())
    assert one.entered.wait(LONG)
    capture = Holder(guard.capturing())
    assert not capture.entered.wait(SOON)
    later = Holder(guard.waiting())
    assert not later.entered.wait(SOON)
    one.leave()
    assert capture.entered.wait(LONG) and not later.entered.wait(SOON)
    capture.leave()
    assert later.entered.wait(LONG)
    later.leave()


def test_patience_ends() -> None:
    """But for another capture, which is over soon."""
    guard = CaptureGuard(patience_s=SOON)
    stuck = Holder(guard.waiting())
    assert stuck.entered.wait(LONG)
    first, second = (Holder(guard.capturing()) for _ in range(2))
    deadline = time.monotonic() + LONG
    while not (first.entered.is_set() or second.entered.is_set()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(4 * SOON)
    assert first.entered.is_set() != second.entered.is_set()
    one, other = (first, second) if first.entered.is_set() else (second, first)
    one.leave()
    assert other.entered.wait(LONG)
    other.leave()
    stuck.leave()
    holder = Holder(guard.waiting())
    assert holder.entered.wait(LONG)
    holder.leave()


def test_a_capture_that_gives_up_lets_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is interrupted while it is put off."""
    guard = CaptureGuard(FOR_EVER)
    stuck = Holder(guard.waiting())
    assert stuck.entered.wait(LONG)
    later: list[Holder] = []
    wait_for = guard._changed.wait_for

    def interrupted(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if timeout is None:
            return wait_for(predicate)
        later.append(Holder(guard.waiting()))
        assert not wait_for(later[0].entered.is_set, SOON)  # it waits, too
        raise KeyboardInterrupt

    monkeypatch.setattr(guard._changed, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guard.capturing().__enter__()
    assert later[0].entered.wait(LONG)
    later[0].leave()
    stuck.leave()


@pytest.mark.parametrize("kind", [CAPTURING, WAITING])
def test_an_error_lets_others_in(kind: Kind) -> None:
    guard = CaptureGuard(FOR_EVER)
    with pytest.raises(ZeroDivisionError), kind(guard):
        raise ZeroDivisionError
    for context in (guard.capturing(), guard.waiting()):
        holder = Holder(context)
        assert holder.entered.wait(LONG)
        holder.leave()


def test_who_captures_must_not_wait() -> None:
    guard = CaptureGuard(FOR_EVER)
    with guard.capturing(), pytest.raises(RuntimeFailedError, match="must not wait"):
        guard.waiting().__enter__()
    with guard.waiting():
        pass
