"""NmsFreeHead: the detections of an NMS-free network, from its feature maps.

The last convolutions write boxes and class scores where they are read, all levels in one tensor
each, and only what is selected is decoded. The selection is the one such heads are trained with
(YOLOv10, arXiv 2405.14458): the best anchors by their best class, then the best pairs of anchor and
class among these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from brimful.cuda.launch import Launch
from brimful.runtimes.cuda.network.topk import best_pairs, best_scores
from brimful.spec import Size


class NmsFreeHead(nn.Module):
    """Detection without NMS; distances of box sides are plain numbers, not distributions."""

    def __init__(
        self,
        boxes: list[nn.Module],
        scores: list[nn.Module],
        strides: list[float],
        max_det: int,
        launcher: Callable[[Launch], None],
    ) -> None:
        """Take the branches of a head.

        Args:
            boxes: For each level a sequence that ends in a fused convolution of 4 channels.
            scores: Likewise, of as many channels as there are classes.
            strides: Pixels of each level's cells.
            max_det: Rows to return at most.
            launcher: Runs the kernels.
        """
        super().__init__()
        self.boxes, self.scores = nn.ModuleList(boxes), nn.ModuleList(scores)
        last: Any = scores[0]
        self.classes = int(last[-1].channels_out)
        self.strides = strides
        self.max_det = max_det
        self._launcher = launcher
        # Graphs read these: they stay.
        self._tables: dict[tuple[Size, ...], Tensor] = {}

    def prepare(self, canvas: Size, device: Any) -> None:
        """Make what forwards of a canvas read besides weights, in memory that stays.

        Args:
            canvas: (height, width) of the images, multiples of the strides.
            device: Where the weights are.
        """
        height, width = canvas
        sides = [(height // int(stride), width // int(stride)) for stride in self.strides]
        self._table(tuple(sides), device)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return float32 (batch, rows, 6), `x1 y1 x2 y2 score class`, best first.

        Of equal scores the lower anchor comes first, then the lower class; NaN comes last.
        """
        batch, device = levels[0].shape[0], levels[0].device
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        cells = sum(height * width for height, width in sizes)
        classes = self.classes
        rows = min(self.max_det, cells)

        def make(*shape: int, dtype: Any = torch.int32) -> Tensor:
            return torch.empty((batch, *shape), dtype=dtype, device=device)

        distances = make(cells, 4, dtype=torch.float32)
        logits = make(cells, classes, dtype=torch.float32)
        start = 0
        for level, size, box, score in zip(levels, sizes, self.boxes, self.scores, strict=True):
            _run(box, level, _as_map(distances, start, size))
            _run(score, level, _as_map(logits, start, size))
            start += size[0] * size[1]
        out = make(rows, 6, dtype=torch.float32)
        if rows == 0:
            return out
        best = make(cells)
        work = make(rows), make(rows * classes), make(rows * classes)
        self._launcher(best_scores(logits, best))
        table = self._table(sizes, device)
        self._launcher(best_pairs(best, logits, distances, table, work, out))
        return out

    def _table(self, sizes: tuple[Size, ...], device: Any) -> Tensor:
        """Return where the levels begin, how wide they are, and their strides."""
        table = self._tables.get(sizes)
        if table is None:
            rows, start = [], 0
            for (height, width), stride in zip(sizes, self.strides, strict=True):
                rows.append((float(start), float(width), stride))
                start += height * width
            table = self._tables[sizes] = torch.tensor(rows, dtype=torch.float32).to(device)
        return table


def _run(branch: Any, x: Tensor, out: Tensor) -> None:
    """Run a branch, its last convolution writing to `out`."""
    for part in branch[:-1]:
        x = part(x)
    branch[-1](x, out)


def _as_map(rows: Tensor, start: int, size: Size) -> Tensor:
    """Return rows (batch, cells, channels) of a level as (batch, channels, height, width)."""
    height, width = size
    part = rows[:, start : start + height * width]
    return part.view(len(rows), height, width, -1).permute(0, 3, 1, 2)
