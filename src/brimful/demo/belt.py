"""The belt that parts lie on: its texture, its colour and the rails beside it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.spec import Size

Gray = NDArray[np.uint8]

TEXTURES: tuple[str, ...] = ("rubber", "weave", "diamond", "links", "ribs", "plate")
"""Surfaces a belt comes with."""

# darkest and brightest colour of a belt, BGR
COLOURS: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((26, 26, 26), (116, 114, 112)),  # black rubber
    ((38, 38, 40), (150, 148, 144)),  # grey rubber
    ((30, 46, 14), (120, 150, 62)),  # green PVC
    ((70, 38, 16), (176, 124, 62)),  # blue plastic
    ((92, 96, 98), (214, 218, 220)),  # white PU
    ((44, 64, 78), (150, 178, 196)),  # sand
)
"""Colours a belt comes in."""


def _noise(rng: np.random.Generator, shape: Size, sigma: float) -> NDArray[np.float32]:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigma > 0:
        # coarse noise is drawn small and enlarged: a wide blur would cost a second at 1080p
        shrink = max(1, int(sigma / 2))
        small = noise[: -(-shape[0] // shrink), : -(-shape[1] // shrink)]
        blurred = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
        large = cv2.resize(blurred, shape[::-1], interpolation=cv2.INTER_CUBIC)
        noise = np.asarray(large, np.float32)
    return np.asarray(noise / noise.std(), np.float32)


@lru_cache(maxsize=32)
def texture(name: str, size: Size, scale: float) -> Gray:
    """Return a belt's surface as gray levels; the first call draws it, later ones do not.

    Args:
        name: One of TEXTURES.
        size: (height, width) in pixels.
        scale: Pixels that one pixel of a 480-line picture takes.
    """
    rng = np.random.default_rng([TEXTURES.index(name), 7])
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(scale)
    value = 118 + 9 * _noise(rng, size, 40 * scale)
    if name == "rubber":
        value += 9 * _noise(rng, size, 0.7 * scale) + 5 * _noise(rng, size, 4 * scale)
    elif name == "weave":
        value += 11 * np.sin(x * 1.05) * np.sin(y * 1.05) + 6 * _noise(rng, size, 0.6 * scale)
    elif name == "diamond":
        a, b = (x + y * 1.7) / 17 % 1, (x - y * 1.7) / 17 % 1
        ridge = np.minimum(np.abs(a - 0.5), np.abs(b - 0.5))
        value += 34 * np.clip(0.16 - ridge, 0, 1) / 0.16 - 20 * (np.abs(ridge - 0.19) < 0.03)
        value += 6 * _noise(rng, size, 0.7 * scale)
    elif name == "links":
        row = np.floor(y / 34)
        u, v = (x + (row % 2) * 27) % 54, y % 34
        edge = np.minimum.reduce([u, 54 - u, v, 34 - v])
        value += 16 * np.clip(edge / 4, 0, 1) - 60 * (edge < 1.4) + 3 * _noise(rng, size, scale)
        value -= 42 * (np.hypot(u - 27, (v - 17) * 1.2) < 4.2)
    elif name == "ribs":
        value += 26 * np.cos(x * 2 * np.pi / 15) ** 3 + 7 * _noise(rng, size, 0.8 * scale)
    else:
        streaks = cv2.blur(_noise(rng, size, 0), (int(91 * scale), 1))
        value += 11 * streaks / streaks.std() + 3 * _noise(rng, size, 0.6 * scale) + 24
    stains = _noise(rng, size, 26 * scale)
    value -= 20 * np.clip(stains - 1.3, 0, 1)
    if name != "plate":
        # scuffs run along the belt; they are what a crack must not be mistaken for
        for _ in range(int(height * width / (16000 * scale * scale))):
            x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
            length = rng.uniform(14, 70) * scale
            ends = np.array([(x0, y0), (x0 + length, y0 + rng.normal(0, 2) * scale)])
            level = float(118 + rng.choice([-22.0, 20.0, 30.0]))
            layer = value[max(0, int(y0) - 12) : int(y0) + 12]
            shifted = ends - (0, max(0, int(y0) - 12))
            start, end = np.round(shifted * 16).astype(int).tolist()
            cv2.line(layer, start, end, level, 1, cv2.LINE_8, 4)
    return np.clip(value, 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def ramp(colour: int) -> NDArray[np.uint8]:
    """Return the lookup table from gray level to colour, uint8 (256, 1, 3), of COLOURS."""
    dark, bright = (np.array(c, np.float32) for c in COLOURS[colour])
    t = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    return np.clip(dark + (bright - dark) * t, 0, 255).astype(np.uint8)[:, None]


@lru_cache(maxsize=32)
def rail(width: int, length: int) -> NDArray[np.uint8]:
    """Return an aluminium guide, uint8 (width, length, 3), BGR, its inner side below."""
    rng = np.random.default_rng([width, 11])
    t = np.linspace(0, 1, width, dtype=np.float32)
    profile = 150 + 46 * np.cos(t * 9) - 70 * (np.abs(t - 0.38) < 0.05) + 20 * (t > 0.9)
    streaks = cv2.blur(_noise(rng, (width, length), 0), (61, 1))
    value = profile[:, None] + 4 * streaks / streaks.std()
    tinted = value[..., None] * np.array([1.0, 0.985, 0.965])
    return np.asarray(np.clip(tinted, 0, 255), np.uint8)
