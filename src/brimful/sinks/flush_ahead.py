"""Write-back: bytes on their way to the disk before anybody waits for them."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

_WRITE = 2
"""SYNC_FILE_RANGE_WRITE of Linux: begin, wait for nothing."""


def flush_ahead(descriptor: int, begin: int, size: int) -> None:
    """Let the operating system begin to write a part of a file, where it can be asked to.

    It promises nothing: an `fsync` has to follow, and reports whatever fails here too. This call
    does not take an error away from it, as a second `fsync` would.

    Args:
        descriptor: The file.
        begin: Offset in bytes.
        size: Bytes.
    """
    call = _sync_file_range()
    if call is not None:
        call(descriptor, begin, size, _WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], Any] | None:
    """Return the call of Linux, which Python does not have, or None elsewhere."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
    call.restype = ctypes.c_int
    return call
