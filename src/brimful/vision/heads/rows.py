"""Rows: what a model found in a whole batch, and the way from there to Detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.detections import Detections, FloatArray, IntArray, new_detections
from brimful.spec import ModelSpec
from brimful.vision.heads.placed import Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Detections of a batch, one after the other: by image, best first within an image.

    Attributes:
        image: intp (n,), position of the row's image in the batch, ascending.
        boxes: float32 (n, 4) in canvas pixels, `x1 y1 x2 y2` (obb: `cx cy w h`).
        confidence: float32 (n,).
        class_id: int32 (n,).
        extra: float32 (n, extra): mask coefficients, keypoints or the angle.
        truncated: bool (batch,), whether the image had more candidates than NMS looks at.
    """

    image: NDArray[np.intp]
    boxes: FloatArray
    confidence: FloatArray
    class_id: IntArray
    extra: FloatArray
    truncated: NDArray[np.bool_]

    def spans(self) -> list[slice]:
        """Return the rows of each image of the batch."""
        bounds = np.searchsorted(self.image, np.arange(len(self.truncated) + 1)).tolist()
        return [slice(a, b) for a, b in pairwise(bounds)]

    def where(self, keep: NDArray[np.bool_]) -> Rows:
        """Return the rows for which `keep`, bool (n,), is set."""
        return replace(
            self,
            image=self.image[keep],
            boxes=self.boxes[keep],
            confidence=self.confidence[keep],
            class_id=self.class_id[keep],
            extra=self.extra[keep],
        )

    def detections(
        self,
        placed: Sequence[Placed],
        spec: ModelSpec,
        boxes: FloatArray,
        *,
        masks: Sequence[dict[str, Any]] | None = None,
        keypoints: FloatArray | None = None,
        obb: FloatArray | None = None,
    ) -> list[Detections]:
        """Split the batch into the Detections of each image.

        Args:
            placed: The images of the batch.
            spec: The model.
            boxes: float32 (n, 4), `x1 y1 x2 y2` in pixels of the original image.
            masks: Of each row, segment only.
            keypoints: Of each row, pose only.
            obb: Of each row, obb only.
        """
        task, names = spec.task, spec.names
        confidence, class_id = self.confidence, self.class_id
        found = []
        for p, span, truncated in zip(placed, self.spans(), self.truncated.tolist(), strict=True):
            geometry = p.geometry
            height, width = geometry.image
            found.append(
                new_detections(
                    p.key,
                    p.index,
                    width,
                    height,
                    task,
                    names,
                    p.frame,
                    p.pts_ms,
                    geometry.canvas,
                    boxes[span],
                    confidence[span],
                    class_id[span],
                    None if masks is None else tuple(masks[span]),
                    None if keypoints is None else keypoints[span],
                    None if obb is None else obb[span],
                    None,
                    truncated,
                )
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverse:
    """The way from canvas to image for every row of a batch at once.

    Attributes:
        gain: float32 (n, 2), canvas pixels per image pixel, (x, y).
        offset: float32 (n, 2), padding to the left and above.
        size: float32 (n, 2), width and height of the original image.
    """

    gain: FloatArray
    offset: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, rows: Rows, placed: Sequence[Placed]) -> Inverse:
        """Look up the geometry of each row's image."""
        first = placed[0].geometry
        if all(p.geometry is first for p in placed):  # images of one size share theirs
            row = np.array(first.inverse, np.float32)
            table = np.broadcast_to(row, (len(rows.image), len(row)))
        else:
            table = np.array([p.geometry.inverse for p in placed], np.float32)[rows.image]
        return cls(gain=table[:, 0:2], offset=table[:, 2:4], size=table[:, 4:6])

    def points(self, points: FloatArray) -> FloatArray:
        """Map float32 (n, k, 2) points onto the image, clipped to it."""
        mapped = (points - self.offset[:, None]) / self.gain[:, None]
        return np.clip(mapped, np.float32(0), self.size[:, None], out=mapped)

    def boxes(self, boxes: FloatArray) -> FloatArray:
        """Map float32 (n, 4) boxes `x1 y1 x2 y2` onto the image, clipped to it."""
        return self.points(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
