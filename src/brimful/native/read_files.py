"""Read files side by side with the interpreter: many of them in two calls.

Opening, reading and closing a file in Python gives the interpreter's lock away four times and asks
for it four times, among a dozen other threads: with the reading of 10,000 files a second that cost
more than all of the interpreter's work (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from brimful.native.compile import CompilerError, load_library

LARGEST = 4 * 2**20
"""Bytes of a file; a larger one is read on its own."""


_log = logging.getLogger("brimful")
_address, _byte = ctypes.addressof, ctypes.c_char.from_buffer


def open_reader() -> FileReader | None:
    """Return a reader, or None where none can be compiled: then files are read one by one."""
    try:
        return FileReader()
    except CompilerError as error:
        _log.info("files are read one by one: %s", error)
        return None


class FileReader:
    """Reads ordinary files into memory that it is given. Any thread may use it."""

    def __init__(self) -> None:
        """Compile, once a machine, and load.

        Raises:
            CompilerError: There is no C compiler, or it failed.
            UsageError: The artifact cache cannot be written.
        """
        library = load_library("read_files")
        self._open, self._read = library.brimful_open, library.brimful_read
        self._open.restype = self._read.restype = None

    def read(
        self,
        paths: Sequence[str | Path],
        memory_for: Callable[[int], memoryview | None],
    ) -> list[memoryview | None]:
        """Read files.

        Args:
            paths: The files.
            memory_for: Returns writable memory of so many bytes, or None where there is none.

        Returns:
            For each file its bytes, in the memory it was given; None where it has to be read in
            another way, which finds out why: it is missing, no ordinary file, large, without
            memory, or was cut while it was read.
        """
        count = len(paths)
        encoded = [os.fsencode(path) for path in paths]
        # No file has a zero byte in its name, and C would read a shorter one.
        names = (ctypes.c_char_p * count)(*[b"" if b"\0" in name else name for name in encoded])
        descriptors = (ctypes.c_int32 * count)()
        sizes = (ctypes.c_int64 * count)()
        places = (ctypes.c_void_p * count)()
        self._open(names, ctypes.c_int64(count), ctypes.c_int64(LARGEST), descriptors, sizes)
        found: list[memoryview | None] = [None] * count
        try:
            found = [memory_for(size) if size > 0 else None for size in sizes[:]]
            for i, memory in enumerate(found):
                if memory is not None:
                    places[i] = _address(_byte(memory))
        finally:  # they are open
            self._read(ctypes.c_int64(count), descriptors, sizes, places)
        for i, size in enumerate(sizes[:]):
            if size < 0:
                found[i] = None
        return found
