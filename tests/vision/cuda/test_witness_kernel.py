"""Witness marks: an image that was not written, or not whole, is found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

SIZES = ((480, 640), (33, 47), (16, 31), (1, 1), (17, 5), (100, 32))


class Images:
    """Planes of images of several sizes, one after the other, with a table that tells where."""

    def __init__(self, device: torch.device) -> None:
        from brimful.vision.cuda import ycc

        self.pitches = [-(-width // 4) * 4 for _, width in SIZES]
        sizes = [height * pitch for (height, _), pitch in zip(SIZES, self.pitches, strict=True)]
        self.starts = np.cumsum([0, *sizes]).tolist()
        noise = np.random.default_rng(5).integers(0, 256, self.starts[-1], np.uint8)
        self.pictures = torch.from_numpy(noise)
        self.memory = self.pictures.clone().to(device)
        self.table = torch.zeros((len(SIZES), ycc.COLUMNS), dtype=torch.int64)
        for i, (height, width) in enumerate(SIZES):
            start = self.memory.data_ptr() + self.starts[i]
            self.table[i, [0, 4, 7, 8]] = torch.tensor([start, self.pitches[i], height, width])
        self.table = self.table.to(device)
        self.tallest = max(height for height, _ in SIZES)

    def decode(self, i: int, rows: slice = slice(None)) -> None:
        """Write the picture, or some of its rows, as a decoder would."""
        part = slice(self.starts[i], self.starts[i + 1])
        shape = (SIZES[i][0], self.pitches[i])
        self.memory[part].view(shape)[rows] = (
            self.pictures[part].view(shape)[rows].to(self.memory.device)
        )

    def unwritten(self) -> list[int]:
        """Return the images that are found out."""
        from brimful.vision.cuda.witness import find_unwritten

        flags: Any = torch.zeros(len(SIZES), dtype=torch.int32, device=self.memory.device)
        find_unwritten(self.table, flags, count=len(SIZES), height=self.tallest)
        return [int(i) for i in flags.cpu().nonzero()]


@pytest.fixture
def images(device: torch.device) -> Images:
    from brimful.vision.cuda.witness import mark

    found = Images(device)
    mark(found.table, count=len(SIZES), height=found.tallest)
    return found


def test_nothing_was_written(images: Images) -> None:
    assert images.unwritten() == list(range(len(SIZES)))


def test_everything_was_written(images: Images) -> None:
    for i in range(len(SIZES)):
        images.decode(i)
    assert images.unwritten() == []


@pytest.mark.parametrize("skipped", range(len(SIZES)))
def test_one_image_was_skipped(images: Images, skipped: int) -> None:
    for i in range(len(SIZES)):
        if i != skipped:
            images.decode(i)
    assert images.unwritten() == [skipped]


def test_the_end_of_an_image_is_missing(images: Images) -> None:
    for i in range(1, len(SIZES)):
        images.decode(i)
    images.decode(0, slice(0, 464))  # the last row of blocks is not there
    assert images.unwritten() == [0]
    images.decode(0, slice(464, 480))
    assert images.unwritten() == []


def test_marks_stay_inside_the_images(device: torch.device) -> None:
    from brimful.vision.cuda.witness import mark

    images = Images(device)
    before = images.memory.clone()
    mark(images.table, count=len(SIZES), height=images.tallest)
    changed = (images.memory != before).cpu().numpy()
    for i, (height, width) in enumerate(SIZES):
        rows = changed[images.starts[i] : images.starts[i + 1]].reshape(height, images.pitches[i])
        assert not rows[:, width:].any()  # what is between rows is nobody's
        assert 0 < rows[:, :width].sum() <= 32 * -(-height // 16)
