"""plot, save, show: what `Detections` do with pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from brimful.detections import Detections
from brimful.errors import BrimfulError
from brimful.pictures.draw import draw
from brimful.pictures.encode import encode, write_image
from brimful.pictures.original import original_of
from brimful.pictures.style import DEFAULT, Style
from brimful.vision.pixels import Pixels


def plot(detections: Detections, image: object, style: Style) -> Pixels:
    """Return the image with its detections drawn in; see `Detections.plot`."""
    return draw(original_of(detections, image), detections, style)


def save(detections: Detections, path: str | Path, image: object, style: Style) -> Path:
    """Write the picture; see `Detections.save`."""
    target = Path(path)
    write_image(target, plot(detections, image, style))
    return target


def show(detections: Detections, image: object, style: Style) -> None:
    """Show the picture in the notebook that runs this, or else in the system's viewer."""
    pixels = plot(detections, image, style)
    kernel = "ipykernel" in sys.modules
    if kernel:
        from IPython.display import Image, display

        display(Image(data=encode(pixels, ".png")))
        return
    from PIL import Image as Pillow

    Pillow.fromarray(pixels[:, :, ::-1]).show(title=detections.image)


def png(detections: Detections) -> bytes | None:
    """Return the picture as PNG, None where there is no result or no image with it."""
    if detections.error is not None or detections.original is None:
        return None
    try:
        return encode(plot(detections, None, DEFAULT), ".png")
    except BrimfulError:  # the file is gone: its text is shown
        return None
