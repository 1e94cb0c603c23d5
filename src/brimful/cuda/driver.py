"""The CUDA driver and its companions, bound directly (docs.nvidia.com/cuda/cuda-driver-api).

Calls that only queue something keep the interpreter's lock: they take microseconds, and asking for
the lock again among a dozen threads takes longer (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from brimful.errors import RuntimeFailedError

_lock = threading.Lock()
_loaded: dict[tuple[str, type[ctypes.CDLL]], Any] = {}


def load_driver(*, queueing: bool = False) -> Any:
    """Return the driver's library.

    Args:
        queueing: For calls that only queue something: they keep the interpreter's lock.

    Raises:
        RuntimeFailedError: There is none.
    """
    kind = ctypes.PyDLL if queueing else ctypes.CDLL
    return load_library("the CUDA driver", ("libcuda.so.1", "libcuda.so"), kind)


def check(call: str, status: int) -> None:
    """Raise what a call's status says.

    Raises:
        RuntimeFailedError: It is not 0.
    """
    if status:
        raise RuntimeFailedError(f"{call} failed: CUDA error {status}")


def load_library(what: str, names: tuple[str, ...], kind: type[ctypes.CDLL] = ctypes.CDLL) -> Any:
    """Load a library once; the first name that works wins.

    Raises:
        RuntimeFailedError: None of them does.
    """
    key = what, kind
    loaded = _loaded.get(key)
    if loaded is not None:
        return loaded
    with _lock:
        if key not in _loaded:
            for name in names:
                try:
                    _loaded[key] = kind(name)
                    break
                except OSError:
                    continue
            else:
                raise RuntimeFailedError(
                    f"{what} is not installed: none of {', '.join(names)} can be loaded"
                )
    return _loaded[key]
