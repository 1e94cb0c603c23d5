"""Chunks: images move together where that costs nobody anything."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import cv2
import pytest
from brimful.engine.admission import Admission
from brimful.engine.inflight import InFlight, fail
from brimful.engine.intake import Intake
from brimful.engine.work import Work
from engine_kit import (
    GATED,
    PATIENCE_S,
    Gate,
    ListedSource,
    debug_engine,
    eventually,
    gray,
    jpeg,
    level_of,
)
from hypothesis import given
from hypothesis import strategies as st

from brimful.detections import Detections
from brimful.engine.batcher import Batcher, BatchPolicy
from brimful.errors import EngineStoppedError
from brimful.sources.image import SourceImage
from brimful.sources.open_source import open_source


class Recorder:
    """An owner that notes what it is told, and may refuse to listen."""

    def __init__(self, source="s", refuses=False) -> None:
        self.source = source
        self.refuses = refuses
        self.told: list = []
        self.failed: list = []

    def settle(self, works, results) -> None:
        if self.refuses:
            raise SystemExit
        self.told += [work.number for work in works]

    def fail(self, works, error) -> None:
        self.failed += [work.number for work in works]


def works(count: int, owner=None, first: int = 0, deadline=None) -> list[Work]:
    owner = owner or Recorder()
    images = [SourceImage(index=i, key=str(i), payload=b"") for i in range(first, first + count)]
    return [Work(image, owner, image.index, deadline) for image in images]


def result(number: int) -> Detections:
    return Detections(image="x", index=number, width=1, height=1, task="detect", names=("a",))


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
        decode = engine._preprocess.decode
        held = threading.Event()

        def noted(image, *rest):
            order.append(image.key)
            assert held.wait(PATIENCE_S)
            return decode(image, *rest)

        engine._preprocess.decode = noted
        bulk = [engine.submit(jpeg(1), client="job", key="job") for _ in range(300)]
        camera = engine.submit(jpeg(2), client="camera", key="camera")
        held.set()
        gate.open()
        assert level_of(camera.result(PATIENCE_S)) == 2
        assert order.index("camera") <= 33
        assert {level_of(f.result(PATIENCE_S)) for f in bulk} == {1}


# The parts ---------------------------------------------------------------------------------------


def intake(capacity: int) -> tuple[Intake, InFlight, threading.Lock]:
    lock = threading.Lock()
    inflight = InFlight(lock)
    now = lambda: 100.0  # noqa: E731 - a clock
    return Intake(Admission(capacity), inflight, lock, clock=now), inflight, lock


def numbers(taken) -> list[int]:
    return [work.number for work in taken]


def test_workers_share_what_waits():
    line, inflight, _ = intake(100)
    assert line.admit(works(10), wait=False) == 10
    assert len(inflight) == 10
    sizes = []
    while sum(sizes) < 10:
        taken, expired = line.take(32, 4)
        assert not expired
        sizes.append(len(taken))
    assert sizes == [3, 2, 2, 1, 1, 1]
    line.admit(works(100), wait=False)
    assert len(line.take(8, 4)[0]) == 8, "and no more than they can take"


def test_a_chunk_that_does_not_fit_waits_for_the_rest_of_its_room():
    line, inflight, _ = intake(4)
    assert line.admit(works(6), wait=False) == 4
    done = threading.Event()
    feeder = threading.Thread(
        target=lambda: (line.admit(works(6, first=10), wait=True), done.set())
    )
    feeder.start()
    taken: list[int] = []
    while len(taken) < 10:
        taken += numbers(line.take(3)[0])
    feeder.join(PATIENCE_S)
    assert done.is_set()
    assert taken == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]
    assert len(inflight) == 10


def test_the_expired_come_apart():
    line, *_ = intake(10)
    line.admit(works(2, deadline=99.0), wait=False)
    line.admit(works(2, first=2, deadline=101.0), wait=False)
    taken, expired = line.take(9)
    assert (numbers(taken), numbers(expired)) == ([2, 3], [0, 1])


def test_closing_wakes_both_ends():
    line, _, lock = intake(1)
    line.admit(works(1), wait=False)
    raised: list[str] = []

    def feed() -> None:
        try:
            line.admit(works(1), wait=True)
        except EngineStoppedError as error:
            raised.append(str(error))

    empty, _, other_lock = intake(1)
    got: list = []
    threads = [
        threading.Thread(target=feed),
        threading.Thread(target=lambda: got.append(empty.take(1))),
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: line._room._waiters and empty._admitted._waiters, "both wait")
    with lock:
        line.close(EngineStoppedError("over"))
    with other_lock:
        empty.close(EngineStoppedError("over"))
    for thread in threads:
        thread.join(PATIENCE_S)
    assert raised == ["over"] and got == [None]


def test_results_go_to_their_owners():
    lock = threading.Lock()
    inflight = InFlight(lock)
    owners = [Recorder() for _ in range(3)]
    batch = [Work(works(1)[0].image, owners[i % 3], i) for i in range(9)]
    inflight.add(batch)
    inflight.settle(batch[:6], [result(i) for i in range(6)])
    assert [owner.told for owner in owners] == [[0, 3], [1, 4], [2, 5]]
    assert len(inflight) == 3
    abandoned = inflight.abandon(EngineStoppedError("over"))
    assert sorted(numbers(abandoned)) == [6, 7, 8]
    inflight.settle(batch[6:], [result(i) for i in range(6, 9)])
    assert [owner.told for owner in owners] == [[0, 3], [1, 4], [2, 5]], "they have failed"


@pytest.mark.parametrize("stopped", [False, True])
def test_an_owner_who_raises_leaves_the_others_in_flight(stopped):
    lock = threading.Lock()
    inflight = InFlight(lock)
    owners = [Recorder(), Recorder(refuses=True), Recorder(), Recorder()]
    batch = [Work(works(1)[0].image, owners[i % 4], i) for i in range(8)]
    inflight.add(batch)
    if stopped:  # the pipeline stops while the owner is being told
        settle = owners[1].settle

        def stop_then_raise(works, results) -> None:
            with lock:
                inflight.abandon(EngineStoppedError("over"))
            settle(works, results)

        owners[1].settle = stop_then_raise
    with pytest.raises(SystemExit):
        inflight.settle(batch, [result(i) for i in range(8)])
    if not stopped:
        fail(inflight.abandon(EngineStoppedError("over")), EngineStoppedError("over"))
    assert owners[0].told == [0, 4]
    assert [sorted(owner.failed) for owner in owners[2:]] == [[2, 6], [3, 7]]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=12),
    st.lists(st.integers(1, 7), max_size=40),
    st.integers(1, 40),
)
def test_taking_some_is_taking_one_by_one(offers, limits, capacity):
    some: Admission[tuple] = Admission(capacity)
    single: Admission[tuple] = Admission(capacity)
    for i, (source, count) in enumerate(offers):
        items = [(source, i, n) for n in range(count)]
        deadline = 5.0 if i % 3 == 0 else None
        entered = some.offer_some(items, source=source, deadline=deadline)
        offered = [single.offer(item, source=source, deadline=deadline) for item in items]
        assert sum(offered) == entered and offered == [True] * entered + [False] * (count - entered)
    for limit in limits:
        taken, expired = some.take_some(9.0, limit)
        one_by_one = [item for _ in range(limit) if (item := single.take(9.0)) is not None]
        assert taken == [item for item, late in one_by_one if not late]
        assert expired == [item for item, late in one_by_one if late]
        assert len(some) == len(single)


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(1, 9))
def test_joining_together_is_joining_one_by_one(parts, max_batch):
    together, alone = (Batcher(BatchPolicy(max_batch=max_batch)) for _ in range(2))
    random_ = random.Random(len(parts))
    for now, part in enumerate(parts):
        members = [(now, i) for i in range(part)]
        deadline = random_.choice([None, 50.0, 60.0 - now])
        while members:
            batch = together.joinable((32, 32)) or together.open((32, 32), now)
            entering, members = members[: batch.room], members[batch.room :]
            position = together.join_all(batch, entering, now, deadline)
            for i, member in enumerate(entering):
                other = alone.joinable((32, 32)) or alone.open((32, 32), now)
                assert alone.join(other, member, now, deadline) == position + i
    assert list(together._waiting()) == list(alone._waiting())


def test_more_than_there_is_room_for_cannot_join():
    batcher: Batcher[int] = Batcher(BatchPolicy(max_batch=3))
    batch = batcher.open((32, 32), 0.0)
    batcher.join_all(batch, [1, 2], 0.0)
    with pytest.raises(ValueError, match="2 images do not fit, only 1"):
        batcher.join_all(batch, [3, 4], 0.0)
    assert batch.members == [1, 2] and batch.unwritten == 2
