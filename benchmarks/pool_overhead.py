"""What an engine pool costs its parent process: that bounds how many GPUs one parent can feed.

    python benchmarks/pool_overhead.py

Two engine processes run a debug runtime that costs nothing and finds ten objects in every image, so
that lines are as long as real ones. Measured is the CPU time of the parent alone, all its threads,
divided by the images. The processes share its CPUs here and limit the rate; on a larger machine the
parent's time an image is what stays.

- source: iterating the source and nothing else (a folder of small JPEG files).
- encoded: `EnginePool.stream_encoded` into a journal, as `brimful predict --device 0,1` does.
- objects: `EnginePool.predict`, which makes a Detections of each image in the parent.
- frames: `stream_encoded` of 640x480 pixels that are in memory, through the arena.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brimful.cluster.pool import EnginePool
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.runtimes.debug import DebugRuntime
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sinks.journal import Journal
from brimful.sources.image import SourceImage
from brimful.sources.open_source import open_source
from common import write_json

FOUND = 10
GPU_RATE = 12_000
"""Images a second of one GPU, the goal."""


class FindingRuntime(DebugRuntime):
    """The debug runtime with ten objects an image."""

    def _forward(self, slot: Any, count: int, params: Any) -> Any:
        (rows,) = super()._forward(slot, count, params)
        many = np.repeat(rows, FOUND, axis=1)
        many[:, :, :4] += np.linspace(0, 9.87654321, FOUND, dtype=np.float32)[:, None]
        many[:, :, 4] = 0.87654321
        return [many]


def start(*, device: str) -> Engine:
    """Start an engine that costs as little as one can."""
    runtime = FindingRuntime(RuntimeOptions(max_batch=64))
    return Engine(runtime, EngineConfig(imgsz=64, canvas="square", workers=1))


class Frames:
    """The same pixels again and again."""

    def __init__(self, count: int) -> None:
        """Make the pixels."""
        self._count = count
        self._pixels = np.full((480, 640, 3), 114, np.uint8)

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield them."""
        for i in range(self._count):
            yield SourceImage(index=i, key="clip.mp4", payload=self._pixels, frame=i)

    def __len__(self) -> int:
        """Return how many."""
        return self._count

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Measure in turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EnginePool(start, ["one", "two"]) as pool,
    ):
        images = Path(folder) / "images"
        write_jpegs(images, options.images)
        journal = Journal(Path(folder) / "rows.jsonl")

        def source() -> int:
            return sum(1 for _ in open_source(images))

        def encoded(what: Any = images) -> int:
            count = 0
            for piece in pool.stream_encoded(open_source(what) if what is images else what):
                journal.append(piece.lines)
                count += piece.count
            return count

        def objects() -> int:
            return sum(1 for _ in pool.predict(open_source(images)))

        def frames() -> int:
            return encoded(Frames(options.images // 4))

        ways: list[Callable[[], int]] = [source, encoded, objects, frames]
        cpu: dict[str, list[float]] = {way.__name__: [] for way in ways}
        rate: dict[str, list[float]] = {way.__name__: [] for way in ways}
        for measured in (False, *[True] * options.rounds):
            for way in ways:
                wall, spent = time.perf_counter(), time.process_time()
                count = way()
                spent, wall = time.process_time() - spent, time.perf_counter() - wall
                if measured:
                    cpu[way.__name__].append(1e6 * spent / count)
                    rate[way.__name__].append(count / wall)
        journal.close()
    rows = []
    print(f"{'':<10}{'parent CPU':>14}{'it could do':>16}{'GPUs':>6}{'ran at':>14}")
    for name, times in cpu.items():
        micros = statistics.median(times)
        row = {
            "way": name,
            "parent_us": round(micros, 2),
            "parent_us_rounds": [round(one, 2) for one in times],
            "could_do_per_s": round(1e6 / micros),
            "gpus_at_goal": round(1e6 / micros / GPU_RATE, 1),
            "ran_at_per_s": round(statistics.median(rate[name])),
        }
        rows.append(row)
        print(
            f"{name:<10}{micros:>8.2f} us/img{row['could_do_per_s']:>10,} img/s"
            f"{row['gpus_at_goal']:>6}{row['ran_at_per_s']:>8,} img/s"
        )
    facts = {"processes": 2, "images": options.images, "found": FOUND, "gpu_rate": GPU_RATE}
    print(f"written: {write_json('pool_overhead', {**facts, 'rows': rows}).name}")


def write_jpegs(folder: Path, count: int) -> None:
    """Write small JPEG files; their content does not matter."""
    import cv2

    data = cv2.imencode(".jpg", np.full((48, 64, 3), 114, np.uint8))[1].tobytes()
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
