"""Replay: the pictures that an interrupted job may not have finished, from its own rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from brimful.detections import Detections
from brimful.pictures.picture_sink import MOST_WAITING
from brimful.sources.entries import EntriesSource


def unfinished(
    rows: Callable[[], Iterable[Detections]], source: EntriesSource | None
) -> Iterator[Detections]:
    """Yield the results whose pictures may be missing, in order, with their originals.

    Of still images these are the last ones, as many as may wait in a `PictureSink`, and of videos
    all frames of the last one: the one before was complete when it began.

    Args:
        rows: Reads the results of the interrupted job, from the start each time.
        source: Where the images come from, with nothing left out; None where keys are paths.
    """
    start = _first_unfinished(rows())
    paths = None if source is None else _paths(source)
    key, path = None, None
    for number, detections in enumerate(rows()):
        if number < start or detections.error is not None:
            continue
        if paths is None:
            path = detections.image
        while paths is not None and key != detections.image:
            key, path = next(paths, (None, None))
            if key is None:  # it is not in the source any more
                return
        object.__setattr__(detections, "original", path)
        yield detections


def _first_unfinished(rows: Iterable[Detections]) -> int:
    """Return the number of the first row whose picture may be missing."""
    images: deque[int] = deque(maxlen=MOST_WAITING)
    video: str | None = None
    video_start: int | None = None
    for number, detections in enumerate(rows):
        if detections.error is not None:
            continue
        if detections.frame is None:
            images.append(number)
        elif detections.image != video:
            video, video_start = detections.image, number
    starts = [*list(images)[:1], *([] if video_start is None else [video_start])]
    return min(starts, default=0)


def _paths(source: EntriesSource) -> Iterator[tuple[str | None, str | None]]:
    return ((entry.key, entry.path) for entries in source.entries() for entry in entries)
