"""CostModel: how long a forward takes, by canvas and batch size, learned from those that ran. Pure.

It is fed the time that the device spent on a forward, and only with forwards that succeeded. What
was never seen is estimated from what was: batches of one canvas by their size, other canvases by
their pixels.
"""

from __future__ import annotations

from collections import deque
from statistics import quantiles

from brimful.spec import Size

KEPT = 32
"""Forwards of a kind that are remembered: the newest."""


class CostModel:
    """Seconds of a forward, by canvas and batch size."""

    def __init__(self) -> None:
        """Know nothing."""
        self._seen: dict[Size, dict[int, deque[float]]] = {}

    def observe(self, canvas: Size, images: int, seconds: float) -> None:
        """Learn from a forward that succeeded.

        Args:
            canvas: (height, width) of its images.
            images: How many there were.
            seconds: Time that the device spent on it.
        """
        sizes = self._seen.setdefault(canvas, {})
        sizes.setdefault(bucket(images), deque(maxlen=KEPT)).append(seconds)

    def forward_s(self, canvas: Size, images: int, *, quantile: float = 0.5) -> float:
        """Return how long a forward will take, in seconds; 0 when no forward was ever seen.

        Args:
            canvas: (height, width) of its images.
            images: How many there are.
            quantile: Of the forwards seen, 0.5 for the median.
        """
        sizes = self._seen.get(canvas)
        scale = 1.0
        if not sizes:
            if not self._seen:
                return 0.0
            nearest = min(self._seen, key=lambda seen: abs(_pixels(seen) - _pixels(canvas)))
            sizes, scale = self._seen[nearest], _pixels(canvas) / _pixels(nearest)
        wanted = bucket(images)
        if wanted not in sizes:
            near = min(sizes, key=lambda size: (abs(size - wanted), size))
            # A smaller batch is never assumed to be cheaper than what was measured.
            scale *= max(1.0, wanted / near)
            wanted = near
        return scale * _quantile(sizes[wanted], quantile)

    def table(self) -> dict[Size, dict[int, float]]:
        """Return the median seconds of each canvas and batch size that was seen."""
        return {
            canvas: {size: _quantile(times, 0.5) for size, times in sorted(sizes.items())}
            for canvas, sizes in self._seen.items()
        }


def bucket(images: int) -> int:
    """Return the batch size that stands for so many images: the next power of two."""
    return 1 << max(0, images - 1).bit_length()


def _pixels(canvas: Size) -> int:
    return canvas[0] * canvas[1]


def _quantile(times: deque[float], quantile: float) -> float:
    if len(times) == 1:
        return times[0]
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[min(98, max(0, round(quantile * 100) - 1))]
