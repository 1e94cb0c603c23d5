"""What every benchmark shares: where the test data is, the environment, COCO scores, JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results"
MODELS = {"yolo26n": "yolo26n-coco.pt", "yolov8n": "yolov8n-coco.pt"}

PACKAGES = (
    "av",
    "brimful",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "opencv-python-headless",
    "simplejpeg",
    "torch",
    "torchvision",
    "ultralytics-opencv-headless",
)


def shared(relative: str) -> Path:
    """Return a path in the folder of weights and photographs beside the project, or exit."""
    path = SHARED / relative
    if not path.exists():
        sys.exit(f"this benchmark needs {relative} in the folder `shared` beside the project")
    return path


def environment() -> dict[str, Any]:
    """Return what decides a measurement, besides the code."""
    from brimful.cpus import available_cpus
    from brimful.extras import installed_version

    cpu = "unknown"
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    interesting = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    # A machine that has a copy of the files without their history is told the commit.
    commit = os.environ.get("BRIMFUL_COMMIT", "")[:7]
    if not commit:
        head = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "cpus": available_cpus(),
        "cpu_features": [flag for flag in interesting if flag in flags],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "commit": commit,
        "packages": {name: installed_version(name) for name in PACKAGES},
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def coco_map(annotations: Path, rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Score JSON rows against COCO annotations whose category ids are class ids.

    Args:
        annotations: The annotations; only categories with ground truth count.
        rows: The JSON objects of `brimful predict`, one an image.

    Returns:
        mAP50-95 and mAP50, 0 to 100.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        results = []
        for row in rows:
            if row.get("error"):
                raise RuntimeError(f"{row['image']}: {row['error']}")
            for found in row["detections"]:
                x1, y1, x2, y2 = found["bbox"]
                results.append(
                    {
                        "image_id": ids[row["image"]],
                        "category_id": found["class_id"],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": found["confidence"],
                    }
                )
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.catIds = sorted({a["category_id"] for a in truth.dataset["annotations"]})
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0]), 100 * float(evaluation.stats[1])


def write_json(name: str, results: dict[str, Any]) -> Path:
    """Write results with their environment to benchmarks/results and return the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **results}, indent=2) + "\n")
    return path
