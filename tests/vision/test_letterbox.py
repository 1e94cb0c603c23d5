from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brimful.errors import ImageError
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.geometry import Geometry
from brimful.vision.letterbox import classify_crop, letterbox

sides = st.integers(1, 1500)


def noise(height, width, channels=3, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def slot(size, dtype, channels=3):
    """A buffer full of what an earlier batch left."""
    shape = (*size, channels) if dtype == np.uint8 else (channels, *size)
    return np.full(shape, 77, dtype)


def as_float(canvas):
    """What Ultralytics feeds a model: RGB planes, divided by 255."""
    return canvas[..., ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(255)


@given(sides, sides, st.booleans(), st.sampled_from([1, 3]), st.sampled_from([64, (96, 160)]))
@example(375, 500, True, 3, 640)
@example(1081, 1440, True, 3, 640)
@example(480, 640, True, 3, 640)
@example(1, 1500, False, 3, 64)
@example(1500, 1, True, 1, 64)
@example(1500, 1, False, 3, 64)
def test_the_same_pixels_as_ultralytics(height, width, exact, channels, imgsz):
    from ultralytics.data.augment import LetterBox

    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    image = noise(height, width, channels)
    expected = LetterBox(size, auto=exact, stride=32)(image=image)
    geometry = CanvasPolicy(mode="exact" if exact else "square", imgsz=size).place((height, width))
    assert geometry.canvas == expected.shape[:2]

    pixels = slot(geometry.canvas, np.uint8, channels)
    letterbox(image, geometry, pixels)
    np.testing.assert_array_equal(pixels, expected)

    planes = slot(geometry.canvas, np.float32, channels)
    letterbox(image, geometry, planes)
    np.testing.assert_array_equal(planes, as_float(expected))


@pytest.mark.parametrize("image", [(375, 500), (720, 1280), (1280, 720), (500, 400)])
def test_auto_is_the_square_letterbox_with_less_padding(image):
    pixels = noise(*image)
    square, auto = CanvasPolicy(mode="square").place(image), CanvasPolicy().place(image)
    outs = []
    for geometry in (square, auto):
        out = slot(geometry.canvas, np.uint8)
        letterbox(pixels, geometry, out)
        top, left = geometry.top, geometry.left
        outs.append(out[top : top + geometry.resized[0], left : left + geometry.resized[1]])
    np.testing.assert_array_equal(*outs)


def test_a_slot_may_be_a_row_of_a_batch():
    batch = np.full((3, 480, 640, 3), 77, np.uint8)
    letterbox(noise(333, 500), Geometry.fit((333, 500), (480, 640)), batch[1])
    assert (batch[[0, 2]] == 77).all()
    assert batch[1, 0, 0, 0] == 114


def test_gray():
    import cv2

    image = noise(100, 50)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    geometry = Geometry.fit((100, 50), (64, 64))
    outs = [slot((64, 64), np.uint8, 1) for _ in range(3)]
    for source, out in zip((image, gray, gray[..., None]), outs, strict=True):
        letterbox(source, geometry, out)
        np.testing.assert_array_equal(out, outs[0])
    coloured = slot((64, 64), np.uint8)
    letterbox(gray, geometry, coloured)
    np.testing.assert_array_equal(coloured, np.repeat(outs[0], 3, axis=2))


@pytest.mark.parametrize("image", [(375, 500), (500, 333), (224, 224), (100, 90), (301, 225)])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_classify_crop_is_what_ultralytics_feeds_a_classifier(image, size):
    import cv2
    from PIL import Image
    from ultralytics.data.augment import classify_transforms

    pixels = noise(*image)
    rgb = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    expected = classify_transforms(size)(rgb).numpy()
    planes = slot(size, np.float32)
    classify_crop(pixels, planes)
    np.testing.assert_allclose(planes, expected, atol=1e-6, rtol=0)
    host = slot(size, np.uint8)
    classify_crop(pixels, host)
    np.testing.assert_allclose(as_float(host), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("image", [(4000, 60), (60, 4000), (21, 350), (900, 50)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_a_thin_image_is_resized_only_where_its_crop_is(image, size, monkeypatch):
    """Pillow counts with 22 bits of a fraction, so another way to the same place may round."""
    import brimful.vision.letterbox as module

    pixels = noise(*image)
    cropped, whole = slot(size, np.uint8), slot(size, np.uint8)
    classify_crop(pixels, cropped)
    monkeypatch.setattr(module, "LONGEST_RESIZED", 10**9)
    classify_crop(pixels, whole)
    assert np.abs(cropped.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("image", [(1, 4000), (4000, 1), (1, 65535), (65535, 1), (2, 60000)])
def test_the_thinnest_images_cost_a_classifier_no_memory(image, monkeypatch):
    from PIL import Image

    resize, asked = Image.Image.resize, []

    def watched(self, size, *arguments):
        asked.append(size)
        if size[0] * size[1] > 224 * 224 * 16:
            pytest.fail(f"it is resized to {size}")
        return resize(self, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = np.full((*image, 3), 50, np.uint8)
    out = slot((224, 224), np.uint8)
    classify_crop(pixels, out)
    assert asked and (out == 50).all()


def test_classify_crop_gray():
    out, coloured = slot((64, 64), np.float32, 1), slot((64, 64), np.float32)
    gray = noise(100, 120, 1)
    classify_crop(gray, out)
    classify_crop(gray, coloured)
    np.testing.assert_array_equal(coloured, np.repeat(out, 3, axis=0))


def test_threads_do_not_share_scratch():
    images = [noise(h, w, seed=h) for h, w in [(375, 500), (90, 70), (720, 1280), (33, 1000)]]

    def run(image, dtype):
        geometry = CanvasPolicy().place(image.shape[:2])
        out = slot(geometry.canvas, dtype)
        letterbox(image, geometry, out)
        return out

    for dtype in (np.uint8, np.float32):
        alone = [run(image, dtype) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = pool.map(run, images * 25, [dtype] * 100)
            for i, out in enumerate(together):
                np.testing.assert_array_equal(out, alone[i % 4])


def test_refusals():
    geometry = Geometry.fit((10, 20), (64, 64))
    with pytest.raises(ImageError, match="expected uint8 pixels of 10x20, got uint8 of 20x10x3"):
        letterbox(noise(20, 10), geometry, slot((64, 64), np.uint8))
    with pytest.raises(ImageError, match="got 4"):
        letterbox(noise(10, 20, 4), geometry, slot((64, 64), np.uint8))
    for bad in (
        slot((64, 32), np.uint8),
        slot((64, 64), np.uint8, 2),
        slot((64, 64), np.float64),
        slot((64, 64), np.uint8)[..., 0],
    ):
        with pytest.raises(ValueError, match="expected a slot of"):
            letterbox(noise(10, 20), geometry, bad)
