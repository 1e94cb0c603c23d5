"""EncodedMasks: the masks of a batch as a device encoded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.detections import FloatArray, IntArray
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Rows
from brimful.vision.masks import instance_masks

NOT_ENCODED = -1
"""Length of a mask that the device had no room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMasks:
    """COCO run lengths of each row of a batch, at the size of the original images.

    Attributes:
        starts: int64 (n,), where each row's run lengths begin in `text`.
        lengths: int32 (n,), their characters; 0 where no pixel of the box is set, NOT_ENCODED where
            the host must compute the mask.
        text: The run lengths, compressed as COCO does.
        prototypes: float32 (channels, height, width) of each image that has such rows, by its
            position in the batch.
    """

    starts: NDArray[np.int64]
    lengths: IntArray
    text: str
    prototypes: Mapping[int, FloatArray]

    @classmethod
    def of(
        cls, lengths: IntArray, text: bytes, prototypes: Mapping[int, FloatArray]
    ) -> EncodedMasks:
        """Take texts that follow each other without gaps; the arguments are as the attributes."""
        ends = np.cumsum(np.maximum(lengths, 0), dtype=np.int64)
        starts = ends - np.maximum(lengths, 0)
        return cls(starts=starts, lengths=lengths, text=text.decode("ascii"), prototypes=prototypes)

    def where(self, keep: NDArray[np.bool_]) -> EncodedMasks:
        """Return the masks of the rows for which `keep`, bool (n,), is set."""
        return replace(self, starts=self.starts[keep], lengths=self.lengths[keep])

    def masks(
        self, rows: Rows, boxes: FloatArray, placed: Sequence[Placed]
    ) -> list[dict[str, Any] | None]:
        """Return the COCO RLE of each row, None where no pixel of the box is set.

        Args:
            rows: The rows.
            boxes: float32 (n, 4), their boxes in pixels of the original images.
            placed: The images of the batch.
        """
        text = self.text
        # every mask has a list of its own: results are the caller's to change
        found: list[dict[str, Any] | None] = [
            {"size": list(placed[image].geometry.image), "counts": text[start : start + length]}
            if length > 0
            else None
            for image, start, length in zip(
                rows.image.tolist(), self.starts.tolist(), self.lengths.tolist(), strict=True
            )
        ]
        missing = self.lengths == NOT_ENCODED
        for image, prototypes in self.prototypes.items():
            own = np.flatnonzero(missing & (rows.image == image))
            masks = instance_masks(prototypes, rows.extra[own], boxes[own], placed[image].geometry)
            for row, mask in zip(own.tolist(), masks, strict=True):
                found[row] = mask
        return found
