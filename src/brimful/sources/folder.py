"""A folder: the images and videos below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from brimful.errors import UsageError
from brimful.sources.entries import EntriesSource, FileOptions
from brimful.sources.suffixes import looked_for
from brimful.sources.walk import AllMedia, Entry, holds_any, walk


class FolderSource(EntriesSource):
    """All images and videos below a folder, sorted by path components.

    Hidden files and directories are left out. The key is the path below the folder.
    """

    def __init__(self, folder: Path, options: FileOptions) -> None:
        """Take a folder that exists.

        Raises:
            UsageError: It cannot be listed, or there is nothing in it to read.
        """
        super().__init__(options)
        self._folder = folder
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise UsageError(f"the folder {folder} cannot be listed: {error.strerror}") from None
        if not holds_any(str(folder), AllMedia()):
            raise UsageError(f"no images found under {folder}; {looked_for()}")

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files."""
        self.skipped.clear()
        return walk(str(self._folder), AllMedia(), self.skipped)
