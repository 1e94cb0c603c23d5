"""How metal reflects the hall it lies in: a table of colours indexed by the surface normal."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

SIDE = 128
"""Width and height of a table; the normal (0, 0) is at its centre, length 1 at its rim."""

MATERIALS: tuple[str, ...] = ("steel", "zinc", "black oxide", "brass", "bronze", "copper")
"""Finishes that parts come in."""

# tint in BGR, how mirror-like, how bright
_FINISH: dict[str, tuple[tuple[float, float, float], float, float]] = {
    "steel": ((0.93, 0.90, 0.87), 1.0, 1.0),
    "zinc": ((1.00, 0.98, 0.93), 0.75, 1.06),
    "black oxide": ((0.44, 0.43, 0.44), 1.1, 0.88),
    "brass": ((0.47, 0.77, 0.92), 0.9, 1.05),
    "bronze": ((0.40, 0.58, 0.74), 0.85, 0.95),
    "copper": ((0.45, 0.58, 0.90), 0.9, 1.0),
}


def _step(low: float, high: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


@cache
def reflections(material: str) -> NDArray[np.uint8]:
    """Return the table of a finish, with the main lamp towards +x.

    Args:
        material: One of MATERIALS.

    Returns:
        uint8 (SIDE, SIDE, 3), BGR.
    """
    tint, gloss, level = _FINISH[material]
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2 - 1)
    nx, ny = np.meshgrid(axis, axis)
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    # the direction seen in the mirror, for a viewer straight above
    rx, ry, rz = 2 * nz * nx, 2 * nz * ny, 2 * nz**2 - 1
    ceiling = 0.30 + 0.24 * _step(-0.3, 1.0, rz)
    diffuse = 0.22 * np.clip(0.62 * nx + 0.78 * nz, 0, 1)
    lamp = _step(0.80, 0.93, 0.66 * rx + 0.75 * rz) * 0.62 * gloss
    strip = _step(0.70, 0.85, rx) * (1 - _step(0.45, 0.7, np.abs(ry))) * 0.30 * gloss
    back = _step(0.75, 0.9, -0.80 * rx + 0.25 * ry + 0.5 * rz) * 0.18 * gloss
    floor = 1 - 0.55 * _step(0.1, 0.75, -rz)
    value = (ceiling + diffuse + lamp + strip + back) * floor * level
    # lamps are white: metals tint less where they glare
    glare = np.clip(lamp + strip, 0, 1)[..., None] * 0.35
    colour = value[..., None] * (np.array(tint) * (1 - glare) + glare)
    return np.asarray(np.clip(colour * 205, 0, 255), np.uint8)
