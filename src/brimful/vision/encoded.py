"""Encoded: an image that was read and checked, but not decoded."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.vision.header import Header


@dataclass(slots=True)
class Encoded:
    """An image that was read but not decoded.

    Attributes:
        data: The whole file; a view of memory that came with `Runtime.pinned_for`, if it did.
        header: What its header says. The size is there and within the limits, and the data has
            its end.
        address: Of the data, where it is known; 0 where it is not.
    """

    data: bytes | memoryview
    header: Header
    address: int = 0
