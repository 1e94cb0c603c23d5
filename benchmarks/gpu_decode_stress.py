"""Does anything overwrite decoded images before they are read? Checksums under full overlap.

    python benchmarks/gpu_decode_stress.py

The runtime itself decodes, letterboxes and runs a "network" that only sums up its input, every
pixel with a weight of its place, exactly. Each image's sums are first taken alone, then 200,000
times with four batches in flight. `--broken` decodes beside the stream that reads and reads late,
to show that it would be seen.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from typing import Any

import numpy as np
import torch

from brimful.runtimes.cuda.input import loader
from brimful.runtimes.cuda.input.decoding import Decoding
from brimful.runtimes.cuda.runtime import TorchCudaRuntime
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.runtime import RuntimeOptions
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import read_encoded
from brimful.vision.heads.config import PostprocessConfig
from common import write_json
from gpu_common import gpu_environment, images, main_guard

BATCH, IN_FLIGHT, DISTINCT = 128, 4, 512
MODULUS = 2**24  # a float32 holds every smaller integer
SPEC = ModelSpec(task="detect", head="nms_free", names=("image",), max_det=1)


class Checksums:
    """Stands in for a network: rows whose box is four checksums of the input."""

    fused = True
    dtype = torch.float32
    spec = SPEC

    def __call__(self, images: Any) -> list[Any]:
        """Return float32 (batch, 1, 6): four sums, score 1, class 0."""
        levels = (images * 255).round().to(torch.int64).flatten(1)
        place = torch.arange(levels.shape[1], device=levels.device)
        sums = [
            (levels * (place % weight + 1)).sum(1) % MODULUS for weight in (1, 251, 241, 65_521)
        ]
        ones = torch.ones_like(sums[0])
        rows = torch.stack((*sums, ones, ones - 1), 1)
        return [rows.float()[:, None]]

    capturable = True

    def on(self, stream: Any) -> Checksums:
        """Return itself: any stream will do."""
        return self

    def reserve(self, values: int) -> None:
        """Do nothing."""

    def compile(self, images: Any) -> None:
        """Do nothing."""

    def anchors(self) -> tuple[Any, ...]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""


class Stressed(TorchCudaRuntime):
    """The runtime with checksums for a network."""

    def _open_network(self, model: Any, options: RuntimeOptions) -> Any:
        return Checksums()


def sums_of(selected: Any, count: int) -> Any:
    """Return the checksums of the images of a batch."""
    if selected.errors or len(selected.rows.boxes) != count:
        sys.exit(f"{count} images gave {len(selected.rows.boxes)} rows, errors {selected.errors}")
    return selected.rows.boxes


def break_it() -> None:
    """Decode beside the stream that reads what was decoded before, and read late."""
    ordered, real = Decoding.decode, Decoding.place

    def beside(self: Any, files: Any, plans: Any, positions: Any) -> Any:
        stream = self._stream
        self._stream = self.__dict__.setdefault("_beside", torch.cuda.Stream())  # type: ignore[no-untyped-call]
        try:
            return ordered(self, files, plans, positions)
        finally:
            self._stream = stream

    def late(self: Any, out: Any, count: int) -> None:
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(10_000_000)  # some milliseconds
        real(self, out, count)

    Decoding.decode, Decoding.place = beside, late  # type: ignore[method-assign]


def main() -> None:
    """Sum every image alone, then all of them under load, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--per-piece", type=int, default=BATCH, help="Images decoded at a time.")
    options = parser.parse_args()
    main_guard()
    files = sorted(images(DISTINCT).glob("*.jpg"))
    encoded = [read_encoded(file.read_bytes()) for file in files]
    geometries = [CanvasPolicy().place(one.header.size) for one in encoded]
    canvas = geometries[0].canvas
    chosen = RuntimeOptions(
        device="cuda:0",
        precision="fp32",
        max_batch=BATCH,
        postprocess=PostprocessConfig(conf=0.5, max_det=1),
        policy=lambda spec: CanvasPolicy(mode="fixed", imgsz=canvas),
    )
    runtime = Stressed(None, chosen, Techniques(decode=True))  # type: ignore[arg-type]
    expected = np.zeros((DISTINCT, 4), np.float32)
    slots = [runtime.allocate(canvas) for _ in range(IN_FLIGHT)]
    for i, (one, geometry) in enumerate(zip(encoded, geometries, strict=True)):
        finished, found = threading.Event(), []

        def alone(outputs: Any, error: Any, found: Any = found, finished: Any = finished) -> None:
            found.append(error or outputs)
            finished.set()

        slots[0].put(0, one, geometry)
        runtime.submit(slots[0], 1, alone)
        finished.wait()
        expected[i] = sums_of(found[0], 1)[0]
    if len(np.unique(expected, axis=0)) != DISTINCT:
        sys.exit("the images' checksums are not distinct: nothing could be told apart")
    if options.broken:
        break_it()
    fitting = loader.Loader._fitting
    loader.Loader._fitting = (
        lambda self, slot, positions: fitting(  # type: ignore[method-assign]
            self, slot, positions[: options.per_piece]
        )
    )
    free = threading.Semaphore(IN_FLIGHT)
    idle = list(slots)
    corrupt = [0]
    places: list[list[int]] = []
    faults: list[Any] = []
    draw = random.Random(7)
    begun = time.perf_counter()
    batches = -(-options.images // BATCH)
    for _ in range(batches):
        free.acquire()
        slot = idle.pop()
        members = [draw.randrange(DISTINCT) for _ in range(BATCH)]
        for position, member in enumerate(members):
            slot.put(position, encoded[member], geometries[member])

        def done(
            outputs: Any,
            error: Any,
            seconds: Any = None,
            slot: Any = slot,
            members: Any = members,
        ) -> None:
            if error is not None:
                faults.append(error)
            else:
                same = (sums_of(outputs, BATCH) == expected[members]).all(axis=1)
                corrupt[0] += int((~same).sum())
                if not same.all() and len(places) < 5:
                    places.append(np.flatnonzero(~same)[:8].tolist())
            idle.append(slot)
            free.release()

        runtime.submit(slot, BATCH, done)
    for _ in range(IN_FLIGHT):
        free.acquire()
    seconds = time.perf_counter() - begun
    runtime.close()
    if faults:
        sys.exit(f"forwards failed: {faults[0]}")
    checked = batches * BATCH
    print(f"{checked:,} images, {corrupt[0]:,} corrupt, {checked / seconds:,.0f} img/s")
    if places:
        print(f"first positions in the first batches that had some: {places}")
    if not options.broken:
        facts = {
            "images": checked,
            "corrupt": corrupt[0],
            "img_s": round(checked / seconds),
            "images_per_piece": options.per_piece,
        }
        print(
            f"written: {write_json('gpu_decode_stress', {'gpu': gpu_environment(), **facts}).name}"
        )
        sys.exit(1 if corrupt[0] else 0)


if __name__ == "__main__":
    main()
