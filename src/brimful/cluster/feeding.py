"""Feeding: the thread that brings a job's images to the dispatcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from brimful.cluster.job import Job
from brimful.cluster.packing import Packed, convert, in_memory, pack, size_of
from brimful.cluster.shared_images import SharedImages
from brimful.errors import ImageError
from brimful.sources.image import SourceImage
from brimful.sources.source import chunks_of


class Taker(Protocol):
    """Takes packed images in; a dispatcher."""

    def add(self, job: Job, packed: Sequence[Packed]) -> bool:
        """Add images, waiting for room; return False when no more are wanted."""
        ...

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """Say that no more images come, and why, if that is not how it should be."""
        ...


class Feeding:
    """Brings the images of a source in, as far as the job's window and the arena allow."""

    def __init__(
        self,
        images: Iterable[SourceImage],
        job: Job,
        taker: Taker,
        shared: SharedImages,
        spent: Callable[[float], None],
    ) -> None:
        """Prepare; `run` does it.

        Args:
            images: The source.
            job: What they belong to.
            taker: Takes them in.
            shared: Where images in memory travel.
            spent: Told the seconds that the source took.
        """
        self._images = images
        self._job = job
        self._taker = taker
        self._shared = shared
        self._spent = spent

    def run(self) -> None:
        """Feed until the source ends or nobody wants more."""
        clock = time.perf_counter
        try:
            chunks = chunks_of(self._images)
            while True:
                started = clock()
                chunk = next(chunks, None)
                self._spent(clock() - started)
                if chunk is None:
                    break
                if not self._feed(chunk):
                    return
            self._taker.end(self._job)
        except BaseException as error:
            self._taker.end(self._job, error)

    def _feed(self, images: Sequence[SourceImage]) -> bool:
        """Bring some images in; return False when no more are wanted."""
        job, add = self._job, self._taker.add
        packed: list[Packed] = []
        for image in images:
            convert(image)
            if in_memory(image.payload):
                # What came before goes first: it may hold the memory that this one waits for.
                if not add(job, packed):
                    return False
                packed = [self._pack_in_memory(image, image.payload)]
            else:
                packed.append(pack(image, None))
        return add(job, packed)

    def _pack_in_memory(self, image: SourceImage, payload: NDArray[Any] | bytes) -> Packed:
        """Write an image into the arena, waiting for room."""
        error = too_large(payload, self._shared)
        if error is not None:
            image.payload = error
            return pack(image, None)
        job = self._job
        block = self._shared.put(job, payload, wanted=lambda: job.wanted)
        if block is None:
            image.payload = ImageError("its job ended")  # `add` refuses it
        return pack(image, block)


def too_large(payload: NDArray[Any] | bytes, shared: SharedImages) -> ImageError | None:
    """Return why an image in memory never fits the arena, or None where it does."""
    size = size_of(payload)
    if size <= shared.size:
        return None
    return ImageError(
        f"{size:,} bytes are more than the {shared.size:,} that engine processes share for images "
        "in memory"
    )
