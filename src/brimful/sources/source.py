"""Source: an iterable of images that knows how many to expect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from brimful.runtimes.video import VideoDevice
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


@runtime_checkable
class ChunkedSource(Protocol):
    """A source that knows several images at a time, for a consumer that handles them together."""

    def chunks(self) -> Iterator[list[SourceImage]]:
        """Yield what iterating yields, in lists of at least one.

        A list is never held back for the next image to come: what has to be waited for comes in
        a list of its own.
        """
        ...


@runtime_checkable
class VideoSource(Protocol):
    """A source that can leave the decoding of its videos to a device."""

    def chunks_with(self, video: VideoDevice) -> Iterator[list[SourceImage]]:
        """Yield what `chunks` yields, with the frames that the device decodes as surfaces."""
        ...


def chunks_of(
    images: Iterable[SourceImage], video: VideoDevice | None = None
) -> Iterator[list[SourceImage]]:
    """Yield the images of a source in the lists it knows them in, or else one by one.

    Args:
        images: The source.
        video: What decodes its videos, if it can; frames on that device come as surfaces.
    """
    if video is not None and isinstance(images, VideoSource):
        return images.chunks_with(video)
    if isinstance(images, ChunkedSource):
        return images.chunks()
    return ([image] for image in images)
