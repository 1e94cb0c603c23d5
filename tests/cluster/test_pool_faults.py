"""Engine processes that die, hang or never start: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import functools
import os
import signal
import threading

import psutil
import pytest
from cluster_kit import (
    DEADLY,
    Grays,
    check,
    eventually,
    gray,
    images_run,
    is_gone,
    level_of,
    pool_of,
    start_or_raise,
)

from brimful.cluster.pool import EnginePool
from brimful.errors import DeviceFailedError, EngineStoppedError, MissingExtraError, ModelError

TWICE = "its engine process died twice"


def children() -> set[int]:
    """Return the engine processes of this one, without Python's own helper processes."""
    found = psutil.Process().children(recursive=True)
    return {p.pid for p in found if "spawn_main" in " ".join(p.cmdline())}


def test_a_killed_process_loses_no_image(tmp_path, caplog):
    results = []
    with pool_of(tmp_path, "steady-a", "steady-b") as pool:
        for result in pool.predict(Grays(1600)):
            results.append(result)
            if len(results) == 300:
                os.kill(pool.pids[0], signal.SIGKILL)
        assert pool.health == "steady-a: killed by SIGKILL (out of memory?)"
        check(results, 1600)
        assert "the engine process of steady-a died" in caplog.text
        assert images_run(tmp_path, "steady-a") < 1600
        check(list(pool.predict(Grays(100))), 100)  # the one that is left goes on
        assert [use.workers for use in pool.report().stages if use.name == "decode"] == [1]


def test_a_process_killed_while_it_holds_the_head_of_the_line(tmp_path):
    with pool_of(tmp_path, "stalled", "steady") as pool:

        def kill_when_others_are_ahead():
            eventually(lambda: images_run(tmp_path, "steady") > 1000, "the others go on")
            os.kill(pool.pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_when_others_are_ahead)
        killer.start()
        check(list(pool.predict(Grays(2000))), 2000)
        killer.join()
        assert "SIGKILL" in pool.health
    assert images_run(tmp_path, "stalled") == 0


def test_images_in_memory_outlive_the_process_that_held_them(tmp_path):
    frames = {i: gray(i % 70, 100, 150) for i in range(400)}
    with pool_of(tmp_path, "stalled", "steady", arena_bytes=2_000_000) as pool:

        def kill_when_the_memory_is_full():
            # The stalled one holds the head of the line, so nothing can be given back.
            eventually(lambda: images_run(tmp_path, "steady") >= 40, "the others go on")
            os.kill(pool.pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_when_the_memory_is_full)
        killer.start()
        check(list(pool.predict(Grays(400, frames))), 400)
        killer.join()
        assert "SIGKILL" in pool.health and pool._shared.used == 0
    assert images_run(tmp_path, "stalled") == 0


def test_an_image_that_kills_two_processes_gets_an_error_and_the_rest_results(tmp_path, caplog):
    with pool_of(tmp_path, "fragile-a", "fragile-b", "fragile-c") as pool:
        results = list(pool.predict(Grays(600, {300: gray(DEADLY)})))
        check(results, 600, but={300})
        assert results[300].error == f"{TWICE}: killed by SIGKILL (out of memory?)"
        assert len(pool.health.split(";")) == 2, "the third goes on"
        lines = b"".join(piece.lines for piece in pool.stream_encoded(Grays(50)))
        assert lines.count(b'"error":null') == 50
    assert caplog.text.count("died") == 2


def test_two_deadly_images_and_enough_processes(tmp_path):
    with pool_of(tmp_path, *(f"fragile-{i}" for i in range(5))) as pool:
        results = list(pool.predict(Grays(400, {3: gray(DEADLY), 350: gray(DEADLY)})))
    check(results, 400, but={3, 350})
    assert [r.index for r in results if r.error] == [3, 350]
    assert all(TWICE in r.error for r in results if r.error)


def test_when_every_process_died_the_job_fails_and_says_why(tmp_path):
    results = []
    with pool_of(tmp_path, "fragile-a", "fragile-b") as pool:
        with pytest.raises(EngineStoppedError, match="every engine process died") as raised:
            for result in pool.predict(Grays(600, {300: gray(DEADLY)})):
                results.append(result)
        for device in ("fragile-a", "fragile-b"):
            assert f"{device}: killed by SIGKILL" in str(raised.value)
        assert raised.value.exit_code == 1
        # What came is whole, in order, and goes past the image that did it: so --resume does.
        assert len(results) > 300
        check(results, len(results), but={300})
        assert TWICE in results[300].error
        with pytest.raises(EngineStoppedError, match="every engine process died"):
            next(pool.stream(Grays(1)))


def test_a_broken_device_is_taken_out_and_its_work_goes_to_the_others(tmp_path, caplog):
    with pool_of(tmp_path, "broken", "steady-a", "steady-b") as pool:
        results = list(pool.predict(Grays(1500)))
        check(results, 1500)
        assert all(result.error is None for result in results)
        assert "broken: the device fails whatever it is given" in pool.health
        assert "the device is lost" in pool.health
        check(list(pool.predict(Grays(100))), 100)
    assert caplog.text.count("died") == 1


def test_when_every_device_is_broken_the_job_fails_without_an_error_row(tmp_path):
    results = []
    with (
        pool_of(tmp_path, "broken-a", "broken-b") as pool,
        pytest.raises(DeviceFailedError, match=r"every device fails: broken-a: .*broken-b: "),
    ):
        for result in pool.predict(Grays(2000)):
            results.append(result)
    check(results, len(results))
    assert len(results) < 300


def test_an_engine_that_hangs_is_a_process_that_died(tmp_path, caplog):
    with pool_of(tmp_path, "sick", "steady") as pool:
        check(list(pool.predict(Grays(800))), 800)
        assert "a forward has not ended" in pool.health
        eventually(lambda: is_gone(pool.pids[0]), "the sick process ends")
    assert "sick died: EngineStoppedError" in caplog.text


@pytest.mark.parametrize("order", [0, 1])
def test_an_error_while_loading_ends_the_start(tmp_path, order):
    def start(*devices):
        EnginePool(functools.partial(start_or_raise, tmp_path / "marks"), devices)

    before = children()
    with pytest.raises(ModelError, match=r"^there is no model file x.pt$") as raised:
        start(*("steady", "no-model")[:: -1 if order else 1])
    assert raised.value.exit_code == 4
    if order:
        assert children() == before
        return
    with pytest.raises(MissingExtraError, match="pip install") as missing:
        start("no-extra", "steady")
    assert missing.value.exit_code == 2 and missing.value.extra == "video"
    with pytest.raises(EngineStoppedError, match="engine of bug did not start: KeyError: 'a bug'"):
        start("bug")
    with pytest.raises(EngineStoppedError, match="exits ended while it loaded: exit status 7"):
        start("steady", "exits")
    assert children() == before


def test_the_first_loads_alone_where_it_fills_the_cache(tmp_path):
    marks = tmp_path / "marks"
    devices = ["steady-a", "steady-b", "steady-c"]
    with EnginePool(functools.partial(start_or_raise, marks), devices, first_alone=True) as pool:
        check(list(pool.predict(Grays(30))), 30)
    lines = marks.read_text().splitlines()
    assert lines[:2] == ["begin steady-a", "end steady-a"]
    assert len(lines) == 6


def test_level_of_reads_what_was_drawn(tmp_path):
    """The check itself: a neighbour's result would not pass it."""
    with pool_of(tmp_path, "steady") as pool:
        (result,) = pool.predict(Grays(1, {0: gray(42)}))
    assert level_of(result) == 42
    with pytest.raises(AssertionError):
        check([result], 1)
