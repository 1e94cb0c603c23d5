"""The factory line: parts on a belt, one picture for every index.

`FactoryLine.plan` decides what is in a picture and `brimful.demo.render.draw` draws it. Picture
`index` depends on the seed, the size and the index alone, never on the process or on how many
others are made.
"""

from __future__ import annotations

import math

import numpy as np

from brimful.demo.belt import COLOURS, TEXTURES
from brimful.demo.metal import MATERIALS
from brimful.demo.parts import VARIANTS
from brimful.demo.render import draw
from brimful.demo.scene import CLASSES, CRACK, Label, Light, Part, Scene
from brimful.errors import UsageError
from brimful.spec import Size
from brimful.vision.pixels import Pixels

# radius on a 480-line picture in pixels; a bolt's is half its length
_RADII: dict[str, tuple[float, float]] = {
    "bolt": (40, 80),
    "nut": (26, 50),
    "washer": (27, 62),
    "gear": (34, 72),
    "bearing": (31, 66),
}
# colours that a surface is made in, where not in all
_COLOURS_OF: dict[str, tuple[int, ...]] = {"links": (1, 3, 4), "plate": (1, 4)}
_CRACKED = 0.56  # parts with a crack: about as many cracks as there are parts of one class


class FactoryLine:
    """Endless pictures of a factory line, each with its labels."""

    def __init__(
        self, seed: int = 0, size: Size = (480, 640), parts: tuple[int, int] = (4, 11)
    ) -> None:
        """Set up a line; nothing is drawn yet.

        Args:
            seed: Lines of different seeds have no picture in common.
            size: (height, width) of the pictures in pixels, at least 160 each.
            parts: Fewest and most parts on a picture of 480 x 640; the number grows with the
                belt that a picture of another shape shows.

        Raises:
            UsageError: An argument out of its range.
        """
        if seed < 0:
            raise UsageError(f"seed must be 0 or more, got {seed}")
        if min(size) < 160:
            raise UsageError(f"size must be at least 160 pixels a side, got {size[1]}x{size[0]}")
        if not 0 <= parts[0] <= parts[1] <= 40:
            raise UsageError(f"parts must be (fewest, most) from 0 to 40, got {parts}")
        self.seed = seed
        self.size = size
        self.parts = parts

    def image(self, index: int) -> tuple[Pixels, list[Label]]:
        """Draw picture `index`.

        Returns:
            The picture, uint8 (height, width, 3) BGR, and a label for every part and crack.
        """
        frame = draw(self.plan(index))
        return frame.pixels, frame.labels

    def plan(self, index: int) -> Scene:
        """Decide what is in picture `index`, without drawing it."""
        if index < 0:
            raise UsageError(f"index must be 0 or more, got {index}")
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, index]))
        height, width = self.size
        scale = min(height / 480, width / 480)
        vertical = bool(rng.random() < 0.25)
        texture = str(rng.choice(TEXTURES, p=[0.24, 0.2, 0.16, 0.18, 0.14, 0.08]))
        rails = (0, 0)
        if rng.random() < 0.45:
            widths = np.round(rng.uniform(8, 44, 2) * scale).astype(int)
            rails = (int(widths[0]), int(widths[1] if rng.random() < 0.7 else 0))
        return Scene(
            size=self.size,
            scale=scale,
            texture=texture,
            colour=int(rng.choice(_COLOURS_OF.get(texture, range(len(COLOURS))))),
            offset=(float(rng.random()), float(rng.random())),
            flip=(bool(rng.random() < 0.5), bool(rng.random() < 0.5)),
            vertical=vertical,
            rails=rails,
            light=_light(rng, scale),
            parts=self._place(rng, scale, vertical, rails),
        )

    def _place(
        self, rng: np.random.Generator, scale: float, vertical: bool, rails: tuple[int, int]
    ) -> tuple[Part, ...]:
        height, width = self.size
        low = np.array((rails[0], 0) if vertical else (0, rails[0]), float)
        high = np.array((width, height), float)
        high -= (rails[1], 0) if vertical else (0, rails[1])
        crowd = height * width / (480 * 640 * scale**2)
        count = round(int(rng.integers(self.parts[0], self.parts[1] + 1)) * crowd)
        # how far parts may push into each other: mostly apart, sometimes a heap
        apart = float(rng.choice([1.02, 0.88, 0.72], p=[0.5, 0.3, 0.2]))
        batch = str(rng.choice(MATERIALS)) if rng.random() < 0.3 else None
        slant = float(rng.uniform(0.86, 1)) if rng.random() < 0.4 else 1.0
        # shuffled classes rather than independent draws keep the classes even in every picture
        kinds: list[str] = []
        while len(kinds) < count:
            kinds += [str(kind) for kind in rng.permutation(CLASSES[:CRACK])]
        parts: list[Part] = []
        for kind in kinds[:count]:
            radius = float(np.exp(rng.uniform(*np.log(_RADII[kind])))) * scale
            inset = radius * rng.choice([0.9, 0.1], p=[0.85, 0.15])
            for _ in range(12):
                x, y = (float(v) for v in rng.uniform(low + inset, high - inset))
                angle = float(rng.uniform(0, 2 * math.pi))
                if all(_gap(kind, x, y, radius, angle, p) >= apart for p in parts):
                    break
            else:
                continue
            material = batch or str(rng.choice(MATERIALS, p=[0.32, 0.2, 0.16, 0.14, 0.1, 0.08]))
            # a dark line on a dark finish is nothing that a camera could see
            cracked = rng.random() < _CRACKED and material != "black oxide"
            parts.append(
                Part(
                    kind=kind,
                    variant=int(rng.integers(VARIANTS)),
                    material=material,
                    x=x,
                    y=y,
                    radius=radius,
                    angle=angle,
                    squash=slant * float(rng.uniform(0.93, 1)),
                    squash_angle=float(rng.uniform(0, math.pi)),
                    tilt=tuple(float(v) for v in rng.normal(0, 0.07, 2)),  # type: ignore[arg-type]
                    crack=int(rng.integers(2**31)) if cracked else None,
                )
            )
        if rng.random() < 0.14:
            parts.append(_arm(rng, self.size, scale))
        return tuple(parts)


def _gap(kind: str, x: float, y: float, radius: float, angle: float, other: Part) -> float:
    """Distance of two parts over what keeps them apart; a bolt counts as a chain of discs."""
    best = math.inf
    for x1, y1, r1 in _discs(kind, x, y, radius, angle):
        for x2, y2, r2 in _discs(other.kind, other.x, other.y, other.radius, other.angle):
            best = min(best, math.hypot(x1 - x2, y1 - y2) / (r1 + r2))
    return best


def _discs(
    kind: str, x: float, y: float, radius: float, angle: float
) -> list[tuple[float, float, float]]:
    if kind != "bolt":
        return [(x, y, radius)]
    dx, dy = radius * math.cos(angle), radius * math.sin(angle)
    return [(x + t * dx, y + t * dy, 0.4 * radius) for t in (-0.66, 0.0, 0.66)]


def _arm(rng: np.random.Generator, size: Size, scale: float) -> Part:
    """A finger that reaches in over one of the four edges."""
    height, width = size
    radius = float(rng.uniform(130, 190)) * scale
    angle = float(rng.integers(4)) * math.pi / 2 + float(rng.normal(0, 0.12))
    reach = float(rng.uniform(40, 150)) * scale - radius
    # the tip is `reach` inside the edge that the finger comes from
    along = np.array((math.cos(angle), math.sin(angle)))
    middle = np.array((rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height))
    edge = np.array((width / 2, height / 2)) * (1 - np.abs(along).round() * np.sign(along))
    horizontal = abs(along[0]) > abs(along[1])
    start = np.array((edge[0], middle[1]) if horizontal else (middle[0], edge[1]))
    centre = start + along * reach
    return Part(
        kind="arm",
        variant=int(rng.integers(VARIANTS)),
        material=str(rng.choice(["steel", "black oxide", "zinc"])),
        x=float(centre[0]),
        y=float(centre[1]),
        radius=radius,
        angle=angle,
    )


def _light(rng: np.random.Generator, scale: float) -> Light:
    bars: list[tuple[float, float, float, float]] = []
    while rng.random() < 0.28 and len(bars) < 2:
        position, width = float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.03, 0.16))
        bars.append(
            (position, width, float(rng.uniform(0, math.pi)), float(rng.uniform(0.2, 0.55)))
        )
    blur = rng.random()
    return Light(
        angle=float(rng.uniform(0, 2 * math.pi)),
        exposure=float(np.exp(np.clip(rng.normal(0.12, 0.2), -0.32, 0.42))),
        temperature=float(np.clip(rng.normal(0, 0.42), -1, 1)),
        gradient=float(rng.uniform(0, 0.42)),
        vignette=float(rng.uniform(0, 0.35)),
        bars=tuple(bars),
        shadow=float(rng.uniform(0.25, 0.75)),
        defocus=float(rng.uniform(0.5, 1.15)) * scale if blur < 0.25 else 0.0,
        motion=float(rng.uniform(2, 5)) * scale if 0.25 <= blur < 0.45 else 0.0,
        noise=float(rng.uniform(0.8, 7.5)),
        noise_offset=(int(rng.integers(61)), int(rng.integers(67))),
    )
