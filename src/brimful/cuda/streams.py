"""Streams of our own, made one by one as they are needed.

PyTorch makes 32 at the first one that is asked for, which take 70 MiB of an H200's memory.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import torch

from brimful.cuda.captures import synchronize
from brimful.cuda.driver import load_driver
from brimful.errors import RuntimeFailedError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream

_lock = threading.Lock()
# Never destroyed: PyTorch's pinned memory remembers the streams that have read it.
_idle: dict[int, list[Any]] = {}


def take_stream(device: Any) -> Any:
    """Return a stream that nobody else has.

    Args:
        device: CUDA device with its index, the current one.

    Raises:
        RuntimeFailedError: The driver refuses.
    """
    with _lock:
        idle = _idle.setdefault(device.index, [])
        if idle:
            return idle.pop()
    synchronize(device)  # the driver wants the device's context on this thread
    pointer = ctypes.c_void_p()
    status = load_driver().cuStreamCreate(ctypes.byref(pointer), _NON_BLOCKING)
    if status:
        raise RuntimeFailedError(f"cuStreamCreate failed: CUDA error {status}")
    return torch.cuda.ExternalStream(pointer.value, device)  # type: ignore[no-untyped-call]


def give_stream(stream: Any) -> None:
    """Give back a stream from `take_stream`, on which nothing runs."""
    with _lock:
        _idle[stream.device.index].append(stream)
