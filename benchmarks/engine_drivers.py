"""What the interpreter's lock costs the threads that drive a device, without one.

    python benchmarks/engine_drivers.py [--images 20000]

The engine runs as `brimful predict` does, on a device that is simulated down to what its threads do
with the interpreter: two drivers take turns in a decoder that works without the lock (4.5 ms for
128 images, as nvJPEG did), each gives the lock away and asks for it again a dozen times a batch,
and a forward takes 6.1 ms. Files are read one by one by every worker, as it was before, and many in
one call by two workers at a time, as it is; the two alternate.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import write_json
from engine_interpreter import link, write_pictures
from gpu_common import json_lines

BATCH, DRIVERS, LANES = 128, 2, 3
DECODE_S, FORWARD_S = 4.5e-3, 6.1e-3
RELEASES = {"before decode": 4, "after decode": 3, "launch": 8}
"""How often a driver gives the lock away, counted in runtimes/cuda."""


def simulated(read_together: bool, workers: int) -> tuple[Any, Any]:
    """Return an engine on a simulated device, and the device."""
    import numpy as np

    from brimful.engine import engine as engines
    from brimful.engine.config import EngineConfig
    from brimful.native.read_files import open_reader
    from brimful.runtimes.debug import DebugRuntime, _ignored
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.vision.heads.selected import Selected

    class Memory(threading.local):
        """Memory for files that is used again and again; nobody looks at what was there."""

        def __init__(self) -> None:
            self.block = memoryview(np.zeros(64 * 2**20, np.uint8))
            self.used = 0

        def take(self, size: int) -> memoryview:
            if self.used + size > len(self.block):
                self.used = 0
            self.used += size
            return self.block[self.used - size : self.used]

    class Device(DebugRuntime):
        concurrency = LANES
        eager = 1
        ahead = DRIVERS + 1

        def __init__(self) -> None:
            super().__init__(RuntimeOptions(max_batch=BATCH), encoded="ignore")
            self.concurrency, self.eager = LANES, 1
            self.memory_for = Memory().take
            self.busy = 0.0
            self._submitted: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._flying: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._lanes: queue.SimpleQueue[None] = queue.SimpleQueue()
            self._turn, self._until = threading.Lock(), 0.0
            for _ in range(LANES):
                self._lanes.put(None)
            for target in (*[self._drive] * DRIVERS, self._finish):
                threading.Thread(target=target, daemon=True).start()

        def submit(self, slot: Any, count: int, done: Any) -> None:
            self._submitted.put((slot, count, done))

        def close(self) -> None:
            for _ in range(DRIVERS):
                self._submitted.put(None)
            super().close()

        def _drive(self) -> None:
            while (taken := self._submitted.get()) is not None:
                slot, count, done = taken
                give_away(RELEASES["before decode"])
                with self._turn:
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
        for _ in engine.predict(sorted((folder / "0000").glob("*.jpg"))):
            pass
        prepare_interpreter()
        output = folder.parent / "out.jsonl"
        sink = json_lines(engine, output)
        busy, cpu, begun = device.busy, time.process_time(), time.perf_counter()
        images = 0
        for results in engine.stream(open_source(str(folder))):
            sink.write(results)
            images += len(results)
        sink.finish()
        seconds = time.perf_counter() - begun
        return {
            "img_s": images / seconds,
            "device_busy": (device.busy - busy) / seconds,
            "cpu_us": 1e6 * (time.process_time() - cpu) / images,
        }


def main() -> None:
    """Run all, alternating; print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = [(together, workers) for workers in (2, 8) for together in (False, True)]
    found: dict[tuple[bool, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="brimful-drivers-") as folder:
        pictures = write_pictures(Path(folder) / "pictures", one_size=True)
        size = link(pictures, Path(folder) / "photos", options.images)
        for _ in range(options.rounds):
            for case in cases:
                found[case].append(run(Path(folder) / "photos", *case))
    rows = []
    print(f"{'files':<12}{'workers':>8}{'img/s':>8}{'device busy':>13}{'us CPU/img':>12}")
    for (together, workers), rounds in found.items():
        middle = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
        files = "together" if together else "one by one"
        rows.append({"files": files, "workers": workers, **middle})
        print(
            f"{files:<12}{workers:>8}{middle['img_s']:>8.0f}{middle['device_busy']:>13.2f}"
            f"{middle['cpu_us']:>12.1f}"
        )
    facts = {"images": options.images, "bytes_per_image": round(size), "rows": rows}
    print(f"written: {write_json('engine_drivers', facts).name}")


if __name__ == "__main__":
    main()
