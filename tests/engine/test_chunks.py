"""Chunks: images move together where that costs nobody anything."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import cv2
import pytest
from engine_kit import (
    GATED,
    PATIENCE_S,
    Gate,
    ListedSource,
    debug_engine,
    gray,
    jpeg,
    level_of,
)

from brimful.sources.image import SourceImage
from brimful.sources.open_source import open_source

# Sources that know several images, and sources that do not ---------------------------------------


@pytest.mark.parametrize("encoded", [None, "decode"])
def test_a_lone_image_waits_for_no_second_one(encoded):
    """A camera: the next image comes only after the result of this one was seen."""
    seen = threading.Semaphore(0)

    def payloads():
        for level in range(5):
            yield jpeg(level)
            assert seen.acquire(timeout=PATIENCE_S)

    with debug_engine(encoded=encoded, batch=16, max_delay_ms=1e9) as engine:
        for level, found in enumerate(engine.predict(ListedSource(payloads()))):
            assert level_of(found) == level
            seen.release()


@pytest.mark.parametrize("encoded", [None, "decode"])
def test_paths_on_standard_input_wait_for_no_others(encoded, tmp_path):
    paths = []
    for level in range(4):
        paths.append(tmp_path / f"{level}.jpg")
        paths[-1].write_bytes(jpeg(level))
    reading, writing = os.pipe()
    os.write(writing, f"{paths[0]}\n".encode())
    with (
        os.fdopen(reading, "rb", buffering=0) as stdin,
        debug_engine(encoded=encoded, batch=16, max_delay_ms=1e9) as engine,
    ):
        source = open_source("-", stdin=stdin)
        for level, found in enumerate(engine.predict(source)):
            assert level_of(found) == level
            if level + 1 < len(paths):
                os.write(writing, f"{paths[level + 1]}\n".encode())
            else:
                os.close(writing)
    assert level == 3


def test_a_chunk_before_one_that_hangs_is_not_held_back():
    stuck = threading.Event()

    class Slow(ListedSource):
        def chunks(self) -> Iterator[list[SourceImage]]:
            images = list(iter(self))
            yield images[:3]
            assert stuck.wait(PATIENCE_S)
            yield images[3:]

    with debug_engine(encoded="decode", batch=16, max_delay_ms=1e9) as engine:
        stream = engine.predict(Slow([jpeg(i) for i in range(7)]))
        assert [level_of(next(stream)) for _ in range(3)] == [0, 1, 2]
        stuck.set()
        assert [level_of(found) for found in stream] == [3, 4, 5, 6]


@pytest.mark.parametrize("encoded", [None, "decode"])
@pytest.mark.parametrize(("workers", "queue"), [(1, 1), (1, 128), (4, 5), (4, 128)])
def test_files_keep_their_order_and_their_results(tmp_path, encoded, workers, queue):
    shapes = [(24, 32), (32, 24), (30, 30), (20, 60), (60, 20)]
    levels = [i * 11 % 256 for i in range(200)]
    for i, level in enumerate(levels):
        folder = tmp_path / str(i // 90)
        folder.mkdir(exist_ok=True)
        path = folder / f"{i:03}"
        if i % 7 == 3:
            path.with_suffix(".jpg").write_bytes(b"no image")
        elif i % 5 == 4:
            cv2.imwrite(str(path.with_suffix(".png")), gray(level, *shapes[i % 5]))
        else:
            path.with_suffix(".jpg").write_bytes(jpeg(level, *shapes[i % 5]))
    with debug_engine(
        encoded=encoded,
        canvas="auto",
        imgsz=160,
        batch=6,
        workers=workers,
        concurrency=2,
        queue=queue,
    ) as engine:
        results = list(engine.predict(tmp_path))
    assert [found.index for found in results] == list(range(200))
    for i, (level, found) in enumerate(zip(levels, results, strict=True)):
        if i % 7 == 3:
            assert "not an image" in found.error
        else:
            assert level_of(found) == level
            assert (found.height, found.width) == shapes[i % 5]


def test_a_large_chunk_fits_a_small_window():
    class Whole(ListedSource):
        def chunks(self) -> Iterator[list[SourceImage]]:
            yield list(iter(self))

    with debug_engine(encoded="decode", batch=2, queue=3, workers=2, queue_bytes=5000) as engine:
        results = list(engine.predict(Whole([jpeg(i % 256) for i in range(300)])))
    assert [level_of(found) for found in results] == [i % 256 for i in range(300)]


def test_a_job_does_not_delay_a_client_by_more_than_a_chunk():
    gate = Gate()
    with debug_engine(
        encoded="decode", workers=1, batch=400, queue=400, faults=GATED, sleep=gate
    ) as engine:
        order: list[str] = []
        decode = engine._lifecycle.preprocess.decode
        held = threading.Event()

        def noted(image, *rest):
            order.append(image.key)
            assert held.wait(PATIENCE_S)
            return decode(image, *rest)

        engine._lifecycle.preprocess.decode = noted
        bulk = [engine.submit(jpeg(1), client="job", key="job") for _ in range(300)]
        camera = engine.submit(jpeg(2), client="camera", key="camera")
        held.set()
        gate.open()
        assert level_of(camera.result(PATIENCE_S)) == 2
        assert order.index("camera") <= 33
        assert {level_of(f.result(PATIENCE_S)) for f in bulk} == {1}
