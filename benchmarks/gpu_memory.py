"""GPU memory of the process, as NVML counts it, and a budget kept over many images.

    python benchmarks/gpu_memory.py

yolo26n on generated 640x480 JPEGs; the peak over the run less what the device had in use before the
process started, so context and libraries count. The budget's run has images of mixed sizes, so that
every canvas comes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from common import write_json
from gpu_common import WORK, GpuMonitor, contest, gpu_environment, images, main_guard, model, tell

BUDGET = "2GiB"
SIZES = ((480, 640), (640, 480), (640, 640), (360, 640), (426, 640), (333, 500), (1080, 1920))

CONTESTANTS = (
    *(f"ultralytics {precision} {batch}" for precision in ("fp32", "fp16") for batch in (1, 32)),
    *("ours fp32 1", "ours fp16 1", "ours fp16 32", "parts fp16 1", f"budget {BUDGET}"),
)


def ours(name: str, batch: int, precision: Any, folder: Path) -> None:
    """Run the engine."""
    from brimful.load import load

    with GpuMonitor() as monitor:
        before = monitor.used()
        with load(model("yolo26n"), device="cuda:0", precision=precision, batch=batch) as engine:
            count = sum(1 for _ in engine.predict(folder))
        peak = monitor.peak
    tell(name, images=count, peak_mib=(peak - before) >> 20)


def parts(name: str, batch: int, precision: Any) -> None:
    """Tell what takes the memory, as one thing after the other is made as the runtime makes it."""
    import torch

    from brimful.cuda.context import prepare_context
    from brimful.load import load

    figures: dict[str, float] = {}
    with GpuMonitor() as monitor:
        last = monitor.used()

        def note(what: str) -> None:
            nonlocal last
            torch.cuda.synchronize()
            now = monitor.used()
            figures[what] = round((now - last) / 2**20, 1)
            last = now

        prepare_context(torch.device("cuda", 0))
        torch.empty(1, device="cuda")
        note("context")
        with load(model("yolo26n"), device="cuda:0", precision=precision, batch=batch) as engine:
            note("weights, loaders, lanes")
            for _ in engine.predict(images(512)):
                pass
            note("graphs and decoder at work")
            figures["of PyTorch's"] = torch.cuda.memory_reserved() / 2**20
        note("closed")
    tell(name, parts_mib=figures)


def ultralytics(name: str, batch: int, half: bool, folder: Path) -> None:
    """Run `ultralytics predict`."""
    from ultralytics import YOLO

    with GpuMonitor() as monitor:
        before = monitor.used()
        yolo = YOLO(model("yolo26n"))
        options: dict[str, Any] = {"device": 0, "half": half, "batch": batch, "verbose": False}
        count = sum(1 for _ in yolo.predict(str(folder), stream=True, **options))
        peak = monitor.peak
    tell(name, images=count, peak_mib=(peak - before) >> 20)


def budget(count: int) -> None:
    """Keep the budget over many images of mixed sizes, then give everything back."""
    from brimful.load import load

    folder = mixed(count)
    with GpuMonitor(every_s=0.01) as monitor:
        before = monitor.used()
        options: dict[str, Any] = {"precision": "fp16", "gpu_mem": BUDGET, "batch": "auto"}
        with load(model("yolo26n"), device="cuda:0", **options) as engine:
            begun = time.perf_counter()
            done = errors = 0
            for results in engine.stream(folder):
                done += len(results)
                errors += sum(result.error is not None for result in results)
            seconds = time.perf_counter() - begun
            batch = engine.runtime.max_batch
        closed = monitor.used()
        peak = monitor.peak
    tell(
        f"budget {BUDGET}",
        images=done,
        errors=errors,
        batch=batch,
        img_s=round(done / seconds, 1),
        peak_mib=(peak - before) / 2**20,
        after_close_mib=(closed - before) / 2**20,
    )


def mixed(count: int) -> Path:
    """Return a folder of JPEGs of mixed sizes: hard links to a few of each."""
    folder = WORK / f"mixed-{count}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [sorted(images(16, size).glob("*.jpg")) for size in SIZES]
        for i in range(count):
            target = folder / f"{i:06d}.jpg"
            if not target.exists():
                target.hardlink_to(drawn[i % len(SIZES)][i // len(SIZES) % 16])
        (folder / "done").touch()
    return folder


def main() -> None:
    """Run the contestants, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--result", default="gpu_memory", help="Name of the JSON file.")
    options = parser.parse_args()
    main_guard()
    folder = images(512)
    if options.contestant:
        if options.contestant.startswith("budget"):
            budget(options.images)
            return
        who, precision, batch = options.contestant.split()
        if who == "parts":
            parts(options.contestant, int(batch), precision)
        elif who == "ultralytics":
            ultralytics(options.contestant, int(batch), precision == "fp16", folder)
        else:
            ours(options.contestant, int(batch), precision, folder)
        return
    rows = []
    for name in options.contestants:
        row = contest(__file__, name, "--images", str(options.images))
        rows.append(row)
        if "peak_mib" in row and "peak_mib" in rows[0]:
            row["of_first"] = round(row["peak_mib"] / rows[0]["peak_mib"], 3)
        print(row, flush=True)
    path = write_json(options.result, {"gpu": gpu_environment(), "budget": BUDGET, "rows": rows})
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
