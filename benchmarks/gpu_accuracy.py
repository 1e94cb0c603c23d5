"""Accuracy and batch invariance of the CUDA runtime on voc100, with the COCO checkpoints.

    python benchmarks/gpu_accuracy.py

mAP as in accuracy.py, fp32 on the CPU (torch) against fp16 on the GPU with everything on it, decode
included. Then boxes above 0.25 at batches 1 to 128, and in a shuffled order, against batch 1.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np

from brimful.load import load
from common import MODELS, coco_map, shared, write_json
from gpu_common import gpu_environment, main_guard

BATCHES = (1, 2, 3, 7, 16, 32, 128)
TIMES = 2  # so that a batch of 128 fills


def records(results: list[Any]) -> list[dict[str, Any]]:
    """Return the JSON rows, named by file."""
    return [{**r.to_json_record(), "image": Path(r.image).name} for r in results]


def furthest(found: list[Any], wanted: list[Any]) -> tuple[float, int]:
    """Return how far boxes above 0.25 moved at most, in pixels, and how many are missing or new."""
    moved, odd = 0.0, 0
    for a, b in zip(found, wanted, strict=True):
        if np.array_equal(a.class_id, b.class_id):
            moved = max(moved, float(np.abs(a.boxes - b.boxes).max(initial=0)))
        else:
            odd += abs(len(a) - len(b)) or 1
    return moved, odd


def main() -> None:
    """Run, score, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--where", nargs="*", default=["cpu fp32", "cuda:0 fp32", "cuda:0 fp16"])
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES)
    options = parser.parse_args()
    main_guard()
    folder, annotations = shared("voc100/images"), shared("voc100/annotations.json")
    files = sorted(folder.glob("*.jpg"))
    rows: list[dict[str, Any]] = []
    print(f"{'model':<9}{'where':<16}{'mAP50-95':>9}{'mAP50':>8}")
    for name in options.models:
        path = shared(f"models/{MODELS[name]}")
        for where in options.where:
            device, precision = where.split()
            chosen: dict[str, Any] = {"runtime": "torch", "precision": precision, "batch": 8}
            with load(path, device=device, conf=0.001, **chosen) as engine:
                ap, ap50 = coco_map(annotations, records(list(engine.predict(files))))
            row = {"model": name, "device": device, "precision": precision}
            rows.append({**row, "map50_95": round(ap, 2), "map50": round(ap50, 2)})
            print(f"{name:<9}{where:<16}{ap:>9.2f}{ap50:>8.2f}", flush=True)
    invariance: list[dict[str, Any]] = []
    print(f"{'model':<9}{'batch':>6}{'moved px':>10}{'odd':>5}")
    for name in options.models:
        first: list[Any] = []
        for batch in options.batches:
            order = list(range(len(files))) * TIMES
            if batch == options.batches[-1]:
                random.Random(1).shuffle(order)
            path = shared(f"models/{MODELS[name]}")
            with load(path, device="cuda:0", precision="fp16", batch=batch) as engine:
                data = [files[i].read_bytes() for i in order]
                results = list(engine.predict(data))
            first = first or results[: len(files)]
            moved, odd = furthest(results, [first[i] for i in order])
            invariance.append({"model": name, "batch": batch, "moved_px": moved, "odd": odd})
            print(f"{name:<9}{batch:>6}{moved:>10.5f}{odd:>5}", flush=True)
    facts = {"gpu": gpu_environment(), "rows": rows, "invariance": invariance}
    print(f"written: {write_json('gpu_accuracy', facts).name}")


if __name__ == "__main__":
    main()
