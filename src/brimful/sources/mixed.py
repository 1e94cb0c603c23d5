"""A list of paths and of images in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from brimful.runtimes.video import VideoDevice
from brimful.sources.entries import EntriesSource, FileOptions, images_of, named
from brimful.sources.image import SourceImage
from brimful.sources.memory import check, payload_of
from brimful.sources.walk import Entry


class MixedSource(EntriesSource):
    """Files, folders and images in memory, in the order given.

    The key of a file is its path, that of an image in memory its position in decimal digits.
    """

    def __init__(self, items: Sequence[Any], options: FileOptions) -> None:
        """Check and keep the items.

        Raises:
            UsageError: One is neither a path nor an image.
        """
        super().__init__(options)
        for item in items:
            if not isinstance(item, str | Path):
                check(item)
        self._items = items

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files alone."""
        self.skipped.clear()
        paths = (str(item) for item in self._items if isinstance(item, str | Path))
        return named(((path, path) for path in paths), self.skipped)

    def __len__(self) -> int:
        """Return the number of images; a video among them makes it unknowable."""
        files = super().__len__()
        return files + sum(not isinstance(item, str | Path) for item in self._items)

    def _chunks(self, video: VideoDevice | None) -> Iterator[list[SourceImage]]:
        self.skipped.clear()
        index = 0
        for position, item in enumerate(self._items):
            if self._closed:
                return
            if isinstance(item, str | Path):
                entries = named([(str(item), str(item))], self.skipped)
                index = yield from images_of(entries, self._options, video, index)
                continue
            key = str(position)
            if (key, None) not in self._options.done:
                yield [SourceImage(index=index, key=key, payload=payload_of(item))]
            index += 1
