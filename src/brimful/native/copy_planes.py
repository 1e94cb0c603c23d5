"""Copy the planes of many frames in one call, side by side with the interpreter.

With numpy each plane gives the interpreter's lock away and asks for it again: among a dozen other
threads, for which it then waits, that is three times a frame (see read_files.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from brimful.native.load import compiled_or, load_library

COLUMNS = 6
"""Numbers that describe a plane: address, bytes from row to row, address of the target, its bytes
from row to row, rows, and bytes of a row to copy."""

CopyPlanes = Callable[[NDArray[np.int64]], None]
"""Copies planes, int64 (planes, COLUMNS), contiguous. All that the numbers name must exist, and no
two rows of the targets may overlap. Bytes between two rows of a target may be overwritten."""


def open_copier() -> CopyPlanes:
    """Return what copies planes: in C where it can be compiled, or else with numpy, slower."""
    return compiled_or(compiled_copier, copy_with_numpy, "planes of frames are copied one by one")


def compiled_copier() -> CopyPlanes:
    """Return the one in C.

    Raises:
        NotCompiledError: There is no C compiler, or it failed.
        UsageError: The artifact cache cannot be written.
    """
    run = load_library("copy_planes").brimful_copy_planes
    run.restype = None

    def copy(planes: NDArray[np.int64]) -> None:
        run(ctypes.c_int64(len(planes)), ctypes.c_void_p(planes.ctypes.data))

    return copy


def copy_with_numpy(planes: NDArray[np.int64]) -> None:
    """Copy planes without a compiler."""
    for source, from_pitch, target, to_pitch, rows, size in planes.tolist():
        _rows(target, to_pitch, rows, size)[...] = _rows(source, from_pitch, rows, size)


def _rows(address: int, pitch: int, rows: int, size: int) -> NDArray[np.uint8]:
    """Return memory as uint8 (rows, size)."""
    span = (rows - 1) * pitch + size
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, size), (pitch, 1))
