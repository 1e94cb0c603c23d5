"""Capture: what was launched on a stream, as a CUDA graph that is launched again in one call.

PyTorch has this, too, but up to 2.11 its `CUDAGraph` starts by filling the state of its random
numbers: two kernels, the first of its own in an engine of fused ones, which would take memory for
all their code. Here the driver is asked directly (docs.nvidia.com/cuda/cuda-driver-api, graph
management); PyTorch's allocator sees that a stream captures, whoever made it do so.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from brimful.cuda.captures import CAPTURES
from brimful.cuda.driver import load_driver
from brimful.errors import RuntimeFailedError

T = TypeVar("T")

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_INVALIDATED = 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

ATTEMPTS = 3
"""At a capture. Whoever else is in the process may wait for the device, which breaks it."""


def new_pool() -> Any:
    """Return a pool of device memory for graphs that never run at the same time."""
    return torch.cuda.MemPool()


def capture(work: Callable[[], T], pool: Any) -> tuple[Capture, T]:
    """Capture what a function launches on the current stream, without running it.

    Other threads go on meanwhile and may allocate; this one must do nothing that waits. Where
    somebody waits for the whole device who knows nothing of `CAPTURES`, it is tried again.

    Args:
        work: Launches; what it allocates comes from the pool. It may be called more than once.
        pool: From `new_pool`. What was allocated and freed while one graph was captured serves the
            next one.

    Returns:
        The graph, and what the function returned.

    Raises:
        RuntimeFailedError: The driver refuses, as when something waited.
        Exception: What the function raised.
    """
    stream = torch.cuda.current_stream()
    handle = ctypes.c_void_p(stream.cuda_stream)
    driver = load_driver()
    with CAPTURES.capturing(), torch.cuda.use_mem_pool(pool, stream.device):
        for left in reversed(range(ATTEMPTS)):
            _check("beginning", driver.cuStreamBeginCapture_v2(handle, _THREAD_LOCAL))
            graph = ctypes.c_void_p()
            try:
                result = work()
            except BaseException as error:
                status = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
                if graph:
                    driver.cuGraphDestroy(graph)
                if not (left and status == _INVALIDATED and isinstance(error, Exception)):
                    raise
                continue
            status = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
            if not (left and status == _INVALIDATED):
                break
        _check("ending", status)
    launchable = ctypes.c_void_p()
    try:
        instantiate = driver.cuGraphInstantiateWithFlags
        flags = ctypes.c_ulonglong(0)
        _check("finishing", instantiate(ctypes.byref(launchable), graph, flags))
    finally:
        driver.cuGraphDestroy(graph)
    return Capture(launchable, pool), result


class Capture:
    """A graph, and the memory that it works in. Dropping it frees both."""

    def __init__(self, launchable: ctypes.c_void_p, pool: Any) -> None:
        """Own a graph that can be launched.

        Args:
            launchable: The driver's handle.
            pool: Where its memory comes from.
        """
        self._launchable = launchable
        self._launch = load_driver(queueing=True).cuGraphLaunch
        # The graph goes before the memory that it names.
        finalizer = weakref.finalize(self, _destroy, launchable, pool)
        finalizer.atexit = False

    def replay(self) -> None:
        """Queue it on the current stream.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = self._launch(self._launchable, stream)
        if status:
            raise RuntimeFailedError(f"the launch of a graph failed: CUDA error {status}")


def _destroy(launchable: ctypes.c_void_p, pool: Any) -> None:
    load_driver().cuGraphExecDestroy(launchable)


def _check(doing: str, status: int) -> None:
    if status:
        raise RuntimeFailedError(f"{doing} a capture failed: CUDA error {status}")
