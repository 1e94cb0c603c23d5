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
TASKS = (
    "yolo26n.yaml",
    "yolov8n.yaml",
    "yolo26n-seg.yaml",
    "yolo26n-pose.yaml",
    "yolo26n-obb.yaml",
)


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
    # Random weights put scores close together: another order of summation swaps a few near-ties
    # (2 of 554 for obb on an H200). Everything else must agree to 0.99 IoU and 0.005 in score.
    assert report.paired_fraction >= 0.995, report.complaints


@pytest.mark.parametrize(("precision", "iou"), [("fp16", 0.8), ("bf16", 0.5)])
def test_half_precision_finds_the_same_objects(precision: Precision, iou: float) -> None:
    model = saved("yolov8n.yaml")
    # Random weights amplify rounding: boxes may move, but nearly all must be found again.
    report = pair_detections(
        detect(model, "cuda", precision), detect(model, "cpu"), iou=iou, score=0.15
    )
    assert report.paired_fraction > 0.9, report.complaints


def test_a_batch_agrees_with_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = saved("yolo26n.yaml")
    report = pair_detections(detect(model, "cuda", batch=7), detect(model, "cuda", batch=1))
    assert report.ok, report.complaints


def test_close_gives_memory_back() -> None:
    import gc

    import torch

    model = saved("yolov8n.yaml")

    def reserved_after(engines: int) -> int:
        for _ in range(engines):
            detect(model, "cuda")
        gc.collect()  # what only a cycle holds is garbage, and counts as given back
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    # The first engines leave the libraries' own workspaces behind; then nothing may grow.
    reserved_after(3)
    settled = reserved_after(1)
    assert reserved_after(4) <= settled
