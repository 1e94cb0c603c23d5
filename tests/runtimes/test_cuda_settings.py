"""Requests with settings of their own on CUDA: the CPU's detections, and no graph is captured."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from brimful.detections import Detections
from brimful.engine.engine import Engine
from brimful.runtimes.cuda.lane import Lane
from brimful.runtimes.cuda.runtime import TorchCudaRuntime
from loading import load
from model_files import saved
from oracles import asset, pair_detections

pytestmark = pytest.mark.gpu

IMAGES = [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]
DEFAULT = {"conf": 0.3, "iou": 0.7, "max_det": 100}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"conf": 0.2},
    {"conf": 0.45},
    {"iou": 0.3},
    {"max_det": 20},
    {"classes": (1, 3)},
    {"classes": ()},
    {"conf": 0.25, "iou": 0.5, "max_det": 40, "classes": (0, 1, 4)},
    {},
]


def opened(yaml_name: str, device: str) -> Engine:
    options: dict[str, Any] = {"runtime": "torch", "batch": 4, "canvas": "square", **DEFAULT}
    return load(saved(yaml_name), device=device, **options)


def ask(engine: Engine, settings: list[dict[str, Any]]) -> list[Detections]:
    """Return what each setting finds in each image; batches mix them."""
    waiting = [engine.submit(image, **own) for own in settings for image in IMAGES]
    return [future.result(timeout=120) for future in waiting]


@pytest.mark.parametrize(
    "yaml_name", ["yolo26n.yaml", "yolov8n.yaml", "yolo26n-obb.yaml", "yolo26n-seg.yaml"]
)
def test_requests_find_what_they_find_on_the_cpu(
    yaml_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # TF32 is a precision of its own; here the claim is fp32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with opened(yaml_name, "cpu") as engine:
        wanted = ask(engine, SETTINGS)
    captured: list[Any] = []
    capture = Lane.capture

    def counted(self: Lane, *arguments: Any) -> Any:
        captured.append(arguments)
        return capture(self, *arguments)

    monkeypatch.setattr(Lane, "capture", counted)
    with opened(yaml_name, "cuda") as engine:
        runtime = engine.runtime
        assert isinstance(runtime, TorchCudaRuntime)
        ask(engine, [{}] * 4)
        graphs = len(captured)
        found = ask(engine, SETTINGS)
        assert 0 < graphs == len(captured), captured[graphs:]
        assert all(graph.select for lane in runtime._lanes for graph in lane._graphs.values())
    # Another order of summation swaps a few near-ties of random weights, as in test_cuda.py.
    report = pair_detections(found, wanted)
    assert report.paired_fraction >= 0.99, report.complaints
    own = [setting for setting in SETTINGS for _ in IMAGES]
    for result, setting in zip(found, own, strict=True):
        assert len(result) <= setting.get("max_det", DEFAULT["max_det"])
        assert (result.confidence > setting.get("conf", DEFAULT["conf"])).all()
        assert set(result.class_id) <= set(setting.get("classes", range(5)))
    counts = np.array([len(result) for result in found]).reshape(len(SETTINGS), len(IMAGES))
    # a near-tie at the threshold may fall on either side
    assert abs(counts[0] - counts[-1]).max() <= 1
    assert (counts[0] > 20).all() and (counts[4] <= 20).all()
