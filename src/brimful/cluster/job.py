"""Job: one source on its way through the engine processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brimful.cluster.messages import Results
from brimful.cluster.packing import Packed
from brimful.cluster.work_queue import WorkQueue
from brimful.vision.heads.config import PostprocessConfig

Answer = tuple[Results, bytes]
"""Results and their body, as an engine process sent them."""


@dataclass(eq=False)
class Job:
    """One source on its way through the processes.

    Attributes:
        encoded: Bodies are JSON lines and not pickled Detections.
        lost: Makes the answer for an image that no process can run: told the image and why.
        queue: Its images and results.
        params: What becomes a detection in it, or None for the engines' setting.
        error: Why results that were promised will not come, raised once those ready are taken.
        ending: Why no more images come, raised at the very end.
        closed: Nobody wants its results any more.
    """

    encoded: bool
    lost: Callable[[Packed, str], Answer]
    queue: WorkQueue[Packed, Answer]
    params: PostprocessConfig | None = None
    error: BaseException | None = None
    ending: BaseException | None = None
    closed: bool = False

    @property
    def wanted(self) -> bool:
        """Whether more images of it may come in."""
        return not self.closed and self.error is None and self.ending is None
