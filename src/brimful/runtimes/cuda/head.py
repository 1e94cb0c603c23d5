"""NmsFreeHead: the detections of an NMS-free network, from its feature maps.

The last convolutions write boxes and class scores where they are read, all levels in one tensor
each, and only what is selected is decoded. The selection is the one such heads are trained with
(YOLOv10, arXiv 2405.14458): the best anchors by their best class, then the best pairs of anchor and
class among these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class NmsFreeHead(nn.Module):
    """Detection without NMS; distances of box sides are plain numbers, not distributions."""

    def __init__(
        self, boxes: list[nn.Module], scores: list[nn.Module], strides: list[float], max_det: int
    ) -> None:
        """Take the branches of a head.

        Args:
            boxes: For each level a sequence that ends in a fused convolution of 4 channels.
            scores: Likewise, of as many channels as there are classes.
            strides: Pixels of each level's cells.
            max_det: Rows to return at most.
        """
        super().__init__()
        self.boxes, self.scores = nn.ModuleList(boxes), nn.ModuleList(scores)
        last: Any = scores[0]
        self.classes = int(last[-1].channels_out)
        self.strides = strides
        self.max_det = max_det

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return float32 (batch, rows, 6), `x1 y1 x2 y2 score class`, best first."""
        batch = levels[0].shape[0]
        cells = [level.shape[2] * level.shape[3] for level in levels]
        classes = self.classes
        make: dict[str, Any] = {"dtype": torch.float32, "device": levels[0].device}
        distances = torch.empty((batch, sum(cells), 4), **make)
        logits = torch.empty((batch, sum(cells), classes), **make)
        start = 0
        for level, count, box, score in zip(levels, cells, self.boxes, self.scores, strict=True):
            size = (level.shape[2], level.shape[3])
            _run(box, level, _as_map(distances, start, size))
            _run(score, level, _as_map(logits, start, size))
            start += count
        rows = min(self.max_det, sum(cells))
        anchor = logits.amax(2).topk(rows, 1).indices
        chosen = logits.gather(1, anchor[:, :, None].expand(-1, -1, classes)).flatten(1)
        best, pair = chosen.topk(rows, 1)
        anchor = anchor.gather(1, pair // classes)
        centre, stride = self._cells(levels)
        near, far = distances.gather(1, anchor[:, :, None].expand(-1, -1, 4)).chunk(2, 2)
        corners = torch.cat((centre[anchor] - near, centre[anchor] + far), 2) * stride[anchor]
        rest = torch.stack((best.sigmoid(), (pair % classes).float()), 2)
        return torch.cat((corners, rest), 2)

    def _cells(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the centre (cells, 2) `x y` in cells, and the stride (cells, 1), of each cell."""
        centres, strides = [], []
        for level, stride in zip(levels, self.strides, strict=True):
            height, width = level.shape[2], level.shape[3]
            x = torch.arange(width, device=level.device, dtype=torch.float32) + 0.5
            y = torch.arange(height, device=level.device, dtype=torch.float32) + 0.5
            grid = torch.stack((x.repeat(height), y.repeat_interleave(width)), 1)
            centres.append(grid)
            strides.append(torch.full_like(grid[:, :1], stride))
        return torch.cat(centres), torch.cat(strides)


def _run(branch: Any, x: Tensor, out: Tensor) -> None:
    """Run a branch, its last convolution writing to `out`."""
    for part in branch[:-1]:
        x = part(x)
    branch[-1](x, out)


def _as_map(rows: Tensor, start: int, size: tuple[int, int]) -> Tensor:
    """Return rows (batch, cells, channels) of a level as (batch, channels, height, width)."""
    height, width = size
    part = rows[:, start : start + height * width]
    return part.view(len(rows), height, width, -1).permute(0, 3, 1, 2)
