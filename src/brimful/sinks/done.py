"""DoneSet: which images and frames of a job have a result already."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_DIGEST = 16

_FAR = 4096
"""Bytes that the bits of a video grow by at most for one frame. Frames come in order; one that is
further ahead, as in an edited file, is kept as a digest and not in a gigabyte of zeros."""


class DoneSet:
    """(key, frame) pairs in little memory: 16 bytes an image, a bit a video frame.

    Images are kept as 128-bit digests of their keys: among a thousand million keys, two share
    one with a probability of about 1e-21. Filled once, in order, then only asked.

    Attributes:
        failures: How many of them have an error.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._digests = bytearray()
        self._sorted: NDArray[np.bytes_] | None = None
        self._frames: dict[str, bytearray] = {}
        self._length = 0
        self.failures = 0

    def add(self, key: str, frame: int | None, *, failed: bool = False) -> None:
        """Add an image (frame None) or a frame of a video, and count it if it failed."""
        self._length += 1
        self.failures += failed
        if frame is None:
            self._digests += _digest(key, None)
            self._sorted = None
            return
        bits = self._frames.setdefault(key, bytearray())
        byte = frame >> 3
        if byte >= len(bits) + _FAR:
            self._digests += _digest(key, frame)
            self._sorted = None
            return
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << (frame & 7)

    def __contains__(self, item: object) -> bool:
        """Tell whether a (key, frame) pair was added."""
        if not self._length or not isinstance(item, tuple):
            return False
        key, frame = item
        if frame is not None:
            bits = self._frames.get(key)
            byte = frame >> 3
            if bits is None:
                return False
            if byte < len(bits) and bool(bits[byte] >> (frame & 7) & 1):
                return True
        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(bytes(self._digests), f"S{_DIGEST}"))
        # Through frombuffer as well: numpy drops zero bytes at the end of such a string.
        digest = np.frombuffer(_digest(key, frame), f"S{_DIGEST}")[0]
        at = int(np.searchsorted(self._sorted, digest))
        return at < len(self._sorted) and bool(self._sorted[at] == digest)

    def __len__(self) -> int:
        """Return how many results were added."""
        return self._length


def _digest(key: str, frame: int | None) -> bytes:
    text = key if frame is None else f"{key}\0{frame}"  # no file has a zero byte in its name
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
