"""The context and streams, against a driver that tells what it was asked."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest
import torch

from brimful.errors import RuntimeFailedError
from brimful.runtimes.cuda import context, streams

DEVICE = torch.device("cuda", 1)


class Driver:
    """Tells what it was asked, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.said: list[Any] = []
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            values = [getattr(argument, "value", argument) for argument in arguments]
            self.said.append((name, *(v for v in values if isinstance(v, int))))
            if name == "cuStreamCreate":
                pointer = ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_void_p))
                pointer[0] = 4096 + len(self.said)
            return 999 if name == self.failing else 0

        return call


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def prepared(monkeypatch: pytest.MonkeyPatch, driver: Driver, *, initialized: bool = False) -> Any:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(context, "load_driver", lambda: driver)
    context.prepare_context(DEVICE)
    return [name for name, *_ in driver.said]


def test_a_context_gets_no_stacks(monkeypatch: pytest.MonkeyPatch, environment: None) -> None:
    driver = Driver()
    names = prepared(monkeypatch, driver)
    assert names.index("cuDevicePrimaryCtxRetain") < names.index("cuCtxPushCurrent_v2")
    assert names.index("cuCtxPushCurrent_v2") < names.index("cuCtxSetLimit")
    assert ("cuCtxSetLimit", 0, 0) in driver.said and names[-1] == "cuCtxPopCurrent_v2"
    assert ("cuDeviceGet", 1) in driver.said
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_what_others_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert prepared(monkeypatch, Driver(), initialized=True) == []
    prepared(monkeypatch, Driver())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_faults_are_left_to_pytorch(
    call: str, monkeypatch: pytest.MonkeyPatch, environment: None
) -> None:
    assert prepared(monkeypatch, Driver(failing=call))[-1] == call


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
    assert [name for name, *_ in driver.said] == ["cuStreamCreate"] * 3
    driver.failing = "cuStreamCreate"
    with pytest.raises(RuntimeFailedError, match="999"):
        streams.take_stream(torch.device("cuda", 0))
