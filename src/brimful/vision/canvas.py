"""CanvasPolicy: which canvas an image goes to, from its own size alone.

The canvas never depends on the neighbours in a batch, so neighbours never change a result.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from brimful.errors import UsageError
from brimful.spec import ModelSpec, Size
from brimful.vision.geometry import Geometry, resized_to

CanvasMode = Literal["auto", "square", "exact", "fixed"]
"""How canvases are chosen; see CanvasPolicy."""

CANVAS_MODES: tuple[str, ...] = get_args(CanvasMode)
CANVAS_CHOICES = "auto, square, exact or HxW such as 480x640"
SHORT_SIDES = (0.75, 2 / 3, 0.6)
"""Short sides of the `auto` canvases, as fractions of the full side: 4:3, 3:2 and 16:9 images.

They are the minimum rectangles of the common aspect ratios (480, 448 and 384 of 640): most images
run exactly as Ultralytics runs them singly. Without 448, 3:2 photographs fall onto 480, and
that padding alone costs 0.7 points of mAP on voc100 (benchmarks/NOTES.md).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasPolicy:
    """Which canvas an image goes to.

    Attributes:
        mode: `auto`: the smallest of seven canvases on which the image is as large as on the full
            one. `square`: the full `imgsz`. `exact`: the minimum rectangle, as Ultralytics'
            `rect=True` makes for one image. `fixed`: one canvas (`imgsz`), whatever the image.
        imgsz: (height, width) of the largest canvas; decides the scale of every image.
        stride: Both sides of every canvas are multiples of it.
    """

    mode: CanvasMode = "auto"
    imgsz: Size = (640, 640)
    stride: int = 32

    def __post_init__(self) -> None:
        """Refuse a canvas that the model could not take."""
        if self.mode not in CANVAS_MODES:
            raise UsageError(f"unknown canvas mode {self.mode!r}; expected {CANVAS_CHOICES}")
        for side in self.imgsz:
            if side < self.stride or side % self.stride:
                low = max(1, side // self.stride) * self.stride
                raise UsageError(
                    f"a canvas side of {side} is not a multiple of the model's stride "
                    f"{self.stride}; use {low} or {low + self.stride}"
                )

    @classmethod
    def for_model(
        cls, spec: ModelSpec, canvas: str = "auto", imgsz: int | Size | None = None
    ) -> CanvasPolicy:
        """Build the policy of a model from the text of `--canvas` and `--imgsz`.

        A model that runs a single size has that canvas only, and a classifier sees a crop of
        `imgsz`, so both get a `fixed` policy.

        Args:
            spec: The model.
            canvas: `auto`, `square`, `exact` or `HxW`, which goes before `imgsz`.
            imgsz: One side of a square, or (height, width); None is the model's own. Sides are
                rounded up to multiples of the stride.

        Raises:
            UsageError: The text is not one of the choices, or the model cannot run that canvas.
        """
        mode, size = parse_canvas(canvas)
        full = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        only = spec.fixed_size
        if only is not None:
            asked = size or full or only
            if asked != only or mode == "exact":
                raise UsageError(
                    f"the model runs {only[0]}x{only[1]} only, so canvas {canvas!r} with imgsz "
                    f"{imgsz} is not possible; leave both out, or export it with dynamic sizes"
                )
            return cls(mode="fixed", imgsz=only, stride=math.gcd(spec.stride, *only))
        if spec.task == "classify":
            return cls(mode="fixed", imgsz=size or full or spec.imgsz, stride=1)
        return cls(
            mode=mode,
            imgsz=size or rounded_up(full or spec.imgsz, spec.stride),
            stride=spec.stride,
        )

    def choose(self, image: Size) -> Size:
        """Return the canvas (height, width) for an image (height, width)."""
        return self.place(image).canvas

    def place(self, image: Size) -> Geometry:
        """Return where an image (height, width) lies on its canvas.

        The scale is the one of the full `imgsz` canvas in every mode. That is why this is not
        the same as fitting the image into the chosen canvas: a side that was rounded down to
        the canvas would shrink the other one by a pixel.
        """
        scale = min(self.imgsz[0] / image[0], self.imgsz[1] / image[1])
        resized = resized_to(image, scale)
        if self.mode == "exact":
            canvas = (
                resized[0] + (self.imgsz[0] - resized[0]) % self.stride,
                resized[1] + (self.imgsz[1] - resized[1]) % self.stride,
            )
        elif self.mode == "auto":
            canvas = min(
                (c for c in self._auto() if c[0] >= resized[0] and c[1] >= resized[1]),
                key=lambda c: c[0] * c[1],
            )
        else:
            canvas = self.imgsz
        return Geometry.centred(image, canvas, resized)

    def canvases(self) -> tuple[Size, ...] | None:
        """Return every canvas this policy can choose, the largest first, or None if unbounded."""
        if self.mode == "exact":
            return None
        return self._auto() if self.mode == "auto" else (self.imgsz,)

    def _auto(self) -> tuple[Size, ...]:
        height, width = self.imgsz
        sizes = [self.imgsz]
        for part in SHORT_SIDES:
            sizes.append((self._round_up(part * height), width))
            sizes.append((height, self._round_up(part * width)))
        return tuple(dict.fromkeys(sizes))  # small sizes round up to the same canvas

    def _round_up(self, side: float) -> int:
        # the product of a decimal fraction may lie a hair above the multiple it stands for
        return math.ceil(round(side, 6) / self.stride) * self.stride


def rounded_up(size: Size, stride: int) -> Size:
    """Return (height, width) whose sides are the next multiples of a stride."""
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def usual_canvases(text: str) -> int:
    """Return how many canvases the images of a job may go to, from the text of `--canvas`.

    `exact` knows no bound; photographs of several cameras have about this many.

    Raises:
        UsageError: The text is not one of the choices.
    """
    return {"auto": 1 + 2 * len(SHORT_SIDES), "exact": 16}.get(parse_canvas(text)[0], 1)


def parse_canvas(text: str) -> tuple[CanvasMode, Size | None]:
    """Read the text of `--canvas`: a mode, or `HxW` as ("fixed", (height, width)).

    Raises:
        UsageError: The text is neither.
    """
    match text.strip().lower():
        case "auto":
            return "auto", None
        case "square":
            return "square", None
        case "exact":
            return "exact", None
        case other:
            sides = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", other)
            if sides is None:
                raise UsageError(f"canvas {text!r} is unknown; expected {CANVAS_CHOICES}")
            return "fixed", (int(sides[1]), int(sides[2]))
