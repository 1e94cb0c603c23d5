"""Pixels: decoded images as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""uint8 (height, width, 3) in BGR order, as OpenCV has it."""
