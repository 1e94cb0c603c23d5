"""The JPEG kernels on the CPU, against libjpeg-turbo: the same samples, and what it warns of."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from brimful.runtimes.cuda.input.plan import Plans
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda import jpeg
from brimful.vision.cuda.jpeg import DAMAGED, GOOD, UNSUPPORTED, JpegDecoder
from brimful.vision.geometry import Geometry
from brimful.vision.header import read_header
from brimful.vision.letterbox import letterbox
from host_jpeg import decode, library
from jpegs import FACTORS, decoded, encoded, expected_luma, picture
from oracles import asset, shared


def test_both_languages_say_the_same() -> None:
    found = (ctypes.c_int * 14)()
    library().brimful_constants(found)
    assert list(found) == [
        *(jpeg.COLUMNS, jpeg.ADDRESSES.start, jpeg.ADDRESSES.stop - 1),
        *(jpeg.FILE.start, jpeg.FILE.stop - 1, jpeg.CANVAS),
        *(jpeg._SCAN_THREADS, jpeg._LARGE_SCAN_THREADS),
        *(jpeg._SAMPLES, jpeg._PIXELS, jpeg._LINES),
        *(GOOD, UNSUPPORTED, DAMAGED),
    ]


@pytest.mark.parametrize("sampling", FACTORS)
@pytest.mark.parametrize("size", [(5, 6), (8, 8), (17, 33), (48, 31), (40, 64)])
def test_pixels_are_those_of_the_cpu_decoder(size: tuple[int, int], sampling: str) -> None:
    for quality in (20, 75, 100):
        data = encoded(picture(size), QUALITY=quality, SAMPLING_FACTOR=FACTORS[sampling])
        whole = Geometry(size, size, size, 0, 0)
        found = decoded(data, whole)
        assert found.status == GOOD
        pixels = np.round(found.placed(whole) * 255)
        np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(data, "RGB"))


@pytest.mark.parametrize("sampling", FACTORS)
@pytest.mark.parametrize("imgsz", [(64, 64), (96, 160), (32, 36)])
@pytest.mark.parametrize(
    "size", [(41, 65), (64, 48), (30, 33), (150, 31), (36, 64), (3, 3), (64, 50)]
)
def test_canvases_are_those_of_the_cpu_path(
    size: tuple[int, int], imgsz: tuple[int, int], sampling: str
) -> None:
    data = encoded(picture(size), QUALITY=90, SAMPLING_FACTOR=FACTORS[sampling])
    geometry = Geometry.fit(size, imgsz)
    found = decoded(data, geometry).placed(geometry)
    expected = np.zeros((*imgsz, 3), np.uint8)
    letterbox(simplejpeg.decode_jpeg(data, "BGR"), geometry, expected)
    np.testing.assert_array_equal(np.round(found * 255), expected[..., ::-1])


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (150, 31), (96, 64)])
@pytest.mark.parametrize("restart", [0, 3])
def test_gray_images(restart: int, size: tuple[int, int]) -> None:
    image = picture(size)[..., 0].copy()
    for quality in (40, 95):
        data = encoded(image, QUALITY=quality, RST_INTERVAL=restart)
        header = read_header(data)
        assert header is not None and header.components == 1 and JpegDecoder.takes(header)
        geometry = Geometry.fit(size, (64, 96))
        found = decoded(data, geometry)
        assert found.status == GOOD
        np.testing.assert_array_equal(found.luma, expected_luma(data))
        expected = np.zeros((64, 96, 3), np.uint8)
        letterbox(simplejpeg.decode_jpeg(data, "BGR"), geometry, expected)
        np.testing.assert_array_equal(np.round(found.placed(geometry) * 255), expected)


def test_a_gray_image_of_another_sampling() -> None:
    """One component alone has no MCUs of several blocks, whatever its factors say."""
    data = bytearray(encoded(picture((50, 70))[..., 0].copy(), QUALITY=90))
    for factors in (0x22, 0x21, 0x41):
        data[data.index(b"\xff\xc0") + 11] = factors
        found = decoded(bytes(data))
        assert found.status == GOOD
        np.testing.assert_array_equal(found.luma, expected_luma(bytes(data)))


def test_every_level_is_exact_in_every_type() -> None:
    """All levels come through where nothing is scaled: at quality 100, without chroma."""
    size = (16, 256)
    levels = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (16, 1))[..., None], 3, 2)
    data = encoded(levels, QUALITY=100, SAMPLING_FACTOR=FACTORS["444"])
    whole = Geometry(size, size, size, 0, 0)
    found = decoded(data, whole)
    pixels = simplejpeg.decode_jpeg(data, "RGB")
    assert len(np.unique(pixels)) > 250
    for type_, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16)):
        expected = torch.from_numpy(pixels.astype(np.float64) / 255).to(dtype)
        if dtype != torch.float32:
            expected = expected.view(torch.int16)
        values = found.placed(whole, type_)
        np.testing.assert_array_equal(values.view(expected.numpy().dtype), expected.numpy())


@pytest.mark.parametrize("sampling", [*FACTORS, "gray"])
@pytest.mark.parametrize("canvas_width", [40, 48, 61])
@pytest.mark.parametrize("size", [(21, 33), (9, 5), (18, 6), (16, 40), (3, 7), (20, 4)])
def test_groups_of_pixels_anywhere_on_a_canvas(
    size: tuple[int, int], canvas_width: int, sampling: str
) -> None:
    """Images that are not resized, from every column on, in every type."""
    image = picture(size)
    if sampling == "gray":
        data = encoded(image[..., 0].copy(), QUALITY=95)
    else:
        data = encoded(image, QUALITY=95, SAMPLING_FACTOR=FACTORS[sampling])
    pixels = simplejpeg.decode_jpeg(data, "RGB")
    canvas = 27, canvas_width
    for left in range(min(18, canvas_width - size[1] + 1)):
        top = left % 5
        geometry = Geometry(size, canvas, size, top, left)
        found = decoded(data, geometry)
        expected = np.full((*canvas, 3), 114, np.uint8)
        expected[top : top + size[0], left : left + size[1]] = pixels
        for type_, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16)):
            values = found.placed(geometry, type_)
            wanted = torch.from_numpy(expected.astype(np.float64) / 255).to(dtype)
            if dtype != torch.float32:
                wanted = wanted.view(torch.int16)
            np.testing.assert_array_equal(values.view(wanted.numpy().dtype), wanted.numpy())


@pytest.mark.parametrize("sampling", FACTORS)
def test_colours_beyond_what_there_is(sampling: str) -> None:
    """Levels below 0 and above 255, which are limited, from samples of all values."""
    rng = np.random.default_rng(3)
    saturated = rng.choice([0, 255], (16, 24, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    data = encoded(saturated, QUALITY=12, SAMPLING_FACTOR=FACTORS[sampling])
    whole = Geometry((64, 96), (64, 96), (64, 96), 0, 0)
    expected = simplejpeg.decode_jpeg(data, "RGB")
    assert (expected == 0).mean() > 0.1 and (expected == 255).mean() > 0.1
    halves = decoded(data, whole).placed(whole, 1)
    wanted = torch.from_numpy(expected.astype(np.float64) / 255).half().view(torch.int16)
    np.testing.assert_array_equal(halves.view(np.int16), wanted.numpy())


@pytest.mark.parametrize("type_", [1, 2])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_resized_and_turned_images_in_small_types(orientation: int, type_: int) -> None:
    """Their pixels are put together in warps as well: what float32 says, rounded."""
    data = encoded(picture((41, 66)), QUALITY=90, SAMPLING_FACTOR=FACTORS["420"])
    size = (41, 66) if orientation < 5 else (66, 41)
    turned = simplejpeg.decode_jpeg(data, "RGB")
    if orientation >= 5:
        turned = turned.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    for geometry in (Geometry(size, (80, 72), size, 3, 5), Geometry.fit(size, (96, 64))):
        found = decoded(data, geometry)
        found.row[12] = orientation
        levels = np.round(found.placed(geometry).astype(np.float64) * 255)
        if geometry.resized == size:
            found_pixels = levels[3 : 3 + size[0], 5 : 5 + size[1]]
            np.testing.assert_array_equal(found_pixels, turned)
        dtype = (torch.float16, torch.bfloat16)[type_ - 1]
        wanted = torch.from_numpy(levels / 255).to(dtype).view(torch.int16)
        values = found.placed(geometry, type_)
        np.testing.assert_array_equal(values.view(np.int16), wanted.numpy())


def test_samples_that_no_encoder_writes_are_damage() -> None:
    data = bytearray(encoded(picture((40, 56))[..., 0].copy(), QUALITY=100))
    assert decoded(bytes(data)).status == GOOD
    at = data.index(b"\xff\xdb") + 5
    data[at : at + 64] = b"\xff" * 64
    assert decoded(bytes(data)).status == DAMAGED


@pytest.mark.parametrize("sampling", FACTORS)
@pytest.mark.parametrize("restart", [0, 1, 7, 40, 1000])
@pytest.mark.parametrize("optimize", [0, 1])
def test_photographs_with_restarts_and_tables_of_their_own(
    restart: int, optimize: int, sampling: str
) -> None:
    image = cv2.imread(str(asset("bus.jpg")))[:480, :640]
    for quality in (50, 92):
        data = encoded(
            image,
            QUALITY=quality,
            RST_INTERVAL=restart,
            OPTIMIZE=optimize,
            SAMPLING_FACTOR=FACTORS[sampling],
        )
        found = decoded(data)
        assert found.status == GOOD
        np.testing.assert_array_equal(found.luma, expected_luma(data))


def test_a_table_with_more_symbols_than_bytes_have_is_damage() -> None:
    data = encoded(picture((16, 16))[..., 0].copy())
    table = b"\x11" + bytes(14) + b"\x0a\xff" + bytes(265)  # nothing uses it
    segment = b"\xff\xc4" + (len(table) + 2).to_bytes(2, "big") + table
    scan = data.index(b"\xff\xda")
    more = data[:scan] + segment + data[scan:]
    with pytest.raises(ValueError, match="JPEG"):
        simplejpeg.decode_jpeg(more, "GRAY")
    assert decoded(more).status == DAMAGED


def test_real_photographs() -> None:
    folder = shared("voc100/images")
    for path in sorted(folder.glob("*.jpg"))[::4]:
        data = path.read_bytes()
        header = read_header(data)
        assert header is not None
        if not header.baseline or header.sampling is None:
            continue
        found = decoded(data)
        assert found.status == GOOD, path.name
        np.testing.assert_array_equal(found.luma, expected_luma(data), path.name)


@pytest.mark.parametrize("restart", [0, 20])
def test_what_libjpeg_warns_of_is_not_decoded(restart: int) -> None:
    """A changed byte either changes nothing but samples, and the same ones, or is noticed."""
    data = encoded(picture((120, 160)), QUALITY=85, RST_INTERVAL=restart)
    header = read_header(data)
    assert header is not None
    rng = np.random.default_rng(restart)
    seen = {GOOD: 0, DAMAGED: 0}
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            broken[rng.integers(header.scan + 14, len(data) - 2)] = rng.integers(0, 256)
        found = decoded(bytes(broken))
        seen[found.status] += 1
        try:
            luma = simplejpeg.decode_jpeg(bytes(broken), "GRAY", strict=True)[..., 0]
        except ValueError:
            assert found.status == DAMAGED
            continue
        if found.status == GOOD:
            np.testing.assert_array_equal(found.luma, luma)
    assert min(seen.values()) > 20


def test_restart_markers_that_are_missing_are_damage() -> None:
    plain = encoded(picture((40, 56)), QUALITY=85)
    scan = plain.index(b"\xff\xda")
    for interval in (1, 5, 11):
        data = plain[:scan] + b"\xff\xdd\x00\x04" + interval.to_bytes(2, "big") + plain[scan:]
        with pytest.raises(ValueError, match="JPEG"):
            simplejpeg.decode_jpeg(data, "GRAY", strict=True)
        assert decoded(data).status == DAMAGED
    data = plain[:scan] + b"\xff\xdd\x00\x04\x00\x0c" + plain[scan:]  # all in one
    assert decoded(data).status == GOOD


def test_files_cut_short_or_full_of_noise_are_refused() -> None:
    data = encoded(picture((96, 128)), QUALITY=85, RST_INTERVAL=5)
    header = read_header(data)
    assert header is not None
    rng = np.random.default_rng(1)
    assert header.size is not None and header.stored is not None
    plan = Plans().of(header, CanvasPolicy().place(header.size))
    for length in (0, 1, 2, 3, 20, 200, header.scan, header.scan + 5, len(data) // 2):
        assert decode(data[:length], plan, header.stored).status != GOOD
    for _ in range(1500):  # whatever the bytes are, only the image's own memory is written
        broken = bytearray(data)
        for _ in range(rng.integers(1, 30)):
            broken[rng.integers(2, len(data))] = rng.integers(0, 256)
        decode(bytes(broken), plan, header.stored)
    for _ in range(200):
        noise = rng.integers(0, 256, 5000, np.uint8).tobytes()
        decode(data[: header.scan + 14] + noise, plan, header.stored)


def test_other_kinds_of_jpeg_are_refused() -> None:
    image = picture((64, 64))
    data = encoded(image, QUALITY=90, SAMPLING_FACTOR=FACTORS["420"])
    frame = data.index(b"\xff\xc0")
    assert decoded(data).status == GOOD
    # chroma as large as luma, but of two by two blocks an MCU
    doubled = bytearray(data)
    doubled[frame + 11] = doubled[frame + 14] = doubled[frame + 17] = 0x22
    other_quantiser = bytearray(data)
    other_quantiser[frame + 12] = 3
    sixteen_bits = bytearray(data)
    sixteen_bits[data.index(b"\xff\xdb") + 4] |= 0x10
    for odd in (doubled, other_quantiser, sixteen_bits):
        assert decoded(bytes(odd)).status == UNSUPPORTED
    scan = data.index(b"\xff\xda")
    for at, value in ((4, 1), (11, 1), (12, 62), (13, 0x10), (6, 0x22)):
        odd = bytearray(data)
        odd[scan + at] = value
        assert decoded(bytes(odd)).status == UNSUPPORTED, at


def test_restart_markers_that_are_wrong_are_damage() -> None:
    data = encoded(picture((96, 128)), QUALITY=85, RST_INTERVAL=5)
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    assert decoded(data).status == GOOD
    assert decoded(data[:first] + data[second:]).status == DAMAGED
    assert decoded(data[: first + 1] + b"\xd2" + data[first + 2 :]).status == DAMAGED
    plain = encoded(picture((96, 128)), QUALITY=85)
    header = read_header(plain)
    assert header is not None
    start = header.scan + 14
    assert decoded(plain[:start] + b"\xff\xd0" + plain[start:]).status == DAMAGED


@pytest.mark.parametrize("seed", range(12))
def test_the_last_bits_of_a_scan_count(seed: int) -> None:
    """Cut by a byte or two, or with ones for its last code, which no table has."""
    data = encoded(picture((40, 56), seed=seed), QUALITY=85, OPTIMIZE=seed % 2)
    assert decoded(data).status == GOOD
    for broken in (data[:-3], data[:-4], data[:-4] + b"\xff\x00\xff\x00", data[:-3] + b"\xff\x00"):
        broken += b"\xff\xd9"
        try:
            luma = simplejpeg.decode_jpeg(broken, "GRAY", strict=True)[..., 0]
        except ValueError:
            assert decoded(broken).status == DAMAGED
        else:
            found = decoded(broken)
            assert found.status == DAMAGED or np.array_equal(found.luma, luma)


def test_bits_that_are_not_there_do_not_count() -> None:
    """Behind the scan lie ones, and the last code of many a host frame ends in ones."""
    warned = 0
    for seed in range(60):
        image = np.random.default_rng(seed).integers(0, 256, (8, 16), np.uint8)
        data = encoded(image, OPTIMIZE=1, QUALITY=30 + seed)
        short = data[: -4 if data[-4] == 0xFF else -3] + b"\xff\xd9"
        try:
            simplejpeg.decode_jpeg(short, "GRAY", strict=True)
        except ValueError:
            warned += 1
            assert decoded(short).status == DAMAGED, seed
    assert warned > 30


def test_a_table_with_more_codes_than_there_are_is_damage() -> None:
    """Two more of sixteen bits, where one is left; the scan uses neither."""
    data = encoded(picture((40, 56)), QUALITY=85)
    at = data.index(b"\xff\xc4")
    while data[at + 4] != 0x10:  # AC of luma
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    more = bytearray(data[:end] + b"\x0b\x0c" + data[end:])
    more[at + 3] += 2
    more[at + 20] += 2
    with pytest.raises(ValueError, match="Huffman"):
        simplejpeg.decode_jpeg(bytes(more), "GRAY")
    assert decoded(bytes(more)).status == DAMAGED
