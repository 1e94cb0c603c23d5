"""One 640x480 image at a time, on the host already: latency against Ultralytics.

    python benchmarks/gpu_latency.py

yolo26n fp16. `device` is the time from the first to the last command on the GPU for one image: the
letterbox reading pinned memory, the forward, the selection. Ultralytics' own figure is its `speed`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import write_json
from gpu_common import contest, gpu_environment, images, main_guard, model, tell

WARM, RUNS = 200, 2_000


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def timed(run: Any, pictures: list[Any]) -> dict[str, float]:
    """Time single calls."""
    seconds = []
    for i in range(WARM + RUNS):
        begun = time.perf_counter()
        run(pictures[i % len(pictures)])
        seconds.append(time.perf_counter() - begun)
    return percentiles(seconds[WARM:])


def ours(pictures: list[Any]) -> None:
    """Time the engine from `submit` to the result, and its device alone."""
    import torch

    from brimful.load import load

    with load(model("yolo26n"), device="cuda:0", precision="fp16", batch=1) as engine:
        figures = timed(lambda image: engine.submit(image).result(), pictures)
        runtime: Any = engine.runtime
        lane = runtime._lanes[0]
        runtime.prepare((480, 640))
        graph = lane.graph((480, 640), 1)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        slot = runtime.allocate((480, 640))
        slot.inputs[0] = pictures[0]
        device = []
        for _ in range(WARM + RUNS):
            piece = next(runtime._loaders[0].pieces(slot, 1, {}))
            with torch.inference_mode(), torch.cuda.stream(lane.stream):
                start.record()
                runtime._loaders[0].load(piece, lane, graph, 0)
                graph.replay()
                stop.record()
            stop.synchronize()
            device.append(start.elapsed_time(stop) / 1e3)
        only = percentiles(device[WARM:])
        tell("ours", **figures, device_p50_ms=only["p50_ms"], device_p99_ms=only["p99_ms"])


def ultralytics(pictures: list[Any]) -> None:
    """Time `predict` in fp16."""
    from ultralytics import YOLO

    yolo = YOLO(model("yolo26n"))
    speeds: list[float] = []

    def run(image: Any) -> None:
        result = yolo.predict(image, device=0, half=True, verbose=False)[0]
        speeds.append(sum(result.speed.values()) / 1e3)

    figures = timed(run, pictures)
    tell("ultralytics", **figures, own_p50_ms=percentiles(speeds[WARM:])["p50_ms"])


def main() -> None:
    """Run both, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    options = parser.parse_args()
    main_guard()
    folder: Path = images(64)
    if options.contestant:
        import cv2

        pictures = [cv2.imread(str(file)) for file in sorted(folder.glob("*.jpg"))]
        (ours if options.contestant == "ours" else ultralytics)(pictures)
        return
    rows = [contest(__file__, name) for name in ("ultralytics", "ours")]
    for row in rows:
        print(row)
    facts = {"gpu": gpu_environment(), "runs": RUNS, "rows": rows}
    print(f"written: {write_json('gpu_latency', facts).name}")


if __name__ == "__main__":
    main()
