"""Drawing a scene: belt, parts with their shadows and cracks, light, lens and sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.demo import belt, crack, metal
from brimful.demo.parts import MARGIN, Sprite, sprite
from brimful.demo.scene import CLASSES, CRACK, Label, Light, Part, Scene
from brimful.spec import Size
from brimful.vision.pixels import Pixels

FloatImage = NDArray[np.float32]

_VISIBLE = 0.35  # a part that shows less of itself than this has no label
_SIDE = 14  # nor has one whose box is narrower than this, in pixels of a 480-line picture
_CRACK_SIDE = 10
_NOBODY = 0
_ELEVATION = 900.0  # camera above the belt, in pixels of a 480-line picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A drawn scene.

    Attributes:
        pixels: uint8 (height, width, 3), BGR.
        labels: What is visible: parts from the lowest to the highest, each before its crack.
        owner: uint8 (height, width): 1 + the position in `Scene.parts` of the part that each
            pixel shows, 0 for the belt.
    """

    pixels: Pixels
    labels: list[Label]
    owner: NDArray[np.uint8]


def draw(scene: Scene) -> Frame:
    """Draw a scene; the same scene gives the same bytes."""
    pixels = _belt(scene)
    owner = np.zeros(scene.size, np.uint8)
    stamps = [
        _stamp(pixels, owner, scene, part, position) for position, part in enumerate(scene.parts)
    ]
    labels: list[Label] = []
    for position, (part, stamp) in enumerate(zip(scene.parts, stamps, strict=True)):
        if part.kind != "arm" and stamp is not None:
            labels += _labels(part, stamp, owner, position, scene.scale)
    return Frame(pixels=_expose(pixels, scene), labels=labels, owner=owner)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What a part left on the picture: where, how large whole, and its crack's pixels."""

    region: tuple[slice, slice]
    area: float
    crack: NDArray[np.bool_] | None


def _belt(scene: Scene) -> Pixels:
    height, width = scene.size if not scene.vertical else scene.size[::-1]
    # rounded up to whole blocks, so that sizes close to each other share their textures
    room = (-(-height * 5 // 4 // 64) * 64, -(-width * 5 // 4 // 64) * 64)
    gray = belt.texture(scene.texture, room, scene.scale)
    top = int(scene.offset[0] * (room[0] - height))
    left = int(scene.offset[1] * (room[1] - width))
    gray = gray[top : top + height, left : left + width]
    gray = gray[:: -1 if scene.flip[0] else 1, :: -1 if scene.flip[1] else 1]
    coloured = cv2.applyColorMap(np.ascontiguousarray(gray), belt.ramp(scene.colour))
    pixels = np.asarray(coloured, np.uint8)
    first, last = scene.rails
    if first:
        pixels[:first] = belt.rail(first, room[1])[:, :width]
        _shade_below(pixels[first : first + max(2, first // 2)])
    if last:
        pixels[height - last :] = belt.rail(last, room[1])[::-1, :width]
        _shade_below(pixels[height - last - max(2, last // 2) : height - last][::-1])
    if scene.vertical:
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    return np.asarray(pixels, np.uint8)


def _shade_below(strip: Pixels) -> None:
    """Darken a strip in place, most in its first row: the shadow at the foot of a rail."""
    fade = np.linspace(0.45, 1, len(strip), dtype=np.float32)[:, None, None]
    strip[:] = (strip * fade).astype(np.uint8)


def _stamp(
    pixels: Pixels, owner: NDArray[np.uint8], scene: Scene, part: Part, position: int
) -> _Stamp | None:
    """Draw one part with its shadow onto the picture, in place."""
    shape = sprite(part.kind, part.variant)
    height, width = scene.size
    lean = _lean(part, scene, shape)
    throw = _throw(part, scene, shape)
    spread = max(1.0, 0.10 * part.radius)
    x0, x1 = _span(part.x, 0, part, shape, (lean[0], throw[0]), spread, width)
    y0, y1 = _span(part.y, 1, part, shape, (lean[1], throw[1]), spread, height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    region = (slice(y0, y1), slice(x0, x1))
    matrix, level = _placement(part, shape, (x0, y0))
    warped = np.asarray(cv2.warpAffine(level, matrix, (x1 - x0, y1 - y0)), np.float32)
    coverage = np.ascontiguousarray(warped[..., 3])
    body = _extrude(coverage, lean)

    contact = cv2.GaussianBlur(body, (0, 0), max(1.0, 0.03 * part.radius))
    shadow = np.maximum(_soft_shadow(body, spread, throw), np.float32(0.55) * contact)
    dark = np.float32(1) - np.float32(scene.light.shadow) * shadow
    under = cv2.multiply(pixels[region], cv2.merge((dark, dark, dark)), dtype=cv2.CV_32F)

    face = _reflect(warped, part, scene.light)
    flank = np.empty_like(under)
    flank[:] = 0.55 * metal.reflections(part.material)[metal.SIDE // 2, metal.SIDE // 5]
    under = cv2.blendLinear(flank, under, body, 1 - body)
    crack_pixels = None
    if part.crack is not None:
        # where the face is dark (a seal, the gap between balls) a crack would not show
        solid = (coverage > 0.9) & (warped[..., 2] > 0.45)
        stroke = crack.across(solid, part.crack, scene.scale)
        if stroke is not None:
            crack.engrave(face, stroke, scene.light.angle)
            crack_pixels = (stroke > 0.5) & (coverage > 0.5)
    pixels[region] = cv2.blendLinear(
        face, under, coverage, 1 - coverage
    )  # within 0 to 255: a blend of values that are
    owner[region][body > 0.5] = position + 1
    return _Stamp(region, shape.area * part.radius**2 * part.squash, crack_pixels)


def _span(
    middle: float,
    axis: int,
    part: Part,
    shape: Sprite,
    offsets: tuple[float, float],
    spread: float,
    limit: int,
) -> tuple[int, int]:
    """First and last pixel that a part and its shadow can reach along one axis."""
    turned = np.abs(_rotation(part.angle)[axis]) @ np.array(shape.half)
    # a slant moves the corners out a little
    half = part.radius * (turned + 0.6 * (1 - part.squash)) + 2
    low = min(0.0, offsets[0], offsets[1] - 2 * spread)
    high = max(0.0, offsets[0], offsets[1] + 2 * spread)
    return max(0, math.floor(middle - half + low)), min(limit, math.ceil(middle + half + high))


def _lean(part: Part, scene: Scene, shape: Sprite) -> tuple[float, float]:
    """Where the foot of the part lies from its face: what a camera above sees of the flank."""
    if part.kind == "arm":
        return 0.0, 0.0
    factor = shape.depth * part.radius / (_ELEVATION * scene.scale)
    return (scene.size[1] / 2 - part.x) * factor, (scene.size[0] / 2 - part.y) * factor


def _throw(part: Part, scene: Scene, shape: Sprite) -> tuple[float, float]:
    """Where the shadow lies from the part: away from the lamp, farther for thicker parts."""
    length = part.radius * (0.10 + 0.35 * shape.depth) if part.kind != "arm" else 16 * scene.scale
    return -length * math.cos(scene.light.angle), -length * math.sin(scene.light.angle)


def _placement(
    part: Part, shape: Sprite, origin: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Affine map (2, 3) from the best level of the sprite onto the region at `origin`."""
    for level in reversed(shape.levels):
        if level.shape[0] >= 2 * MARGIN * part.radius:
            break
    else:
        level = shape.levels[0]
    turn, slant = _rotation(part.angle), _rotation(part.squash_angle)
    linear = turn @ slant @ np.diag((1.0, part.squash)) @ slant.T
    linear *= part.radius * 2 * MARGIN / level.shape[0]
    middle = (level.shape[0] - 1) / 2
    # pixel centres are at half-integers: index 0 is 0.5 from the border
    shift = np.array((part.x - origin[0] - 0.5, part.y - origin[1] - 0.5))
    shift -= linear @ np.array((middle, middle))
    return np.column_stack((linear, shift)), level


def _rotation(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array(((c, -s), (s, c)))


def _extrude(coverage: FloatImage, lean: tuple[float, float]) -> FloatImage:
    """Sweep the face along its lean: the silhouette of face and flank together."""
    steps = math.ceil(max(abs(lean[0]), abs(lean[1])) / 1.5)
    body = coverage
    for step in range(1, steps + 1):
        body = np.maximum(body, _moved(coverage, (lean[0] * step / steps, lean[1] * step / steps)))
    return body


def _soft_shadow(body: FloatImage, spread: float, throw: tuple[float, float]) -> FloatImage:
    """Blur a silhouette and move it, at half the resolution: a shadow has no detail to lose."""
    height, width = body.shape
    small = cv2.resize(body, (-(-width // 2), -(-height // 2)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), spread / 2)
    enlarge = np.array(((2, 0, throw[0] + 0.5), (0, 2, throw[1] + 0.5)), np.float64)
    return np.asarray(cv2.warpAffine(small, enlarge, (width, height)), np.float32)


def _moved(image: FloatImage, offset: tuple[float, float]) -> FloatImage:
    matrix = np.array(((1, 0, offset[0]), (0, 1, offset[1])), np.float64)
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[::-1]), np.float32)


def _reflect(warped: FloatImage, part: Part, light: Light) -> FloatImage:
    """Colours of a face, float32 (h, w, 3): what its normals reflect under the lamp."""
    c, s = math.cos(part.angle - light.angle), math.sin(part.angle - light.angle)
    half = np.float32(metal.SIDE / 2 - 1)
    nx, ny = warped[..., 0], warped[..., 1]
    middle = np.float32((metal.SIDE - 1) / 2)
    map_x = (nx * c - ny * s + part.tilt[0]) * half + middle
    map_y = (nx * s + ny * c + part.tilt[1]) * half + middle
    table = metal.reflections(part.material)
    colour = cv2.remap(table, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light_of = np.ascontiguousarray(warped[..., 2])
    shaded = cv2.multiply(colour, cv2.merge((light_of, light_of, light_of)), dtype=cv2.CV_32F)
    return np.asarray(np.minimum(shaded, 255), np.float32)


def _labels(
    part: Part, stamp: _Stamp, owner: NDArray[np.uint8], position: int, scale: float
) -> list[Label]:
    seen = owner[stamp.region] == position + 1
    labels: list[Label] = []
    if np.count_nonzero(seen) >= _VISIBLE * stamp.area:
        label = _extent(seen, stamp.region, CLASSES.index(part.kind), _SIDE * scale)
        labels += [label] if label else []
    if stamp.crack is not None:
        shown = stamp.crack & seen
        if np.count_nonzero(shown) >= _VISIBLE * np.count_nonzero(stamp.crack):
            label = _extent(shown, stamp.region, CRACK, _CRACK_SIDE * scale)
            labels += [label] if label else []
    return labels


def _extent(
    mask: NDArray[np.bool_], region: tuple[slice, slice], class_id: int, least: float
) -> Label | None:
    """Label around the true pixels of a mask, or None when a side is shorter than `least`."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return None
    x1, x2 = float(region[1].start + columns[0]), float(region[1].start + columns[-1] + 1)
    y1, y2 = float(region[0].start + rows[0]), float(region[0].start + rows[-1] + 1)
    if x2 - x1 < least or y2 - y1 < least:
        return None
    return Label(class_id, x1, y1, x2, y2)


def _expose(pixels: Pixels, scene: Scene) -> Pixels:
    """Blur, light and noise, in the order that a camera adds them."""
    light = scene.light
    if light.motion >= 1:
        length = max(1, round(light.motion))
        window = (1, length) if scene.vertical else (length, 1)
        pixels = np.asarray(cv2.blur(pixels, window), np.uint8)
    if light.defocus > 0:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), light.defocus), np.uint8)
    lit = cv2.multiply(pixels, _gain(light, scene.size), dtype=cv2.CV_32F)
    row, column = light.noise_offset
    height, width = scene.size
    noise = _sensor(scene.size)[row : row + height, column : column + width]
    return np.asarray(cv2.addWeighted(lit, 1, noise, light.noise, 0, dtype=cv2.CV_8U), np.uint8)


def _gain(light: Light, size: Size) -> FloatImage:
    """Factor on every pixel and channel, float32 (height, width, 3)."""
    height, width = size
    rows, columns = 36, max(8, round(36 * width / height))
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    diagonal = math.hypot(rows, columns)
    x, y = (x - (columns - 1) / 2) / diagonal, (y - (rows - 1) / 2) / diagonal
    towards = x * math.cos(light.angle) + y * math.sin(light.angle)
    value = light.exposure * (1 + light.gradient * 2 * towards)
    value *= 1 - light.vignette * 3 * (x * x + y * y)
    for position, half, angle, depth in light.bars:
        across = np.abs(x * math.cos(angle) + y * math.sin(angle) - position)
        value *= 1 - depth * np.clip((half - across) / 0.045 + 0.5, 0, 1)
    warm = 0.13 * light.temperature
    tint = np.array((1 - warm, 1 - 0.15 * abs(warm), 1 + warm), np.float32)
    small = np.asarray(value[..., None] * tint, np.float32)
    return np.asarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )


@lru_cache(maxsize=4)
def _sensor(size: Size) -> NDArray[np.float32]:
    """Noise of unit deviation, larger than the picture so that an offset changes its pattern."""
    rng = np.random.default_rng(3)
    shape = (size[0] + 64, size[1] + 70)
    gray = rng.standard_normal((*shape, 1), dtype=np.float32)
    colour = rng.standard_normal((*shape, 3), dtype=np.float32)
    return np.asarray(0.8 * gray + 0.6 * colour, np.float32)
