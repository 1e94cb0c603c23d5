"""JpegPrefixes: how the JPEGs of a job begin, so that their headers are parsed once."""

from __future__ import annotations

from brimful.native.read_files import NO_STARTS, Starts
from brimful.vision.encoded import Encoded
from brimful.vision.header import Header

MOST = 32
"""Starts that are known at a time: a file is compared with each of them."""

LONGEST = 4096
"""Bytes of a start that is kept."""

_WATCHED = 8
"""Headers that are remembered to see whether they come again."""


class JpegPrefixes:
    """The starts of JPEGs that were checked, and the headers that they hold. Any thread may ask.

    HostFrames of one program begin with the same bytes; those of a camera have their time in them,
    and no two are the same. So a start is learnt when its header, which `read_header` keeps,
    comes for the second time.

    Attributes:
        table: The starts, and the header of each; replaced as a whole.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self.table: tuple[Starts, tuple[Header, ...]] = NO_STARTS, ()
        self._seen: list[Header] = []

    def observe(self, image: Encoded) -> None:
        """Learn from an image that was checked and began with no known start."""
        header = image.header
        if header.format != "JPEG" or not 0 < header.scan <= LONGEST:
            return
        if not any(header is seen for seen in self._seen):
            self._seen = [*self._seen[1 - _WATCHED :], header]
            return
        starts, headers = self.table
        if len(headers) >= MOST:
            starts, headers = NO_STARTS, ()
        # With the four bytes that show where the scan starts: the header says nothing of what is
        # behind them.
        text = bytes(image.data[: header.scan + 4])
        if text not in starts.texts:
            self.table = Starts((*starts.texts, text)), (*headers, header)
