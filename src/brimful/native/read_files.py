"""Read files side by side with the interpreter: many of them in two calls.

Opening, reading and closing a file in Python gives the interpreter's lock away four times and asks
for it four times, among a dozen other threads: with the reading of 10,000 files a second that cost
more than all of the interpreter's work (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from brimful.native.load import compiled_or, load_library

LARGEST = 4 * 2**20
"""Bytes of a file; a larger one is read on its own."""

TOGETHER = 2**20
"""Bytes of files that share a piece of memory: so much of a block is wasted at most."""

ALIGNMENT = 64
"""Bytes: where a file may start in such a piece."""

_address, _byte = ctypes.addressof, ctypes.c_char.from_buffer


ReadFile = tuple[memoryview, int, int]
"""A file that was read: all of it, the address of that, and which of the known starts it begins
with, if it ends as a JPEG does; -1 for none."""


class Starts:
    """How files may begin, for `FileReader.read` to tell.

    Attributes:
        texts: The starts.
    """

    def __init__(self, texts: Sequence[bytes] = ()) -> None:
        """Lay them out."""
        self.texts = tuple(texts)
        self.ends = np.array(list(accumulate(map(len, texts))), np.int64)
        joined = b"".join(texts)
        self.arguments = joined, self.ends.ctypes.data, len(texts)  # for C, while this is alive


NO_STARTS = Starts()


def open_reader() -> FileReader | None:
    """Return a reader, or None where none can be compiled: then files are read one by one."""
    return compiled_or(FileReader, None, "files are read one by one")


class FileReader:
    """Reads ordinary files into memory that it is given. Any thread may use it."""

    def __init__(self) -> None:
        """Compile, once a machine, and load.

        Raises:
            NotCompiledError: There is no C compiler, or it failed.
            UsageError: The artifact cache cannot be written.
        """
        library = load_library("read_files")
        self._open, self._read = library.brimful_open, library.brimful_read
        self._open.restype = self._read.restype = None
        number, address, text = ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
        self._open.argtypes = text, number, number, address
        self._read.argtypes = number, address, text, address, number

    def read(
        self,
        paths: Sequence[str | Path],
        pinned_for: Callable[[int], memoryview | None],
        starts: Starts = NO_STARTS,
    ) -> list[ReadFile | None]:
        """Read files.

        Args:
            paths: The files.
            pinned_for: Returns writable memory of so many bytes, or None where there is none. It
                is asked for several files together, and for each where it has none for these.
            starts: How files may begin.

        Returns:
            For each file its bytes, in the memory it was given; None where it has to be read in
            another way, which finds out why: it is missing, no ordinary file, large, without
            memory, or was cut while it was read.
        """
        count = len(paths)
        table = np.zeros((4, count), np.int64)
        address = table.ctypes.data
        self._open(_names(paths), count, LARGEST, address)
        views: list[memoryview | None] = [None] * count
        try:
            views, places = _memory(table[1].tolist(), pinned_for)
            table[2] = places
        finally:  # they are open
            self._read(count, address, *starts.arguments)
        return [
            None if view is None or size < 0 else (view, place, start)
            for size, view, place, start in zip(
                table[1].tolist(), views, places, table[3].tolist(), strict=True
            )
        ]


def _names(paths: Sequence[str | Path]) -> bytes:
    """Return the names of files, each with its zero byte."""
    names: list[str] = [os.fspath(path) for path in paths]
    text = "\0".join(names)
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that stands for no byte: another way finds that out
        encoded = b"\0".join(map(_encoded, names))
    if encoded.count(b"\0") >= len(names):
        # No file has a zero byte in its name, and C would read a shorter one.
        encoded = b"\0".join(b"" if "\0" in name else _encoded(name) for name in names)
    return encoded + b"\0"


def _encoded(name: str) -> bytes:
    """Return a name as the file system has it, empty where it can have none such."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return b""


def _memory(
    sizes: Sequence[int], pinned_for: Callable[[int], memoryview | None]
) -> tuple[list[memoryview | None], list[int]]:
    """Return memory for each file that has a size, and its address; 0 where there is none."""
    views: list[memoryview | None] = [None] * len(sizes)
    addresses = [0] * len(sizes)
    for files, begins, size in _groups(sizes):
        memory = pinned_for(size) if len(files) > 1 else None
        if memory is not None:
            address = _address(_byte(memory))
            for i, begin in zip(files, begins, strict=True):
                views[i] = memory[begin : begin + sizes[i]]
                addresses[i] = address + begin
            continue
        for i in files:
            views[i] = memory = pinned_for(sizes[i])
            addresses[i] = 0 if memory is None else _address(_byte(memory))
    return views, addresses


def _groups(sizes: Sequence[int]) -> Iterator[tuple[list[int], list[int], int]]:
    """Yield files that share a piece of memory, where they begin in it, and its bytes."""
    files: list[int] = []
    begins: list[int] = []
    end = 0
    for i, size in enumerate(sizes):
        if size <= 0:
            continue
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        if files and begin + size > TOGETHER:
            yield files, begins, end
            files, begins, begin = [], [], 0
        files.append(i)
        begins.append(begin)
        end = begin + size
    if files:
        yield files, begins, end
