"""Photographs of mixed sizes through a warm engine on one GPU: the rate, and what limits it.

    python benchmarks/gpu_mixed.py --canvases auto square --jobs 4

Every job reads 20,000 files and writes JSON lines, as `brimful predict` does. The first job of an
engine captures its graphs and is shown apart. `feeders` is the share of the feeders' time by what
they did; `in full` the share of images that ran in full batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from common import shared, write_json
from gpu_cold import photographs
from gpu_common import WORK, GpuMonitor, gpu_environment, json_lines, main_guard


def measure(canvas: str, images: int, jobs: int, batch: int | None) -> dict[str, Any]:
    """Run jobs on an engine; return their rates and where the time went after the first one."""
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.load import load
    from brimful.sources.open_source import open_source

    folder, output = photographs(images), WORK / "mixed.jsonl"
    rates, busy = [], []
    model = shared("models/yolo26n-coco.pt")
    with load(model, device="cuda:0", precision="fp16", canvas=canvas, batch=batch) as engine:
        prepare_interpreter()
        runtime: Any = engine.runtime
        for job in range(jobs):
            if job == 1:
                engine.reset_stats()
                before, began = dict(runtime.timings), time.perf_counter()
            output.unlink(missing_ok=True)
            with GpuMonitor() as monitor:
                started = time.perf_counter()
                sink, count = json_lines(engine, output), 0
                for results in engine.stream_encoded(open_source(str(folder))):
                    sink.append(results.lines)
                    count += results.count
                sink.finish()
                rates.append(count / (time.perf_counter() - started))
            busy.append(monitor.busy)
        seconds = time.perf_counter() - began
        report = engine.report()
        sizes = report.batches
        total = sum(size * times for size, times in sizes.items())
        return {
            "canvas": canvas,
            "batch": runtime.max_batch,
            "first_img_s": round(rates[0]),
            "img_s": round(statistics.median(rates[1:])),
            "rates_img_s": [round(rate) for rate in rates],
            "gpu_busy": [round(share) for share in busy],
            "in_full": round(max(sizes) * sizes[max(sizes)] / total, 3),
            "feeders": {
                stage: round((spent - before[stage]) / seconds, 3)
                for stage, spent in runtime.timings.items()
            },
            "stages": {use.name: round(use.busy, 3) for use in report.stages},
            "engine": engine.describe(),
        }


def main() -> None:
    """Measure every canvas policy, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--canvases", nargs="+", default=["auto", "square"])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--batch", type=int)
    options = parser.parse_args()
    main_guard()
    rows = []
    for canvas in options.canvases:
        rows.append(measure(canvas, options.images, max(2, options.jobs), options.batch))
        print(json.dumps(rows[-1]), flush=True)
    write_json("gpu_mixed", {"gpu": gpu_environment(), "images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
