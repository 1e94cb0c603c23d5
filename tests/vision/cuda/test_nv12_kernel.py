"""The NV12 kernel against FFmpeg's swscale, which is what PyAV converts frames with.

swscale's x86 code is the reference to the last bit; elsewhere its C code rounds otherwise.
"""

from __future__ import annotations

import itertools
import platform

import av
import numpy as np
import pytest
import torch

from brimful.vision.cuda.nv12 import Colour, pitch_of, to_bgr
from shared_files import shared

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the reference is swscale on x86"
)

SIZES = [(2, 2), (2, 4), (4, 6), (6, 10), (18, 130), (16, 128), (34, 126), (48, 64)]
GUARD = 0xA5


def planes(size, seed=0):
    """Return noise: luma (h, w) and both chroma planes (h / 2, w / 2)."""
    rng = np.random.default_rng([seed, *size])
    half = size[0] // 2, size[1] // 2
    extreme = rng.integers(-64, 320, (3, *size))
    levels = np.clip(extreme, 0, 255).astype(np.uint8)
    return levels[0], levels[1, : half[0], : half[1]], levels[2, : half[0], : half[1]]


def frame_of(luma, blue, red, matrix, value_range):
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    for plane, samples in zip(frame.planes, (luma, blue, red), strict=True):
        rows = np.zeros((samples.shape[0], plane.line_size), np.uint8)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, value_range
    return frame


def converted(luma, blue, red, colour, device, *, padding=8):
    """Run the kernel on planes that it finds in memory as a decoder leaves them."""
    height, width = luma.shape
    pitch = -(-width // 4) * 4 + padding
    nv12 = np.full((height * 3 // 2, pitch), 255 - GUARD, np.uint8)
    nv12[:height, :width] = luma
    nv12[height:, :width:2], nv12[height:, 1:width:2] = blue, red
    memory = torch.from_numpy(nv12).to(device)
    guarded = torch.full((height + 2, pitch_of(width)), GUARD, dtype=torch.uint8, device=device)
    out = guarded[1:-1]
    pointer = memory.data_ptr()
    to_bgr(pointer, pointer + height * pitch, (pitch, pitch), out, size=luma.shape, colour=colour)
    found = guarded.cpu().numpy()
    written = -(-3 * width // 4) * 4
    assert (found[[0, -1]] == GUARD).all(), "nothing above or below is written"
    assert (found[1:-1, written:] == GUARD).all(), "nothing beyond the last word is written"
    return found[1:-1, : 3 * width].reshape(height, width, 3)


@pytest.mark.parametrize("value_range", [0, 1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 9])
def test_every_matrix_and_range(matrix, value_range, device):
    samples = planes((48, 70), seed=matrix)
    expected = frame_of(*samples, matrix, value_range).to_ndarray(format="bgr24")
    colour = Colour.of(matrix, value_range)
    np.testing.assert_array_equal(converted(*samples, colour, device), expected)


@pytest.mark.parametrize("size", SIZES)
def test_every_edge(size, device):
    samples = planes(size)
    expected = frame_of(*samples, 1, 1).to_ndarray(format="bgr24")
    for padding in (0, 8):
        found = converted(*samples, Colour.of(1, 1), device, padding=padding)
        np.testing.assert_array_equal(found, expected)


def test_every_level(device):
    """Every luma, every Cb and every Cr, each with many of the others."""
    step = np.arange(0, 256, 2)
    blue, red = (a.astype(np.uint8) for a in np.meshgrid(step, step + 1))
    luma = np.add.outer(np.arange(256), 37 * np.arange(256)).astype(np.uint8)
    for flip in (0, 1):
        samples = luma, blue ^ flip, red ^ flip
        expected = frame_of(*samples, 6, 1).to_ndarray(format="bgr24")
        found = converted(*samples, Colour.of(6, 1), device)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name", ["bottle-detection.mp4", "car-detection.mp4", "one-by-one-person-detection.mp4"]
)
def test_real_clips(name, device):
    path = shared("videos", name)
    with av.open(str(path)) as container:
        frame = next(itertools.islice(container.decode(video=0), 40, None))
    assert frame.format.name == "yuv420p"
    samples = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
    colour = Colour.of(int(frame.colorspace), int(frame.color_range))
    expected = frame.to_ndarray(format="bgr24")
    np.testing.assert_array_equal(converted(*samples, colour, device), expected)


@pytest.mark.parametrize("matrix", [0, 3, 8, 10, 11, 99])
def test_a_matrix_that_is_not_known(matrix):
    assert Colour.of(matrix, 1) is None


def test_what_it_cannot_convert(device):
    out = torch.zeros((4, pitch_of(8)), dtype=torch.uint8, device=device)
    colour = Colour.of(1, 1)
    good = {"size": (4, 8), "colour": colour}
    for sides in ((3, 8), (4, 7), (0, 8)):
        with pytest.raises(ValueError, match="even"):
            to_bgr(0, 64, (8, 8), out, size=sides, colour=colour)
    for luma, chroma, pitches in ((2, 64, (8, 8)), (0, 65, (8, 8)), (0, 64, (8, 10))):
        with pytest.raises(ValueError, match="multiples of 4"):
            to_bgr(luma, chroma, pitches, out, **good)
    with pytest.raises(ValueError, match="at least 8"):
        to_bgr(0, 64, (4, 8), out, **good)
    for wrong in (out[:, :24], out[:2], out.to(torch.int32)):
        with pytest.raises(ValueError, match="contiguous uint8"):
            to_bgr(0, 64, (8, 8), wrong, **good)
