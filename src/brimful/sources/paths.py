"""Paths given to the Python API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from brimful.sources.entries import EntriesSource, FileOptions, named
from brimful.sources.walk import Entry


class PathsSource(EntriesSource):
    """Files and folders in the order given, each as often as it is given; the key is the path."""

    def __init__(self, paths: Sequence[str | Path], options: FileOptions) -> None:
        """Keep the paths."""
        super().__init__(options)
        self._paths = [str(path) for path in paths]

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files."""
        self.skipped.clear()
        return named(((path, path) for path in self._paths), self.skipped)
