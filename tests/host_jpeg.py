"""The JPEG kernels compiled for the CPU: their phases, thread after thread."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brimful.vision.cuda.jpeg import ADDRESSES, FILE, SOURCES
from brimful.vision.geometry import Geometry

MAIN = Path(__file__).with_name("host_jpeg.c")
GUARD = 0xA5
AROUND = 256
"""Bytes before and behind an image's memory that nothing may write."""


@functools.cache
def library(threads: int = 256) -> Any:
    """Return the compiled kernels, with so many threads for each image."""
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "jpeg.c", Path(folder) / "jpeg.so"
        parts = [path for path in SOURCES if path.stem != "kernels"]
        source.write_text("".join(path.read_text() for path in (*parts, MAIN)))
        flags = ["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        flags += ["-fno-strict-aliasing", f"-DTHREADS={threads}"]
        subprocess.run([compiler, *flags, str(source), "-o", str(target)], check=True)
        return ctypes.CDLL(str(target))


@dataclass
class Decoded:
    """What the kernels made of an image.

    Attributes:
        status: One of `jpeg.GOOD`, `UNSUPPORTED` and `DAMAGED`.
        rounds: How often shares were read again.
        luma: (height, width) Y as stored.
        row: int64 (jpeg.COLUMNS,), the row of the table.
        memory: What it points to.
    """

    status: int
    rounds: int
    luma: Any
    row: Any
    memory: tuple[Any, ...]

    def placed(self, geometry: Geometry, type_: int = 0) -> Any:
        """Return (height, width, 3) RGB as the kernels place it: float32, or the bits of 16."""
        out = np.full((*geometry.canvas, 3), 7, (np.float32, np.uint16, np.uint16)[type_])
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (self.row, out))
        library().brimful_place(*pointers, *geometry.canvas, type_)
        return out


def decode(data: bytes, plan: Any, stored: tuple[int, int], threads: int = 256) -> Decoded:
    """Decode a file to memory as a plan lays it out."""
    memory, row, source, start = _laid_out(data, plan)
    status, rounds = np.full(1, -1, np.int32), np.zeros(1, np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (row, status, rounds)]
    library(threads).brimful_decode(*pointers[:2], 1, pointers[2])
    assert (memory[:start] == GUARD).all() and (memory[start + plan.room.total :] == GUARD).all()
    height, width = stored
    pitch = int(row[4])
    luma = memory[start : start + height * pitch].reshape(height, pitch)[:, :width]
    return Decoded(int(status[0]), int(rounds[0]), luma, row, (memory, source))


def first_ends(data: bytes, plan: Any, *, single: bool) -> Any:
    """Return (256,) where readers end that begin in the middle of something.

    Args:
        data: A file.
        plan: Of its memory.
        single: One symbol a look instead of all that it shows.
    """
    _memory, row, _source, _ = _laid_out(data, plan)
    ends = np.zeros(256, np.uint16)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (row, ends))
    library().brimful_first_ends(*pointers, int(single))
    return ends


def bits_of(data: bytes, plan: Any, threads: int = 256) -> tuple[bytes, list[int]] | None:
    """Return a scan without stuffing and markers, and where intervals begin; None if refused."""
    _memory, row, _source, _ = _laid_out(data, plan)
    bits, starts = np.zeros(len(data), np.uint8), np.zeros(len(data), np.uint32)
    segments = np.zeros(1, np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (row, bits, starts, segments)]
    count = library(threads).brimful_bits(*pointers)
    return None if count < 0 else (bits[:count].tobytes(), starts[: segments[0]].tolist())


def _laid_out(data: bytes, plan: Any) -> tuple[Any, Any, Any, int]:
    total = plan.room.total
    memory = np.full(total + 2 * AROUND + 256, GUARD, np.uint8)
    start = AROUND + (-memory.ctypes.data - AROUND) % 256
    row = plan.entry.copy()
    row[ADDRESSES] += memory.ctypes.data + start
    source = np.zeros(len(data) // 16 + 1, np.complex128)  # aligned to 16
    source.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    row[FILE] = source.ctypes.data, len(data)
    return memory, row, source, start
