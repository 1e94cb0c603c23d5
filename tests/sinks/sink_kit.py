"""What the tests of sinks share: a batch of detections, and sinks of one job."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from brimful.detections import Detections
from brimful.sinks import open_sink

JOB = {"model": "sha256:1234", "source": Path("photos"), "conf": 0.25, "limits": {"max": 1}}
NAMES = ("person", "dog")


def found(key: str, index: int, n: int = 2, **fields) -> Detections:
    rng = np.random.default_rng(index)
    corners = rng.random((n, 2, 2)) * (640, 480)
    values = {"task": "detect", "names": NAMES, "canvas": (480, 640)} | fields
    classes = len(values["names"])
    return Detections(
        image=key,
        index=index,
        width=640,
        height=480,
        boxes=np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32),
        confidence=rng.random(n).astype(np.float32),
        class_id=rng.integers(0, classes, n).astype(np.int32),
        **values,
    )


def failed(key: str, index: int) -> Detections:
    return Detections(
        image=key, index=index, width=0, height=0, task="detect", names=NAMES, error="bad file"
    )


def sink_to(output: Path | None, format: str | None = None, **options):
    return open_sink(output, format, **{"job": JOB, "names": NAMES, "task": "detect"} | options)


def write(output: Path, batch: list[Detections], format: str | None = None, **options) -> None:
    sink = sink_to(output, format, **options)
    for start in range(0, len(batch), 2):
        sink.write(batch[start : start + 2])
    sink.finish()


BATCH = [found("a/1.jpg", 0), failed("a/2.jpg", 1), found("b/3.png", 2, 0), found("b/4.jpg", 3, 5)]


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
