"""Events: points on streams that other streams and the host wait for.

PyTorch's give the interpreter's lock away at every call, and to get it back among a dozen threads
takes longer than the call (benchmarks/NOTES.md). Here only waiting does.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch

from brimful.cuda.driver import check, load_driver

_BLOCKING, _WITHOUT_TIME = 1, 2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING


class Event:
    """An event of the current device. One that was never recorded is over."""

    def __init__(self, *, blocking: bool = False, timed: bool = False) -> None:
        """Make one.

        Args:
            blocking: Let `synchronize` sleep, and not spin.
            timed: Note the time, for `seconds_until`.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        torch.cuda.current_stream().query()  # a thread has no context before it calls the runtime
        self._handle = ctypes.c_void_p()
        flags = (0 if timed else _WITHOUT_TIME) | (_BLOCKING if blocking else 0)
        check("cuEventCreate", load_driver().cuEventCreate(ctypes.byref(self._handle), flags))
        queueing = load_driver(queueing=True)
        self._record, self._wait = queueing.cuEventRecord, queueing.cuStreamWaitEvent
        finalizer = weakref.finalize(self, _destroy, self._handle)
        finalizer.atexit = False

    def record(self, stream: Any = None) -> None:
        """Put it behind what a stream, the current one by default, has been given by now.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        stream = torch.cuda.current_stream() if stream is None else stream
        check("cuEventRecord", self._record(self._handle, ctypes.c_void_p(stream.cuda_stream)))

    def wait(self, stream: Any) -> None:
        """Let what a stream is given from now on wait for it.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        status = self._wait(ctypes.c_void_p(stream.cuda_stream), self._handle, 0)
        check("cuStreamWaitEvent", status)

    def synchronize(self) -> None:
        """Wait for it.

        Raises:
            RuntimeFailedError: What was to run before it has failed.
        """
        check("the device", load_driver().cuEventSynchronize(self._handle))

    def seconds_until(self, other: Event) -> float:
        """Return the seconds of the device from this event to another; both are timed and over.

        Raises:
            RuntimeFailedError: They are not, or the driver refuses.
        """
        milliseconds = ctypes.c_float()
        elapsed = load_driver(queueing=True).cuEventElapsedTime
        status = elapsed(ctypes.byref(milliseconds), self._handle, other._handle)
        check("cuEventElapsedTime", status)
        return milliseconds.value / 1e3


def _destroy(handle: ctypes.c_void_p) -> None:
    load_driver().cuEventDestroy_v2(handle)
