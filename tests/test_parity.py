"""The whole pipeline against `ultralytics predict`, image by image.

The reference letterboxes each image to its minimum rectangle, so brimful runs with canvas=exact,
and both take the same head (`nms=False` is the NMS-free one of YOLO26).
"""

import os

import cv2
import pytest

from loading import load
from model_files import artifact_cache, saved  # noqa: F401
from oracles import asset, pair_detections, reference_predict, shared

FULL = os.environ.get("BRIMFUL_FULL") == "1"
RUNTIMES = ("onnxruntime", "openvino", "torch")


def photos():
    """Return every eighth photograph of voc100, or all there are with BRIMFUL_FULL=1."""
    paths = sorted(shared("voc100").rglob("*.jpg"))
    assert len(paths) == 100
    if not FULL:
        return paths[::8]
    paths += sorted(shared("photos").glob("*.jpg"))
    return [*paths, asset("bus.jpg"), asset("zidane.jpg")]


@pytest.fixture(scope="module")
def references():
    """Run the reference once for all runtimes."""
    images = [cv2.imread(str(path)) for path in photos()]
    return {
        (name, nms): reference_predict(str(shared("models", f"{name}.pt")), images, nms=nms)
        for name, nms in (("yolo26n-coco", False), ("yolo26n-coco", None), ("yolov8n-coco", None))
    }


def judge(ours, reference, least):
    report = pair_detections(ours, reference)
    print(report)
    assert report.reference >= least
    assert report.ok, report


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("name", "nms"), [("yolo26n-coco", None), ("yolo26n-coco", True), ("yolov8n-coco", None)]
)
def test_real_weights(name, nms, runtime, references):
    path = shared("models", f"{name}.pt")
    with load(path, runtime=runtime, canvas="exact", nms=nms, batch=4) as engine:
        ours = list(engine.predict(photos()))
        assert engine.spec.head == ("nms_free" if name == "yolo26n-coco" and nms is None else "raw")
    # brimful's default is the NMS-free head, the reference's is the one that needs NMS
    key = (name, False if name == "yolo26n-coco" and nms is None else None)
    judge(ours, references[key], least=25)


def pictures():
    """Return photographs of odd sizes: to shrink, and one to enlarge."""
    bus, zidane = (cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg"))
    return [bus, bus[100:433, 200:701], zidane[:331, 400:800]]


RANDOM = [
    ("yolo26n-seg.yaml", None),
    ("yolo26n-pose.yaml", None),
    ("yolo26n-obb.yaml", None),
    ("yolo26n-cls.yaml", None),
    ("yolo11n-seg.yaml", None),
    ("yolo11n-obb.yaml", None),
    ("yolov8n-pose.yaml", None),
]


@pytest.mark.parametrize(("name", "nms"), RANDOM)
def test_random_weights(name, nms):
    """Seeded random networks of the other tasks.

    A random network amplifies rounding by its depth, so that up to 1 % of its boxes may lie just
    beyond what counts as the same; but no box may be lost or made up.
    """
    classify = "cls" in name
    side = 224 if classify else 640
    path = saved(name, seed=1)
    free = name.startswith("yolo26") and nms is None and not classify
    images = pictures()
    limit = 40 if "seg" in name else 80  # the reference's masks at full resolution are slow
    reference = reference_predict(
        str(path), images, imgsz=side, nms=False if free else None, max_det=limit
    )
    for runtime in RUNTIMES if FULL else ("openvino", "onnxruntime"):
        options = {"canvas": "auto" if classify else "exact", "imgsz": side, "max_det": limit}
        with load(path, runtime=runtime, nms=nms, **options) as engine:
            ours = list(engine.predict(images))
        report = pair_detections(ours, reference, mask_iou=0.97)  # a pixel of a small mask
        print(runtime, report)
        assert report.reference >= (3 if classify else 80)
        assert report.ours == report.reference
        assert report.paired_fraction >= 0.99, report
        assert report.extra_above <= report.reference - report.paired, report
