"""The contract between the engine and whatever executes a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from brimful.errors import RuntimeFailedError, UsageError
from brimful.spec import ModelSpec, Size

Outputs = Sequence[NDArray[np.float32]]
"""float32 arrays as `ModelSpec.head` lays them out; the first axis is the batch."""

Done = Callable[["Outputs | None", BaseException | None], None]
"""Told once per forward, on any thread: the outputs, or the error."""

InputFormat = Literal["hwc_u8", "chw_f32"]
"""What a slot's input holds.

- `hwc_u8`: uint8 (batch, height, width, channels), BGR or gray; the runtime normalises.
- `chw_f32`: float32 (batch, channels, height, width), RGB or gray, 0 to 1.
"""

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = ("fp32", "bf16", "fp16")


class OutOfMemoryError(RuntimeFailedError):
    """A forward did not fit in memory; a smaller batch may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """What the user may ask of a runtime.

    Attributes:
        device: `cpu`, or `cuda` with an optional index.
        precision: Arithmetic of the forward; a runtime that cannot do it refuses.
        threads: CPU threads of the forward in all; None takes every CPU of this process.
        max_batch: The largest batch that will be asked for; None lets the runtime choose.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int | None = None
    max_batch: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no runtime could take."""
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r} is unknown; expected one of {', '.join(PRECISIONS)}"
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError(f"batch must be at least 1, not {self.max_batch}")


class Slot(Protocol):
    """The preallocated buffers of one batch.

    Attributes:
        canvas: (height, width) of every image in it.
        inputs: Host array of `capacity` images in the runtime's input format. It may be written
            until the slot is submitted and again once its forward is done.
    """

    canvas: Size
    inputs: NDArray[Any]

    @property
    def capacity(self) -> int:
        """Images the slot holds at most."""
        ...


class Runtime(Protocol):
    """What executes a model. Safe to call from any thread.

    Attributes:
        name: The registry's name of it.
        spec: What the model is.
        input_format: What a slot's input holds.
        max_batch: Images a slot holds.
        concurrency: Forwards worth having in flight; fewer leave the device idle.
    """

    name: str
    spec: ModelSpec
    input_format: InputFormat
    max_batch: int
    concurrency: int

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> Slot:
        """Make a slot for a canvas, compiling and warming up what it needs.

        Args:
            canvas: (height, width).
            capacity: Images it holds, `max_batch` by default.
        """
        ...

    def submit(self, slot: Slot, count: int, done: Done) -> None:
        """Start the forward of the first `count` images of a slot and return at once.

        Outputs stay valid until the slot is submitted again. An error is reported through `done`,
        never raised.
        """
        ...

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results, for reports: versions, threads, precision."""
        ...

    def close(self) -> None:
        """Release the model. No forward may be in flight."""
        ...


def input_shape(spec: ModelSpec, fmt: InputFormat, canvas: Size, batch: int) -> tuple[int, ...]:
    """Return the shape of a slot's input array."""
    if fmt == "hwc_u8":
        return (batch, *canvas, spec.channels)
    return (batch, spec.channels, *canvas)


def new_input(spec: ModelSpec, fmt: InputFormat, canvas: Size, batch: int) -> NDArray[Any]:
    """Allocate a slot's input array, zeroed so that a tail never written is harmless."""
    dtype = np.uint8 if fmt == "hwc_u8" else np.float32
    return np.zeros(input_shape(spec, fmt, canvas, batch), dtype)
