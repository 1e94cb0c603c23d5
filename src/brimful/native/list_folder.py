"""List a folder in one call, side by side with the interpreter.

`os.scandir` gives the interpreter's lock away and makes an object for each name, of which a folder
of images needs nothing but its name (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection

from brimful.native.load import compiled_or, load_library

_LONGEST = 8
"""Bytes of a suffix."""


class _Names(ctypes.Structure):
    """Names one behind the other, each with its zero byte, as C returns them."""

    _fields_ = (
        ("text", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("room", ctypes.c_int64),
        ("count", ctypes.c_int64),
    )


def open_lister(suffixes: Collection[str]) -> FolderLister | None:
    """Return a lister, or None where none can be compiled: then the interpreter lists."""
    if sys.getfilesystemencoding() != "utf-8":  # another one may not tell a zero byte from a letter
        return None
    return compiled_or(
        lambda: FolderLister(suffixes), None, "folders are listed by the interpreter"
    )


class FolderLister:
    """Lists files with some suffixes, and directories. Any thread may use it."""

    def __init__(self, suffixes: Collection[str]) -> None:
        """Compile, once a machine, and load.

        Args:
            suffixes: Of the files, lower-case ASCII of 2 to 8 characters, each with its dot.

        Raises:
            NotCompiledError: There is no C compiler, or it failed.
            UsageError: The artifact cache cannot be written.
            ValueError: A suffix is none of these.
        """
        for s in suffixes:
            if not (s.isascii() and s == s.lower() and 1 < len(s) <= _LONGEST and s[0] == "."):
                raise ValueError(f"{s!r} is no lower-case ASCII suffix of 2 to {_LONGEST} bytes")
        library = load_library("list_folder")
        self._list, self._free = library.brimful_list_folder, library.brimful_free_names
        pointer = ctypes.POINTER(_Names)
        self._list.argtypes = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, pointer
        self._list.restype = ctypes.c_int
        self._free.argtypes, self._free.restype = (pointer,), None
        self._suffixes = frozenset(suffixes)
        numbers = [int.from_bytes(suffix.encode(), "big") for suffix in sorted(suffixes)]
        self._numbers = (ctypes.c_uint64 * len(numbers))(*numbers)

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """List a folder.

        Args:
            path: The folder.

        Returns:
            The names of its files whose last dot begins one of the suffixes in any case, unless
            it begins the name, sorted, and the names of its directories in any order. A link is
            what it leads to, and a file where it leads nowhere.

        Raises:
            OSError: It cannot be listed.
        """
        names = (_Names * 3)()
        try:
            failed = self._list(os.fsencode(path), self._numbers, len(self._numbers), names)
            if failed:
                raise OSError(failed, os.strerror(failed), path)
            files, doubtful, directories = map(_decode, names)
        finally:
            self._free(names)
        # A Kelvin sign is a k in lower case, which C does not know.
        files += [n for n in doubtful if n[n.rfind(".") :].lower() in self._suffixes]
        # C has sorted by bytes, which is almost the order: bytes that are no UTF-8 go elsewhere.
        files.sort()  # what is in order costs it a thirtieth
        return files, directories


def _decode(names: _Names) -> list[str]:
    """Return names as `os.listdir` does: in UTF-8 no name's end runs into the next one."""
    text = os.fsdecode(ctypes.string_at(names.text, names.size)) if names.size else ""
    return text.split("\0")[:-1]
