"""How the JPEG kernels read a scan, on the CPU, against libjpeg-turbo: readers, looks, sums."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import simplejpeg

from brimful.runtimes.cuda.input.plan import Plans
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.jpeg import DAMAGED, GOOD
from brimful.vision.header import read_header
from host_jpeg import bits_of, first_ends
from jpegs import FACTORS, assert_pixels, decoded, encoded, expected_luma, picture
from oracles import asset


def scan_bits(scan: bytes) -> tuple[bytes, list[int]]:
    """What is in a scan, byte by byte: its data, and where its restart intervals begin."""
    found, starts, at = bytearray(), [0], 0
    while at < len(scan):
        if scan[at] != 0xFF:
            found.append(scan[at])
        elif scan[at + 1] == 0:
            found.append(0xFF)
            at += 1
        elif 0xD0 <= scan[at + 1] <= 0xD7:
            starts.append(len(found))
            at += 1
        elif scan[at + 1] != 0xFF:  # else it fills
            break
        at += 1
    return bytes(found), starts


@pytest.mark.parametrize("threads", [256, 512])
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 1])
def test_stuffing_is_taken_out(share: float, threads: int) -> None:
    """Lines of bytes with none to four stuffed ones, from any byte on, to any byte."""
    rng = np.random.default_rng(int(100 * share))
    data = encoded(picture((160, 240)), QUALITY=85, RST_INTERVAL=50)
    header = read_header(data)
    assert header is not None and header.size is not None
    plan = Plans().of(header, CanvasPolicy().place(header.size))
    for length in (*range(1, 40), 2000, 2001, 6003, *rng.integers(10_000, 20_000, 8)):
        units, restarts = [], 0
        for byte in rng.integers(0, 255, length):
            stuffed = rng.random() < share
            units.append(b"\xff\x00" if stuffed else bytes([byte]))
            if rng.random() < 0.01:
                fill = b"\xff" * int(rng.integers(1, 4))
                units.append(fill + bytes([0xD0 + restarts % 8]))
                restarts += 1
        head = data[: header.scan + 14]
        scan = b"".join(units) + b"\xff\xd9" + bytes(3)
        found = bits_of(head + scan, plan, threads)
        assert found == scan_bits(scan), length


def test_readers_fall_into_step() -> None:
    """Each of 256 readers begins in the middle of something, and few rounds set it right."""
    data = encoded(cv2.imread(str(asset("bus.jpg"))), QUALITY=92)
    found = decoded(data)
    assert found.status == GOOD and 2 <= found.rounds < 40


def test_a_scan_in_which_no_reader_falls_into_step() -> None:
    """Blocks that all look alike: the readers learn from each other, one a round."""
    data = encoded(np.full((1200, 1600, 3), 90, np.uint8), SAMPLING_FACTOR=FACTORS["420"])
    found = decoded(data)
    assert found.status == GOOD
    np.testing.assert_array_equal(found.luma, expected_luma(data))


@pytest.mark.parametrize("restart", [0, 9])
def test_where_a_reader_ends_does_not_depend_on_its_looks(restart: int) -> None:
    """Else a reader that does the same as before would seem to have moved, and all behind it."""
    photograph = cv2.imread(str(asset("bus.jpg")))
    for image, quality in ((photograph, 90), (photograph, 30), (picture((400, 600)), 80)):
        for optimize in (0, 1):
            data = encoded(image, QUALITY=quality, OPTIMIZE=optimize, RST_INTERVAL=restart)
            header = read_header(data)
            assert header is not None and header.size is not None
            plan = Plans().of(header, CanvasPolicy().place(header.size))
            ends = first_ends(data, plan, single=False)
            assert len(np.unique(ends)) > 50
            np.testing.assert_array_equal(ends, first_ends(data, plan, single=True))


@pytest.mark.parametrize("threads", [256, 512])
@pytest.mark.parametrize("sampling", FACTORS)
def test_sums_of_dc_over_many_restarts(sampling: str, threads: int) -> None:
    """Intervals that begin before, at and behind the first block of what a thread sums up."""
    image = picture((250, 420), block=8)
    for restart in (0, 1, 2, 3, 5, 14, 53, 100):
        data = encoded(image, QUALITY=88, RST_INTERVAL=restart, SAMPLING_FACTOR=FACTORS[sampling])
        assert_pixels(data, threads)


def test_blocks_without_an_end() -> None:
    """All 64 coefficients are there, with codes so short that a look has several of them."""
    rng = np.random.default_rng(4)
    table = np.full((8, 8), 3.0)  # quality 98 and above has no larger ones
    blocks = [cv2.idct(table * rng.choice([-1, 1], (8, 8))) for _ in range(60 * 40)]
    rows = [np.hstack(blocks[60 * y : 60 * y + 60]) for y in range(40)]
    image = np.clip(np.round(np.vstack(rows) + 128), 0, 255).astype(np.uint8)
    data = encoded(image, QUALITY=98, OPTIMIZE=1)
    last = [abs(cv2.dct(image[:8, x : x + 8] - 128.0)[7, 7]) for x in range(0, 480, 8)]
    assert min(last) > 2, "rounding has left it"
    found = decoded(data)
    assert found.status == GOOD
    np.testing.assert_array_equal(found.luma, expected_luma(data))


@pytest.mark.parametrize("optimize", [0, 1])
def test_long_codes(optimize: int) -> None:
    """Codes of up to 16 bits of AC, and of DC's differences that are as large as can be."""
    rng = np.random.default_rng(5)
    noise = rng.choice([0, 255], (160, 240, 3)).astype(np.uint8)
    noise[56:] = 128  # a file must not be larger than its pixels
    fading = picture((160, 240)) * np.linspace(0, 1, 240)[:, None] ** 3
    flat = rng.choice([0, 255], (20, 30, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    for image in (noise, fading.astype(np.uint8), flat):
        for quality in (100, 96, 60):
            data = encoded(
                image, QUALITY=quality, OPTIMIZE=optimize, SAMPLING_FACTOR=FACTORS["444"]
            )
            assert_pixels(data)


def test_long_codes_of_dc() -> None:
    """Nine to sixteen bits, the longest for the smallest differences; no encoder writes these."""
    data = encoded(np.full((400, 640), 128, np.uint8), QUALITY=50)
    header = read_header(data)
    assert header is not None
    at = data.index(b"\xff\xc4")
    assert data[at + 4] == 0  # DC's table comes first
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    lengths = [16 - size for size in range(8)]
    table = bytes([0, *(lengths.count(i) for i in range(1, 17)), *range(7, -1, -1)])
    codes, code = {}, 0
    for size in range(7, -1, -1):  # of lengths that rise by one
        codes[size], code = f"{code:0{lengths[size]}b}", (code + 1) * 2
    rng, last, scan = np.random.default_rng(9), 0, ""
    for level in rng.integers(-60, 61, 50 * 80) // rng.choice([1, 8, 60], 50 * 80):
        difference = int(level) - last
        size, last = abs(difference).bit_length(), int(level)
        value = difference if difference > 0 else difference + (1 << size) - 1
        scan += codes[size] + (f"{value:0{size}b}" if size else "") + "1010"  # and the block's end
    scan += "1" * (-len(scan) % 8)
    packed = int(scan, 2).to_bytes(len(scan) // 8, "big").replace(b"\xff", b"\xff\x00")
    segment = b"\xff\xc4" + (len(table) + 2).to_bytes(2, "big") + table
    made = data[:at] + segment + data[end : header.scan + 10] + packed + b"\xff\xd9"
    expected = simplejpeg.decode_jpeg(made, "GRAY", strict=True)[..., 0]
    assert len(np.unique(expected)) > 40
    found = decoded(made)
    assert found.status == GOOD
    np.testing.assert_array_equal(found.luma, expected)


def test_damage_where_one_interval_ends() -> None:
    """Intervals of a block each: symbols must not run from one into the next."""
    rng = np.random.default_rng(8)
    seen = {GOOD: 0, DAMAGED: 0}
    for seed in range(12):
        data = encoded(picture((40, 56), seed=seed)[..., 0].copy(), QUALITY=85, RST_INTERVAL=1)
        header = read_header(data)
        assert header is not None
        for _ in range(150):
            broken = bytearray(data)
            at = int(rng.integers(header.scan + 10, len(data) - 2))
            if rng.integers(2):
                broken[at] ^= 1 << int(rng.integers(8))
            else:
                broken.insert(at, int(rng.integers(256)))
            found = decoded(bytes(broken))
            seen[found.status] += 1
            try:
                luma = simplejpeg.decode_jpeg(bytes(broken), "GRAY", strict=True)[..., 0]
            except ValueError:
                assert found.status == DAMAGED
            else:
                if found.status == GOOD:
                    np.testing.assert_array_equal(found.luma, luma)
    assert min(seen.values()) > 100
