"""The `debug` runtime: a fake with controllable latency and faults.

It needs no model, so the engine, the CLI and a server can be tested whole in milliseconds, and it
answers "how fast could this be if the model cost nothing?". It finds one object an image, whose
box and class are read off the pixels, so that a test can tell a right result from a neighbour's:
the class is the gray level of the canvas's centre pixel modulo the number of classes, and the
score is that level / 255 / 2 + 0.5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.errors import RuntimeFailedError, UsageError
from brimful.runtimes.runtime import (
    Done,
    InputFormat,
    OutOfMemoryError,
    Outputs,
    RuntimeOptions,
    Slot,
    new_input,
)
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import ModelSpec, Size

DEBUG_NAMES = tuple(f"level{i}" for i in range(10))


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
class DebugSlot:
    """A slot of plain host memory."""

    canvas: Size
    inputs: NDArray[Any]

    @property
    def capacity(self) -> int:
        """Images the slot holds at most."""
        return len(self.inputs)


class DebugRuntime:
    """A runtime without a model."""

    name = "debug"
    input_format: InputFormat = "hwc_u8"

    def __init__(
        self,
        options: RuntimeOptions | None = None,
        faults: DebugFaults | None = None,
        *,
        concurrency: int = 1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the fake.

        Args:
            options: Only `max_batch` matters.
            faults: Latency and faults.
            concurrency: Forwards in flight at once.
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
        self.batches: list[int] = []
        self._faults = faults or DebugFaults()
        self._sleep = sleep
        self._forwards = 0
        self._lock = threading.Lock()
        self._workers = ForwardWorkers(concurrency, name="debug")

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> DebugSlot:
        """Make a slot."""
        count = capacity or self.max_batch
        return DebugSlot(canvas, new_input(self.spec, self.input_format, canvas, count))

    def submit(self, slot: Slot, count: int, done: Done) -> None:
        """Start a fake forward of the first `count` images."""
        self._workers.submit(lambda: self._forward(slot, count), done)

    def describe(self) -> dict[str, str | int]:
        """Return its name; there is nothing else to it."""
        return {"runtime": self.name, "version": "-", "precision": "fp32", "threads": 1}

    def close(self) -> None:
        """Stop the threads."""
        self._workers.close()

    def _forward(self, slot: Slot, count: int) -> Outputs:
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
        height, width = slot.canvas
        level = slot.inputs[:count, height // 2, width // 2, 0].astype(np.int64)
        if faults.poison_level is not None and (level == faults.poison_level).any():
            raise RuntimeFailedError(f"an image of gray level {faults.poison_level} is poison")
        rows = np.zeros((count, 1, 6), np.float32)
        rows[:, 0, :4] = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        rows[:, 0, 4] = level / 255 / 2 + 0.5
        rows[:, 0, 5] = level % len(self.spec.names)
        return [rows]
