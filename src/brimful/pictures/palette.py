"""The palette: a colour for each class, the same in every picture and every run."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""Blue, green and red, 0 to 255."""

_COLOURS: tuple[Colour, ...] = (
    (255, 178, 29),
    (60, 220, 120),
    (40, 190, 255),
    (235, 90, 190),
    (230, 220, 50),
    (66, 66, 245),
    (120, 140, 255),
    (150, 255, 200),
    (255, 130, 110),
    (90, 150, 30),
    (180, 105, 255),
    (30, 120, 200),
)
"""Far apart from each other, and light or dark enough for text on them to be read."""

_LIGHT = 120  # luminance from which on dark text is read better


def colour_of(class_id: int) -> Colour:
    """Return the colour of a class; classes twelve apart share one."""
    return _COLOURS[class_id % len(_COLOURS)]


def ink_on(colour: Colour) -> Colour:
    """Return the colour of text on a plate of some colour."""
    luminance = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    return (255, 255, 255) if luminance < _LIGHT else (20, 20, 20)
