"""Detections: the result for one image, as host arrays and no pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from brimful.spec import ModelSpec, Size, Task

if TYPE_CHECKING:
    from pathlib import Path

    from brimful.formats.coco import CategoryMap

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

FailureKind = Literal["image", "deadline", "cancelled", "overload", "runtime"]
"""Why an image has no result.

- `image`: it cannot be read, decoded or placed.
- `deadline`: its deadline passed before it was run.
- `cancelled`: nobody wanted its result any more.
- `overload`: the engine had no room for it.
- `runtime`: the model could not be run on it.
"""


def _no_boxes() -> FloatArray:
    return np.empty((0, 4), np.float32)


def _no_floats() -> FloatArray:
    return np.empty(0, np.float32)


def _no_ints() -> IntArray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """What was found in one image. Coordinates are pixels of the original image.

    Two of them are equal when all their values are, NaN being equal to NaN. As arrays can be
    changed, there is no hash.

    Attributes:
        image: Key of the image: its path relative to the source, with forward slashes.
        index: Position of the image in its source, from 0.
        frame: Frame number within a video, from 0, else None.
        pts_ms: Presentation time of the frame in milliseconds, else None.
        width: Width of the original image in pixels (0 when it could not be read).
        height: Height of the original image in pixels (0 when it could not be read).
        canvas: (height, width) that the image was letterboxed onto, None without a forward.
        task: What the model predicts; decides which of the arrays below are set.
        names: Class names; the position is the class id.
        boxes: float32 (n, 4), `x1 y1 x2 y2`, best first; for obb the axis-aligned bounds.
        confidence: float32 (n,), 0 to 1.
        class_id: int32 (n,).
        masks: COCO RLE of each detection (`{"size": [h, w], "counts": str}`), segment only.
        keypoints: float32 (n, points, 2 or 3), `x y [visibility]`, pose only.
        obb: float32 (n, 5), `cx cy w h angle` with the angle in radians, obb only.
        probs: float32 (classes,), classify only.
        truncated: More candidates passed `conf` than NMS looks at; the weakest were dropped.
        error: Why there is no result for this image, or None.
        failure: What kind of reason that is, or None; it is set exactly when `error` is.
        original: What `plot` draws on: the path of the file or video, or the image itself where
            `keep_images` asked for it, else None. It is no part of the result: neither equality
            nor any output format looks at it.
    """

    image: str
    index: int
    width: int
    height: int
    task: Task
    names: tuple[str, ...]
    frame: int | None = None
    pts_ms: float | None = None
    canvas: Size | None = None
    boxes: FloatArray = field(default_factory=_no_boxes)
    confidence: FloatArray = field(default_factory=_no_floats)
    class_id: IntArray = field(default_factory=_no_ints)
    masks: tuple[dict[str, Any], ...] | None = None
    keypoints: FloatArray | None = None
    obb: FloatArray | None = None
    probs: FloatArray | None = None
    truncated: bool = False
    error: str | None = None
    failure: FailureKind | None = None
    original: Any = field(default=None, compare=False)

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Take an error for the image's own where nobody says otherwise."""
        if self.error is not None and self.failure is None:
            object.__setattr__(self, "failure", "image")

    def __eq__(self, other: object) -> bool:
        """Tell whether all values are the same."""
        if not isinstance(other, Detections):
            return NotImplemented
        return all(
            _equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if field.compare
        )

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.confidence)

    def __repr__(self) -> str:
        """Show the shape of the result, not its data."""
        if self.error is not None:
            return f"Detections({self.image!r}, error={self.error!r})"
        what = f"n={len(self)}"
        if self.probs is not None:
            what = f"top1={self.names[int(self.probs.argmax())]!r}"
        return f"Detections({self.image!r}, {self.width}x{self.height}, {what})"

    @property
    def xywh(self) -> FloatArray:
        """float32 (n, 4), the boxes as `cx cy w h` in pixels."""
        corners = self.boxes
        return np.concatenate(
            ((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), axis=1
        )

    @property
    def xyxyn(self) -> FloatArray:
        """float32 (n, 4), the boxes as `x1 y1 x2 y2` in fractions of the image."""
        return self.boxes / self._sides()

    @property
    def xywhn(self) -> FloatArray:
        """float32 (n, 4), the boxes as `cx cy w h` in fractions of the image."""
        return self.xywh / self._sides()

    def _sides(self) -> FloatArray:
        return np.array((self.width, self.height) * 2, np.float32)

    def summary(self, *, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return a dictionary a detection, as Ultralytics' `Results.summary` does.

        It has `name`, `class`, `confidence`, `box` (`x1 y1 x2 y2`; of obb four corners), of segment
        `segments` (the outline of the mask's largest part), of pose `keypoints`. Of classify there
        is one for each of the five most probable classes, without a box.

        Args:
            normalize: Coordinates are fractions of the image, not pixels.
            decimals: Digits that numbers are rounded to.
        """
        from brimful.formats.summary import summary

        return summary(self, normalize=normalize, decimals=decimals)

    def to_csv(self, *, normalize: bool = False, decimals: int = 5) -> str:
        """Return the detections as CSV, a line each below a line of column names.

        The columns are those of `to_df`; `segments` and `keypoints` are JSON. Arguments are those
        of `summary`.
        """
        from brimful.formats.summary import to_csv

        return to_csv(self, normalize=normalize, decimals=decimals)

    def to_df(self, *, normalize: bool = False, decimals: int = 5) -> Any:
        """Return the detections as a DataFrame of pandas, or of polars where pandas is missing.

        It has the fields of `summary` as columns, and one for each coordinate of the box. Arguments
        are those of `summary`.

        Raises:
            MissingExtraError: Neither is installed.
        """
        from brimful.formats.summary import to_df

        return to_df(self, normalize=normalize, decimals=decimals)

    def to_json_record(self) -> dict[str, Any]:
        """Return the JSON object of the image: lists, numbers and strings only."""
        from brimful.formats.json_record import plain

        return plain(self)

    def to_coco(
        self, *, image_id: int | None = None, categories: CategoryMap = "auto"
    ) -> list[dict[str, Any]]:
        """Return the COCO results of the image, see `brimful.formats.coco`.

        Args:
            image_id: The id in the annotations; by default the file name when it is a number,
                else `index`.
            categories: How class ids become category ids.
        """
        from brimful.formats.coco import category_ids, numeric_stem, to_results

        if image_id is None:
            stem = numeric_stem(self.image)
            image_id = self.index if stem is None else stem
        ids = category_ids(categories, self.names)
        return to_results(self, image_id=image_id, categories=ids)

    def to_yolo_txt(self, *, confidence: bool = True) -> str:
        """Return the YOLO label text of the image, see `brimful.formats.yolo_txt`."""
        from brimful.formats.yolo_txt import to_yolo_txt

        return to_yolo_txt(self, confidence=confidence)

    def to_supervision(self) -> Any:
        """Return the `supervision.Detections` (of classify: `Classifications`) of the image."""
        from brimful.formats.supervision import to_supervision

        return to_supervision(self)

    def plot(
        self,
        image: object = None,
        *,
        labels: bool = True,
        conf: bool = True,
        boxes: bool = True,
        line_width: int | None = None,
    ) -> NDArray[np.uint8]:
        """Return the image with its detections drawn in.

        Args:
            image: A path, encoded bytes, an array (BGR), a tensor or a Pillow image; by default the
                file that the detections are of, read once more.
            labels: Name the classes.
            conf: Write the confidence behind the class.
            boxes: Draw boxes and their labels; masks and skeletons are drawn in any case.
            line_width: Of lines, in pixels; by default by the size of the image.

        Returns:
            uint8 (height, width, 3), BGR, a copy.

        Raises:
            UsageError: There is no result, no image, or one of another size.
            ImageError: The image cannot be read any more.
        """
        from brimful.pictures.plot import plot
        from brimful.pictures.style import Style

        style = Style(labels=labels, conf=conf, boxes=boxes, line_width=line_width)
        return plot(self, image, style)

    def save(
        self,
        path: str | Path,
        image: object = None,
        *,
        labels: bool = True,
        conf: bool = True,
        boxes: bool = True,
        line_width: int | None = None,
    ) -> Path:
        """Write the image with its detections drawn in, whole or not at all.

        Args:
            path: The file, whose suffix says the format: JPEG, PNG, WebP, BMP or TIFF. What has
                that name is replaced.
            image: See `plot`, as for all that follow.
            labels: See `plot`.
            conf: See `plot`.
            boxes: See `plot`.
            line_width: See `plot`.

        Returns:
            The path.

        Raises:
            UsageError: As `plot`, or the suffix is another.
            ImageError: As `plot`.
            OSError: The file cannot be written.
        """
        from brimful.pictures.plot import save
        from brimful.pictures.style import Style

        style = Style(labels=labels, conf=conf, boxes=boxes, line_width=line_width)
        return save(self, path, image, style)

    def show(
        self,
        image: object = None,
        *,
        labels: bool = True,
        conf: bool = True,
        boxes: bool = True,
        line_width: int | None = None,
    ) -> None:
        """Show the image with its detections, in the notebook or the system's image viewer.

        Arguments and errors are those of `plot`.
        """
        from brimful.pictures.plot import show
        from brimful.pictures.style import Style

        style = Style(labels=labels, conf=conf, boxes=boxes, line_width=line_width)
        show(self, image, style)

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook; None, and so the text, where there is no image."""
        from brimful.pictures.plot import png

        return png(self)


class _Draft:
    """Detections while `new_detections` makes them."""

    __slots__ = tuple(Detections.__dataclass_fields__)


def new_detections(
    image: str,
    index: int,
    width: int,
    height: int,
    task: Task,
    names: tuple[str, ...],
    frame: int | None,
    pts_ms: float | None,
    canvas: Size | None,
    boxes: FloatArray,
    confidence: FloatArray,
    class_id: IntArray,
    masks: tuple[dict[str, Any], ...] | None,
    keypoints: FloatArray | None,
    obb: FloatArray | None,
    probs: FloatArray | None,
    truncated: bool,
) -> Detections:
    """Make Detections of an image that has a result, seven times as fast as the class does.

    A frozen dataclass sets each field through `object.__setattr__`, which takes longer than all
    else that is done for an ordinary image. A draft has the same slots and none of that, and
    becomes Detections by its class, which Python allows between classes of one layout.
    """
    draft: Any = _Draft()
    draft.image = image
    draft.index = index
    draft.width = width
    draft.height = height
    draft.task = task
    draft.names = names
    draft.frame = frame
    draft.pts_ms = pts_ms
    draft.canvas = canvas
    draft.boxes = boxes
    draft.confidence = confidence
    draft.class_id = class_id
    draft.masks = masks
    draft.keypoints = keypoints
    draft.obb = obb
    draft.probs = probs
    draft.truncated = truncated
    draft.error = None
    draft.failure = None
    draft.original = None
    draft.__class__ = Detections
    made: Detections = draft
    return made


def failed_detections(
    spec: ModelSpec,
    image: str,
    index: int,
    kind: FailureKind,
    error: str,
    *,
    frame: int | None = None,
    pts_ms: float | None = None,
    size: Size = (0, 0),
) -> Detections:
    """Return the Detections of an image that has no result.

    Args:
        spec: The model.
        image: Key of the image.
        index: Position of the image in its source.
        kind: What kind of reason there is.
        error: The reason.
        frame: Frame number within a video, if it is one.
        pts_ms: Presentation time of the frame in milliseconds, likewise.
        size: (height, width) of the image; zeros when it is not known.
    """
    return Detections(
        image=image,
        index=index,
        frame=frame,
        pts_ms=pts_ms,
        height=size[0],
        width=size[1],
        task=spec.task,
        names=spec.names,
        error=error,
        failure=kind,
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return False
    return bool(one == other)
