"""How the JPEG kernels hand blocks on to the transform, on the CPU, against libjpeg-turbo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import simplejpeg

from brimful.vision.cuda.jpeg import DAMAGED, GOOD
from jpegs import decoded

END, ZEROS = 0x00, 0xF0
"""Symbols of AC: of the block's end, and of sixteen zeros."""

COMMON = [END, 0x01, 0x02]
SYMBOLS = [*COMMON, ZEROS, *(s for s in range(256) if s & 15 and s not in COMMON)]
TABLES = {
    "short": {9: len(SYMBOLS)},
    "mixed": {2: 3, 11: len(SYMBOLS) - 3},
    "long": {16: len(SYMBOLS)},
}
"""How many codes of AC there are of each length: looks show some whole, one, or none."""

Symbol = tuple[int, int]
"""A symbol, and its value."""


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def codes_of(lengths: dict[int, int], symbols: Sequence[int]) -> dict[int, str]:
    """The codes that T.81 gives to symbols in this order."""
    codes, code, left = {}, 0, list(symbols)
    for length in range(1, 17):
        for _ in range(lengths.get(length, 0)):
            codes[left.pop(0)] = f"{code:0{length}b}"
            code += 1
        code *= 2
    return codes


def value_bits(value: int) -> str:
    size = abs(value).bit_length()
    return f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def gray_jpeg(
    blocks: Sequence[list[Symbol]], columns: int, table: str, dc_length: int = 4
) -> bytes:
    """A gray JPEG of these blocks, so many side by side: DC's difference, then symbols of AC."""
    dc, ac = codes_of({dc_length: 12}, range(12)), codes_of(TABLES[table], SYMBOLS)
    bits = []
    for (_, difference), *rest in blocks:
        bits.append(dc[abs(difference).bit_length()] + value_bits(difference))
        bits.extend(ac[symbol] + value_bits(value) for symbol, value in rest)
    scan = "".join(bits)
    scan += "1" * (-len(scan) % 8)
    packed = int(scan, 2).to_bytes(len(scan) // 8, "big").replace(b"\xff", b"\xff\x00")
    high, wide = -(-len(blocks) // columns) * 8, columns * 8
    frame = bytes([8, *high.to_bytes(2, "big"), *wide.to_bytes(2, "big"), 1, 1, 0x11, 0])
    counts = [
        bytes(lengths.get(i, 0) for i in range(1, 17))
        for lengths in ({dc_length: 12}, TABLES[table])
    ]
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0]) + bytes([1] * 64)),
            segment(0xC0, frame),
            segment(0xC4, bytes([0]) + counts[0] + bytes(range(12))),
            segment(0xC4, bytes([0x10]) + counts[1] + bytes(SYMBOLS)),
            segment(0xDA, bytes([1, 1, 0, 0, 63, 0])),
            packed,
            b"\xff\xd9",
        ]
    )


def block_of(rng: np.random.Generator, share: float, largest: int) -> list[Symbol]:
    """A block with a share of its coefficients, small ones but for one, and a random DC."""
    symbols = [(0, int(rng.integers(-90, 91)))]
    at = 1
    places = [i for i in range(1, 64) if rng.random() < share]
    for place in places:
        while place - at >= 16:
            symbols.append((ZEROS, 0))
            at += 16
        value = int(rng.choice([-1, 1]) * rng.integers(1, 8))
        if largest and place == places[len(places) // 2]:
            value = int(rng.choice([-1, 1]) * rng.integers(largest // 2 + 1, largest + 1))
        symbols.append(((place - at) << 4 | abs(value).bit_length(), value))
        at = place + 1
    while at <= 48 and rng.random() < 0.2:  # allowed, though of no use
        symbols.append((ZEROS, 0))
        at += 16
    if at < 64:
        symbols.append((END, 0))
    return symbols


def some_dense(
    rng: np.random.Generator, count: int, share: float, largest: int
) -> list[list[Symbol]]:
    """Blocks, few of which are dense: a file must not be larger than its pixels."""
    portion = 0.25 if share > 0.5 else 1
    return [block_of(rng, share if rng.random() < portion else 0, largest) for _ in range(count)]


def assert_decoded(data: bytes, threads: int = 256) -> None:
    expected = simplejpeg.decode_jpeg(data, "GRAY", strict=True)[..., 0]
    found = decoded(data, threads=threads)
    assert found.status == GOOD
    np.testing.assert_array_equal(found.luma, expected)


@pytest.mark.parametrize("threads", [256, 512])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("share", [0, 0.03, 0.2, 0.7, 1])
def test_blocks_are_put_together_again(share: float, table: str, threads: int) -> None:
    """From nothing to all 63, whatever the readers' shares cut in two."""
    rng = np.random.default_rng([int(100 * share), len(table)])
    for dc_length in (4, 16):
        blocks = some_dense(rng, 16 * 20, share, 200)
        assert_decoded(gray_jpeg(blocks, 20, table, dc_length), threads)


def test_blocks_that_several_readers_have() -> None:
    """Longer than two shares of 512 bits each, so that a reader begins and ends in a block."""
    rng = np.random.default_rng(3)
    blocks = some_dense(rng, 12 * 10, 1, 0)
    data = gray_jpeg(blocks, 10, "long")
    dense = sum(len(block) > 60 for block in blocks)
    assert dense > 20 and (len(data) - 600) * 8 / dense > 2 * 512 + 100
    assert_decoded(data, 512)


@pytest.mark.parametrize("dc_length", [4, 16])
def test_readers_that_have_no_more_than_dc_of_a_block(dc_length: int) -> None:
    """Blocks of little more than DC, among which shares end everywhere."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        blocks = [block_of(rng, 0.02, 0) for _ in range(40 * 40)]
        assert_decoded(gray_jpeg(blocks, 40, "long", dc_length))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("value", [1023, -1023, 512])
def test_the_largest_coefficients(value: int, table: str) -> None:
    blocks = [[(0, i % 3), (0x0A, value), (END, 0)] for i in range(8 * 8)]
    assert_decoded(gray_jpeg(blocks, 8, table))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("size", [11, 12, 15])
def test_coefficients_that_cannot_be_are_damage(size: int, table: str) -> None:
    """More than ten bits: no image of eight bits has them, and a pair has no room for them."""
    blocks: list[list[Symbol]] = [[(0, 0), (0x11, 1), (END, 0)] for _ in range(8 * 8)]
    assert_decoded(gray_jpeg(blocks, 8, table))
    blocks[37] = [(0, 0), (0x10 | size, 1 << (size - 1)), (END, 0)]
    assert decoded(gray_jpeg(blocks, 8, table)).status == DAMAGED
