"""The letterbox kernel against the CPU path, which is OpenCV's."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox, upright
from brimful.vision.geometry import Geometry
from brimful.vision.letterbox import letterbox as on_the_cpu

CANVAS = (32, 96)
PLACE = CanvasPolicy(mode="fixed", imgsz=CANVAS).place

# up and down, odd, extreme, one side fitting, exactly half and double, and nothing to do
SIZES = [
    (32, 96), (32, 50), (31, 96), (1, 1), (1, 200), (200, 1), (2, 2), (3, 500), (16, 48),
    (64, 192), (77, 133), (333, 201), (33, 97), (480, 640), (5, 7),
]  # fmt: skip


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, channels), np.uint8)


class Batch:
    """Images in memory, the table that describes them, and the tensor that receives them."""

    def __init__(self, device, rows, *, channels=3, dtype=torch.float32, canvas=CANVAS):
        self.device = device
        self.table = np.zeros((rows, COLUMNS), np.int64)
        self.held = []
        self.used = 0
        self.out = torch.full((rows, channels, *canvas), torch.nan, dtype=dtype, device=device)
        self.out = self.out.contiguous(memory_format=torch.channels_last)

    def hold(self, pixels):
        self.held.append(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device))
        return self.held[-1].data_ptr()

    def add(self, pointer, strides, geometry, row):
        describe(self.table[self.used], pointer, strides, geometry, row)
        self.used += 1

    def add_bgr(self, image, row=None, geometry=None):
        height, width, channels = image.shape
        strides = (width * channels, channels, -1)
        geometry = geometry or PLACE((height, width))
        self.add(
            self.hold(image) + channels - 1, strides, geometry, self.used if row is None else row
        )

    def run(self):
        letterbox(torch.from_numpy(self.table).to(self.device), self.out, count=self.used)
        return self.out.cpu().to(torch.float32).numpy()


def expected(images, channels=3, place=PLACE, canvas=CANVAS):
    planes = np.empty((len(images), channels, *canvas), np.float32)
    for image, out in zip(images, planes, strict=True):
        on_the_cpu(image, place(image.shape[:2]), out)
    return planes


def assert_within_a_level(got, want):
    """OpenCV's other builds may round a value in a thousand otherwise; the one at hand does not."""
    difference = np.abs(got - want)
    assert difference.max() <= 1.001 / 255
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize(
    ("canvas", "sizes"),
    [
        (CANVAS, SIZES),
        ((64, 32), SIZES[-6:]),
        # no multiples of anything that is written at a time
        *(((height, 50), [(height, 50), (height, 49), (40, 30)]) for height in (5, 6, 7)),
    ],
)
def test_all_sizes_in_one_launch(device, canvas, sizes):
    place = CanvasPolicy(mode="fixed", imgsz=canvas, stride=1).place
    images = [noise(*size) for size in sizes]
    batch = Batch(device, len(images), canvas=canvas)
    # from the last row to the first, so that what is written behind a canvas is seen in the next
    for row, image in enumerate(reversed(images)):
        batch.add_bgr(image, row=len(images) - 1 - row, geometry=place(image.shape[:2]))
    assert_within_a_level(batch.run(), expected(images, place=place, canvas=canvas))


def test_smooth_images_too(device):
    # noise hides a systematic shift of less than a pixel behind large differences
    ramp = np.indices((150, 211)).sum(axis=0).astype(np.uint8)
    images = [np.stack((ramp, ramp[::-1], ramp[:, ::-1]), axis=-1)]
    batch = Batch(device, 1)
    batch.add_bgr(images[0])
    assert_within_a_level(batch.run(), expected(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_needs_no_resize_is_exact(device, dtype):
    levels = np.arange(32 * 90 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 90, 3)
    assert PLACE((32, 90)).resized == (32, 90)
    batch = Batch(device, 1, dtype=dtype)
    batch.add_bgr(levels)
    got, want = batch.run(), expected([levels])
    if dtype == torch.bfloat16 and device.type == "cpu":
        # Triton's interpreter cuts bfloat16 off where the GPU rounds to nearest
        want = (want.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        want = torch.from_numpy(want).to(dtype).to(torch.float32).numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [(48, 60), (32, 96)])
def test_memory_layouts(device, size):
    image = noise(*size)
    height, width = size
    row = width * 3 + 13
    padded = np.zeros((height, row), np.uint8)
    padded[:, : width * 3] = image.reshape(height, -1)
    rgb, planes = image[..., ::-1], image[..., ::-1].transpose(2, 0, 1)
    batch = Batch(device, 4)
    geometry = PLACE(size)
    batch.add_bgr(image)
    batch.add(batch.hold(rgb), (width * 3, 3, 1), geometry, 1)
    batch.add(batch.hold(planes), (width, 1, height * width), geometry, 2)
    batch.add(batch.hold(padded) + 2, (row, 3, -1), geometry, 3)
    got = batch.run()
    assert_within_a_level(got[0], expected([image])[0])
    for other in got[1:]:
        np.testing.assert_array_equal(other, got[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_sources(device, channels):
    images = [noise(*size, channels=1) for size in ((32, 96), (77, 133), (20, 31))]
    batch = Batch(device, len(images), channels=channels)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        batch.add(batch.hold(image), (width, 1, 0), PLACE((height, width)), row)
    assert_within_a_level(batch.run(), expected(images, channels=channels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_those_of_opencv(device, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(cv2.resize(noise(6, 9), (90, 50))).save(file, "JPEG", quality=95, exif=exif)
    data = np.frombuffer(file.getvalue(), np.uint8)
    seen = cv2.imdecode(data, cv2.IMREAD_COLOR)
    stored = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = stored.shape[:2]
    batch = Batch(device, 1)
    pointer = batch.hold(stored) + 2
    pointer, down, right, *size = upright(orientation, (height, width), pointer, (width * 3, 3))
    assert tuple(size) == seen.shape[:2]
    batch.add(pointer, (down, right, -1), PLACE(tuple(size)), 0)
    assert_within_a_level(batch.run(), expected([seen]))


def test_rows_that_are_not_named_stay(device):
    images = [noise(40, 60, seed=seed) for seed in range(3)]
    batch = Batch(device, 4)
    for image, row in zip(images, (3, -1, 0), strict=True):
        batch.add_bgr(image, row=row)
    got = batch.run()
    want = expected(images)
    assert_within_a_level(got[[3, 0]], want[[0, 2]])
    assert np.isnan(got[[1, 2]]).all()


def test_count_is_all_that_is_read(device):
    batch = Batch(device, 2)
    batch.add_bgr(noise(40, 60))
    batch.table[1] = 1 << 60  # an address that would fault
    assert np.isnan(batch.run()[1]).all()
    batch.used = 0
    batch.out.fill_(torch.nan)
    assert np.isnan(batch.run()).all()


@pytest.mark.parametrize("resized", [2, 5])
def test_offsets_beyond_two_gib(device, resized):
    # two rows far apart, read downwards and upwards; memory that is not touched is not taken
    far = 2**31 + 96 * 3
    memory = torch.empty(far + 96 * 3, dtype=torch.uint8, device=device)
    image = noise(2, 96)
    for row, start in ((0, 0), (1, far)):
        memory[start : start + 96 * 3] = torch.from_numpy(image[row].ravel()).to(device)
    geometry = Geometry.centred((2, 96), CANVAS, (resized, 96))
    batch = Batch(device, 2)
    batch.add(memory.data_ptr() + 2, (far, 3, -1), geometry, 0)
    batch.add(memory.data_ptr() + far + 2, (-far, 3, -1), geometry, 1)
    want = expected([image, image[::-1].copy()], place=lambda size: geometry)
    assert_within_a_level(batch.run(), want)


def test_refusals(device):
    batch = Batch(device, 2)
    table = torch.from_numpy(batch.table).to(device)
    with pytest.raises(ValueError, match="channels_last"):
        letterbox(table, batch.out.contiguous(), count=1)
    with pytest.raises(ValueError, match="fp16, bf16 or fp32"):
        letterbox(table, batch.out.to(torch.uint8), count=1)
    with pytest.raises(ValueError, match="fp16, bf16 or fp32"):
        letterbox(table, batch.out.to(torch.float64), count=1)
    with pytest.raises(ValueError, match="int64"):
        letterbox(table.to(torch.int32), batch.out, count=1)
    with pytest.raises(ValueError, match="at least 3 rows"):
        letterbox(table, batch.out, count=3)
    with pytest.raises(ValueError, match="orientation"):
        upright(9, (1, 1), 0, (3, 3))


@pytest.mark.gpu
def test_a_graph_reads_the_table_anew(device):
    first, second = noise(40, 60), noise(300, 200)
    batch = Batch(device, 1, dtype=torch.float16)
    batch.add_bgr(first)
    table = torch.from_numpy(batch.table).to(device)
    letterbox(table, batch.out, count=1)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        letterbox(table, batch.out, count=1)
    for image in (first, second):
        batch.used = 0
        batch.add_bgr(image, row=0)
        table.copy_(torch.from_numpy(batch.table))
        batch.out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        want = torch.from_numpy(expected([image])).to(torch.float16).float().numpy()
        difference = np.abs(batch.out.float().cpu().numpy() - want)
        assert difference.max() <= 1.001 / 255
        assert (difference > 0).mean() <= 1e-3
