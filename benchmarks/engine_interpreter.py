"""What the interpreter costs an image, files to JSON lines, when the device does the rest.

    python benchmarks/engine_interpreter.py [--images 20000] [--workers 2] [--batch 128]

Real JPEGs are listed, read, put into slots, and their results written through the ledger, by the
engine that `brimful predict` runs. The device is the `debug` runtime, which takes the images
encoded, looks at none of them and returns nine rows an image after a wait: what is left is the
work of the host. The figure to watch is the CPU time of the process an image, all threads together;
its user part is close to the time that the interpreter's lock is held, the system part is mostly
the kernel copying files. `--device-rate` bounds the fake device, as a real one would.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write_json

PICTURES = 48
SIZES = ((480, 640), (427, 640), (640, 480), (360, 640))


def main() -> None:
    """Measure some rounds, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device-rate", type=float, default=15_000, help="img/s of the device")
    parser.add_argument("--one-size", action="store_true", help="all pictures of 640x480")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--switch-ms", type=float, help="sys.setswitchinterval, in milliseconds")
    options = parser.parse_args()
    if options.switch_ms is not None:
        sys.setswitchinterval(options.switch_ms / 1000)
    with tempfile.TemporaryDirectory(prefix="brimful-interpreter-") as folder:
        pictures = write_pictures(Path(folder) / "pictures", options.one_size)
        size = link(pictures, Path(folder) / "photos", options.images)
        rounds = [measure(Path(folder), options) for _ in range(options.rounds)]
    best = {
        name: statistics.median(row[name] for row in rounds)
        for name in rounds[0]
        if name != "threads"
    }
    threads = {
        name: statistics.median(row["threads"][name] for row in rounds)
        for name in rounds[0]["threads"]
    }
    print(f"{options.images:,} JPEGs of {size / 1000:.1f} KB, batch {options.batch}")
    print(f"rate{best['rate']:>18,.0f} img/s")
    print(f"{'microseconds an image':<24}{'CPU':>8}")
    for name in ("total", "user", "system"):
        print(f"  {name:<22}{best[name]:>8.2f}")
    for name, spent in threads.items():
        print(f"    {name:<20}{spent:>8.2f}")
    results = {
        "images": options.images,
        "bytes_per_image": round(size),
        "workers": options.workers,
        "batch": options.batch,
        "device_rate": options.device_rate,
        "microseconds_per_image": {k: round(v, 2) for k, v in best.items() if k != "rate"},
        "threads_microseconds": {k: round(v, 2) for k, v in threads.items()},
        "rate": round(best["rate"]),
    }
    print(f"written: {write_json('engine_interpreter', results).name}")


def write_pictures(folder: Path, one_size: bool, quality: int = 95) -> list[Path]:
    """Draw pictures of the demo's factory line in the sizes of common photographs."""
    import cv2

    from brimful.demo.line import FactoryLine

    folder.mkdir()
    paths = []
    for i in range(PICTURES):
        size = SIZES[0] if one_size else SIZES[i % len(SIZES)]
        picture, _ = FactoryLine(i, size).image(0)
        path = folder / f"{i}.jpg"
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, i % 2]
        assert cv2.imwrite(str(path), picture, flags)
        paths.append(path)
    return paths


def link(pictures: list[Path], folder: Path, images: int) -> float:
    """Make many files of a few, a thousand a folder; return their mean size in bytes."""
    total = 0
    sizes = [path.stat().st_size for path in pictures]
    for i in range(images):
        below = folder / f"{i // 1000:04}"
        if i % 1000 == 0:
            below.mkdir(parents=True)
        os.link(pictures[i % PICTURES], below / f"image_{i:08}.jpg")
        total += sizes[i % PICTURES]
    return total / images


class Timed:
    """A source that notes the CPU time of the thread that exhausted it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.cpu = 0.0

    def __iter__(self) -> Iterator[Any]:
        yield from self._source
        self.cpu = time.thread_time()

    def __len__(self) -> int:
        return len(self._source)

    def chunks(self) -> Iterator[Any]:
        """Yield the source's lists."""
        yield from self._source.chunks()
        self.cpu = time.thread_time()

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the job once."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.runtimes.debug import DebugFaults, DebugRuntime
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.sinks.open_sink import open_sink
    from brimful.sources.open_source import open_source

    runtime = DebugRuntime(
        RuntimeOptions(max_batch=options.batch),
        DebugFaults(image_ms=1000 / options.device_rate),
        encoded="ignore",
    )
    output = folder / "out.jsonl"
    with Engine(runtime, EngineConfig(workers=options.workers)) as engine:
        engine.warm_up()
        prepare_interpreter()
        sink = open_sink(
            output, job={}, names=engine.spec.names, task=engine.spec.task, overwrite=True
        )
        source = Timed(open_source(folder / "photos", done=sink.done))
        stages = [t for t in threading.enumerate() if t.name.startswith("brimful-")]
        clocks = {t.name: time.pthread_getcpuclockid(t.ident) for t in stages if t.ident}
        before = {name: time.clock_gettime(clock) for name, clock in clocks.items()}
        writing = 0.0
        count = 0
        usage = resource.getrusage(resource.RUSAGE_SELF)
        started, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        len(source)  # the CLI asks for it, for its progress
        listing = time.thread_time() - own
        for results in engine.stream(source):
            at = time.thread_time()
            sink.write(results)
            writing += time.thread_time() - at
            count += len(results)
        seconds = time.perf_counter() - started
        cpu = time.process_time() - cpu
        own = time.thread_time() - own
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = {name: time.clock_gettime(clock) - before[name] for name, clock in clocks.items()}
        sink.finish()
    assert count == options.images == sum(1 for _ in output.open("rb"))
    each = 1e6 / count

    def of(prefix: str) -> float:
        return each * sum(s for name, s in spent.items() if name.startswith(f"brimful-{prefix}"))

    return {
        "rate": count / seconds,
        "total": each * cpu,
        "user": each * (after.ru_utime - usage.ru_utime),
        "system": each * (after.ru_stime - usage.ru_stime),
        "threads": {
            "count the source": each * listing,
            "feed": each * source.cpu,
            "read and put": of("decode"),
            "device (fake)": of("debug"),
            "postprocess": of("postprocess"),
            "consume": each * (own - writing - listing),
            "encode and write": each * writing,
        },
    }


if __name__ == "__main__":
    main()
