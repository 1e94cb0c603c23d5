"""The torch runtime on CUDA: the same detections as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from brimful.detections import Detections
from brimful.load import load
from brimful.runtimes.runtime import Precision
from model_files import saved
from oracles import asset, pair_detections

pytestmark = pytest.mark.gpu

IMAGES = [asset("bus.jpg"), asset("zidane.jpg")]
TASKS = ("yolo26n.yaml", "yolov8n.yaml", "yolo26n-seg.yaml", "yolo26n-pose.yaml", "yolo26n-obb.yaml")


def detect(
    model: Path, device: str, precision: Precision = "fp32", batch: int | None = None
) -> list[Detections]:
    with load(model, runtime="torch", device=device, precision=precision, batch=batch) as engine:
        return list(engine.predict(IMAGES * 4))


@pytest.mark.parametrize("yaml_name", TASKS)
def test_fp32_agrees_with_the_cpu(yaml_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # TF32 is a precision of its own; here the claim is fp32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = saved(yaml_name)
    report = pair_detections(detect(model, "cuda"), detect(model, "cpu"))
    assert report.ok, report.complaints


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_finds_the_same_objects(precision: Precision) -> None:
    model = saved("yolov8n.yaml")
    # Random weights amplify rounding: boxes may move, but nearly all must be found again.
    report = pair_detections(
        detect(model, "cuda", precision), detect(model, "cpu"), iou=0.8, score=0.1
    )
    assert report.paired_fraction > 0.9, report.complaints


def test_a_batch_agrees_with_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = saved("yolo26n.yaml")
    report = pair_detections(detect(model, "cuda", batch=7), detect(model, "cuda", batch=1))
    assert report.ok, report.complaints


def test_close_gives_memory_back() -> None:
    import torch

    model = saved("yolov8n.yaml")
    detect(model, "cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        detect(model, "cuda")
    assert torch.cuda.memory_reserved() <= before
