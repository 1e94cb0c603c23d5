"""JPEG files that tests make, and the same decoded by the kernels on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from brimful.runtimes.cuda.input.plan import Plans
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.jpeg import GOOD
from brimful.vision.geometry import Geometry
from brimful.vision.header import read_header
from host_jpeg import Decoded, decode

FACTORS = {"444": 0x111111, "422": 0x211111, "440": 0x121111, "420": 0x221111}


def decoded(data: bytes, geometry: Geometry | None = None, threads: int = 256) -> Decoded:
    """Decode a file whose header can be read."""
    header = read_header(data)
    assert header is not None and header.size is not None and header.stored is not None
    plan = Plans().of(header, geometry or CanvasPolicy().place(header.size))
    return decode(data, plan, header.stored, threads)


def assert_pixels(data: bytes, threads: int = 256) -> None:
    """Expect all three components to be libjpeg-turbo's."""
    expected = simplejpeg.decode_jpeg(data, "RGB")
    size = expected.shape[0], expected.shape[1]
    whole = Geometry(size, size, size, 0, 0)
    found = decoded(data, whole, threads)
    assert found.status == GOOD
    np.testing.assert_array_equal(np.round(found.placed(whole) * 255), expected)


def expected_luma(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "GRAY")[..., 0]


def picture(size: tuple[int, int], *, block: int = 4, seed: int = 0) -> np.ndarray:
    """Return blocks of random colours, and noise on them."""
    rng = np.random.default_rng([seed, *size])
    coarse = rng.integers(0, 256, (-(-size[0] // block), -(-size[1] // block), 3))
    fine = coarse.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]
    return np.clip(fine + rng.integers(-9, 10, fine.shape), 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, **options: int) -> bytes:
    """Encode with OpenCV's options by their names."""
    flags = [x for name, v in options.items() for x in (getattr(cv2, f"IMWRITE_JPEG_{name}"), v)]
    return cv2.imencode(".jpg", image, flags)[1].tobytes()
