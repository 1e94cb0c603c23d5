"""Frames that are on the device already: the results of pixels, and memory that stays bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_kit import PATIENCE_S, Gate, eventually

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.runtimes.debug import DebugFaults, DebugRuntime, DebugSlot
from brimful.runtimes.runtime import RuntimeOptions, new_input
from brimful.sources import open_source
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.letterbox import letterbox
from video_kit import HostVideo, moving, write_clip

FRAME_BYTES = 48 * 64 * 3


class SurfaceSlot(DebugSlot):
    """A slot that reads device frames when it gets them, and holds them until it is cleared."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.held: dict[int, DeviceFrame] = {}

    def put(self, position, image, geometry) -> None:
        letterbox(image.memory.pixels, geometry, self.inputs[position])
        self.held[position] = image

    def clear(self) -> None:
        self.held.clear()


class SurfaceRuntime(DebugRuntime):
    """The debug runtime with a device for videos."""

    def __init__(self, *arguments, video: HostVideo | None, **options) -> None:
        super().__init__(*arguments, **options)
        self.video = video

    def allocate(self, canvas, *, capacity=None) -> DebugSlot:
        count = capacity or self.max_batch
        return SurfaceSlot(canvas, new_input(self.spec, self.input_format, canvas, count))


def engine(
    video: HostVideo | None,
    *,
    batch: int = 4,
    faults: DebugFaults | None = None,
    sleep: Callable[[float], None] | None = None,
    **config,
) -> Engine:
    options = {} if sleep is None else {"sleep": sleep}
    runtime = SurfaceRuntime(RuntimeOptions(max_batch=batch), faults, video=video, **options)
    return Engine(
        runtime, EngineConfig(**{"imgsz": 64, "canvas": "square", "workers": 2, **config})
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """50 frames, 64x48."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(50, (48, 64)))


def rows(results) -> list[dict]:
    return [result.to_json_record() for result in results]


def expected(clip: Path) -> list[dict]:
    with engine(None) as on_host:
        return rows(on_host.predict(open_source(clip)))


def test_results_are_those_of_pixels(clip):
    video = HostVideo()
    with engine(video) as running:
        found = rows(running.predict(open_source(clip)))
    assert found == expected(clip)
    assert video.taken == len(found) == 50
    assert [row["frame"] for row in found] == list(range(50))


@pytest.mark.parametrize("queue_bytes", [1, FRAME_BYTES, 5 * FRAME_BYTES])
def test_no_more_memory_than_the_window_and_no_deadlock(clip, queue_bytes):
    """Batches of 16 that nothing but the window keeps from being full: they go all the same."""
    video = HostVideo()
    gate = Gate()
    results: list = []
    faults = DebugFaults(batch_ms=1)
    with engine(
        video, batch=16, queue_bytes=queue_bytes, max_delay_ms=20.0, faults=faults, sleep=gate
    ) as running:
        consumer = threading.Thread(
            target=lambda: results.extend(running.predict(open_source(clip)))
        )
        consumer.start()
        gate.await_waiting()
        time.sleep(0.3)  # time enough for a feeder that nothing stops to bring all of them
        gate.open()
        consumer.join(PATIENCE_S)
    assert rows(results) == expected(clip)
    # Beyond the window: one that the feeder waits with, a batch settled but not yet cleared, and
    # one whose threads have not let go of it yet.
    window = max(1, 4 * queue_bytes // (5 * FRAME_BYTES))  # a lone source's share
    assert video.most <= 3 * window + 1


def test_every_surface_is_given_back(clip):
    video = HostVideo()
    with engine(video) as running:
        for _ in range(3):
            list(running.predict(open_source(clip)))
            eventually(lambda: video.alive == 0, "the memory of all frames is given back")
    assert video.taken == 150


def test_a_consumer_that_leaves_gives_the_surfaces_back(clip):
    video = HostVideo()
    with engine(video) as running:
        results = running.predict(open_source(clip))
        next(results)
        results.close()
        eventually(lambda: video.alive == 0, "the memory of all frames is given back")


def test_a_stopped_engine_gives_the_surfaces_back(clip):
    gate = Gate()
    video = HostVideo()
    running = engine(video, faults=DebugFaults(batch_ms=1), sleep=gate)
    consumer = threading.Thread(target=lambda: swallow(running.predict(open_source(clip))))
    consumer.start()
    gate.await_waiting()
    assert video.alive > 0
    closer = threading.Thread(target=running.close)
    closer.start()
    gate.open()
    closer.join(PATIENCE_S)
    consumer.join(PATIENCE_S)
    assert not consumer.is_alive()
    eventually(lambda: video.alive == 0, "the memory of all frames is given back")


def swallow(results) -> None:
    try:
        for _ in results:
            pass
    except Exception:
        pass


@pytest.mark.parametrize("memory", [1, 3])
def test_failed_forwards_are_retried_with_surfaces(clip, memory):
    video = HostVideo()
    # Any later one may be the retry of a single image, which is its last chance.
    faults = DebugFaults(memory_images=memory, fail_forwards=frozenset((1,)))
    with engine(video, batch=8, faults=faults) as running:
        found = rows(running.predict(open_source(clip)))
    assert found == expected(clip)
    assert video.taken == 50


def test_a_video_among_pixels(clip):
    """The CPU takes over after 20 frames: both kinds share batches."""
    video = HostVideo(refuse_frame=lambda asked: asked == 20)
    with engine(video, batch=8) as running:
        found = rows(running.predict(open_source(clip)))
    assert found == expected(clip)
    assert video.taken == 20


def test_two_jobs_at_once(clip):
    video = HostVideo()
    found: dict[int, list[dict]] = {}
    with engine(video, batch=8, queue_bytes=2 * FRAME_BYTES) as running:

        def job(number: int) -> None:
            found[number] = rows(running.predict(open_source(clip)))

        jobs = [threading.Thread(target=job, args=(number,)) for number in range(3)]
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join(PATIENCE_S)
    assert [found.get(number) for number in range(3)] == [expected(clip)] * 3


def test_a_runtime_without_a_device_gets_pixels(clip):
    assert [row["error"] for row in expected(clip)] == [None] * 50
