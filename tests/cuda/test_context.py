"""The context and streams, against a driver that keeps contexts, limits and streams."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest
import torch

from brimful.cuda import context, streams
from brimful.errors import RuntimeFailedError

DEVICE = torch.device("cuda", 1)
STACK_SIZE = 0  # CU_LIMIT_STACK_SIZE
INVALID_CONTEXT, FAILURE = 201, 999


class Driver:
    """The part of the CUDA driver that is used, in which the call `failing` fails.

    Attributes:
        limits: (ordinal of the context's device, limit) to the value that was set.
        current: Ordinals of the contexts that are current to this thread, the last one on top.
        streams: How many have been made.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.limits: dict[tuple[int, int], int] = {}
        self.current: list[int] = []
        self.streams = 0
        self._initialized = False

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and name != "current" and name == self.failing:
            return lambda *arguments: FAILURE
        return super().__getattribute__(name)

    def cuInit(self, flags: int) -> int:
        self._initialized = True
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        assert self._initialized
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = ordinal
        return 0

    def cuDevicePrimaryCtxRetain(self, pointer: Any, device: Any) -> int:
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = 4096 + device.value
        return 0

    def cuCtxPushCurrent_v2(self, pointer: Any) -> int:
        self.current.append(pointer.value - 4096)
        return 0

    def cuCtxSetLimit(self, limit: int, value: Any) -> int:
        if not self.current:
            return INVALID_CONTEXT
        self.limits[self.current[-1], limit] = value.value
        return 0

    def cuCtxPopCurrent_v2(self, pointer: Any) -> int:
        if not self.current:
            return INVALID_CONTEXT
        self.current.pop()
        return 0

    def cuStreamCreate(self, pointer: Any, flags: int) -> int:
        self.streams += 1
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = 4096 + self.streams
        return 0


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def prepare(monkeypatch: pytest.MonkeyPatch, driver: Driver, *, initialized: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(context, "load_driver", lambda: driver)
    context.prepare_context(1)


def test_a_context_gets_no_stacks(monkeypatch: pytest.MonkeyPatch, environment: None) -> None:
    driver = Driver()
    prepare(monkeypatch, driver)
    assert driver.limits == {(1, STACK_SIZE): 0}
    assert driver.current == []
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_what_others_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their context and its limits, what is current to the thread, and cuBLAS's memory."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    driver = Driver()
    prepare(monkeypatch, driver, initialized=True)
    assert driver.limits == {}
    driver.current = [0]
    prepare(monkeypatch, driver)
    assert driver.limits == {(1, STACK_SIZE): 0}
    assert driver.current == [0]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    "call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"]
)
def test_faults_are_left_to_pytorch(
    call: str, monkeypatch: pytest.MonkeyPatch, environment: None
) -> None:
    """Nothing is raised, and no other context is changed or taken off the thread."""
    driver = Driver(failing=call)
    driver.current = [0]
    prepare(monkeypatch, driver)
    assert driver.limits == {}
    assert driver.current == [0]


def test_streams_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __init__(self, pointer: int, device: Any) -> None:
            self.pointer, self.device = pointer, device

    driver = Driver()
    monkeypatch.setattr(streams, "load_driver", lambda: driver)
    monkeypatch.setattr(streams, "_idle", {})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "ExternalStream", Stream)
    first, second = (streams.take_stream(DEVICE) for _ in range(2))
    assert first.pointer and first.pointer != second.pointer
    streams.give_stream(first)
    assert streams.take_stream(DEVICE) is first
    streams.give_stream(second)
    assert streams.take_stream(torch.device("cuda", 0)) is not second, "another device's"
    assert driver.streams == 3
    driver.failing = "cuStreamCreate"
    with pytest.raises(RuntimeFailedError, match="999"):
        streams.take_stream(torch.device("cuda", 0))
