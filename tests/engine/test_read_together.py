"""Files that are read together for a device that decodes: the same results, and permits."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from engine_kit import (
    PATIENCE_S,
    debug_engine,
    decode_threads,
    eventually,
    gray,
    jpeg,
    level_of,
    waits,
)

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.engine.scheduler import Scheduler
from brimful.runtimes.debug import DebugRuntime
from brimful.runtimes.runtime import RuntimeOptions
from brimful.vision.decode import DecodeLimits

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)


def reading_engine(
    *,
    workers: int = 8,
    batch: int = 16,
    none_for: int = 0,
    limits: DecodeLimits | None = None,
) -> Engine:
    """Return an engine that decodes on its device and reads into memory of the device's."""
    runtime = DebugRuntime(RuntimeOptions(max_batch=batch), encoded="decode")
    runtime.pinned_for = lambda size: (
        None if none_for and size % none_for == 0 else memoryview(bytearray(size))
    )
    config = EngineConfig(imgsz=64, canvas="square", workers=workers)
    if limits is not None:
        config = replace(config, limits=limits)
    return Engine(runtime, config)


def folder_of(path: Path, count: int) -> list[str]:
    """Write JPEGs whose gray level is their number; every seventh lies on the host as a PNG."""
    import cv2
    import numpy as np

    names = []
    for i in range(count):
        name = path / (f"{i:04}.png" if i % 7 == 3 else f"{i:04}.jpg")
        if name.suffix == ".png":
            cv2.imwrite(str(name), np.full((24, 32, 3), i % 256, np.uint8))
        else:
            name.write_bytes(jpeg(i % 256))
        names.append(str(name))
    return names


@pytest.mark.parametrize("none_for", [0, 2])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_results_are_the_files_own(tmp_path: Path, workers: int, none_for: int) -> None:
    names = folder_of(tmp_path, 300)
    with reading_engine(workers=workers, none_for=none_for) as engine:
        assert engine._lifecycle.preprocess.reads
        results = list(engine.predict(names))
    assert [level_of(found) for found in results] == [i % 256 for i in range(300)]


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    names = folder_of(tmp_path, 6)
    Path(names[0]).write_bytes(b"")
    Path(names[1]).write_bytes(jpeg(1)[:-20])
    Path(names[2]).write_bytes(b"no picture at all")
    with reading_engine() as engine:
        errors = [found.error for found in engine.predict(names)]
    assert "empty" in errors[0] and "truncated" in errors[1] and "not an image" in errors[2]
    assert errors[3:] == [None] * 3


def test_what_begins_as_others_did_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brimful.engine import preprocess

    names = []
    for i in range(240):  # two starts, by their sizes; some files lack their end
        data = jpeg(i, height=24 + 8 * (i % 2))
        path = tmp_path / f"{i:03}.jpg"
        path.write_bytes(data[:-2] if i % 10 == 9 else data)
        names.append(str(path))
    checked: list[int] = []
    real = preprocess.check_encoded

    def noted(data, limits):
        checked.append(len(data))
        return real(data, limits)

    monkeypatch.setattr(preprocess, "check_encoded", noted)
    with reading_engine(workers=1) as engine:
        results = list(engine.predict(names))
        _, headers = engine._lifecycle.preprocess._known.table
    truncated = [found.error is not None for found in results]
    assert truncated == [i % 10 == 9 for i in range(240)]
    good = [(found, i) for i, found in enumerate(results) if found.error is None]
    assert all(level_of(found) == i for found, i in good)
    assert [(found.height, found.width) for found, _ in good] == [
        (24 + 8 * (i % 2), 32) for _, i in good
    ]
    assert sorted(header.size for header in headers) == [(24, 32), (32, 32)]
    assert 24 + 2 <= len(checked) < 120, "those of the first chunk, and those without their end"


def test_starts_that_never_come_again_are_not_learnt() -> None:
    from brimful.engine.jpeg_prefixes import MOST, JpegPrefixes
    from brimful.vision.decode import check_encoded

    known = JpegPrefixes()
    different = [check_encoded(jpeg(1, height=8 + i, width=8)) for i in range(3 * MOST)]
    for image in different:
        known.observe(image)
    assert known.table[1] == ()
    for image in different:
        known.observe(image)
        known.observe(image)
        assert 1 <= len(known.table[1]) <= MOST
        starts, headers = known.table
        assert headers[-1] is image.header
        assert starts.texts[-1] == bytes(image.data)[: image.header.scan + 4]  # all that was read
        assert len(starts.texts) == len(headers) == len(starts.ends)


def test_files_above_a_small_limit_are_refused_each_time(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{i:03}.jpg") for i in range(90)]
    for i, name in enumerate(names):  # the last ones are long, and begin as the others do
        Path(name).write_bytes(jpeg(5) + (bytes(1000) + b"\xff\xd9" if i >= 80 else b""))
    limits = DecodeLimits(max_bytes=len(jpeg(5)))
    with reading_engine(workers=1, limits=limits) as engine:
        results = list(engine.predict(names))
    assert [found.error is None for found in results] == [True] * 80 + [False] * 10
    assert "max_bytes" in results[-1].error


def test_limits_hold_for_what_is_read_together(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(jpeg(5, height=48, width=64))
    (tmp_path / "small.jpg").write_bytes(jpeg(5))
    names = [str(tmp_path / "large.jpg"), str(tmp_path / "small.jpg")]
    with reading_engine(limits=DecodeLimits(max_pixels=1000)) as engine:
        large, small = engine.predict(names)
    assert "max_pixels" in large.error and small.error is None


def test_while_some_decode_others_have_the_permit(tmp_path: Path) -> None:
    """Two permits for eight workers: who decodes on the host gives its permit back."""
    names = [name for name in folder_of(tmp_path, 60) if name.endswith(".png")]
    inside, most, lock = [0], [0], threading.Lock()
    gate = threading.Event()
    from brimful.engine import preprocess

    real = preprocess.decode_pixels

    def held(encoded):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        assert gate.wait(PATIENCE_S)
        return real(encoded)

    preprocess.decode_pixels = held
    try:
        with reading_engine(workers=8) as engine:
            futures = [engine.submit(name) for name in names]
            eventually(lambda: most[0] == 8, "all workers decode")
            gate.set()
            assert len({level_of(future.result(PATIENCE_S)) for future in futures}) == len(names)
    finally:
        preprocess.decode_pixels = real
        gate.set()


def test_pixels_are_written_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes as pixels needs no permit: the letterbox is worth every worker."""
    inside, most, lock = [0], [0], threading.Lock()
    gate = threading.Event()
    from brimful.engine import preprocess

    real = preprocess.letterbox

    def held(*arguments):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        assert gate.wait(PATIENCE_S)
        real(*arguments)

    monkeypatch.setattr(preprocess, "letterbox", held)
    with reading_engine(workers=8) as engine:
        futures = [engine.submit(gray(i)) for i in range(24)]
        eventually(lambda: most[0] == 8, "all workers write")
        gate.set()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(24))


def test_no_more_than_two_bring_images_to_the_device() -> None:
    """Workers without a permit do not even wait for images."""
    with reading_engine(workers=8) as engine:
        scheduler = engine._lifecycle.pipeline.scheduler
        waiting, most, lock = [0], [0], threading.Lock()
        take = scheduler.take

        def counted(limit, sharers):
            with lock:
                waiting[0] += 1
                most[0] = max(most[0], waiting[0])
            try:
                return take(limit, sharers)
            finally:
                with lock:
                    waiting[0] -= 1

        scheduler.take = counted
        list(engine.predict([jpeg(i % 256) for i in range(400)]))
        assert most[0] == 2


def test_who_only_reads_shares_with_those_that_do_so_too(tmp_path: Path) -> None:
    """Eight workers, two permits: half of what waits for each, and an eighth for who decodes."""
    with reading_engine(workers=8) as engine:
        scheduler = engine._lifecycle.pipeline.scheduler
        shared: list[tuple[str, int]] = []
        take = scheduler.take

        def noted(limit, sharers):
            taken = take(limit, sharers)
            if taken is not None:
                shared.append((threading.current_thread().name, sharers))
            return taken

        scheduler.take = noted
        list(engine.predict([jpeg(i % 256) for i in range(200)]))
        later = shared[4:]  # two were waiting before, and each has begun with a permit
        assert later and {sharers for _, sharers in later} == {2}
        list(engine.predict([name for name in folder_of(tmp_path, 200) if name.endswith("png")]))
        shared.clear()
        list(engine.predict([name for name in folder_of(tmp_path, 200) if name.endswith("png")]))
        own: dict[str, list[int]] = {}
        for name, sharers in shared:
            own.setdefault(name, []).append(sharers)
        # A worker may have kept a permit until its first image here, which it decodes.
        assert {sharers for taken in own.values() for sharers in taken[1:]} == {8}


def test_runtimes_that_do_not_decode_have_a_permit_for_every_worker() -> None:
    before = decode_threads()
    with debug_engine(workers=5) as engine:
        assert not engine._lifecycle.preprocess.reads
        workers = [thread for thread in decode_threads() if thread not in before]
        assert len(workers) == 5
        eventually(
            lambda: all(waits(worker, Scheduler.take) for worker in workers),
            "all wait for images",
        )
