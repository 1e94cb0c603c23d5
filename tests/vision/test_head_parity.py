"""Each head on the module that Ultralytics' own predict ran, against what predict returned."""

import cv2
import numpy as np
import pytest

from brimful.vision.canvas import CanvasPolicy
from brimful.vision.letterbox import classify_crop, letterbox
from brimful.vision.postprocess import Placed, PostprocessConfig, build_postprocess
from oracles import (
    asset,
    exported_outputs,
    pair_detections,
    random_model,
    reference_predict,
    shared,
    spec_of,
)


def our_predict(yolo, images, *, canvas="exact", imgsz=640, **options):
    """Run brimful's preprocess and postprocess around the reference's module."""
    spec = spec_of(yolo)
    policy = CanvasPolicy.for_model(spec, canvas, imgsz)
    postprocess = build_postprocess(spec, PostprocessConfig(**options))
    found = []
    for index, image in enumerate(images):
        geometry = policy.place(image.shape[:2])
        slot = np.empty((3, *geometry.canvas), np.float32)
        if spec.task == "classify":
            classify_crop(image, slot)
        else:
            letterbox(image, geometry, slot)
        outputs = exported_outputs(yolo, slot[None])
        found += postprocess(outputs, [Placed("image", index, None, None, geometry)])
    return found


def host_frames():
    bus, zidane = (cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg"))
    # odd sizes, so that padding is not whole in prototype pixels, and one image to enlarge
    return [bus, zidane, bus[100:433, 200:701], zidane[:331, 400:800]]


def judge(ours, reference, least):
    report = pair_detections(ours, reference)
    print(report)
    assert report.reference >= least
    assert report.ok, report


RAW = [
    f"{family}{task}.yaml"
    for family in ("yolo26n", "yolo11n", "yolov8n")
    for task in ("", "-pose", "-obb")
]


@pytest.mark.parametrize("name", [*RAW, "yolov5n.yaml"])
def test_random_weights(name):
    yolo = random_model(name, 1)
    images = host_frames()
    judge(*run_both(yolo, images), least=80)


def run_both(yolo, images, *, nms=None, imgsz=640, canvas="exact", **options):
    reference = reference_predict(
        yolo, images, nms=nms, imgsz=imgsz, rect=canvas == "exact", **options
    )
    return our_predict(yolo, images, canvas=canvas, imgsz=imgsz, **options), reference


@pytest.mark.parametrize("task", ["", "-pose", "-obb"])
def test_random_weights_nms_free(task):
    yolo = random_model(f"yolo26n{task}.yaml", 3)
    images = host_frames()
    ours, reference = run_both(yolo, images, nms=False)
    assert spec_of(yolo).head == "nms_free"
    judge(ours, reference, least=80)


@pytest.mark.parametrize(
    ("name", "nms"),
    [
        ("yolo26n-seg.yaml", False),
        ("yolo26n-seg.yaml", None),
        ("yolo11n-seg.yaml", None),
        ("yolov8n-seg.yaml", None),
    ],
)
def test_random_weights_segment(name, nms):
    yolo = random_model(name, 1)
    # masks at full resolution are slow in the reference
    ours, reference = run_both(yolo, host_frames(), nms=nms, max_det=40)
    judge(ours, reference, least=60)


@pytest.mark.parametrize("name", ["yolo26n-cls.yaml", "yolo11n-cls.yaml", "yolov8n-cls.yaml"])
def test_random_weights_classify(name):
    yolo = random_model(name, 1, nc=20)
    ours, reference = run_both(yolo, host_frames(), imgsz=224)
    judge(ours, reference, least=4)
    assert max(float(d.probs.max()) for d in ours) > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"conf": 0.01},
        {"iou": 0.3},
        {"max_det": 7},
        {"classes": (1, 3)},
        {"agnostic_nms": True},
        {"canvas": "square"},
        {"imgsz": 320},
    ],
    ids=str,
)
def test_options(options):
    yolo = random_model("yolov8n.yaml", 5)
    judge(*run_both(yolo, host_frames(), **options), least=20)


def real_pictures():
    paths = sorted(shared("voc100").rglob("*.jpg"))[::5]
    paths += sorted(shared("photos").glob("*.jpg"))
    paths += [asset("bus.jpg"), asset("zidane.jpg")]
    return [cv2.imread(str(path)) for path in paths]


@pytest.mark.parametrize(
    ("name", "nms", "canvas"),
    [
        ("yolo26n-coco.pt", False, "exact"),
        ("yolo26n-coco.pt", False, "square"),
        ("yolo26n-coco.pt", None, "exact"),
        ("yolov8n-coco.pt", None, "exact"),
    ],
)
def test_real_weights(name, nms, canvas):
    from ultralytics import YOLO

    yolo = YOLO(shared("models", name))
    images = real_pictures()
    assert len(images) == 25
    judge(*run_both(yolo, images, nms=nms, canvas=canvas), least=80)
