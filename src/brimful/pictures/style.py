"""Style: what is drawn, and how thick."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.errors import UsageError
from brimful.spec import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What is drawn of detections.

    Attributes:
        labels: The class of each box; of a classifier, the five most probable classes.
        conf: The confidence behind each class; without `labels` there is none.
        boxes: Boxes, rotated ones as well, and their labels. Masks and skeletons are always drawn.
        line_width: Width of lines in pixels; None takes it from the size of the image. Labels grow
            with it.
    """

    labels: bool = True
    conf: bool = True
    boxes: bool = True
    line_width: int | None = None

    def __post_init__(self) -> None:
        """Refuse lines that nobody could see."""
        if self.line_width is not None and self.line_width < 1:
            raise UsageError(f"line_width is {self.line_width}; expected 1 or more pixels")

    def line_of(self, size: Size) -> int:
        """Return the width of lines in an image of (height, width), in pixels."""
        return self.line_width or max(1, round(sum(size) / 550))

    def text_of(self, size: Size) -> int:
        """Return the height of letters in an image of (height, width), in pixels."""
        if self.line_width is not None:
            return max(9, 6 + 4 * self.line_width)
        return max(9, round(sum(size) / 90))


DEFAULT = Style()
"""Everything, with lines by the size of the image."""
