import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brimful.vision import masks
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.masks import encode_rle, instance_masks


def smooth(shape, seed):
    """Noise without steps from one prototype pixel to the next, as prototypes are."""
    import cv2

    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, shape).astype(np.float32)
    return np.stack([cv2.GaussianBlur(plane, (7, 7), 2) for plane in noise])


def some_boxes(n, image, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (n, 2, 2)) * (image[1], image[0])
    boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    boxes[0] = (0, 0, image[1], image[0])
    return boxes.astype(np.float32)


# with every remainder of the padding, so that the reference enlarges by 1, 2 and 4
IMAGES = [(480, 640), (375, 500), (333, 500), (332, 500), (500, 334), (97, 61), (1080, 810), (5, 9)]


# pycocotools 2.0.11 decodes with an argument that NumPy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("mode", ["exact", "square"])
def test_the_same_masks_as_ultralytics(image, mode):
    import torch
    from pycocotools import mask as coco
    from ultralytics.utils.ops import process_mask_native

    geometry = CanvasPolicy(mode=mode, imgsz=(320, 320)).place(image)
    prototypes = smooth((8, geometry.canvas[0] // 4, geometry.canvas[1] // 4), 1)
    coefficients = np.random.default_rng(2).normal(0, 1, (12, 8)).astype(np.float32)
    boxes = some_boxes(12, image, 3)
    expected = process_mask_native(
        torch.from_numpy(prototypes),
        torch.from_numpy(coefficients),
        torch.from_numpy(boxes),
        image,
    ).numpy()
    found = instance_masks(prototypes, coefficients, boxes, geometry)
    assert len(found) == 12
    for own, ref in zip(found, expected, strict=True):
        if own is None:
            assert not ref.any()
            continue
        assert own["size"] == list(image)
        # logits within the last bits of zero may fall on either side
        assert (coco.decode(own) != ref).mean() < 1e-5


def test_chunks_do_not_change_a_mask(monkeypatch):
    geometry = CanvasPolicy().place((375, 500))
    prototypes = smooth((8, 120, 160), 1)
    coefficients = np.random.default_rng(2).normal(0, 1, (9, 8)).astype(np.float32)
    boxes = some_boxes(9, (375, 500), 3)
    whole = instance_masks(prototypes, coefficients, boxes, geometry)
    for cap in (1, 3 * 120 * 160 * 4):
        monkeypatch.setattr(masks, "CHUNK_BYTES", cap)
        assert instance_masks(prototypes, coefficients, boxes, geometry) == whole


def test_a_box_without_a_pixel_has_no_mask():
    geometry = CanvasPolicy().place((480, 640))
    prototypes = np.ones((1, 120, 160), np.float32)
    boxes = np.array(
        [(3, 3, 3, 9), (3.2, 3.2, 3.8, 9), (5, 9, 3, 3), (3, 3, 9, 9), (3, 3, 9, 9)], np.float32
    )
    found = instance_masks(
        prototypes, np.array([[1], [1], [1], [-1], [1]], np.float32), boxes, geometry
    )
    assert found[:4] == [None] * 4
    assert found[4] is not None


@given(st.data())
def test_rle_is_the_one_of_pycocotools(data):
    from pycocotools import mask as coco

    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height) | st.just(height))
    right = data.draw(st.integers(left + 1, width) | st.just(width))
    density = data.draw(st.sampled_from([0, 0.02, 0.5, 0.98, 1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    full = np.zeros((height, width), np.uint8, order="F")
    full[top:bottom, left:right] = rng.random((bottom - top, right - left)) < density
    expected = coco.encode(full)
    found = encode_rle(full[top:bottom, left:right].T > 0, left, top, (height, width))
    assert found == {"size": expected["size"], "counts": expected["counts"].decode()}


def test_rle_of_a_large_image():
    from pycocotools import mask as coco

    full = np.zeros((3000, 9000), np.uint8, order="F")
    full[0:3000, 5000:9000] = 1
    full[7, 6000] = 0
    expected = coco.encode(full)["counts"].decode()
    assert encode_rle(full[:, 5000:].T > 0, 5000, 0, (3000, 9000))["counts"] == expected
