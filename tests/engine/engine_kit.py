"""What the engine's tests share: images whose result tells them apart, and bounded waits."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.errors import ImageError
from brimful.runtimes.debug import DebugFaults, DebugRuntime, EncodedMode
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sources.image import SourceImage

PATIENCE_S = 120.0  # ends a test that hangs, on the slowest machine
"""How long a test waits for what must happen; only a broken engine comes near it."""


def debug_engine(
    *,
    batch: int = 8,
    concurrency: int = 1,
    faults: DebugFaults | None = None,
    encoded: EncodedMode | None = None,
    sleep: Callable[[float], None] = time.sleep,
    **config,
) -> Engine:
    """Return an engine on the debug runtime."""
    runtime = DebugRuntime(
        RuntimeOptions(max_batch=batch),
        faults,
        concurrency=concurrency,
        encoded=encoded,
        sleep=sleep,
    )
    return Engine(
        runtime, EngineConfig(**{"imgsz": 64, "canvas": "square", "workers": 2, **config})
    )


def gray(level: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Return an image of one gray level, which its result can be checked against."""
    return np.full((height, width, 3), level, np.uint8)


def jpeg(level: int, height: int = 24, width: int = 32) -> bytes:
    """Return a JPEG of one gray level, which decodes to exactly that level."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 100]
    return cv2.imencode(".jpg", gray(level, height, width), flags)[1].tobytes()


def damaged_jpeg(level: int) -> bytes:
    """Return a JPEG whose header is right and whose scan ends early, so that decoding fails."""
    whole = cv2.imencode(".jpg", np.random.default_rng(level).integers(0, 255, (64, 64, 3)))
    data = whole[1].tobytes()
    return data[: len(data) // 2] + b"\xff\xd9"


def level_of(result: Detections) -> int:
    """Return the gray level that the debug runtime saw in the middle of the canvas."""
    assert result.error is None, result.error
    assert len(result) == 1
    level = round((float(result.confidence[0]) - 0.5) * 2 * 255)
    assert int(result.class_id[0]) == level % 10
    return level


class ListedSource:
    """A source of payloads, made as they are asked for; it may be endless or fail."""

    def __init__(self, payloads) -> None:
        self.payloads = payloads
        self.handed_out = 0
        self.closed = False

    def __iter__(self) -> Iterator[SourceImage]:
        for index, payload in enumerate(self.payloads):
            if self.closed:
                return
            self.handed_out = index + 1
            yield SourceImage(index=index, key=f"k{index}", payload=payload)

    def __len__(self) -> int:
        raise TypeError("not known")

    def close(self) -> None:
        self.closed = True


class Gate:
    """Stands for the debug runtime's sleep: every forward waits until it is let through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed = 0.0
        self.waiting = 0
        self.passed = 0

    def __call__(self, seconds: float) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed > 0, PATIENCE_S)
            self._allowed -= 1
            self.waiting -= 1
            self.passed += 1
            self._changed.notify_all()

    def open(self, forwards: float = float("inf")) -> None:
        """Let so many forwards through."""
        with self._changed:
            self._allowed += forwards
            self._changed.notify_all()

    def await_waiting(self, forwards: int = 1) -> None:
        """Wait until so many forwards are held up."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= forwards, PATIENCE_S)


GATED = DebugFaults(batch_ms=1.0)
"""Faults that make every forward call the runtime's sleep."""


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, for states that announce themselves to nobody."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.002)


_WAIT = threading.Condition.wait.__code__


def waits(thread: threading.Thread, function: Callable | None = None) -> bool:
    """Tell whether a thread waits on a condition: in `function` itself, if that is given.

    A notification that follows reaches it.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_code is not _WAIT:
        return False
    caller = frame.f_back
    return function is None or (caller is not None and caller.f_code is function.__code__)


def decode_threads() -> list[threading.Thread]:
    """Return the decode workers that are alive, of all engines."""
    return [t for t in threading.enumerate() if t.name.startswith("brimful-decode-")]


def gathered(engine: Engine, images: int) -> Callable[[], bool]:
    """Return whether so many images wait in batches, and none is on its way there."""

    def all_there() -> bool:
        load = engine.load()
        return load.batched == images and load.waiting == load.preparing == 0

    return all_there


def brimful_threads() -> set[threading.Thread]:
    """Return the threads of this package that are alive."""
    return {t for t in threading.enumerate() if t.name.startswith("brimful")}


def write_images(folder: Path, levels: list[int], suffix: str = ".png") -> list[Path]:
    """Write an image per gray level; names sort as the list does."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05}{suffix}" for i in range(len(levels))]
    for path, level in zip(paths, levels, strict=True):
        assert cv2.imwrite(str(path), gray(level))
    return paths


def bad_payloads() -> list:
    """Return payloads that no image can be made of, each for another reason."""
    jpeg = cv2.imencode(".jpg", gray(9))[1].tobytes()
    return [
        b"",
        b"no image at all",
        jpeg[: len(jpeg) // 2],
        Path("/nowhere/x.jpg"),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 7), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        ImageError("the source could not read it"),
        OSError("neither could this one"),
        "/nowhere/named/as/text.jpg\0",
        None,
    ]
