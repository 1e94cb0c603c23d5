"""Settings: what becomes a detection in each image of a batch, where the kernels read it.

A captured graph keeps the arguments that its kernels were launched with. A setting that may be
another one for each batch is therefore a row of a table on the device, and no argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray

from brimful.cuda.kernel import kernel
from brimful.cuda.memory import zeros
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.nms import _float32_at_most

HEAD = 5
"""Columns of a row before those for the classes: the bits of conf, iou and reach, all float32; the
most detections; and whether only some classes are wanted."""

WORD = 32
"""Classes of a column: a bit of an int32 is 1 for a class to report."""

_HEAD = tl.constexpr(HEAD)
_WORD = tl.constexpr(WORD)


class Settings:
    """A row for each image of a batch, on the device.

    Attributes:
        table: int32 (batch, HEAD + words), what the kernels read.
        width: Columns of the table.
        classes: Classes that a row has bits for; no other is wanted where only some are.
        limit: Most detections of an image.
    """

    def __init__(
        self, spec: ModelSpec, config: PostprocessConfig, batch: int, limit: int, device: Any
    ) -> None:
        """Write the default into all rows; queues a copy on the current stream.

        Args:
            spec: The model.
            config: The default.
            batch: Images of a batch.
            limit: Most detections of an image that there is room for. It is `config.max_det`, or
                the candidates of an image if these are fewer.
            device: A torch device.
        """
        named = [c + 1 for c in config.classes or ()]
        words = -(-max(spec.classes, *named, 1) // WORD)
        self.width = HEAD + words
        self.classes = words * WORD
        self.limit = limit
        self._rotated = spec.task == "obb"
        self._most = config.max_det
        self._default = self._row(config)
        self._is_default = True
        pinned = {"pin_memory": device.type == "cuda"}
        self._host = torch.zeros((batch, self.width), dtype=torch.int32, **pinned)
        self._host.numpy()[:] = self._default
        self.table = zeros((batch, self.width), torch.int32, device)
        self.table.copy_(self._host, non_blocking=True)

    def write(self, params: Sequence[PostprocessConfig | None] | None) -> None:
        """Set the rows for the next launch; queues a copy on the current stream if any changes.

        The launch before must have been waited for.

        Args:
            params: Of each image; None for the default, as for an image of None.

        Raises:
            ValueError: An image wants more detections than there is room for, or a class that a
                row has no bit for. The rows stay as they were.
        """
        if params is None:
            if self._is_default:  # as in every batch of a job whose images have none of their own
                return
            self._host.numpy()[:] = self._default
        else:
            rows: dict[PostprocessConfig | None, NDArray[np.int32]] = {None: self._default}
            for own in params:
                if own is not None and own not in rows:
                    rows[own] = self._row(own)
            self._is_default = False
            self._host.numpy()[: len(params)] = [rows[own] for own in params]
        self.table.copy_(self._host, non_blocking=True)
        self._is_default = params is None

    def _row(self, config: PostprocessConfig) -> NDArray[np.int32]:
        """Return the row of a setting, int32 (width,)."""
        if config.max_det > self._most:
            raise ValueError(f"max_det is {config.max_det}; there is room for {self._most}")
        row = np.zeros(self.width, np.int32)
        # the two kinds of NMS of the host round the threshold in different ways
        iou = np.float32(config.iou) if self._rotated else _float32_at_most(config.iou)
        row[:3].view(np.float32)[:] = config.conf, iou, reach_of(config.iou)
        row[3] = min(config.max_det, self.limit)
        if config.classes is not None:
            if any(c >= self.classes for c in config.classes):
                raise ValueError(f"classes has {max(config.classes)}; a row ends at {self.classes}")
            row[4] = 1
            wanted = np.zeros(self.classes, np.uint8)
            wanted[list(config.classes)] = 1
            row[HEAD:] = np.packbits(wanted, bitorder="little").view("<i4")
        return row


def reach_of(iou: float) -> float:
    """Return r such that rotated boxes that are far apart can not overlap by more than `iou`.

    Far is a distance beyond sqrt(r a^2 + r b^2), where a and b are the longer sides;
    `brimful.vision.nms` has the derivation.
    """
    bound = (-math.log(max(1 - (1 - iou) ** 2, 1e-30)) + 1e-3) * 1.01
    return float(np.float32(4 * bound / 12))


@kernel
def read_conf(row: tl.tensor) -> tl.tensor:
    """Return the confidence, float32, that a detection must be above."""
    return tl.load(row).to(tl.float32, bitcast=True)


@kernel
def read_iou(row: tl.tensor) -> tl.tensor:
    """Return the overlap, float32, beyond which a box is dropped."""
    return tl.load(row + 1).to(tl.float32, bitcast=True)


@kernel
def read_reach(row: tl.tensor) -> tl.tensor:
    """Return `reach_of` that overlap, float32."""
    return tl.load(row + 2).to(tl.float32, bitcast=True)


@kernel
def read_limit(row: tl.tensor) -> tl.tensor:
    """Return the most detections, int32."""
    return tl.load(row + 3)


@kernel
def read_filter(row: tl.tensor) -> tl.tensor:
    """Return 1 if only some classes are wanted, int32; 0 for all."""
    return tl.load(row + 4)


@kernel
def read_wanted(row: tl.tensor, label: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Tell which classes are wanted; below the row's `classes`, and read where the mask is set."""
    word = tl.load(row + _HEAD + label // _WORD, mask=mask, other=0)
    return ((word >> (label % _WORD)) & 1) != 0
