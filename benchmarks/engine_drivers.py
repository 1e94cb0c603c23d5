"""What the interpreter's lock costs the threads that drive a device, without one.

    python benchmarks/engine_drivers.py [--images 20000]

The engine runs as `brimful predict` does, on a device that is simulated down to what its threads
do with the interpreter: two drivers describe their batch to a decoder, wait for it (2.1 ms for 128
images), then for one of two lanes, and give the interpreter's lock away and ask for it again a
dozen times a batch. Forwards take turns, at 30,000 img/s, which is more than an H200 runs: what
limits is the host. Files are read one by one by every worker, as it was before, and many in one
call by two workers at a time, as it is; the two alternate.
"""

from __future__ import annotations

import argparse
import os
import queue
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import write_json
from engine_interpreter import write_pictures
from gpu_common import json_lines

BATCH, DRIVERS, LANES = 128, 2, 2
DECODE_S, FORWARD_S = BATCH / 60_000, BATCH / 30_000
RELEASES = {"before decode": 4, "after decode": 3, "launch": 8}
"""How often a driver gives the lock away, counted in runtimes/cuda."""


def simulated(read_together: bool, workers: int) -> tuple[Any, Any]:
    """Return an engine on a simulated device, and the device."""
    import numpy as np

    from brimful.engine import engine as engines
    from brimful.engine.config import EngineConfig
    from brimful.native.read_files import open_reader
    from brimful.runtimes.cuda.input.pinned_files import _Pinned
    from brimful.runtimes.cuda.input.plan import Plans
    from brimful.runtimes.cuda.slot import CudaSlot
    from brimful.runtimes.debug import DebugRuntime, _ignored
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.vision.heads.selected import Selected

    class Memory(threading.local):
        """Memory for files that is used again and again; nobody looks at what was there."""

        def __init__(self) -> None:
            self.block = np.zeros(64 * 2**20, np.uint8).view(_Pinned).data
            self.used = 0

        def take(self, size: int) -> memoryview:
            if self.used + size > len(self.block):
                self.used = 0
            self.used += size
            return self.block[self.used - size : self.used]

    class Device(DebugRuntime):
        concurrency = LANES
        partial_batches_below = 1
        prefetch = DRIVERS + 1

        def __init__(self) -> None:
            super().__init__(RuntimeOptions(max_batch=BATCH), encoded="ignore")
            self.concurrency, self.partial_batches_below = LANES, 1
            self.pinned_for = Memory().take
            self.busy = 0.0
            self._submitted: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._flying: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._lanes: queue.SimpleQueue[None] = queue.SimpleQueue()
            self._until = 0.0
            for _ in range(LANES):
                self._lanes.put(None)
            for target in (*[self._drive] * DRIVERS, self._finish):
                threading.Thread(target=target, daemon=True).start()

        def allocate(self, canvas: Any, *, capacity: int | None = None) -> Any:
            return CudaSlot(canvas, capacity or BATCH, 3)

        def submit(self, slot: Any, count: int, done: Any, params: Any = None) -> None:
            self._submitted.put((slot, count, done))

        def close(self) -> None:
            for _ in range(DRIVERS):
                self._submitted.put(None)
            super().close()

        def _drive(self) -> None:
            plans = Plans()
            while (taken := self._submitted.get()) is not None:
                slot, count, done = taken
                describe(slot, count, plans)
                give_away(RELEASES["before decode"])
                time.sleep(DECODE_S * count / BATCH)
                give_away(RELEASES["after decode"])
                self._lanes.get()
                give_away(RELEASES["launch"])
                seconds = FORWARD_S * count / BATCH
                with self._lock:
                    self._until = max(time.perf_counter(), self._until) + seconds
                    self.busy += seconds
                    self._flying.put((slot, count, done, self._until))
            self._flying.put(None)

        def _finish(self) -> None:
            running = DRIVERS
            while running:
                taken = self._flying.get()
                if taken is None:
                    running -= 1
                    continue
                slot, count, done, until = taken
                time.sleep(max(0.0, until - time.perf_counter()))
                outputs = Selected(rows=_ignored(slot.canvas, count))
                self._lanes.put(None)
                done(outputs, None)

    device = Device()
    engines.open_reader = open_reader if read_together else lambda: None
    return engines.Engine(device, EngineConfig(workers=workers)), device


def describe(slot: Any, count: int, plans: Any) -> None:
    """Do with the interpreter what `Loader` and `Decoding` do, to lay a batch out."""
    import numpy as np

    from brimful.runtimes.cuda.input.decoding import runs
    from brimful.runtimes.cuda.input.pinned_files import place_of

    images = [image for image in slot.encoded[:count] if image is not None]
    chosen = [plans.of(i.header, g) for i, g in zip(images, slot.geometries, strict=False)]
    sizes = np.array([plan.room.total for plan in chosen], np.int64)
    table = np.empty((count, len(chosen[0].entry)), np.int64)
    if all(plan is chosen[0] for plan in chosen):
        table[:] = chosen[0].entry
    else:
        np.stack([plan.entry for plan in chosen], out=table)
    table[:, :4] += (np.cumsum(sizes) - sizes)[:, None]
    places = np.array([place_of(image.data, image.address) for image in images], np.int64)
    runs(places, np.array([len(image.data) for image in images], np.int64))


def give_away(times: int) -> None:
    """Do a little with the lock, then give it away, so often."""
    for _ in range(times):
        [0 for _ in range(300)]
        time.sleep(0)


def run(folder: Path, read_together: bool, workers: int) -> dict[str, float]:
    """Run over the folder; return images per second and what it cost."""
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.sources.open_source import open_source

    engine, device = simulated(read_together, workers)
    with engine:
        for _ in engine.predict(sorted(folder.glob("*.jpg"))[: 8 * BATCH]):
            pass
        prepare_interpreter()
        engine.reset_stats()
        output = folder.parent / "out.jsonl"
        busy, before, begun = device.busy, cpu_times(), time.perf_counter()
        sink = json_lines(engine, output)
        images = 0
        for results in engine.stream(open_source(str(folder))):
            sink.write(results)
            images += len(results)
        sink.finish()
        seconds = time.perf_counter() - begun
        user, system = (1e6 * (a - b) / images for a, b in zip(cpu_times(), before, strict=True))
        batches = engine.report().batches
        return {
            "img_s": images / seconds,
            "device_busy": (device.busy - busy) / seconds,
            "user_us": user,
            "system_us": system,
            "mean_batch": images / sum(batches.values()),
        }


def cpu_times() -> tuple[float, float]:
    """Return the seconds that this process has run, its own code and the kernel's."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def flat(pictures: list[Path], folder: Path, images: int) -> float:
    """Make many files of a few in one folder; return their mean size in bytes."""
    folder.mkdir()
    for i in range(images):
        os.link(pictures[i % len(pictures)], folder / f"image_{i:08}.jpg")
    return statistics.mean(path.stat().st_size for path in pictures)


def main() -> None:
    """Run all, alternating; print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = [(together, workers) for workers in (2, 8) for together in (False, True)]
    found: dict[tuple[bool, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="brimful-drivers-") as folder:
        pictures = write_pictures(Path(folder) / "pictures", one_size=True, quality=88)
        size = flat(pictures, Path(folder) / "photos", options.images)
        for _ in range(options.rounds):
            for case in cases:
                found[case].append(run(Path(folder) / "photos", *case))
    rows = []
    print(f"{'files':<12}{'workers':>8}{'img/s':>8}{'device busy':>13}{'user us':>9}{'system':>8}")
    for (together, workers), rounds in found.items():
        middle = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
        files = "together" if together else "one by one"
        rows.append({"files": files, "workers": workers, **middle})
        print(
            f"{files:<12}{workers:>8}{middle['img_s']:>8.0f}{middle['device_busy']:>13.2f}"
            f"{middle['user_us']:>9.1f}{middle['system_us']:>8.1f}"
        )
    facts = {"images": options.images, "bytes_per_image": round(size), "rows": rows}
    print(f"written: {write_json('engine_drivers', facts).name}")


if __name__ == "__main__":
    main()
