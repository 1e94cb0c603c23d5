"""CudaSlot: one batch on its way to the device: encoded, frames, pixels, or there already."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.spec import Size
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.host_frame import HostFrame


class CudaSlot:
    """A batch of encoded images, host frames, device frames and rows of pixels, in any mixture.

    Rows of pixels are pinned memory, which the device reads in place. They are allocated when the
    first image comes as pixels: where the device decodes, none of a folder of JPEGs does.
    """

    def __init__(self, canvas: Size, capacity: int, channels: int) -> None:
        """Make an empty slot.

        Args:
            canvas: (height, width) of every image in it.
            capacity: Images it holds at most.
            channels: Of the model's input.
        """
        self.canvas = canvas
        self.capacity = capacity
        self.encoded: list[Encoded | None] = [None] * capacity
        self.host_frames: list[HostFrame | None] = [None] * capacity
        self.device_frames: list[DeviceFrame | None] = [None] * capacity
        self.geometries: list[Geometry | None] = [None] * capacity
        self.outputs: list[torch.Tensor] = []
        self._shape = (capacity, *canvas, channels)
        self._pinned: Any = None
        self._lock = threading.Lock()

    @property
    def inputs(self) -> NDArray[np.uint8]:
        """uint8 (capacity, height, width, channels), BGR or gray, pinned."""
        if self._pinned is None:
            with self._lock:
                if self._pinned is None:
                    self._pinned = torch.zeros(self._shape, dtype=torch.uint8, pin_memory=True)
        pixels: NDArray[np.uint8] = self._pinned.numpy()
        return pixels

    def host_outputs(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return pinned memory that outputs of a forward (batch first) are copied to."""
        if not self.outputs:
            self.outputs = [
                torch.empty((self.capacity, *o.shape[1:]), dtype=o.dtype, pin_memory=True)
                for o in outputs
            ]
        return self.outputs

    def put(
        self, position: int, image: Encoded | HostFrame | DeviceFrame, geometry: Geometry
    ) -> None:
        """Take an image that the device shall decode or convert, or has decoded."""
        self.geometries[position] = geometry
        if isinstance(image, Encoded):
            self.encoded[position] = image
        elif isinstance(image, HostFrame):
            self.host_frames[position] = image
        else:
            self.device_frames[position] = image

    def place(self, position: int, geometry: Geometry) -> None:
        """Say where an image that was written as pixels lies on the canvas."""
        self.geometries[position] = geometry

    def keep(self, positions: Sequence[int]) -> None:
        """Move the images at these positions, in ascending order, to the front."""
        for to, position in enumerate(positions):
            if to != position:
                self.encoded[to] = self.encoded[position]
                self.host_frames[to] = self.host_frames[position]
                self.device_frames[to] = self.device_frames[position]
                self.geometries[to] = self.geometries[position]
                if self._pinned is not None:
                    self.inputs[to] = self.inputs[position]

    def clear(self) -> None:
        """Forget where images lie, and give the memory of those that were put back."""
        self.encoded = [None] * self.capacity
        self.host_frames = [None] * self.capacity
        self.device_frames = [None] * self.capacity
        self.geometries = [None] * self.capacity
