"""Originals: which image each result of a job is of, so that detections can be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from brimful.detections import Detections
from brimful.runtimes.video import VideoDevice
from brimful.sources.image import Payload, SourceImage
from brimful.sources.source import Source, chunks_of
from brimful.vision.device_frame import DeviceFrame


class Originals:
    """A source that remembers what it brought until the result is there.

    Of files and videos it remembers paths. It holds pixels only where that is asked for, and what
    is on its way is bounded by the engine. The thread that feeds writes, the one that takes results
    reads: a dictionary stands that.
    """

    def __init__(self, source: Source, *, keep_images: bool) -> None:
        """Stand in for a source.

        Args:
            source: Where images come from.
            keep_images: Remember images in memory and frames on the host, too.
        """
        self._source = source
        self._keep = keep_images
        self._known: dict[int, Payload] = {}

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order."""
        return (image for images in self.chunks() for image in images)

    def __len__(self) -> int:
        """Return the number of images, or raise TypeError when it cannot be known."""
        return len(self._source)

    def chunks(self) -> Iterator[list[SourceImage]]:
        """Yield the images in the lists that the source knows them in."""
        return self._remembered(chunks_of(self._source))

    def chunks_with(self, video: VideoDevice) -> Iterator[list[SourceImage]]:
        """Yield the same, with the frames that a device decodes."""
        return self._remembered(chunks_of(self._source, video))

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def attach(self, results: Iterable[list[Detections]]) -> Iterator[list[Detections]]:
        """Yield results, each with its original."""
        take, put = self._known.pop, object.__setattr__
        for batch in results:
            for detections in batch:
                put(detections, "original", take(detections.index, None))
            yield batch

    def _remembered(self, chunks: Iterator[list[SourceImage]]) -> Iterator[list[SourceImage]]:
        known, keep = self._known, self._keep
        for images in chunks:
            for image in images:
                payload = image.payload
                if image.video is not None and (not keep or isinstance(payload, DeviceFrame)):
                    known[image.index] = image.video
                elif isinstance(payload, str) or (
                    (keep or image.kept) and not isinstance(payload, Exception)
                ):
                    known[image.index] = payload
            yield images
