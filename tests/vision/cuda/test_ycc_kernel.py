"""The YCbCr kernel against libjpeg-turbo, on the planes that libjpeg-turbo itself had.

At quality 100 no coefficient is scaled, so a plane that is encoded as a gray image of its own
comes back from the decoder as it is inside a colour image.
"""

import av
import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from brimful.vision.cuda.ycc import COLUMNS, describe, to_bgr

SAMPLINGS = {"444": (1, 1), "422": (2, 1), "440": (1, 2), "420": (2, 2)}
FACTORS = {"444": 0x111111, "422": 0x211111, "440": 0x121111, "420": 0x221111}

# blocks and tiles that end with the image and do not, and chroma of one to three columns and rows
SIZES = [
    (2, 2), (3, 3), (2, 4), (4, 5), (5, 6), (6, 7), (31, 2), (3, 131), (16, 128), (17, 129),
    (47, 62), (64, 35),
]  # fmt: skip
GUARD = 0xA5


def rows_and_columns(size, sampling):
    return -(-size[0] // sampling[1]), -(-size[1] // sampling[0])


def noise(size, *, block=1, seed=0):
    """Return a plane of blocks of random levels, the extreme ones more often than others."""
    rng = np.random.default_rng([seed, *size])
    levels = rng.integers(-64, 320, [-(-side // block) for side in size])
    levels = np.clip(levels, 0, 255).astype(np.uint8).repeat(block, 0).repeat(block, 1)
    return np.ascontiguousarray(levels[: size[0], : size[1]])


def decoded_alone(plane):
    data = simplejpeg.encode_jpeg(plane[..., None], quality=100, colorspace="GRAY")
    return simplejpeg.decode_jpeg(data, "GRAY")[..., 0]


def coded(size, name, *, block=1):
    """Return a JPEG's planes, and its pixels as the CPU decodes them."""
    chroma = rows_and_columns(size, SAMPLINGS[name])
    luma, blue, red = (
        noise(side, block=block, seed=i) for i, side in enumerate((size, chroma, chroma))
    )
    data = simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality=100)
    assert simplejpeg.decode_jpeg_header(data) == (*size, "YCbCr", name)
    # the encoder takes luma columns from beyond an odd width, so what it made of the last block of
    # luma only its own file tells
    luma = simplejpeg.decode_jpeg(data, "GRAY")[..., 0]
    planes = luma, decoded_alone(blue), decoded_alone(red)
    return planes, simplejpeg.decode_jpeg(data, "BGR")


class Batch:
    """Planes in memory, the table that describes them, and the pixels, amid guard bytes."""

    def __init__(self, device, rows):
        self.device = device
        self.table = np.zeros((rows, COLUMNS), np.int64)
        self.held, self.outputs = [], []

    def hold(self, plane, pitch):
        """Keep a plane, followed at once by bytes that would show if they were read."""
        padded = np.full((plane.shape[0], pitch), 255 - GUARD, np.uint8)
        padded[:, : plane.shape[1]] = plane
        self.held.append(torch.from_numpy(padded).to(self.device))
        return self.held[-1].data_ptr()

    def add(self, planes, sampling, *, padding=0):
        height, width = size = planes[0].shape
        luma_pitch, pitch = (-(-side // 4) * 4 + 4 * padding for side in (width, 3 * width))
        chroma_pitch = planes[1].shape[1] + padding
        pitches = luma_pitch, chroma_pitch, pitch
        out = torch.full((height + 2, pitch), GUARD, dtype=torch.uint8, device=self.device)
        pointers = tuple(map(self.hold, planes, (luma_pitch, chroma_pitch, chroma_pitch)))
        entry = self.table[len(self.outputs)]
        describe(entry, pointers, out.data_ptr() + pitch, pitches, size, sampling)
        self.outputs.append((out, size))

    def run(self, count=None, size=None):
        largest = tuple(np.max([size for _, size in self.outputs], axis=0).tolist())
        table = torch.from_numpy(self.table).to(self.device)
        count = len(self.outputs) if count is None else count
        to_bgr(table, count=count, size=size or largest)
        return [self.pixels(out.cpu().numpy(), *size) for out, size in self.outputs]

    @staticmethod
    def pixels(out, height, width):
        assert (out[[0, -1]] == GUARD).all(), "a row before or behind the image was written"
        assert (out[:, -(-3 * width // 4) * 4 :] == GUARD).all(), "a row's padding was written"
        return out[1:-1, : 3 * width].reshape(height, width, 3)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_pixels_are_those_of_the_cpu_decoder(device, name):
    cases = [coded(size, name) for size in SIZES]
    batch = Batch(device, len(cases))
    for planes, _ in cases:
        batch.add(planes, SAMPLINGS[name])
    for got, (_, want) in zip(batch.run(), cases, strict=True):
        np.testing.assert_array_equal(got, want)


def test_samplings_and_pitches_may_be_mixed(device):
    cases = [
        (name, *coded(size, name, block=block))
        for name, size, block in (
            ("420", (40, 58), 8), ("444", (9, 30), 1), ("440", (33, 20), 8), ("422", (8, 133), 8)
        )
    ]  # fmt: skip
    batch = Batch(device, len(cases) + 1)
    for padding, (name, planes, _) in enumerate(cases):
        batch.add(planes, SAMPLINGS[name], padding=padding)
    # rows without an image in it are allowed, whatever else they say
    batch.table[-1, :7] = 1 << 60
    results = batch.run(count=len(cases) + 1)
    for got, (_, _, want) in zip(results, cases, strict=True):
        np.testing.assert_array_equal(got, want)


def planes_of_ffmpeg(data):
    frames = av.CodecContext.create("mjpeg", "r").decode(av.Packet(data))
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frames[0].planes
    )


@pytest.mark.parametrize("name", SAMPLINGS)
def test_ordinary_files_decoded_by_another_decoder(device, name):
    # its inverse DCT differs by a level here and there: one of luma, and chroma's is two of blue
    batch, wanted = Batch(device, 4), []
    for size in ((1, 1), (1, 40), (40, 1), (45, 67)):
        image = cv2.resize(noise((6, 7 * 3)).reshape(6, 7, 3), size[::-1])
        options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, FACTORS[name]]
        data = cv2.imencode(".jpg", image, options)[1].tobytes()
        wanted.append(simplejpeg.decode_jpeg(data, "BGR"))
        planes = planes_of_ffmpeg(data)
        assert planes[1].shape == rows_and_columns(size, SAMPLINGS[name])
        batch.add(planes, SAMPLINGS[name])
    for got, want in zip(batch.run(), wanted, strict=True):
        difference = np.abs(got.astype(np.int16) - want)
        assert difference.max() <= 3
        assert difference.mean() <= 0.1


def test_all_levels_of_chroma(device):
    # 4:4:4, where chroma meets the conversion as it is, with any luma, so that much is clamped
    levels = np.arange(256, dtype=np.int64)
    blue, red = np.meshgrid(levels, levels[::3])
    luma = (blue * 7 + red * 13) % 256
    batch = Batch(device, 1)
    batch.add([plane.astype(np.uint8) for plane in (luma, blue, red)], (1, 1))
    # JFIF 1.02; libjpeg-turbo's own rounding is half a level off at most, and green's a bit more
    b, r = blue - 128.0, red - 128.0
    exact = np.stack((luma + 1.772 * b, luma - 0.34414 * b - 0.71414 * r, luma + 1.402 * r), -1)
    assert np.abs(batch.run()[0] - np.clip(exact, 0, 255)).max() <= 0.502


def test_only_what_is_asked_for_is_done(device):
    planes, want = coded((20, 140), "420")
    batch = Batch(device, 2)
    batch.add(planes, (2, 2))
    batch.table[1] = 1 << 20  # would fault
    assert (batch.run(count=0)[0] == GUARD).all()
    assert (batch.run(count=1, size=(0, 140))[0] == GUARD).all()
    np.testing.assert_array_equal(batch.run(count=1, size=(480, 640))[0], want)


def test_addresses_may_be_added_later(device):
    # what a size has in common, kept and completed for each image
    planes, want = coded((10, 12), "420")
    batch = Batch(device, 1)
    batch.add(planes, (2, 2))
    whole = batch.table[0].copy()
    template = batch.table[0]
    describe(template, (0, 120, 150), 4, (12, 6, 36), (10, 12), (2, 2))
    assert template.tolist() == [0, 120, 150, 4, 12, 6, 36, 10, 12, 2, 2]
    template[:4] += whole[:4] - (0, 120, 150, 4)
    np.testing.assert_array_equal(batch.run()[0], want)


def test_planes_beyond_two_gib(device):
    # two rows far apart; memory that is not touched is not taken
    planes, want = coded((2, 30), "444")
    far = 2**31 + 64
    memory = [torch.empty(far + 96, dtype=torch.uint8, device=device) for _ in range(4)]
    for row in (0, 1):
        for plane, held in zip(planes, memory[:3], strict=True):
            held[row * far :][:30] = torch.from_numpy(plane[row].copy()).to(device)
    table = np.zeros((1, COLUMNS), np.int64)
    luma, blue, red, pixels = (held.data_ptr() for held in memory)
    describe(table[0], (luma, blue, red), pixels, (far, far, far), (2, 30), (1, 1))
    to_bgr(torch.from_numpy(table).to(device), count=1, size=(2, 30))
    for row in (0, 1):
        got = memory[3][row * far :][:90].cpu().numpy().reshape(30, 3)
        np.testing.assert_array_equal(got, want[row])


def test_refusals(device):
    table = torch.zeros((2, COLUMNS), dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="int64"):
        to_bgr(table.to(torch.int32), count=1, size=(1, 1))
    with pytest.raises(ValueError, match="contiguous"):
        to_bgr(table[:, :4], count=1, size=(1, 1))
    with pytest.raises(ValueError, match="at least 3 rows"):
        to_bgr(table, count=3, size=(1, 1))
    with pytest.raises(ValueError, match=f"rows of {COLUMNS}"):
        to_bgr(table[:, :4].contiguous(), count=1, size=(1, 1))
    with pytest.raises(ValueError, match="largest"):
        to_bgr(table, count=1, size=(-1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": (4, 1)}, "1 or 2 pixels per chroma sample"),
        ({"sampling": (1, 0)}, "1 or 2 pixels per chroma sample"),
        ({"size": (0, 10)}, "at least one pixel"),
        ({"planes": (2, 0, 0)}, "multiples of 4"),
        ({"pixels": 1}, "multiples of 4"),
        ({"pitches": (13, 5, 32)}, "multiples of 4"),
        ({"pitches": (12, 5, 31)}, "multiples of 4"),
        ({"pitches": (8, 5, 32)}, "at least"),
        ({"pitches": (12, 4, 32)}, "at least"),
        ({"pitches": (12, 5, 28)}, "at least"),
    ],
)
def test_refused_descriptions(change, message):
    good = {
        "planes": (0, 1, 3), "pixels": 4, "pitches": (12, 5, 32), "size": (7, 10),
        "sampling": (2, 2),
    }  # fmt: skip
    entry = np.zeros(COLUMNS, np.int64)
    describe(entry, **good)
    with pytest.raises(ValueError, match=message):
        describe(entry, **(good | change))
