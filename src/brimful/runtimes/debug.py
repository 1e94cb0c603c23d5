"""The `debug` runtime: a fake with controllable latency and faults.

It needs no model, so the engine, the CLI and a server can be tested whole in milliseconds, and it
answers "how fast could this be if the model cost nothing?". It finds one object an image, whose
box and class are read off the pixels, so that a test can tell a right result from a neighbour's:
the class is the gray level of the canvas's centre pixel modulo the number of classes, and the
score is that level / 255 / 2 + 0.5.

It can play a runtime that decodes and selects on its device, in two ways. With `encoded="decode"`
the forward decodes and letterboxes what came encoded, and finds in it what it finds in pixels.
With `encoded="ignore"` nothing looks at any image, and each is said to hold the same
`IGNORED_ROWS` objects: a device that costs nothing, for measuring what is around it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from brimful.errors import ImageError, RuntimeFailedError, UsageError
from brimful.runtimes.runtime import (
    Done,
    HostSlot,
    InputFormat,
    OutOfMemoryError,
    Outputs,
    Params,
    RuntimeOptions,
    Slot,
    new_input,
)
from brimful.runtimes.video import VideoDevice
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import ModelSpec, Size
from brimful.vision.decode import MemoryFor, decode_pixels
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.rows import Rows
from brimful.vision.heads.select import select_each, select_nms_free
from brimful.vision.heads.selected import Selected
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import letterbox

DEBUG_NAMES = tuple(f"level{i}" for i in range(10))

IGNORED_ROWS = 9
"""Objects that every image is said to hold when nothing looks at it."""

EncodedMode = Literal["decode", "ignore"]
"""What the fake does with images that come encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugFaults:
    """Latency and faults of the fake.

    Attributes:
        batch_ms: Milliseconds that a forward takes.
        image_ms: Milliseconds more for each image in it.
        poison_level: A batch with an image whose centre pixel has this gray level fails.
        memory_images: More images than this in a batch raise an out-of-memory error.
        fail_forwards: Numbers of the forwards that fail once, counted from 1.
        hang_forward: Number of the forward that never ends.
    """

    batch_ms: float = 0.0
    image_ms: float = 0.0
    poison_level: int | None = None
    memory_images: int | None = None
    fail_forwards: frozenset[int] = frozenset()
    hang_forward: int | None = None


@dataclass(slots=True)
class DebugSlot(HostSlot):
    """A slot of plain host memory, and the encoded images in it by position."""

    encoded: dict[int, tuple[Encoded, Geometry]] = field(default_factory=dict)

    def put(
        self, position: int, image: Encoded | HostFrame | DeviceFrame, geometry: Geometry
    ) -> None:
        """Keep an image for the forward; it has no host frames or device frames."""
        if not isinstance(image, Encoded):
            raise TypeError("this slot takes encoded images, not frames")
        self.encoded[position] = image, geometry

    def keep(self, positions: Sequence[int]) -> None:
        """Move images to the front."""
        HostSlot.keep(self, positions)
        for to, position in enumerate(positions):
            image = self.encoded.get(position)
            if image is None:
                self.encoded.pop(to, None)
            else:
                self.encoded[to] = image

    def clear(self) -> None:
        """Forget the encoded images."""
        self.encoded.clear()


class DebugRuntime:
    """A runtime without a model."""

    name = "debug"
    input_format: InputFormat = "hwc_u8"
    prefetch = 1
    pinned_for: MemoryFor | None = None
    accepts_frame: Callable[[HostFrame], bool] | None = None
    video: VideoDevice | None = None

    def __init__(
        self,
        options: RuntimeOptions | None = None,
        faults: DebugFaults | None = None,
        *,
        concurrency: int = 1,
        partial_batches_below: int | None = None,
        encoded: EncodedMode | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the fake.

        Args:
            options: Only `max_batch`, and with `encoded` also `postprocess`, matter.
            faults: Latency and faults.
            concurrency: Forwards in flight at once.
            partial_batches_below: Forwards below which a batch goes at once; `concurrency` by
                default.
            encoded: Take JPEGs encoded, and what to do with them; None takes pixels only.
            sleep: Waits the latency, in seconds.
        """
        options = options or RuntimeOptions()
        if options.device != "cpu":
            raise UsageError(
                f"device {options.device!r} was asked for, but the debug runtime has only cpu"
            )
        if options.precision != "fp32":
            raise UsageError(
                f"precision {options.precision!r} was asked for, but the debug runtime has only "
                "fp32"
            )
        self.spec = ModelSpec(task="detect", head="nms_free", names=DEBUG_NAMES)
        self.max_batch = options.max_batch or 8
        self.concurrency = concurrency
        self.partial_batches_below = (
            concurrency if partial_batches_below is None else partial_batches_below
        )
        self.batches: list[int] = []
        self._faults = faults or DebugFaults()
        self._encoded = encoded
        self._postprocess = (options.postprocess or PostprocessConfig()).of_model(self.spec)
        self._sleep = sleep
        self._forwards = 0
        self._lock = threading.Lock()
        self._workers = ForwardWorkers(concurrency, name="debug")

    @property
    def accepts_encoded(self) -> Callable[[Header], bool] | None:
        """With `encoded`: gray and colour JPEGs that need no rotation."""
        return None if self._encoded is None else _is_plain_jpeg

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> DebugSlot:
        """Make a slot."""
        count = capacity or self.max_batch
        return DebugSlot(canvas, new_input(self.spec, self.input_format, canvas, count))

    def prepare(self, canvas: Size) -> None:
        """Do nothing: slots bring all that forwards need."""

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start a fake forward of the first `count` images."""
        assert isinstance(slot, DebugSlot)
        self._workers.submit(lambda: self._forward(slot, count, params), done)

    def describe(self) -> dict[str, str | int]:
        """Return its name; there is nothing else to it."""
        return {
            "runtime": self.name,
            "version": "-",
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
        }

    def close(self) -> None:
        """Stop the threads."""
        self._workers.close()

    def _forward(self, slot: DebugSlot, count: int, params: Params) -> Outputs:
        faults = self._faults
        with self._lock:
            self._forwards += 1
            number = self._forwards
            self.batches.append(count)
        if number == faults.hang_forward:
            threading.Event().wait()
        if faults.memory_images is not None and count > faults.memory_images:
            raise OutOfMemoryError(f"{count} images do not fit; {faults.memory_images} would")
        if number in faults.fail_forwards:
            raise RuntimeFailedError(f"forward {number} was told to fail")
        latency = faults.batch_ms + faults.image_ms * count
        if latency:
            self._sleep(latency / 1000)
        if self._encoded == "ignore":
            return Selected(rows=_ignored(slot.canvas, count))
        errors = _decode(slot, count)
        height, width = slot.canvas
        level = slot.inputs[:count, height // 2, width // 2, 0].astype(np.int64)
        if faults.poison_level is not None and (level == faults.poison_level).any():
            raise RuntimeFailedError(f"an image of gray level {faults.poison_level} is poison")
        rows = np.zeros((count, 1, 6), np.float32)
        rows[:, 0, :4] = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        rows[:, 0, 4] = level / 255 / 2 + 0.5
        rows[:, 0, 5] = level % len(self.spec.names)
        if self._encoded is None:
            return [rows]
        selected = select_each(select_nms_free, rows, count, self.spec, self._postprocess, params)
        return Selected(rows=selected, errors=errors)


def _is_plain_jpeg(header: Header) -> bool:
    return header.format == "JPEG" and header.components in (1, 3) and header.orientation == 1


def _decode(slot: DebugSlot, count: int) -> dict[int, str]:
    """Decode what came encoded into its rows; return why some could not be."""
    errors: dict[int, str] = {}
    for position, (encoded, geometry) in slot.encoded.items():
        if position < count:
            try:
                letterbox(decode_pixels(encoded), geometry, slot.inputs[position])
            except ImageError as error:
                errors[position] = str(error)
    return errors


def _ignored(canvas: Size, count: int) -> Rows:
    """Return boxes of many sizes that follow from nothing but their number."""
    height, width = canvas
    at = np.linspace(0.05, 0.6, IGNORED_ROWS, dtype=np.float32)
    corners = np.stack((at, at[::-1], at + at / 2, at[::-1] + at / 3), axis=1)
    boxes = np.tile(corners * np.array((width, height) * 2, np.float32), (count, 1))
    return Rows(
        image=np.repeat(np.arange(count), IGNORED_ROWS),
        boxes=boxes,
        confidence=np.tile(np.linspace(0.97, 0.26, IGNORED_ROWS, dtype=np.float32), count),
        class_id=np.tile(np.arange(IGNORED_ROWS, dtype=np.int32) % len(DEBUG_NAMES), count),
        extra=np.empty((count * IGNORED_ROWS, 0), np.float32),
        truncated=np.zeros(count, np.bool_),
    )
