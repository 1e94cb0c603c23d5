"""A scene: what is on a picture of the factory line, before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from brimful.spec import Size

CLASSES: tuple[str, ...] = ("bolt", "nut", "washer", "gear", "bearing", "crack")
"""Class names of the demo; the position is the class id."""

CRACK = CLASSES.index("crack")


class Label(NamedTuple):
    """One object: the class and the extent of what is visible of it.

    The box is in pixels with edges at pixel borders: a single pixel at (3, 4) is 3, 4, 4, 5.
    """

    class_id: int
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part on the belt.

    Attributes:
        kind: A class name, or `arm` for what hides parts and has no label.
        variant: Which of the kind's sprites.
        material: Finish, one of `metal.MATERIALS`.
        x: Centre in pixels from the left.
        y: Centre in pixels from the top.
        radius: In pixels.
        angle: Rotation in radians.
        squash: Height over width, a part that is seen at a slant.
        squash_angle: Direction of the slant in radians, relative to the part.
        tilt: (x, y) of the face's normal: how the part lies.
        crack: Seed of the crack across its face, or None.
    """

    kind: str
    variant: int
    material: str
    x: float
    y: float
    radius: float
    angle: float
    squash: float = 1.0
    squash_angle: float = 0.0
    tilt: tuple[float, float] = (0.0, 0.0)
    crack: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """Light and camera.

    Attributes:
        angle: Direction the main lamp shines from, in radians.
        exposure: Factor on all pixels.
        temperature: From -1 (blue) to 1 (red).
        gradient: How much brighter the lamp's side of the picture is.
        vignette: How much darker the corners are.
        bars: Shadows of things above: (position, width) in picture diagonals, angle, depth.
        shadow: Depth of the parts' own shadows.
        defocus: Standard deviation of the blur in pixels.
        motion: Pixels the belt moves during the exposure.
        noise: Standard deviation of the sensor noise in gray levels.
        noise_offset: (row, column) of the noise pattern.
    """

    angle: float
    exposure: float
    temperature: float
    gradient: float
    vignette: float
    bars: tuple[tuple[float, float, float, float], ...]
    shadow: float
    defocus: float
    motion: float
    noise: float
    noise_offset: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything a picture is drawn from.

    Attributes:
        size: (height, width) in pixels.
        scale: Pixels that one pixel of a 480-line picture takes.
        texture: Surface of the belt, one of `belt.TEXTURES`.
        colour: Position in `belt.COLOURS`.
        offset: Where on the texture the picture lies, (row, column), each 0 to 1.
        flip: Whether the texture is mirrored along and across the belt.
        vertical: Whether the belt runs down the picture rather than across it.
        rails: Width in pixels of the guides at either side of the belt, 0 for none.
        light: Light and camera.
        parts: Parts, the lowest first.
    """

    size: Size
    scale: float
    texture: str
    colour: int
    offset: tuple[float, float]
    flip: tuple[bool, bool]
    vertical: bool
    rails: tuple[int, int]
    light: Light
    parts: tuple[Part, ...]
