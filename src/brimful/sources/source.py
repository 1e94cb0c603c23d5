"""Source: an iterable of images that knows how many to expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from brimful.sources.image import SourceImage


@runtime_checkable
class Source(Protocol):
    """Where images come from.

    Iterating yields every image once, in a stable order. Something that cannot be read is
    yielded with an ImageError as its payload, never skipped and never raised: the engine turns
    it into a result with `error` set.
    """

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order; a second iteration starts over."""
        ...

    def __len__(self) -> int:
        """Return the number of images, or raise TypeError when it cannot be known."""
        ...

    def close(self) -> None:
        """Release files and decoders; a running iteration ends."""
        ...
