"""ONNX files for the tests on a GPU, written beforehand where the `onnx` package is.

python tests/onnx_models.py FOLDER        then there: BRIMFUL_TEST_ONNX=FOLDER pytest ...
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from brimful.models.export import write_onnx
from brimful.models.to_fp16 import to_fp16
from model_files import opened, saved, scratch, ultralytics_export

TASKS = (
    "yolo26n.yaml",
    "yolov8n.yaml",
    "yolo26n-seg.yaml",
    "yolo26n-pose.yaml",
    "yolo26n-obb.yaml",
)
FIXED = "fixed"
"""A YOLOv8 of batch 4 on 320x416 that takes nothing else."""


def onnx_file(name: str, precision: str = "fp32") -> Path:
    """Return a random model as ONNX; its file is named by its YAML and precision."""
    ready = os.environ.get("BRIMFUL_TEST_ONNX")
    if ready:
        return Path(ready) / f"{name}-{precision}.onnx"
    return written(name, precision)


def written(name: str, precision: str) -> Path:
    """Write a model, once in a run."""
    path = scratch() / f"{name}-{precision}.onnx"
    if path.exists():
        return path
    if precision == "fp16":
        shutil.copyfile(to_fp16(written(name, "fp32")), path)
    elif name == FIXED:
        options = {"format": "onnx", "imgsz": (320, 416), "batch": 4, "dynamic": False}
        shutil.copyfile(ultralytics_export(saved("yolov8n.yaml"), "fixed4", **options), path)
    else:  # half the bytes to carry; it computes in fp32 all the same
        write_onnx(opened(saved(name)), path, half_weights=True)
    return path


def main(folder: Path) -> None:
    """Write all that the tests ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, "fp32") for name in (*TASKS, FIXED)]
    for name, precision in (*wanted, ("yolov8n.yaml", "fp16"), ("yolo26n.yaml", "fp16")):
        shutil.copyfile(written(name, precision), folder / f"{name}-{precision}.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
