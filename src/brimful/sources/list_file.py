"""A list file: one path or glob per line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from brimful.errors import ImageError, UsageError
from brimful.sources.entries import EntriesSource, FileOptions, named
from brimful.sources.key import join, printable
from brimful.sources.pattern import has_magic, split_pattern
from brimful.sources.unique_keys import once
from brimful.sources.walk import CHUNK, Entry, holds_any, walk

UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""How a file in UTF-16 begins."""


class ListSource(EntriesSource):
    """The files that a text file names, in its order.

    Paths are relative to the folder of the list. Blank lines and lines that start with `#` are
    skipped; a folder stands for the media below it. The key is the path as written (for a glob:
    its part without wildcards, then the path below that). A key that comes twice is taken once.
    The list is UTF-8, or UTF-16 with its mark at the start.
    """

    def __init__(self, path: Path, options: FileOptions) -> None:
        """Take a list that exists.

        Raises:
            UsageError: It cannot be read, or names nothing.
        """
        super().__init__(options)
        self._path = path
        try:
            empty = next(self._lines(), None) is None
        except UnicodeError as error:
            raise UsageError(f"the list {path} is damaged UTF-16: {error}") from None
        except OSError as error:
            raise UsageError(f"the list {path} cannot be read: {error.strerror}") from None
        if empty:
            raise UsageError(f"the list {path} names no files; expected one path or glob a line")

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files."""
        self.skipped.clear()
        return once(self._listed(), self.skipped)

    def _lines(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            utf16 = file.read(2) in UTF16
        # Paths need not be UTF-8: surrogateescape keeps their bytes. -sig drops Windows' BOM.
        encoding, errors = ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
        with self._path.open(encoding=encoding, errors=errors) as lines:
            for line in lines:
                if "\0" in line:  # as the first lines, checked before a job, will show
                    raise UsageError(
                        f"the list {self._path} holds zero bytes; expected one path or glob a "
                        "line, in UTF-8, or in UTF-16 with its mark at the start. Paths separated "
                        "by NUL go to standard input, with - as the source"
                    )
                line = line.strip("\r\n \t")
                if line and not line.startswith("#"):
                    yield line

    def _listed(self) -> Iterator[list[Entry]]:
        folder = str(self._path.parent)
        plain: list[tuple[str, str]] = []
        for line in self._lines():
            path = line if line.startswith("/") else f"{folder}/{line}"
            is_pattern = has_magic(line) and not os.path.exists(path)  # noqa: PTH110 - Path raises
            if not is_pattern:
                plain.append((path, line))
            if is_pattern or len(plain) == CHUNK:
                yield from named(plain, self.skipped)
                plain = []
            if is_pattern:
                yield from self._matching(path, line)
        yield from named(plain, self.skipped)

    def _matching(self, path: str, line: str) -> Iterator[list[Entry]]:
        written, selection = split_pattern(line)
        root = str(self._path.parent / written)
        is_folder = os.path.isdir(root)  # noqa: PTH112 - Path raises
        prefix = "" if written == "." else printable(written).rstrip("/")
        if not is_folder or not holds_any(root, selection):
            yield [Entry(path, printable(line), ImageError("nothing matches this pattern"))]
            return
        for entries in walk(root, selection, self.skipped):
            yield [Entry(entry.path, join(prefix, entry.key), entry.error) for entry in entries]
