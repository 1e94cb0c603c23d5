"""Submitted images on pools of real processes, when all is well."""

from __future__ import annotations

import os
import threading
import time
import warnings

import cv2
import numpy as np
import pytest
from cluster_kit import (
    OPEN,
    PATIENCE_S,
    Grays,
    check,
    eventually,
    gray,
    images_run,
    level_of,
    pool_of,
    start_marked,
)
from PIL import Image

from brimful.cluster.pool import LEAST_REQUESTS
from brimful.errors import EngineStoppedError, QueueFullError, UsageError
from brimful.formats.json_record import encode_jsonl

PER_PROCESS = max(LEAST_REQUESTS, 32)
"""Requests that a process of the kit may hold: four batches."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with pool_of(tmp_path_factory.mktemp("marks"), "steady-a", "steady-b") as pool:
        yield pool


def results_of(futures):
    return [future.result(PATIENCE_S) for future in futures]


def open_gate(folder) -> None:
    (folder / OPEN).touch()


def fill(pool, count=PER_PROCESS):
    """Submit as many images as a stalled process takes, so that the next ones wait."""
    return [pool.submit(gray(i), client="fill") for i in range(count)]


def test_results_are_those_of_an_engine(pool, tmp_path):
    cv2.imwrite(str(tmp_path / "real.png"), gray(123))
    images = [
        tmp_path / "real.png",
        str(tmp_path / "real.png"),
        (tmp_path / "real.png").read_bytes(),
        gray(7),
        gray(201, 700, 500),
        gray(9)[::2, ::-1],
        gray(80, 300, 300)[:, :, :1],
        Image.fromarray(gray(11)),
        b"torn" * 3000,
        "/nowhere/x.jpg",
    ]
    options = [{}, {"conf": 0.9}, {"classes": [3], "max_det": 1, "iou": 0.5, "priority": 2}]
    with start_marked(tmp_path, device="alone") as engine:
        expected = [engine.submit(i, key="k", **o).result() for i in images for o in options]
    futures = [pool.submit(i, key="k", **o) for i in images for o in options]
    found = results_of(futures)
    assert encode_jsonl(found) == encode_jsonl(expected)
    assert [r.failure for r in found] == [r.failure for r in expected]
    assert {r.failure for r in found} == {None, "image"}
    assert {len(r) for r in found} == {0, 1}, "options had no effect"
    assert pool._shared.used == 0


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (7, {}, "int is no image; expected a path"),
        (np.zeros((4, 4, 3), np.float32), {}, "float32"),
        (gray(1), {"conf": 2.0}, "conf is 2.0; expected 0 to 1"),
        (gray(1), {"classes": [10]}, "the model has 10 classes"),
        (gray(1), {"max_det": 301}, "loaded with max_det=300"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(pool, image, options, message):
    with pytest.raises(UsageError, match=message):
        pool.submit(image, **options)


def test_an_image_larger_than_the_shared_memory_is_its_own_fault(tmp_path):
    with pool_of(tmp_path, "steady", arena_bytes=100_000) as pool:
        large = pool.submit(gray(5, 300, 300)).result(PATIENCE_S)
        assert large.failure == "image" and "270,000 bytes are more than" in large.error
        assert level_of(pool.submit(gray(5, 100, 100)).result(PATIENCE_S)) == 5


def test_the_caller_may_write_to_its_array_at_once(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        futures = []
        for buffer in (gray(0), gray(0, 200, 200)):
            for level in range(40):
                buffer[:] = level
                futures.append(pool.submit(buffer, copy=False))
        open_gate(tmp_path)
        assert [level_of(r) for r in results_of(futures)] == [*range(40), *range(40)]


def test_clients_are_never_pickled(pool):
    class Client:
        def __reduce__(self):
            raise TypeError("cannot be pickled")

    assert level_of(pool.submit(gray(3), client=Client()).result(PATIENCE_S)) == 3
    with pytest.raises(TypeError, match="unhashable"):
        pool.submit(gray(3, 100, 100), client=[])
    assert pool._shared.used == 0


def test_an_image_goes_to_the_process_that_holds_the_fewest(tmp_path):
    with pool_of(tmp_path, "stalled-a", "stalled-b", "stalled-c") as pool:
        futures = [pool.submit(gray(i)) for i in range(24)]
        open_gate(tmp_path)
        assert [level_of(r) for r in results_of(futures)] == list(range(24))
    assert [images_run(tmp_path, f"stalled-{i}") for i in "abc"] == [8, 8, 8]


def test_a_full_queue_refuses_and_keeps_room_for_others(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        futures = []
        with pytest.raises(QueueFullError, match=r"images are waiting; 160 may in all"):
            for i in range(1000):
                futures.append(pool.submit(gray(i % 70), client="greedy", wait=False))
        assert PER_PROCESS < len(futures) < PER_PROCESS + 160
        modest = pool.submit(gray(9), client="modest", wait=False)
        late = pool.submit(gray(1), client="greedy", deadline_ms=20)
        assert late.result(0).failure == "deadline"
        waiting = []
        submitter = threading.Thread(
            target=lambda: waiting.append(pool.submit(gray(8), client="greedy"))
        )
        submitter.start()
        time.sleep(0.1)
        assert not waiting, "it waits for room"
        open_gate(tmp_path)
        submitter.join(PATIENCE_S)
        assert level_of(waiting[0].result(PATIENCE_S)) == 8
        assert level_of(modest.result(PATIENCE_S)) == 9
        assert [level_of(r) for r in results_of(futures)] == [i % 70 for i in range(len(futures))]


def test_pixels_are_bounded_and_no_client_nor_job_takes_all_their_room(tmp_path):
    frame = gray(5, 100, 150)  # 45 kB
    with pool_of(tmp_path, "stalled", arena_bytes=1_000_000) as pool:
        job = pool.stream(Grays(100, dict.fromkeys(range(100), gray(6, 100, 150))))
        rows = []
        consumer = threading.Thread(target=lambda: [rows.extend(r) for r in job])
        consumer.start()
        eventually(lambda: pool._shared.used > 700_000, "the job fills its share")
        futures = []
        with pytest.raises(QueueFullError, match=r"1,000,000 bytes of pixels"):
            for _ in range(100):
                futures.append(pool.submit(frame, client="a", wait=False))
        assert futures and pool._shared.used <= 1_000_000
        open_gate(tmp_path)
        futures += [pool.submit(frame, client="a") for _ in range(50)]
        assert {level_of(r) for r in results_of(futures)} == {5}
        consumer.join(PATIENCE_S)
        assert [level_of(r) for r in rows] == [6] * 100
        assert pool._shared.used == 0


def test_a_deadline_that_passes_while_it_waits(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        first = fill(pool)
        late = pool.submit(gray(1), deadline_ms=1)
        sent = pool.submit(gray(2), deadline_ms=1e6)
        time.sleep(0.01)  # the deadline itself
        open_gate(tmp_path)
        assert late.result(PATIENCE_S).failure == "deadline"
        assert level_of(sent.result(PATIENCE_S)) == 2
        results_of(first)
    assert images_run(tmp_path, "stalled") == PER_PROCESS + 1


def test_a_deadline_goes_with_the_image_to_its_process(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        first = [pool.submit(gray(i)) for i in range(24)]  # on the device, ahead, and in batches
        late = pool.submit(gray(1), deadline_ms=300)
        time.sleep(0.5)  # it is sent, and its deadline passes
        open_gate(tmp_path)
        assert late.result(PATIENCE_S).failure == "deadline"
        results_of(first)


def test_the_newest_image_of_a_camera_replaces_what_waits(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        first = fill(pool)
        camera = [pool.submit(gray(i, 100, 100), client="cam", line="newest") for i in range(5)]
        other = pool.submit(gray(60), client="other", line="newest")
        old = results_of(camera[:4])
        assert [r.failure for r in old] == ["overload"] * 4
        assert "a newer image" in old[0].error
        open_gate(tmp_path)
        assert level_of(camera[4].result(PATIENCE_S)) == 4
        assert level_of(other.result(PATIENCE_S)) == 60
        results_of(first)


def test_a_higher_priority_goes_first(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        done = []
        first = fill(pool)
        low = [pool.submit(gray(1), client="a") for _ in range(10)]
        high = pool.submit(gray(2), client="b", priority=1)
        for name, future in [*(("low", f) for f in low), ("high", high)]:
            future.add_done_callback(lambda _, name=name: done.append(name))
        open_gate(tmp_path)
        results_of([*first, *low, high])
        eventually(lambda: len(done) == 11, "callbacks run")
    assert done[0] == "high"


def test_cancelled_before_it_was_sent_it_is_not_run_and_afterwards_it_is_ignored(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        first = fill(pool)
        waiting = [pool.submit(gray(1, 100, 100)) for _ in range(5)]
        assert all(future.cancel() for future in waiting)
        (member,) = pool._dispatcher._members
        eventually(lambda: not member.outbox, "the others are sent")
        assert first[3].cancel()
        last = pool.submit(gray(2))
        open_gate(tmp_path)
        assert level_of(last.result(PATIENCE_S)) == 2
        assert pool.drain(PATIENCE_S)
        assert first[3].cancelled() and all(future.cancelled() for future in waiting)
        assert [level_of(r) for r in results_of([f for f in first if f is not first[3]])] == [
            i for i in range(PER_PROCESS) if i != 3
        ]
        assert pool._shared.used == 0
    assert images_run(tmp_path, "stalled") == PER_PROCESS + 1


def test_callbacks_run_on_a_thread_of_their_own_and_may_submit(tmp_path):
    names, chain = set(), []
    done = threading.Event()
    with pool_of(tmp_path, "stalled") as pool:

        def again(future):
            names.add(threading.current_thread().name)
            chain.append(future.result())
            if len(chain) == 50:
                done.set()
            elif len(chain) < 50:
                pool.submit(gray(4), client="fill").add_done_callback(again)

        pool.submit(gray(4)).add_done_callback(again)
        full = []
        with pytest.raises(QueueFullError):  # so that the callback waits for room
            while True:
                full.append(pool.submit(gray(1), client="fill", wait=False))
        open_gate(tmp_path)
        assert done.wait(PATIENCE_S)
        results_of(full)
    assert names == {"brimful-delivery"}


def test_beside_a_job_each_gets_its_share(tmp_path):
    with pool_of(tmp_path, "steady-a", "steady-b") as pool:
        endless = pool.predict(Grays(None))
        rows = [next(endless) for _ in range(50)]
        for i in range(30):  # the job never ends: whoever waits for its end waits for ever
            assert level_of(pool.submit(gray(i)).result(PATIENCE_S)) == i
        rows += [next(endless) for _ in range(50)]
        check(rows, 100)
        endless.close()
        stop = threading.Event()

        def flood(client):
            futures = []
            while not stop.is_set():
                futures.append(pool.submit(gray(5), client=client))
            results_of(futures)

        floods = [threading.Thread(target=flood, args=(i,)) for i in range(3)]
        for thread in floods:
            thread.start()
        try:
            check(list(pool.predict(Grays(400))), 400)
        finally:
            stop.set()
            for thread in floods:
                thread.join(PATIENCE_S)


def test_closing_fails_what_is_in_flight_and_who_waits_for_room(tmp_path):
    pool = pool_of(tmp_path, "stalled", arena_bytes=1_000_000)
    futures = [pool.submit(gray(1, 100, 100)) for _ in range(20)]
    raised = []

    def submit_more(shape):
        try:
            while True:
                pool.submit(gray(1, *shape), client=shape)
        except EngineStoppedError as error:
            raised.append(str(error))

    waiting = [threading.Thread(target=submit_more, args=(s,)) for s in ((10, 10), (100, 100))]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)  # they come to wait, one for the queue and one for memory
    pool.close()
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert raised == ["the engine pool was closed"] * 2
    for future in futures:
        with pytest.raises(EngineStoppedError, match="pool was closed"):
            future.result(PATIENCE_S)
    with pytest.raises(EngineStoppedError, match="pool was closed"):
        pool.submit(gray(1))


def test_who_waits_for_room_is_told_when_the_pool_drains(tmp_path):
    with pool_of(tmp_path, "stalled", arena_bytes=1_000_000) as pool:
        raised = []

        def submit_more():
            try:
                while True:
                    pool.submit(gray(1, 100, 100))
            except EngineStoppedError as error:
                raised.append(str(error))

        waiting = threading.Thread(target=submit_more)
        waiting.start()
        eventually(lambda: pool._shared.used > 700_000, "the memory fills")
        time.sleep(0.1)  # it comes to wait
        assert not pool.drain(0.0)
        waiting.join(PATIENCE_S)
        assert raised == ["the engine pool finishes what it has and takes no more"]
        open_gate(tmp_path)
        assert pool.drain(PATIENCE_S)


def test_a_forked_copy_refuses_and_leaves_the_pool_alone(pool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (
                lambda: pool.submit(gray(1)),
                lambda: pool.stream(Grays(1)),
                lambda: pool.warm_up(),
            ):
                with pytest.raises(EngineStoppedError, match="threads do not survive a fork"):
                    call()
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert level_of(pool.submit(gray(6)).result(PATIENCE_S)) == 6


def test_drain_finishes_what_was_taken_and_takes_no_more(tmp_path):
    with pool_of(tmp_path, "stalled-a", "stalled-b") as pool:
        futures = [pool.submit(gray(i)) for i in range(50)]
        source = Grays(None)
        rows, raised = [], []

        def consume():
            try:
                for row in pool.predict(source):
                    rows.append(row)
            except EngineStoppedError as error:
                raised.append(str(error))

        consumer = threading.Thread(target=consume)
        consumer.start()
        eventually(lambda: source.handed_out > 100, "the job runs")
        assert not pool.drain(0.05)
        with pytest.raises(EngineStoppedError, match="takes no more"):
            pool.submit(gray(1))
        with pytest.raises(EngineStoppedError, match="takes no more"):
            pool.stream(Grays(1))
        open_gate(tmp_path)
        assert pool.drain(PATIENCE_S)
        assert all(future.done() for future in futures)
        assert [level_of(r) for r in results_of(futures)] == list(range(50))
        consumer.join(PATIENCE_S)
        assert raised == ["the engine pool finishes what it has and takes no more"]
        assert len(rows) >= 100
        check(rows, len(rows))
        assert source.closed and pool.health == "ok"


def test_a_drained_job_that_was_all_taken_ends_well(tmp_path):
    with pool_of(tmp_path, "stalled") as pool:
        rows = []
        consumer = threading.Thread(target=lambda: rows.extend(pool.predict(Grays(30))))
        consumer.start()
        job = pool._dispatcher.jobs
        eventually(lambda: job._job is not None and job._job.queue.ended, "all of it is taken")
        assert not pool.drain(0.0)
        open_gate(tmp_path)
        assert pool.drain(PATIENCE_S)
        consumer.join(PATIENCE_S)
    check(rows, 30)


def test_every_process_is_warmed_up(tmp_path):
    with pool_of(tmp_path, "steady-a", "steady-b") as pool:
        assert pool.warm_up() == [(64, 64)]
        assert [images_run(tmp_path, f"steady-{i}") for i in "ab"] == [1, 1]
        assert pool.warm_up([]) == []
        assert pool.warm_up([(64, 64), (32, 64)]) == [(64, 64), (32, 64)]
        assert [images_run(tmp_path, f"steady-{i}") for i in "ab"] == [3, 3]
