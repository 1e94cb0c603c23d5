"""What travels between the scheduler and the stages: joined requests, batches that go, load."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.engine.batcher import Batch
from brimful.engine.request import Request
from brimful.runtimes.runtime import Slot
from brimful.spec import Size
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.host_frame import HostFrame
from brimful.vision.pixels import Pixels

Ready = tuple[Request, Pixels | Encoded | HostFrame | DeviceFrame]
"""A request that knows its geometry, and what is to be written of its image."""


@dataclass(slots=True)
class Joined:
    """Requests that joined a batch and are still to be written.

    Attributes:
        batch: What they joined.
        slot: Its buffers.
        position: Where the first one goes; the others follow.
        images: The requests.
    """

    batch: Batch[Request]
    slot: Slot
    position: int
    images: list[Ready]


@dataclass(slots=True, eq=False)
class RunningBatch:
    """A batch that goes to the device.

    Attributes:
        batch: What it was.
        slot: Its buffers.
        members: The requests that run.
        positions: Their rows in the slot; None when they are the first ones already.
        dropped: Members that nobody wants any more, or whose deadline has passed.
        started: When it went, in seconds.
    """

    batch: Batch[Request]
    slot: Slot
    members: list[Request]
    positions: list[int] | None
    dropped: list[Request]
    started: float


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests and batches are where.

    Attributes:
        live: Requests whose outcome is open.
        waiting: Requests in the queue.
        preparing: Requests that workers decode.
        batched: Requests in batches that have not gone.
        running: Batches on the device.
        slots: Slots in use.
        nbytes: Bytes of images handed over in memory.
    """

    live: int
    waiting: int
    preparing: int
    batched: int
    running: int
    slots: int
    nbytes: int


class SlotError(Exception):
    """There is no memory for a slot of a canvas."""

    def __init__(self, canvas: Size, cause: BaseException) -> None:
        """Keep the canvas and what making the slot raised."""
        super().__init__(f"no memory for images of canvas {canvas[0]}x{canvas[1]}: {cause}")
        self.canvas = canvas
