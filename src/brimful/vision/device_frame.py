"""DeviceFrame: an image whose pixels are on the device already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brimful.spec import Size


@dataclass(slots=True, eq=False)
class DeviceFrame:
    """Pixels in a device's memory, uint8 BGR, freed with the last reference to this object.

    Only the runtime that made it can read it. It may be dropped once no forward that reads it is
    under way, which is when its result is settled.

    Attributes:
        size: (height, width) as it is meant to be seen.
        pointer: Device address of the top left pixel as it is meant to be seen: blue, then green
            and red.
        strides: Bytes from a pixel to the one below and to the one at its right; negative, or the
            larger one last, where the memory holds the image turned.
        nbytes: Bytes of device memory that it holds.
        memory: What owns them.
        ready: Event of the device after which the pixels are there; None when they are.
    """

    size: Size
    pointer: int
    strides: tuple[int, int]
    nbytes: int
    memory: Any
    ready: Any = None
