"""Sprites of the machine parts: what a part is made of, before light and placement.

A part is modelled as a height field over the unit disc. Its normals, reflectance and coverage are
kept, so that it can be turned and lit at drawing time: a table of reflections indexed by the
normal (a "matcap": Sloan et al., The Lit Sphere, GI 2001) gives metal its look at the price of
one lookup a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""float32 (side, side): one value for each pixel of a sprite."""

VARIANTS = 8
"""How many different sprites there are of each kind of part."""

SIDE = 320
"""Width and height in pixels of a sprite at its finest level."""

MARGIN = 1.06
"""The sprite covers -MARGIN to MARGIN; the part itself lies within the unit circle."""

_PIXEL = 2 * MARGIN / SIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """A part seen from above, unlit.

    Attributes:
        levels: float32 (side, side, 4) each, side halving: normal x, normal y, reflectance,
            coverage. The normals point to +x right and +y down.
        area: Covered area in units of the part's radius squared.
        half: (x, y) half extents in units of the part's radius.
        depth: Thickness of the part in units of its radius.
    """

    levels: tuple[NDArray[np.float32], ...]
    area: float
    half: tuple[float, float]
    depth: float


def _grid() -> tuple[Field, Field]:
    axis = ((np.arange(SIDE, dtype=np.float32) + 0.5) * _PIXEL - MARGIN).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _smooth(low: float, high: float, value: Field) -> Field:
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _hexagon(x: Field, y: Field, apothem: float) -> Field:
    third = np.float32(np.sqrt(3) / 2)
    sloping = np.maximum(np.abs(third * x + y / 2), np.abs(third * x - y / 2))
    return np.asarray(np.maximum(np.abs(y), sloping) - apothem, np.float32)


def _round_edge(outline: Field, width: float, height: float) -> Field:
    """Height of a face whose rim is rounded off over `width` from the outline inwards."""
    t = np.clip(-outline / width, 0, 1)
    return np.asarray(height * np.sqrt(1 - (1 - t) ** 2), np.float32)


def _turned(rng: np.random.Generator, radius: Field, angle: Field) -> Field:
    """Reflectance of a face finished on a lathe: fine rings and the bow-tie they reflect."""
    rings = rng.normal(0, 1, 256).astype(np.float32)
    rings = np.asarray(cv2.GaussianBlur(rings[None], (0, 0), 1.1), np.float32)[0]
    ring = np.interp(radius, np.linspace(0, 1.6, 256), rings).astype(np.float32)
    bow = np.cos(2 * (angle - rng.uniform(0, np.pi)))
    return np.asarray(1 + 0.07 * ring + 0.13 * bow, np.float32)


def _brushed(rng: np.random.Generator, strength: float = 0.08) -> Field:
    """Reflectance of a face brushed along x."""
    noise = rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    noise = np.asarray(cv2.GaussianBlur(cv2.blur(noise, (41, 1)), (0, 0), 0.8), np.float32)
    return np.asarray(1 + strength * noise / noise.std(), np.float32)


def _sprite(outline: Field, height: Field, reflectance: Field, depth: float) -> Sprite:
    """Turn an outline (negative inside, unit slope) and a height field into a sprite."""
    coverage = np.clip(0.5 - outline / _PIXEL, 0, 1)
    height = np.asarray(cv2.GaussianBlur(height.astype(np.float32), (0, 0), 0.9), np.float32)
    slope_y, slope_x = np.gradient(height, _PIXEL)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    full = np.dstack((-slope_x / length, -slope_y / length, reflectance, coverage))
    levels = [np.ascontiguousarray(full, np.float32)]
    while levels[-1].shape[0] > 60:
        half_size = cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half_size, np.float32))
    x, y = _grid()
    half = (float(np.abs(x[coverage > 0]).max()), float(np.abs(y[coverage > 0]).max()))
    area = float(coverage.sum()) * _PIXEL**2
    return Sprite(levels=tuple(levels), area=area, half=half, depth=depth)


def _bolt(rng: np.random.Generator, variant: int) -> Sprite:
    """A screw lying on its side, head to the left."""
    x, y = _grid()
    head_end = rng.uniform(-0.62, -0.5)
    head_half = rng.uniform(0.36, 0.44)
    shank = head_half * rng.uniform(0.46, 0.56)
    pitch = rng.uniform(0.065, 0.09)
    thread_start = head_end + rng.uniform(0.05, 0.5)
    style = variant % 3  # hexagon, hexagon with flange, socket cap

    phase = (x / pitch + 0.35 * y / shank) % 1
    tooth = np.abs(phase - 0.5) * 2
    threaded = _smooth(thread_start, thread_start + 0.04, x)
    # the last turns run out towards a chamfered tip
    tip = _smooth(0.86, 1.0, x)
    radius = shank * (1 - 0.13 * threaded * (1 - tooth) - 0.28 * tip)
    shank_outline = np.maximum.reduce([np.abs(y) - radius, x - 0.99, head_end - 0.05 - x])
    shank_height = np.sqrt(np.clip(radius**2 - y**2, 0, None))

    head_outline = np.maximum.reduce([np.abs(y) - head_half, x - head_end, -1 - x])
    # corners of the outer face are cut by a cone, seen from the side as an arc
    head_outline = np.maximum(head_outline, -(x + 1.0) + 0.10 * (y / head_half) ** 4)
    if style == 2:
        head_height = np.sqrt(np.clip(head_half**2 - y**2, 0, None))
        knurl = 1 + 0.16 * np.sign(np.sin(np.arcsin(np.clip(y / head_half, -1, 1)) * 26))
        head_light = np.where(x < head_end - 0.09, knurl, 1.0)
    else:
        # three faces of the hexagon: one towards the viewer, two sloping away
        across = np.abs(y) / head_half
        head_height = head_half * np.where(across < 0.5, 0.88, 0.88 - (across - 0.5) * 0.95)
        head_light = np.ones_like(x)
    outline = np.minimum(shank_outline, head_outline)
    in_head = head_outline < shank_outline
    edge = _round_edge(head_outline, 0.05, 0.06)
    height = np.where(in_head, head_height * 0.8 + edge, shank_height)
    light = np.where(in_head, head_light, 1 - 0.42 * threaded * (1 - tooth))
    if style == 1:
        flange = np.maximum(np.abs(y) - head_half * 1.12, np.abs(x - head_end + 0.04) - 0.05)
        flange_outline = flange
        outline = np.minimum(outline, flange_outline)
        flange_height = np.sqrt(np.clip((head_half * 1.12) ** 2 - y**2, 0, None)) + 0.02
        height = np.where(flange_outline < 0, flange_height, height)
        light = np.where(flange_outline < 0, 1.08, light)
    # the dark line where the shank enters the head
    light = light * (
        1 - 0.5 * np.exp(-(((x - head_end - 0.012) / 0.018) ** 2)) * (np.abs(y) < shank)
    )
    return _sprite(outline, height, light * _brushed(rng, 0.05), head_half)


def _nut(rng: np.random.Generator, variant: int) -> Sprite:
    x, y = _grid()
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    bore = rng.uniform(0.42, 0.54)
    flanged = variant % 4 == 3
    body = 0.84 if flanged else 1.0
    hexagon = _hexagon(x, y, 0.866 * body)
    side = np.minimum(hexagon, r - 1.0) if flanged else hexagon
    outline = np.maximum(side, bore - 0.09 - r)
    # the cone that breaks the six corners leaves a round face
    cone = _smooth(0.80 * body, 1.02 * body, r)
    height = _round_edge(hexagon, 0.05, 0.07) - 0.30 * cone
    if flanged:
        height = np.where(hexagon < 0, height + 0.25, 0.20 * (1 - r))
    thread = np.clip((r - bore + 0.09) / 0.09, 0, 1)
    in_thread = r < bore
    height = np.where(in_thread, 0.30 * thread - 0.3, height)
    light = _turned(rng, r, angle)
    turns = 0.5 + 0.5 * np.sin(thread * 2 * np.pi * 2.5 + angle)
    light = np.where(in_thread, 0.22 + 0.38 * turns * thread, light)
    light *= 1 - 0.45 * np.exp(-(((r - bore) / 0.02) ** 2))
    if flanged:
        light *= 1 - 0.5 * np.exp(-((hexagon / 0.02) ** 2)) * (hexagon > -0.01)
    elif variant % 4 == 1:  # a nylon insert: a pale ring around the bore
        ring = (r > bore) & (r < bore + 0.13)
        light = np.where(ring, 1.35, light)
    return _sprite(outline, height, light, rng.uniform(0.35, 0.6))


def _washer(rng: np.random.Generator, variant: int) -> Sprite:
    x, y = _grid()
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    hole = rng.uniform(0.40, 0.58)
    ring = np.maximum(r - 1, hole - r)
    outline = ring
    height = _round_edge(ring, 0.05, 0.05)
    if variant % 4 == 2:  # a spring washer: split, the ends apart
        split = np.maximum(np.abs(y) - 0.035, -x)
        outline = np.maximum(ring, -split)
        height = np.asarray(height + 0.05 * np.arctan2(-y, -x), np.float32)
    elif variant % 4 == 3:  # a fender washer, slightly dished
        height = np.asarray(height - 0.16 * r**2, np.float32)
    light = _turned(rng, r, angle)
    return _sprite(outline, height, light, 0.12)


def _gear(rng: np.random.Generator, variant: int) -> Sprite:
    x, y = _grid()
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    teeth = int(rng.integers(11, 23))
    root = 1 - 4.1 / (teeth + 2) * rng.uniform(0.55, 0.62)
    tooth = np.abs((angle * teeth / (2 * np.pi)) % 1 - 0.5) * 2
    flank = np.clip((tooth - 0.24) / 0.44, 0, 1)
    pitch_line = root + (1 - root) * flank**0.8
    profile = r - pitch_line
    slope_y, slope_x = np.gradient(profile, _PIXEL)
    # unit slope, so that the edge is one pixel wide; bounded where the angle wraps
    profile = profile / np.clip(np.hypot(slope_x, slope_y), 1, 6)
    bore = rng.uniform(0.14, 0.24)
    outline = np.maximum(profile, bore - r)
    keyway = np.maximum(np.abs(y) - bore * 0.28, np.abs(x - bore * 0.7) - bore * 0.62)
    outline = np.maximum(outline, -keyway)
    rim_inner, hub = root - rng.uniform(0.13, 0.2), bore + rng.uniform(0.12, 0.18)
    style = variant % 4  # plain, recessed web, holes in the web, spokes
    height = _round_edge(outline, 0.04, 0.05)
    light = _turned(rng, r, angle)
    if style != 0 and rim_inner - hub > 0.1:
        web = np.maximum(r - rim_inner, hub - r)
        height = height - 0.10 * _smooth(0.0, 0.05, -web)
        light = light * (1 - 0.22 * _smooth(0.0, 0.05, -web))
        # the step throws a thin dark line
        light *= 1 - 0.35 * np.exp(-((web / 0.018) ** 2))
        count = int(rng.integers(4, 7))
        middle, half = (rim_inner + hub) / 2, (rim_inner - hub) / 2
        sector = (angle + np.pi / count) % (2 * np.pi / count) - np.pi / count
        if style == 2:
            hole = np.hypot(r * np.cos(sector) - middle, r * np.sin(sector)) - half * 0.72
            outline = np.maximum(outline, -hole)
        elif style == 3:
            spoke = 0.09 - np.abs(r * np.sin(np.abs(sector) - np.pi / count))
            opening = np.maximum(web + 0.03, spoke)
            outline = np.maximum(outline, -opening)
    return _sprite(outline, height, light, rng.uniform(0.22, 0.4))


def _bearing(rng: np.random.Generator, variant: int) -> Sprite:
    x, y = _grid()
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    bore = rng.uniform(0.34, 0.42)
    inner, outer = bore + rng.uniform(0.13, 0.17), rng.uniform(0.78, 0.83)
    outline = np.maximum(r - 1, bore - r)
    rings = np.minimum(np.maximum(r - 1, outer - r), np.maximum(r - inner, bore - r))
    height = _round_edge(rings, 0.045, 0.055)
    light = _turned(rng, r, angle)
    gap = (r > inner) & (r < outer)
    if variant % 3 == 2:  # sealed: a rubber or plastic lip between the rings
        lip = np.maximum(r - outer, inner - r)
        height = np.where(gap, 0.03 * _smooth(0.0, 0.07, -lip) - 0.05, height)
        light = np.where(gap, rng.choice([0.16, 0.24, 0.6]), light)
        light *= 1 - 0.55 * np.exp(-((lip / 0.02) ** 2))
    else:
        middle, half = (inner + outer) / 2, (outer - inner) / 2
        balls = int(rng.integers(7, 11))
        step = 2 * np.pi / balls
        sector = (angle + step / 2) % step - step / 2
        away = np.hypot(r * np.cos(sector) - middle, r * np.sin(sector))
        size = half * 0.97
        ball = np.sqrt(np.clip(size**2 - away**2, 0, None))
        height = np.where(gap, np.where(away < size, ball, -0.06), height)
        cage = 0.42 if variant % 3 == 1 else 0.12
        in_cage = (np.abs(r - middle) < half * 0.5) & gap
        light = np.where(gap, np.where(away < size, 1.15, np.where(in_cage, cage, 0.10)), light)
    return _sprite(outline, height, light, rng.uniform(0.25, 0.4))


def _arm(rng: np.random.Generator, variant: int) -> Sprite:
    """A gripper finger or a sensor bracket that reaches into the picture: never labelled."""
    x, y = _grid()
    half = 0.12 + 0.02 * (variant % 4)
    body = np.maximum(np.abs(y) - half, np.abs(x) - 1.0)
    # rounded tip, at the right
    body = np.maximum(body, np.hypot(np.maximum(x - (1 - half), 0), y) - half)
    outline = body
    height = _round_edge(body, 0.05, 0.06)
    light = _brushed(rng, 0.05)
    pad = _smooth(0.60, 0.61, x) * (1 - _smooth(0.93, 0.94, x)) * (np.abs(y) < half * 0.7)
    light = np.where(pad > 0.5, 0.2, light)
    for place in (-0.6, -0.1, 0.4):
        screw = np.hypot(x - place, y)
        height = height + 0.04 * (screw < half * 0.4)
        light = light * (1 - 0.5 * (np.abs(screw - half * 0.4) < 0.012))
    return _sprite(outline, height, light, 0.05)


_BUILDERS: dict[str, Callable[[np.random.Generator, int], Sprite]] = {
    "bolt": _bolt,
    "nut": _nut,
    "washer": _washer,
    "gear": _gear,
    "bearing": _bearing,
    "arm": _arm,
}

KINDS: tuple[str, ...] = tuple(_BUILDERS)
"""Every kind there is a sprite of; all but the arm are parts."""


@cache
def sprite(kind: str, variant: int) -> Sprite:
    """Return the sprite of a part; the first call builds it (about 20 ms), later ones do not.

    Args:
        kind: One of KINDS.
        variant: From 0 to VARIANTS - 1.
    """
    rng = np.random.default_rng([KINDS.index(kind), variant, 20])
    return _BUILDERS[kind](rng, variant)
