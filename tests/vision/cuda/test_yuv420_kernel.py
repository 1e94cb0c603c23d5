"""The kernel for planar frames against FFmpeg's swscale, which is what PyAV converts them with."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

from brimful.vision.cuda.nv12 import Colour, pitch_of
from brimful.vision.cuda.yuv420 import COLUMNS, describe, to_bgr
from video_kit import planar

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the reference is swscale on x86"
)

SIZES = [(2, 2), (2, 4), (4, 6), (6, 10), (18, 130), (16, 128), (34, 126), (48, 64)]
GUARD = 0xA5


def converted(frames, device, *, padding=4):
    """Convert frames in one launch; return BGR of each, and check that no more was written."""
    table = np.zeros((len(frames), COLUMNS), np.int64)
    planes, outputs = [], []
    for frame, entry in zip(frames, table, strict=True):
        height, width = frame.height, frame.width
        held = []
        for plane in frame.planes:
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            pitch = -(-plane.width // 4) * 4 + padding
            samples = np.full((plane.height, pitch), 255 - GUARD, np.uint8)
            samples[:, : plane.width] = rows[: plane.height, : plane.width]
            held.append(torch.from_numpy(samples).to(device))
        out = torch.full((height + 2, pitch_of(width)), GUARD, dtype=torch.uint8, device=device)
        pitches = held[0].shape[1], held[1].shape[1]
        colour = Colour.of(int(frame.colorspace), int(frame.color_range))
        describe(entry, pitches, (height, width), colour)
        entry[:4] = [*(plane.data_ptr() for plane in held), out[1].data_ptr()]
        planes.append(held)
        outputs.append(out)
    largest = max(frame.height for frame in frames), max(frame.width for frame in frames)
    to_bgr(torch.from_numpy(table).to(device), count=len(frames), largest=largest)
    found = []
    for frame, guarded in zip(frames, outputs, strict=True):
        written = -(-3 * frame.width // 4) * 4
        pixels = guarded.cpu().numpy()
        assert (pixels[[0, -1]] == GUARD).all(), "nothing above or below is written"
        assert (pixels[1:-1, written:] == GUARD).all(), "nothing beyond the last word is written"
        found.append(pixels[1:-1, : 3 * frame.width].reshape(frame.height, frame.width, 3))
    return found


def assert_pyav_s(frames, device, **options):
    for pixels, frame in zip(converted(frames, device, **options), frames, strict=True):
        np.testing.assert_array_equal(pixels, frame.to_ndarray(format="bgr24"))


def test_every_matrix_and_range_in_one_launch(device):
    frames = [
        planar((18, 34), matrix * 3 + value_range, matrix=matrix, value_range=value_range)
        for matrix in (1, 2, 4, 5, 6, 7, 9)
        for value_range in (0, 1, 2)
    ]
    assert_pyav_s(frames, device)


@pytest.mark.parametrize("padding", [0, 12])
def test_frames_of_several_sizes(padding, device):
    frames = [planar(size, i, matrix=(1, 6)[i % 2]) for i, size in enumerate(SIZES)]
    assert_pyav_s(frames, device, padding=padding)
    assert_pyav_s(frames[::-1], device, padding=padding)


def test_rows_beyond_the_count_are_not_read(device):
    table = torch.zeros((3, COLUMNS), dtype=torch.int64, device=device)
    to_bgr(table, count=0, largest=(2, 2))


def test_what_it_cannot_convert(device):
    colour = Colour.of(1, 1)
    entry = np.zeros(COLUMNS, np.int64)
    for size in ((3, 8), (4, 7), (0, 8)):
        with pytest.raises(ValueError, match="even"):
            describe(entry, (16, 16), size, colour)
    for pitches in ((6, 4), (8, 6), (4, 4), (8, 0)):
        with pytest.raises(ValueError, match="pitches in multiples of 4"):
            describe(entry, pitches, (4, 8), colour)
    good = torch.zeros((2, COLUMNS), dtype=torch.int64, device=device)
    for table, count in ((good[:, :4], 1), (good[:, :4].contiguous(), 1), (good, 3)):
        with pytest.raises(ValueError, match="table"):
            to_bgr(table, count=count, largest=(2, 2))
    with pytest.raises(ValueError, match="int64"):
        to_bgr(good.int(), count=1, largest=(2, 2))
