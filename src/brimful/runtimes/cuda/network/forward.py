"""What lanes run: a network, and the network as it runs on one stream."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from brimful.cuda.program import Program
from brimful.spec import ModelSpec


class Forward(Protocol):
    """A network on a stream.

    Attributes:
        spec: What the model is.
        dtype: Of the images.
        fused: Whether kernels need no search for the fastest before a capture.
        capturable: Whether a CUDA graph may capture it. What cannot be captured launches itself,
            and writes to the same output tensors every time.
    """

    spec: ModelSpec
    dtype: Any
    fused: bool
    capturable: bool

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run images (batch, channels, height, width), 0 to 1, channels-last, in `dtype`.

        Returns:
            float32 outputs, as `ModelSpec.head` lays them out.
        """
        ...

    def reserve(self, values: int) -> None:
        """Prepare for the largest images, of so many values in all."""
        ...

    def compile(self, images: Tensor) -> None:
        """Prepare for images of this shape."""
        ...

    def record(self, images: Tensor, pool: Any) -> tuple[Program, list[Tensor]] | None:
        """Return what a forward launches, and the outputs that it writes, without running it.

        None: it does more on the device than launch kernels of this package.

        Args:
            images: As it is called with.
            pool: Of memory for activations and outputs, which all graphs share.
        """
        ...

    def anchors(self) -> tuple[Any, ...]:
        """Return what the last forward's graph reads besides weights, to be kept alive."""
        ...


class Network(Protocol):
    """A model that was loaded onto a device.

    Attributes:
        spec: What the model is.
        dtype: Of the images.
        fused: Whether the kernels are our own.
        recordable: Whether forwards are recorded: their graphs take milliseconds to make, and
            nothing has to run for it.
    """

    spec: ModelSpec
    dtype: Any
    fused: bool
    recordable: bool

    def on(self, stream: Any) -> Forward:
        """Return the network as it runs on a torch stream, which must outlive it."""
        ...

    def close(self) -> None:
        """Drop the weights."""
        ...
