"""Accuracy of the demo model on pictures that it was not trained on.

    python benchmarks/demo_accuracy.py --model demo --runtime onnxruntime --json demo_accuracy.json
    python benchmarks/demo_accuracy.py --model build/demo/best.pt --backend ultralytics

Draws a held-out set (its seed differs from those of scripts/train_demo.py), runs the model on it
and scores the boxes with pycocotools. A second run with the same --json adds its row beside those
of other models, backends and runtimes, and replaces its own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import environment

HELD_OUT_SEED = 3
CONF = 0.001
"""Mean average precision integrates over all confidences, so nearly all boxes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a model found in one image: boxes (n, 4) `x1 y1 x2 y2` in its pixels."""

    file_name: str
    boxes: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]


Predictor = Callable[[Path], Iterator[Found]]
"""Runs a model on a folder of images, any order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Average precision, 0 to 1, over IoU 0.50 to 0.95 and at 0.50; per class by its name."""

    images: int
    map50_95: float
    map50: float
    ap50_95: dict[str, float]
    ap50: dict[str, float]


def main() -> None:
    """Draw, run, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="any model brimful reads, or a .pt")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="brimful")
    parser.add_argument("--runtime", default="auto", help="of the backend brimful")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data", type=Path, help="keep the pictures in this folder")
    parser.add_argument("--json", type=Path, help="add the scores to this file")
    options = parser.parse_args()

    from brimful.demo.dataset import write_dataset

    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary) / "held-out"
        write_dataset(data, options.images, seed=options.seed, workers=options.workers)
        accuracy = score(data, BACKENDS[options.backend](options))
    print_table(accuracy)
    if options.json:
        add_row(options.json, describe(options) | asdict(accuracy))


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was run: names, not paths, and the file by its hash."""
    model = _model_file(options)
    return {
        "model": options.model if options.model == "demo" else model.name,
        "backend": options.backend,
        "runtime": options.runtime if options.backend == "brimful" else None,
        "bytes": model.stat().st_size,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "imgsz": options.imgsz,
        "device": options.device,
        "conf": CONF,
        "seed": options.seed,
    }


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Write a row to a file of rows, in place of the one of the same model and backend."""

    def key(other: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(other[name] for name in ("model", "backend", "runtime"))

    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [other for other in rows if key(other) != key(row)] + [row]
    path.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n")


def brimful_backend(options: argparse.Namespace) -> Predictor:
    """Run a model with brimful's own engine."""

    def predict(images: Path) -> Iterator[Found]:
        from brimful.load import load

        with load(
            _model_file(options),
            runtime=options.runtime,
            imgsz=options.imgsz,
            device=options.device,
            precision="fp32",
            conf=CONF,
        ) as engine:
            for result in engine.predict(images):
                if result.error is not None:
                    raise RuntimeError(f"{result.image}: {result.error}")
                yield Found(
                    file_name=result.image,
                    boxes=result.boxes,
                    confidence=result.confidence,
                    class_id=result.class_id,
                )

    return predict


def ultralytics_backend(options: argparse.Namespace) -> Predictor:
    """Run a checkpoint with Ultralytics, image by image, through its NMS-free head."""

    def predict(images: Path) -> Iterator[Found]:
        os.environ.setdefault("YOLO_OFFLINE", "true")
        from ultralytics import YOLO

        network = YOLO(_model_file(options))
        for result in network.predict(
            str(images),
            imgsz=options.imgsz,
            device=options.device,
            conf=CONF,
            nms=False,  # the head that the bundled model has
            stream=True,
            verbose=False,
        ):
            yield Found(
                file_name=Path(result.path).name,
                boxes=result.boxes.xyxy.cpu().numpy(),
                confidence=result.boxes.conf.cpu().numpy(),
                class_id=result.boxes.cls.cpu().numpy().astype(np.int32),
            )

    return predict


def _model_file(options: argparse.Namespace) -> Path:
    from brimful.demo.model import resolve_model

    model = resolve_model(options.model)
    if model is None or not model.is_file():
        raise SystemExit(f"--model must be a file or 'demo', got {options.model!r}")
    return model


BACKENDS: dict[str, Callable[[argparse.Namespace], Predictor]] = {
    "brimful": brimful_backend,
    "ultralytics": ultralytics_backend,
}


def score(data: Path, predictor: Predictor) -> Accuracy:
    """Run a predictor on a dataset's images and compare with its annotations."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "annotations.json"))
    ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    results: list[dict[str, object]] = []
    answered: set[str] = set()
    for found in predictor(data / "images"):
        answered.add(found.file_name)
        for (x1, y1, x2, y2), confidence, class_id in zip(
            found.boxes.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
        ):
            results.append(
                {
                    "image_id": ids[found.file_name],
                    "category_id": class_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": confidence,
                }
            )
    if answered != set(ids):
        raise RuntimeError(f"{len(set(ids) - answered)} of {len(ids)} images have no result")
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    if not results:
        zero = dict.fromkeys(names.values(), 0.0)
        return Accuracy(images=len(ids), map50_95=0.0, map50=0.0, ap50_95=zero, ap50=dict(zero))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # precision: IoU thresholds from 0.50, recalls, categories, areas (0: all), most detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    order = [names[category] for category in evaluation.params.catIds]
    return Accuracy(
        images=len(ids),
        map50_95=float(evaluation.stats[0]),
        map50=float(evaluation.stats[1]),
        ap50_95={name: _mean(precision[:, :, k]) for k, name in enumerate(order)},
        ap50={name: _mean(precision[0, :, k]) for k, name in enumerate(order)},
    )


def _mean(precision: NDArray[np.float64]) -> float:
    """Mean over what is defined; -1 marks a class without objects."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def print_table(accuracy: Accuracy) -> None:
    """Print a line a class and one for the mean."""
    print(f"{accuracy.images} images\n{'class':<10}{'mAP50-95':>10}{'mAP50':>10}")
    for name, value in accuracy.ap50_95.items():
        print(f"{name:<10}{value:>10.4f}{accuracy.ap50[name]:>10.4f}")
    print(f"{'all':<10}{accuracy.map50_95:>10.4f}{accuracy.map50:>10.4f}")


if __name__ == "__main__":
    main()
