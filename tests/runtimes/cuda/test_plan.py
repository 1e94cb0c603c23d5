"""Plans: planes as a decoder writes them, through both kernels, against the CPU's path.

FFmpeg stands in for the GPU's engines: like them it gives the planes as they were stored.
"""

from __future__ import annotations

import io
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import decode_pixels, read_encoded
from brimful.vision.letterbox import letterbox as host_letterbox
from oracles import asset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def jpeg(size: tuple[int, int], sampling: int, orientation: int) -> bytes:
    """Return a photograph as a JPEG of a size, chroma sampling and EXIF orientation."""
    pixels = cv2.resize(cv2.imread(str(asset("bus.jpg"))), size[::-1])[..., ::-1]
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(target, "JPEG", quality=92, subsampling=sampling, exif=exif)
    return target.getvalue()


def planes_of(data: bytes) -> list[Any]:
    """Return Y, Cb and Cr as stored."""
    with av.open(io.BytesIO(data), format="mjpeg") as container:
        frame = next(container.decode(video=0))
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


@pytest.mark.parametrize(
    ("size", "sampling", "orientation"),
    [((41, 65), 2, 1), ((64, 48), 1, 1), ((33, 47), 0, 1)]
    + [((41, 65), 2, orientation) for orientation in range(2, 9)],
)
def test_planes_become_the_pixels_of_the_cpu_path(
    size: tuple[int, int], sampling: int, orientation: int
) -> None:
    from brimful.runtimes.cuda.plan import Plans, room
    from brimful.vision.cuda.letterbox import letterbox
    from brimful.vision.cuda.ycc import to_bgr

    encoded = read_encoded(jpeg(size, sampling, orientation))
    header = encoded.header
    assert header.size is not None and header.orientation == orientation
    geometry = CanvasPolicy(imgsz=(96, 96)).place(header.size)
    plan = Plans().of(header, geometry)
    assert (plan.decoded, plan.converted) == room(header)
    shift = 512  # not at the start of the memory
    decoded = torch.full((shift + plan.decoded,), 7, dtype=torch.uint8)
    starts, pitches = plan.conversion[0:3], plan.conversion[[4, 5, 5]]
    for plane, start, pitch in zip(planes_of(encoded.data), starts, pitches, strict=True):
        height, width = plane.shape
        rows = decoded.numpy()[shift + start : shift + start + height * pitch].reshape(
            height, pitch
        )
        rows[:, :width] = plane
    decoded = decoded.to(DEVICE)
    pixels = torch.zeros(shift + plan.converted, dtype=torch.uint8, device=DEVICE)
    conversion, entry = plan.conversion.copy(), plan.entry.copy()
    conversion[0:3] += decoded.data_ptr() + shift
    conversion[3] += pixels.data_ptr() + shift
    entry[0] += pixels.data_ptr() + shift
    entry[10] = 1
    assert header.stored is not None
    to_bgr(torch.from_numpy(conversion[None]).to(DEVICE), count=1, size=header.stored)
    shape = (2, 3, *geometry.canvas)
    out = torch.zeros(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
    letterbox(torch.from_numpy(entry[None]).to(DEVICE), out, count=1)
    found = (out[1].permute(1, 2, 0).flip(2) * 255).round().cpu().numpy()
    expected = np.zeros((*geometry.canvas, 3), np.uint8)
    host_letterbox(decode_pixels(encoded), geometry, expected)
    difference = np.abs(found - expected)
    # FFmpeg's inverse transform rounds differently from libjpeg's, and nothing else differs.
    assert difference.max() <= 6
    assert difference.mean() < 0.6
    assert not out[0].any()
    assert not pixels[:shift].any()
