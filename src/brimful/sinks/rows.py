"""Rows: the results in a journal, read as often as a conversion needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brimful.detections import Detections
from brimful.formats.coco import CategoryMap
from brimful.formats.json_record import from_record
from brimful.sinks.journal import no_result, read_rows
from brimful.spec import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The results in a finished journal; iterating reads the file from its start.

    Attributes:
        journal: The JSON lines.
        task: What the model predicted.
        names: Its class names.
        categories: How class ids become COCO category ids.
    """

    journal: Path
    task: Task
    names: tuple[str, ...]
    categories: CategoryMap = "auto"

    def __iter__(self) -> Iterator[Detections]:
        """Yield the results in the order they were written, one in memory at a time.

        Raises:
            UsageError: A row is no result of this model.
        """
        for number, record in enumerate(read_rows(self.journal), 1):
            try:
                detections = from_record(record, task=self.task, names=self.names)
                self._check(detections)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                raise no_result(self.journal, number, str(error)) from None
            yield detections

    def _check(self, d: Detections) -> None:
        """Raise ValueError where the arrays are not those of a result of this model."""
        ids = d.class_id
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.names):
            raise ValueError(f"a class id is none of the model's {len(self.names)} classes")
        if d.probs is not None and d.probs.shape != (len(self.names),):
            raise ValueError(f"expected {len(self.names)} probabilities, got {d.probs.shape}")
        shapes = [(d.boxes, 2), (d.confidence, 1), (d.class_id, 1), (d.keypoints, 3), (d.obb, 2)]
        for array, dimensions in shapes:
            if array is not None and (array.ndim, len(array)) != (dimensions, len(d)):
                raise ValueError(f"expected {len(d)} detections, got an array {array.shape}")
        if d.obb is not None and d.obb.shape[1] != 5:
            raise ValueError(f"expected oriented boxes of 5 numbers, got {d.obb.shape}")
        if d.keypoints is not None and d.keypoints.shape[2] not in (2, 3):
            raise ValueError(f"expected keypoints of 2 or 3 numbers, got {d.keypoints.shape}")
        for mask in d.masks or ():
            if mask["size"] != [d.height, d.width] or not isinstance(mask["counts"], str):
                raise ValueError("a mask is not of its image")
        if not np.isfinite(d.width) or d.width < 0 or d.height < 0:
            raise ValueError("the size of an image is negative")
