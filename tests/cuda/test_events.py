"""Events, on a driver that remembers what it was asked, and on a device."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brimful.cuda import events
from brimful.cuda.events import Event
from brimful.errors import RuntimeFailedError

BLOCKING, WITHOUT_TIME = 1, 2


class Driver:
    """Remembers calls; `status` is what those that queue or wait return."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.status = 0

    def cuEventCreate(self, pointer: Any, flags: int) -> int:
        self.said.append(("create", flags))
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = 7
        return 0

    def cuEventRecord(self, event: Any, stream: Any) -> int:
        self.said.append(("record", event.value, stream.value))
        return self.status

    def cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> int:
        self.said.append(("wait", stream.value, event.value, flags))
        return self.status

    def cuEventSynchronize(self, event: Any) -> int:
        self.said.append(("synchronize", event.value))
        return self.status

    def cuEventElapsedTime(self, milliseconds: Any, start: Any, stop: Any) -> int:
        ctypes.cast(milliseconds, ctypes.POINTER(ctypes.c_float))[0] = 12.5
        return self.status

    def cuEventDestroy_v2(self, event: Any) -> int:
        self.said.append(("destroy", event.value))
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    played = Driver()
    monkeypatch.setattr(events, "load_driver", lambda **options: played)
    current = SimpleNamespace(cuda_stream=3, query=lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    return played


def test_it_says_where_it_is_and_who_waits(driver: Driver) -> None:
    event = Event(blocking=True)
    event.record()
    event.record(SimpleNamespace(cuda_stream=5))
    event.wait(SimpleNamespace(cuda_stream=6))
    event.synchronize()
    del event
    gc.collect()
    assert driver.said == [
        ("create", BLOCKING | WITHOUT_TIME),
        ("record", 7, 3),
        ("record", 7, 5),
        ("wait", 6, 7, 0),
        ("synchronize", 7),
        ("destroy", 7),
    ]


def test_a_timed_one_tells_the_time_to_another(driver: Driver) -> None:
    begun, finished = Event(timed=True), Event(timed=True, blocking=True)
    assert driver.said == [("create", 0), ("create", BLOCKING)]
    assert begun.seconds_until(finished) == 0.0125
    driver.status = 600
    with pytest.raises(RuntimeFailedError, match="600"):
        begun.seconds_until(finished)


def test_what_the_driver_refuses_is_an_error(driver: Driver) -> None:
    event, stream = Event(), SimpleNamespace(cuda_stream=5)
    driver.status = 700
    for call in (event.synchronize, lambda: event.record(stream), lambda: event.wait(stream)):
        with pytest.raises(RuntimeFailedError, match="700"):
            call()


@pytest.mark.gpu
def test_a_stream_waits_for_another() -> None:
    """A copy that is queued behind an event reads what a long chain of work has written."""
    source = torch.zeros(2**24, device="cuda")
    target = torch.zeros(2**24, device="cuda")
    writing, reading = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    event, begun, finished = Event(blocking=True), Event(timed=True), Event(timed=True)
    with torch.cuda.stream(writing):
        begun.record()
        for _ in range(200):
            source.add_(1)
        event.record()
        finished.record()
    event.wait(reading)
    with torch.cuda.stream(reading):
        target.copy_(source)
        event.record()
    event.synchronize()
    assert target.cpu().unique().tolist() == [200]
    finished.synchronize()
    assert 0 < begun.seconds_until(finished) < 60
