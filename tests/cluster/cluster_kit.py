"""What the cluster's tests share: engines that can be started in a process, and their faults.

The functions here are pickled by name, so each process imports this module. A device is only a name
to them, which decides how the engine behaves.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from brimful.cluster.pool import EnginePool
from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.errors import ImageError, MissingExtraError, ModelError, RuntimeFailedError
from brimful.runtimes.debug import DebugFaults, DebugRuntime
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sources.image import SourceImage

PATIENCE_S = 120.0  # ends a test that hangs, on the slowest machine
BATCH = 8
DEADLY = 77
"""The gray level that a `fragile` engine does not survive."""

OPEN = "open"
WORKING = 5
"""Forwards of a `broken` device that succeed."""


class MarkedRuntime(DebugRuntime):
    """The debug runtime, which leaves a byte an image in a file named after its device.

    A forward of a device that is named `stalled...` waits until the folder has a file `open`, and a
    `fragile` one kills its process when it meets the DEADLY level. A `broken` one fails every
    forward after the first few. Those of a `gated` one wait until the folder has a file of its name
    that ends in `.open`, or in `.break`: then they fail.
    """

    def __init__(self, device: str, folder: Path, faults: DebugFaults) -> None:
        super().__init__(RuntimeOptions(max_batch=BATCH), faults)
        self._device = device
        self._folder = folder

    def _forward(self, slot, count, params):
        height, width = slot.canvas
        levels = slot.inputs[:count, height // 2, width // 2, 0]
        if self._device.startswith("fragile") and (levels == DEADLY).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if self._device.startswith("stalled"):
            while not (self._folder / OPEN).exists():
                time.sleep(0.01)
        if self._device.startswith("gated"):
            while not (self._folder / f"{self._device}.open").exists():
                if (self._folder / f"{self._device}.break").exists():
                    raise RuntimeFailedError("the device is lost")
                time.sleep(0.01)
        with (self._folder / self._device).open("ab") as file:
            file.write(b"." * count)
        outputs = super()._forward(slot, count, params)
        if self._device.startswith("broken") and len(self.batches) > WORKING:
            raise RuntimeFailedError("the device is lost")
        return outputs


SLOW = DebugFaults(batch_ms=200.0)
STEADY = DebugFaults(batch_ms=4.0)
SICK = DebugFaults(hang_forward=5, batch_ms=4.0)


def start_marked(folder: Path, *, device: str) -> Engine:
    """Start an engine that is slow, steady, sick, stalled or fragile, as the device is named."""
    kind = device.partition("-")[0]
    faults = {"slow": SLOW, "steady": STEADY, "sick": SICK}.get(kind, DebugFaults())
    config = EngineConfig(
        imgsz=64, canvas="square", workers=1, stall_s=1.0 if kind == "sick" else 60
    )
    return Engine(MarkedRuntime(device, folder, faults), config)


def start_or_raise(marks: Path, *, device: str) -> Engine:
    """Start an engine, or fail as the device's name says; note beginning and end in a file."""
    with marks.open("a") as file:
        file.write(f"begin {device}\n")
    time.sleep(0.1)
    if device == "no-model":
        raise ModelError("there is no model file x.pt")
    if device == "no-extra":
        raise MissingExtraError("A feature", "video", module="av")
    if device == "bug":
        raise KeyError("a bug")
    if device == "exits":
        os._exit(7)
    engine = start_marked(marks.parent, device=device)
    with marks.open("a") as file:
        file.write(f"end {device}\n")
    return engine


def pool_of(folder: Path, *devices: str, **options) -> EnginePool:
    """Start a pool of marked engines."""
    return EnginePool(functools.partial(start_marked, folder), devices, **options)


def images_run(folder: Path, device: str) -> int:
    """Return how many images a device's forwards had."""
    mark = folder / device
    return mark.stat().st_size if mark.exists() else 0


def gray(level: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Return an image of one gray level, which its result can be checked against."""
    return np.full((height, width, 3), level, np.uint8)


def level_of(result: Detections) -> int:
    """Return the gray level that the debug runtime saw in the middle of the canvas."""
    assert result.error is None, result.error
    assert len(result) == 1
    return round((float(result.confidence[0]) - 0.5) * 2 * 255)


class Grays:
    """A source of gray images; their level is their number modulo 70, below DEADLY."""

    def __init__(self, count: int | None, special: dict[int, object] | None = None) -> None:
        self.count = count
        self.special = special or {}
        self.handed_out = 0
        self.closed = False

    def __iter__(self) -> Iterator[SourceImage]:
        number = 0
        while not self.closed and (self.count is None or number < self.count):
            payload = self.special.get(number)
            self.handed_out = number + 1
            yield SourceImage(
                index=number,
                key=f"k{number}",
                payload=gray(number % 70) if payload is None else payload,
            )
            number += 1

    def __len__(self) -> int:
        raise TypeError("not known")

    def close(self) -> None:
        self.closed = True


def check(results: list[Detections], count: int, but: set[int] = frozenset()) -> None:
    """Check that every image has one result, in order and its own."""
    assert [result.index for result in results] == list(range(count))
    assert [result.image for result in results] == [f"k{i}" for i in range(count)]
    for number, result in enumerate(results):
        if number not in but:
            assert level_of(result) == number % 70


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def bad_payloads() -> list[object]:
    """Return payloads that no image can be made of, each for another reason."""
    return [
        b"",
        b"no image at all",
        b"no image at all " * 1000,
        Path("/nowhere/x.jpg"),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((400, 400, 3), np.float32),
        np.zeros((400, 400, 7), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.array([object()] * 5000),
        ImageError("the source could not read it"),
        OSError("neither could this one"),
        "a text, which no source should bring",
        Unpicklable("not even this"),
    ]


class GraysInLists(Grays):
    """The same, seven at a time."""

    def chunks(self) -> Iterator[list[SourceImage]]:
        images = iter(self)
        while some := list(itertools.islice(images, 7)):
            yield some


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")
