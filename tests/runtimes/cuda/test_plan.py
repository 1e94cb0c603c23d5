"""Plans: files of every orientation through the decoder's kernels, on the CPU."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from brimful.runtimes.cuda.input.plan import Plans, room
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.jpeg import GOOD
from brimful.vision.decode import decode_pixels, read_encoded
from brimful.vision.letterbox import letterbox as host_letterbox
from host_jpeg import decode
from oracles import asset


def jpeg(size: tuple[int, int], sampling: int, orientation: int) -> bytes:
    """Return a photograph as a JPEG of a size, chroma sampling and EXIF orientation."""
    pixels = cv2.resize(cv2.imread(str(asset("bus.jpg"))), size[::-1])[..., ::-1]
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    host_frame = Image.fromarray(np.ascontiguousarray(pixels))
    host_frame.save(target, "JPEG", quality=92, subsampling=sampling, exif=exif)
    return target.getvalue()


@pytest.mark.parametrize(
    ("size", "sampling", "orientation"),
    [((41, 65), 2, 1), ((64, 48), 1, 1), ((33, 47), 0, 1)]
    + [((41, 65), 2, orientation) for orientation in range(2, 9)],
)
def test_images_become_the_pixels_of_the_cpu_path(
    size: tuple[int, int], sampling: int, orientation: int
) -> None:
    encoded = read_encoded(jpeg(size, sampling, orientation))
    header = encoded.header
    assert header.size is not None and header.orientation == orientation
    geometry = CanvasPolicy(imgsz=(96, 96)).place(header.size)
    plan = Plans().of(header, geometry)
    assert plan.room == room(header)
    assert header.stored is not None and isinstance(encoded.data, bytes)
    decoded = decode(encoded.data, plan, header.stored)  # nothing beyond its room is written
    assert decoded.status == GOOD
    found = np.round(decoded.placed(geometry)[..., ::-1] * 255)
    expected = np.zeros((*geometry.canvas, 3), np.uint8)
    host_letterbox(decode_pixels(encoded), geometry, expected)
    np.testing.assert_array_equal(found, expected)


def test_a_plan_is_the_images_own_whatever_came_before() -> None:
    kinds = (((64, 48), 2), ((64, 48), 0), ((33, 47), 2))
    headers = [read_encoded(jpeg(size, sampling, 1)).header for size, sampling in kinds]
    policies = [CanvasPolicy(mode="fixed", imgsz=(side, side)) for side in (96, 128)]
    places = [{size: policy.place(size) for size, _ in kinds} for policy in policies]
    plans = Plans()
    found = {}
    pairs = [(h, p) for h in headers for p in places] + [(h, p) for p in places for h in headers]
    for header, place in pairs:
        assert header.size is not None
        geometry = place[header.size]
        plan = plans.of(header, geometry)
        fresh = Plans().of(header, geometry)
        np.testing.assert_array_equal(plan.entry, fresh.entry)
        assert plan.room == fresh.room and plans.of(header, geometry) is plan
        assert found.setdefault((header, geometry), plan) is plan
    assert len(found) == 6
