"""Engine pools of real processes on the debug runtime, when all is well."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import orjson
import pytest
from cluster_kit import (
    OPEN,
    PATIENCE_S,
    Grays,
    GraysInLists,
    bad_payloads,
    check,
    eventually,
    gray,
    images_run,
    is_gone,
    pool_of,
    start_marked,
)

from brimful.cluster import feeding
from brimful.cluster.packing import pack
from brimful.cluster.pool import EnginePool
from brimful.cluster.reports import merge_reports
from brimful.engine.engine import EngineReport
from brimful.engine.stats import STAGES, StageUse, limiting
from brimful.errors import EngineStoppedError, ImageError, UsageError
from brimful.formats.json_record import encode_jsonl


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder of marks and a pool of two steady processes."""
    folder = tmp_path_factory.mktemp("marks")
    with pool_of(folder, "steady-a", "steady-b") as pool:
        yield folder, pool


@pytest.fixture
def pool(shared):
    return shared[1]


def lines_of(pool, source) -> tuple[bytes, int, int, int]:
    pieces = list(pool.stream_encoded(source))
    return (
        b"".join(piece.lines for piece in pieces),
        sum(piece.count for piece in pieces),
        sum(piece.failures for piece in pieces),
        sum(piece.found for piece in pieces),
    )


def test_results_are_those_of_one_engine_in_its_order(shared, tmp_path):
    folder, pool = shared
    bad = bad_payloads()
    special = dict(zip(range(5, 500, 37), bad, strict=False))
    special |= {1: Path(tmp_path / "real.png"), 2: gray(201, 700, 500), 3: gray(9)[::2, ::-1]}
    special[4] = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (90, 90, 3)))[
        1
    ].tobytes()
    cv2.imwrite(str(tmp_path / "real.png"), gray(123))
    with start_marked(tmp_path, device="alone") as engine:
        expected = list(engine.predict(Grays(500, special)))
    lines, count, failures, found = lines_of(pool, Grays(500, special))
    assert lines == encode_jsonl(expected)
    assert (count, failures, found) == (500, len(bad), 500 - len(bad))
    assert sum(result.error is not None for result in expected) == len(bad)
    assert encode_jsonl(list(pool.predict(GraysInLists(500, special)))) == lines
    both = images_run(folder, "steady-a"), images_run(folder, "steady-b")
    assert min(both) > 0, "one process did everything"


def test_it_describes_itself_as_an_engine_does(pool, tmp_path):
    with start_marked(tmp_path, device="alone") as engine:
        assert pool.spec == engine.spec
        assert {**engine.describe(), "devices": "steady-a steady-b"} == pool.describe()
    assert pool.health == "ok"


def test_the_report_is_of_all_processes(pool):
    pool.reset_stats()
    check(list(pool.predict(Grays(160))), 160)
    report = pool.report()
    assert [use.name for use in report.stages] == list(STAGES)
    assert sum(size * count for size, count in report.batches.items()) == 160
    uses = {use.name: use for use in report.stages}
    assert uses["decode"].workers == 2 and uses["source"].workers == 1
    assert uses["forward"].seconds > 20 * 0.004
    assert all(0 <= use.busy <= 1.05 for use in report.stages)
    pool.reset_stats()
    assert pool.report().batches == {}


def test_jobs_one_after_another_also_when_one_is_left_early(pool):
    for _ in range(3):
        source = Grays(None)
        some = list(itertools.islice(pool.predict(source), 50))
        check(some, 50)
        check(list(pool.predict(Grays(100))), 100)
    assert source.closed


def test_one_source_at_a_time(pool):
    first = pool.stream(Grays(None))
    next(first)
    with pytest.raises(EngineStoppedError, match="one source at a time"):
        list(pool.stream(Grays(1)))
    first.close()
    check(list(pool.predict(Grays(20))), 20)


def test_a_source_that_fails_ends_the_job_after_what_it_brought(pool):
    class Failing(Grays):
        def __iter__(self):
            yield from super().__iter__()
            raise OSError("the disk is gone")

    results = []
    with pytest.raises(OSError, match="the disk is gone"):
        results.extend(pool.predict(Failing(30)))
        pytest.fail("no error came")
    results = []
    with pytest.raises(OSError):
        for result in pool.predict(Failing(30)):
            results.append(result)
    check(results, 30)
    with pytest.raises(UsageError, match="no source"):
        list(pool.stream("/nowhere/at/all"))


def test_a_lone_image_needs_no_others(pool):
    """A source that waits for a result before it brings the next image."""
    came = threading.Semaphore(1)

    class Patient(Grays):
        def __iter__(self):
            for image in super().__iter__():
                assert came.acquire(timeout=PATIENCE_S)
                yield image

    results = []
    for result in pool.predict(Patient(5)):
        results.append(result)
        came.release()
    check(results, 5)


def test_video_frames(pool, tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(40):
            pixels = gray(40 + 4 * i, 240, 320)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    with start_marked(tmp_path, device="alone") as engine:
        expected = encode_jsonl(list(engine.predict(path)))
    lines, count, failures, _ = lines_of(pool, path)
    assert lines == expected and (count, failures) == (40, 0)
    rows = [orjson.loads(line) for line in lines.splitlines()]
    assert [row["frame"] for row in rows] == list(range(40))
    assert [row["pts_ms"] for row in rows] == [40.0 * i for i in range(40)]


def test_the_faster_process_does_more(tmp_path):
    with pool_of(tmp_path, "slow", "steady") as pool:
        check(list(pool.predict(Grays(1600))), 1600)
    slow, steady = images_run(tmp_path, "slow"), images_run(tmp_path, "steady")
    assert slow + steady == 1600
    assert 0 < slow < 400, "taking turns, each would have had 800"


def test_a_stalled_process_stops_the_feeder_and_not_the_memory(tmp_path):
    source = GraysInLists(None)
    results = []
    with pool_of(tmp_path, "stalled", "steady") as pool:

        def consume():
            for result in pool.predict(source):
                results.append(result)
                if len(results) == 2 * pool.window:
                    return

        consumer = threading.Thread(target=consume)
        consumer.start()
        # Of the list that did not fit, some are in the feeder's hand.
        eventually(lambda: source.handed_out > len(results) + pool.window, "the feeder stops")
        eventually(lambda: images_run(tmp_path, "steady") >= pool.window - 400, "the others go on")
        before = source.handed_out, len(results)
        assert before[0] <= before[1] + pool.window + 7
        time.sleep(0.2)
        assert (source.handed_out, len(results)) == before
        (tmp_path / OPEN).touch()
        consumer.join(PATIENCE_S)
        assert not consumer.is_alive()
    check(results, 2 * pool.window)


def test_images_in_memory_are_bounded_in_bytes(tmp_path, monkeypatch):
    outside = []  # of the arena

    def spy(image, block):
        if block is None:
            outside.append(image.index)
        return pack(image, block)

    monkeypatch.setattr(feeding, "pack", spy)
    small = 200_000
    big = gray(5, 400, 500)  # 600 kB: more than both arenas
    frames = {i: gray(i % 70, 100, 150) for i in range(300)}  # 45 kB each, 13 MB in all
    with pool_of(tmp_path, "steady-a", "steady-b", arena_bytes=small) as pool:
        used = []
        results = []
        for result in pool.predict(Grays(300, {**frames, 100: big})):
            results.append(result)
            used.append(pool._shared.used)
        check(results, 300, but={100})
        assert outside == [100]
        assert "600,000 bytes are more than the 400,000" in results[100].error
        assert max(used) <= 2 * small
        assert pool._shared.used == 0
        check(list(pool.predict(GraysInLists(300, frames))), 300)
        next(pool.stream(Grays(300, frames)))  # left early
        check(list(pool.predict(Grays(300, frames))), 300)
        assert pool._shared.used == 0


def test_closing_ends_the_processes_and_what_is_in_flight(tmp_path):
    pool = pool_of(tmp_path, "stalled", "steady")
    pids = pool.pids
    stream = pool.stream(Grays(None))
    threading.Timer(0.5, pool.close).start()
    with pytest.raises(EngineStoppedError, match="closed"):
        for _ in stream:
            pass
    eventually(lambda: all(map(is_gone, pids)), "the processes end")
    with pytest.raises(EngineStoppedError, match="closed"):
        next(pool.stream(Grays(1)))
    pool.close()


def test_a_pool_needs_a_device(tmp_path):
    with pytest.raises(UsageError, match="at least one device"):
        EnginePool(None, [])


def test_reports_are_merged():
    def report(source, forward, sink):
        seconds = dict.fromkeys(STAGES, 0.0) | {"source": source, "forward": forward, "sink": sink}
        uses = [StageUse(name, spent, 1, spent / 10) for name, spent in seconds.items()]
        return EngineReport(uses, limiting(uses), {8: 2, 3: 1})

    merged = merge_reports(
        [report(9, 4, 1), report(9, 8, 3)], source_s=1.0, sink_s=0.5, elapsed_s=10.0
    )
    uses = {use.name: use for use in merged.stages}
    assert uses["source"] == StageUse("source", 1.0, 1, 0.1), "the processes' wait is no work"
    assert uses["forward"] == StageUse("forward", 12.0, 2, pytest.approx(0.6))
    assert uses["sink"] == StageUse("sink", 4.0, 2, pytest.approx(0.2))
    assert merged.limits.name == "forward" and merged.batches == {3: 2, 8: 4}
    alone = merge_reports([], source_s=1.0, sink_s=5.0, elapsed_s=10.0)
    assert alone.limits.name == "sink"


def test_errors_of_images_are_not_the_pools(pool):
    results = list(pool.predict(Grays(3, {1: ImageError("it is torn")})))
    assert [result.error for result in results] == [None, "it is torn", None]
