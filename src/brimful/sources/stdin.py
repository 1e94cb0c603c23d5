"""Standard input: paths, separated by newlines or by NUL (`find -print0`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from brimful.errors import UsageError
from brimful.sources.entries import EntriesSource, FileOptions, named
from brimful.sources.list_file import UTF16
from brimful.sources.unique_keys import once
from brimful.sources.walk import Entry

_CHUNK = 1 << 16


class StdinSource(EntriesSource):
    """Paths that another program writes, taken as they come; the key is the path as written.

    The first bytes decide: NUL separates when there is one among them. A key that comes twice
    is taken once. Only one iteration is possible.
    """

    def __init__(self, stream: BinaryIO, options: FileOptions) -> None:
        """Wait for the first path.

        Raises:
            UsageError: None came.
        """
        super().__init__(options)
        self._names = _names(stream)
        self._first = next(self._names, None)
        if self._first is None:
            raise UsageError(
                "no paths came on standard input; expected one path a line, "
                "or paths separated by NUL"
            )

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files as they are named."""
        if self._first is None:
            raise UsageError("standard input can be read once only")
        first, self._first = self._first, None
        return once(self._read(first), self.skipped)

    def __len__(self) -> int:
        """Raise TypeError: more may come."""
        raise TypeError("the number of paths on standard input is not known")

    def _read(self, first: list[str]) -> Iterator[list[Entry]]:
        yield from named(((name, name) for name in first), self.skipped)
        for names in self._names:
            yield from named(((name, name) for name in names), self.skipped)


def _names(stream: BinaryIO) -> Iterator[list[str]]:
    """Yield the names that each read brings, if it completes any."""
    separator, rest = b"", b""
    while chunk := _read_some(stream):
        rest += chunk
        if rest.startswith(UTF16) and not separator:
            raise UsageError(
                "standard input is UTF-16; expected paths as the file system has them (UTF-8), "
                "one a line or separated by NUL. Write them to a list file, which may be UTF-16"
            )
        if not separator:
            separator = b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b""
        if separator:
            *complete, rest = rest.split(separator)
            if names := _decoded(complete, separator):
                yield names
    if names := _decoded([rest], separator):
        yield names


def _read_some(stream: BinaryIO) -> bytes:
    # read1 returns what is there; read would wait for the whole chunk.
    read1 = getattr(stream, "read1", None)
    chunk: bytes = read1(_CHUNK) if read1 is not None else stream.read(_CHUNK)
    return chunk


def _decoded(names: list[bytes], separator: bytes) -> list[str]:
    if separator != b"\0":
        names = [name.rstrip(b"\r") for name in names]
    return [os.fsdecode(name) for name in names if name]
