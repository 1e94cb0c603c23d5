"""Encoded images in memory of the device's: views are read, checked and decoded as bytes are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from brimful.errors import ImageError
from brimful.vision.decode import check_encoded, decode, decode_pixels, read_file


def view_of(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


@pytest.mark.parametrize("cut", [20, 2, 1])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_view_is_checked_as_bytes_are(suffix: str, cut: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
    whole = cv2.imencode(suffix, pixels)[1].tobytes()
    assert check_encoded(view_of(whole)).header == check_encoded(whole).header
    assert np.array_equal(decode_pixels(check_encoded(view_of(whole))), decode(whole))
    assert check_encoded(view_of(whole + b"\0" * 9)).header == check_encoded(whole).header
    outcomes = []
    for data in (whole[:-cut], view_of(whole[:-cut])):
        try:
            outcomes.append(check_encoded(data).header)
        except ImageError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if suffix == ".jpg":
        assert "truncated" in outcomes[0]


def test_an_unknown_view_is_named() -> None:
    with pytest.raises(ImageError, match=r"this is not an image.*, this is a PDF document"):
        check_encoded(view_of(b"%PDF-1.7, and so on"))
    odd = cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    odd = odd[:-2] + b"\x12\x34\x56\x78" + odd[-2:]
    assert np.array_equal(decode_pixels(check_encoded(view_of(odd))), decode(odd))
    with pytest.raises(ImageError, match="no valid size"):
        check_encoded(view_of(b"\x89PNG\r\n\x1a\n"))


def test_a_file_is_read_into_memory_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"0123456789")
    given: list[memoryview] = []

    def pinned_for(size: int) -> memoryview:
        given.append(view_of(b"?" * size))
        return given[-1]

    assert read_file(path, pinned_for=pinned_for) is given[0] and given[0] == b"0123456789"
    assert read_file(path, pinned_for=lambda size: None) == b"0123456789"

    def cut(size: int) -> memoryview:
        path.write_bytes(b"0123")
        return pinned_for(size)

    assert read_file(path, pinned_for=cut) == b"0123", "what it was when it was read"
