"""One file: an image, or the frames of a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from brimful.extras import require
from brimful.sources.content import kind_of_content
from brimful.sources.entries import EntriesSource, FileOptions
from brimful.sources.frames import count_frames
from brimful.sources.key import printable
from brimful.sources.suffixes import kind_of
from brimful.sources.walk import Entry


class FileSource(EntriesSource):
    """An image or a video; its key is the file name."""

    def __init__(self, path: Path, options: FileOptions) -> None:
        """Take a file that exists.

        Raises:
            UsageError: It is a video and PyAV is missing.
        """
        super().__init__(options)
        self._path = path
        self._is_video = (kind_of(path.name) or kind_of_content(str(path))) == "video"
        if self._is_video:
            require("av", feature="reading videos", extra="video")

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the file."""
        yield [Entry(str(self._path), printable(self._path.name))]

    def __len__(self) -> int:
        """Return 1, or the frames that the container of a video says it has, by the stride."""
        if not self._is_video:
            return 1
        frames = count_frames(str(self._path))
        if frames is None:
            raise TypeError("the container of the video does not say how many frames it has")
        return -(-frames // self._options.vid_stride)
