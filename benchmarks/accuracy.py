"""Accuracy of every runtime on voc100, with the COCO checkpoints.

    python benchmarks/accuracy.py

conf 0.001, iou 0.7, max_det 300, imgsz 640, pycocotools, the 20 categories with ground truth; what
`brimful predict` writes, and what the reference's `predict` gives, with the same head.
"""

from __future__ import annotations

import argparse
from typing import Any

from brimful.errors import BrimfulError
from brimful.load import load
from common import MODELS, coco_map, shared, write_json

CONTESTANTS = (
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("torch", "fp32"),
)
REFERENCE = {"yolo26n": 65.25, "yolov8n": 62.75}
"""Ultralytics on the same images, from the weights' own description."""


def main() -> None:
    """Run, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--canvas", default="auto")
    options = parser.parse_args()
    images = shared("voc100/images")
    annotations = shared("voc100/annotations.json")
    rows: list[dict[str, Any]] = []
    print(
        f"{'model':<9}{'runtime':<13}{'precision':<11}{'mAP50-95':>9}{'mAP50':>8}{'reference':>11}"
    )
    for model, file in MODELS.items():
        for runtime, precision in CONTESTANTS:
            try:
                engine = load(
                    shared(f"models/{file}"),
                    runtime=runtime,
                    device="cpu",
                    precision=precision,
                    canvas=options.canvas,
                    conf=0.001,
                )
            except BrimfulError as error:
                print(f"{model:<9}{runtime:<13}{precision:<11}not run: {error}")
                continue
            with engine:
                found = [result.to_json_record() for result in engine.predict(images)]
                head = engine.spec.head
            ap, ap50 = coco_map(annotations, found)
            rows.append(
                {
                    "model": model,
                    "runtime": runtime,
                    "precision": precision,
                    "head": head,
                    "map50_95": round(ap, 2),
                    "map50": round(ap50, 2),
                    "reference_map50_95": REFERENCE[model],
                }
            )
            print(
                f"{model:<9}{runtime:<13}{precision:<11}{ap:>9.2f}{ap50:>8.2f}"
                f"{REFERENCE[model]:>11.2f}"
            )
    path = write_json("accuracy", {"canvas": options.canvas, "rows": rows})
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
