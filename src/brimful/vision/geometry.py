"""Canvas geometry: where an image lies on its canvas, and the way back.

The placement is the letterbox that YOLO models are trained with: one scale for both sides, each
resized side rounded, the padding split evenly with the odd pixel below or to the right. The
inverse divides by the ratio of each side as rounded, so a box goes back to where its pixels came
from (Ultralytics 8.4 does the same in `scale_boxes`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brimful.spec import Size

PAD_VALUE = 114
"""Gray level of the padding, the one YOLO models were trained with."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an image lies on its canvas.

    Attributes:
        image: (height, width) of the original image.
        canvas: (height, width) of the canvas.
        resized: (height, width) of the image on the canvas.
        top: Rows of padding above.
        left: Columns of padding to the left.
        inverse: What takes a point `x y` on the canvas back to the image: the gain (x, y), the
            offset (x, y), and the width and height of the image to clip to.
    """

    image: Size
    canvas: Size
    resized: Size
    top: int
    left: int
    inverse: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the inverse, once for all images of a size that share the geometry."""
        height, width = self.image
        gain_y, gain_x = self.gain
        inverse = (gain_x, gain_y, self.left, self.top, width, height)
        object.__setattr__(self, "inverse", inverse)

    @classmethod
    def fit(cls, image: Size, canvas: Size) -> Geometry:
        """Place an image on a canvas, as large as it fits, centred."""
        height, width = image
        scale = min(canvas[0] / height, canvas[1] / width)
        return cls.centred(image, canvas, resized_to(image, scale))

    @classmethod
    def centred(cls, image: Size, canvas: Size, resized: Size) -> Geometry:
        """Place an image that was resized to `resized` in the middle of a canvas."""
        top = round((canvas[0] - resized[0]) / 2 - 0.1)
        left = round((canvas[1] - resized[1]) / 2 - 0.1)
        return cls(image, canvas, resized, top, left)

    @property
    def gain(self) -> tuple[float, float]:
        """Canvas pixels per image pixel, (vertical, horizontal)."""
        return self.resized[0] / self.image[0], self.resized[1] / self.image[1]

    def to_canvas(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map points (..., 2) `x y` or boxes (..., 4) `x1 y1 x2 y2` onto the canvas."""
        scale, offset = self._per_column(points.shape[-1])
        return points * scale + offset

    def to_image(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map points (..., 2) or boxes (..., 4) from the canvas back onto the image.

        Nothing is clipped: see `clip`.
        """
        scale, offset = self._per_column(points.shape[-1])
        return (points - offset) / scale

    def clip(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Clip points (..., 2) or boxes (..., 4) in image pixels to the image."""
        bound = np.tile(np.array(self.image[::-1], points.dtype), points.shape[-1] // 2)
        clipped: NDArray[np.floating] = np.clip(points, 0, bound)
        return clipped

    def _per_column(self, columns: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        gain_y, gain_x = self.gain
        scale = np.array((gain_x, gain_y) * (columns // 2), np.float32)
        offset = np.array((self.left, self.top) * (columns // 2), np.float32)
        return scale, offset


def resized_to(image: Size, scale: float) -> Size:
    """Return the (height, width) of an image after scaling, at least one pixel a side."""
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))
