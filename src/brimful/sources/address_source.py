"""One address: an image or a video of a server, a stream, or a camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from brimful.errors import UsageError
from brimful.extras import require
from brimful.sources.address import CAMERA, address_of, cameras
from brimful.sources.entries import NO_SECOND_READING, EntriesSource, FileOptions
from brimful.sources.walk import Entry


class AddressSource(EntriesSource):
    """A URL or a camera; its key is the last name of the address."""

    def __init__(self, address: str, options: FileOptions) -> None:
        """Take an address; no server is asked yet.

        Raises:
            UsageError: There is no such camera, or it is a video that pictures are wanted of.
            MissingExtraError: It is a video and PyAV is missing.
        """
        super().__init__(options)
        self._entry = address_of(address)
        if address.startswith(CAMERA) and not Path(address).exists():
            there = ", ".join(cameras()) or "none"
            raise UsageError(
                f"there is no camera {address}, and no file {address.removeprefix(CAMERA)}; "
                f"cameras here: {there}"
            )
        if self._entry.kind == "video" and options.keeps_fetched:
            raise UsageError(NO_SECOND_READING)
        if self._entry.kind == "video":
            require("av", feature="reading videos", extra="video")

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the address."""
        yield [self._entry]

    def __len__(self) -> int:
        """Return 1 of an image; what else it is turns out when it is read."""
        if self._entry.kind != "image":
            raise TypeError("how many images come from an address is not known")
        return 1
