"""The contract between the engine and whatever executes a model.

A slot takes an image in one of two ways: as pixels, which the engine letterboxes into a row of
`Slot.inputs`, or with `Slot.put`, for a runtime that letterboxes on its device: encoded, if it
decodes there; as a host frame, if it converts frames there that the host has decoded; or as a
device frame, if it decodes videos there (`Runtime.video`).
Likewise a forward has one of two results: the head's outputs, from which the host selects, or
rows that the device selected already (`Selected`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from brimful.errors import RuntimeFailedError, UsageError
from brimful.runtimes.video import VideoDevice
from brimful.spec import ModelSpec, Size
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import MemoryFor
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.selected import Selected
from brimful.vision.host_frame import HostFrame

Outputs = Sequence[NDArray[np.float32]] | Selected
"""float32 arrays as `ModelSpec.head` lays them out, the first axis the batch; or what the device
selected from them."""


class Done(Protocol):
    """Told once per forward, on any thread, how it ended."""

    def __call__(
        self, outputs: Outputs | None, error: BaseException | None, seconds: float | None = None, /
    ) -> None:
        """Take the outputs, or the error.

        Args:
            outputs: What the forward computed, None if it failed.
            error: Why it failed, or None.
            seconds: Time that the device spent on it, if the runtime measures that.
        """
        ...


Params = Sequence[PostprocessConfig | None] | None
"""What becomes a detection, for each image of a batch; None for the engine's own setting."""

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
        tune_batch: Whether the runtime shall find the batch beyond which there is little to gain
            (`max_batch` must be None); one that cannot chooses as ever.
        memory: Bytes of device memory that the process may hold, or None; only a runtime with a
            device of its own keeps it.
        policy: Gives the canvases that images of a model will go to; None is one canvas of the
            model's own size.
        postprocess: What a runtime that selects on its device selects with; None leaves the
            selection to the host.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int | None = None
    max_batch: int | None = None
    tune_batch: bool = False
    memory: int | None = None
    policy: Callable[[ModelSpec], CanvasPolicy] | None = None
    postprocess: PostprocessConfig | None = None

    def __post_init__(self) -> None:
        """Refuse values that no runtime could take."""
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision {self.precision!r} is unknown; expected one of {', '.join(PRECISIONS)}"
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"gpu_mem must be at least 1 byte, not {self.memory}")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError(f"batch must be at least 1, not {self.max_batch}")


class Slot(Protocol):
    """The preallocated buffers of one batch.

    Each image of a batch is either written into its row of `inputs` or `put` there. Several threads
    fill different positions at once.

    Attributes:
        canvas: (height, width) of every image in it.
    """

    canvas: Size

    @property
    def inputs(self) -> NDArray[Any]:
        """Host array of `capacity` images in the runtime's input format.

        It may be written until the slot is submitted and again once its forward is done.
        """
        ...

    @property
    def capacity(self) -> int:
        """Images the slot holds at most."""
        ...

    def put(
        self, position: int, image: Encoded | HostFrame | DeviceFrame, geometry: Geometry
    ) -> None:
        """Take an image that the device shall decode or convert, or has decoded.

        Called only for images that `Runtime.accepts_encoded` takes, host frames that
        `Runtime.accepts_frame` takes, and device frames of `Runtime.video`. An image whose data
        turns out to be damaged is reported in `Selected.errors`, and hurts none of its neighbours.

        Args:
            position: Its place in the batch.
            image: The file, the host frame or the device frame, which is kept until `clear`.
            geometry: Where it lies on the canvas.
        """
        ...

    def place(self, position: int, geometry: Geometry) -> None:
        """Say where an image that was written into a row of `inputs` lies on the canvas.

        A runtime that computes on its device in pixels of the original image needs it.
        """
        ...

    def keep(self, positions: Sequence[int]) -> None:
        """Move the images at these positions to the front, over what is there.

        What lies behind them stays where it is.

        Args:
            positions: In ascending order.
        """
        ...

    def clear(self) -> None:
        """Forget what was put: the batch is settled, and the next one brings its own.

        Rows of `inputs` may keep what they hold.
        """
        ...


@dataclass(slots=True)
class HostSlot:
    """A slot of host memory that takes pixels only; slots of runtimes that decode extend it."""

    canvas: Size
    inputs: NDArray[Any]

    @property
    def capacity(self) -> int:
        """Images the slot holds at most."""
        return len(self.inputs)

    def put(
        self, position: int, image: Encoded | HostFrame | DeviceFrame, geometry: Geometry
    ) -> None:
        """Refuse: the runtime says that it decodes nothing."""
        raise TypeError("this slot takes pixels: no encoded images or frames")

    def place(self, position: int, geometry: Geometry) -> None:
        """Do nothing: the host takes results to the original image."""

    def keep(self, positions: Sequence[int]) -> None:
        """Move rows to the front."""
        for to, position in enumerate(positions):
            if to != position:
                self.inputs[to] = self.inputs[position]

    def clear(self) -> None:
        """Do nothing: rows are overwritten."""


class Runtime(Protocol):
    """What executes a model. Safe to call from any thread.

    Attributes:
        name: The registry's name of it.
        spec: What the model is.
        input_format: What a slot's input holds.
        max_batch: Images a slot holds.
        concurrency: Forwards worth having in flight; fewer leave the device idle.
        partial_batches_below: Forwards in flight below which a batch goes at once, full or not. A
            device on which several do not run faster than one says 1: what comes meanwhile becomes
            one batch.
        prefetch: Batches worth submitting beyond `concurrency`, for the runtime to prepare
            meanwhile.
    """

    name: str
    spec: ModelSpec
    input_format: InputFormat
    max_batch: int
    concurrency: int
    partial_batches_below: int
    prefetch: int

    @property
    def video(self) -> VideoDevice | None:
        """What decodes videos to device frames, which slots take; None for nothing."""
        ...

    @property
    def accepts_encoded(self) -> Callable[[Header], bool] | None:
        """Tells whether slots take an image of this header encoded; None when they never do.

        The header has a size. What is not taken comes as pixels, also into the same batch.
        """
        ...

    @property
    def accepts_frame(self) -> Callable[[HostFrame], bool] | None:
        """Tells whether slots take a host frame as it is; None when they never do.

        Asked for every frame. What is not taken comes as pixels, also into the same batch.
        """
        ...

    @property
    def pinned_for(self) -> MemoryFor | None:
        """Gives memory from which the device reads an encoded image fastest; None: any will do."""
        ...

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> Slot:
        """Make a slot for a canvas, compiling and warming up what it needs.

        Args:
            canvas: (height, width).
            capacity: Images it holds, `max_batch` by default.
        """
        ...

    def prepare(self, canvas: Size) -> None:
        """Make now what forwards of a canvas would make on their way, besides slots.

        Args:
            canvas: (height, width).
        """
        ...

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start the forward of the first `count` images of a slot and return at once.

        Outputs stay valid until the slot is submitted again. An error is reported through `done`,
        never raised.

        Args:
            slot: The images.
            count: How many.
            done: Told how it ended.
            params: What becomes a detection in each image, where not all take the engine's setting;
                for a runtime that selects on its device.
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
