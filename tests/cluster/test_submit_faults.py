"""Submitted images whose processes crash, or whose devices break."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from cluster_kit import (
    DEADLY,
    OPEN,
    PATIENCE_S,
    Grays,
    check,
    eventually,
    gray,
    images_run,
    level_of,
    pool_of,
)

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.errors import DeviceFailedError, EngineStoppedError, UsageError
from brimful.runtimes.debug import DebugFaults, DebugRuntime

TWICE = "its engine process died twice: killed by SIGKILL (out of memory?)"


def results_of(futures):
    return [future.result(PATIENCE_S) for future in futures]


def test_a_killed_process_loses_no_submitted_image(tmp_path):
    with pool_of(tmp_path, "stalled", "steady") as pool:
        futures = [pool.submit(gray(i % 70, 100, 100)) for i in range(100)]
        os.kill(pool.pids[0], signal.SIGKILL)
        assert [level_of(r) for r in results_of(futures)] == [i % 70 for i in range(100)]
        assert "stalled: killed by SIGKILL" in pool.health
        assert pool._shared.used == 0
    assert images_run(tmp_path, "stalled") == 0
    assert images_run(tmp_path, "steady") == 100


def test_only_the_image_with_which_two_processes_crash_gets_an_error(tmp_path):
    with pool_of(tmp_path, "fragile-a", "fragile-b", "fragile-c") as pool:
        levels = [*range(30), DEADLY, *range(30)]
        results = results_of([pool.submit(gray(level)) for level in levels])
        assert results[30].failure == "runtime" and results[30].error == TWICE
        for level, result in zip(levels, results, strict=True):
            assert level == DEADLY or level_of(result) == level
        assert pool.health.count("SIGKILL") == 2, "the third goes on"
        assert level_of(pool.submit(gray(9)).result(PATIENCE_S)) == 9


def test_a_deadly_submitted_image_costs_a_job_beside_it_nothing(tmp_path):
    with pool_of(tmp_path, "fragile-a", "fragile-b", "fragile-c") as pool:
        rows = []
        consumer = threading.Thread(target=lambda: rows.extend(pool.predict(Grays(3000))))
        consumer.start()
        eventually(lambda: len(rows) > 100, "the job runs")
        good = [pool.submit(gray(i)) for i in range(20)]
        deadly = pool.submit(gray(DEADLY), client="other")
        good += [pool.submit(gray(i)) for i in range(20)]
        assert deadly.result(PATIENCE_S).error == TWICE
        assert [level_of(r) for r in results_of(good)] == [*range(20), *range(20)]
        consumer.join(PATIENCE_S)
        check(rows, 3000)
        assert pool.health.count("SIGKILL") == 2


def test_deadly_images_of_a_job_and_of_a_client_are_told_apart(tmp_path):
    with pool_of(tmp_path, *(f"fragile-{i}" for i in range(5))) as pool:
        rows = []
        source = Grays(600, {5: gray(DEADLY)})
        consumer = threading.Thread(target=lambda: rows.extend(pool.predict(source)))
        consumer.start()
        levels = [*range(10), DEADLY, *range(10)]
        results = results_of([pool.submit(gray(level)) for level in levels])
        consumer.join(PATIENCE_S)
        assert [r.failure for r in results] == [None] * 10 + ["runtime"] + [None] * 10
        check(rows, 600, but={5})
        assert rows[5].failure == "runtime"
        assert 2 <= pool.health.count("SIGKILL") <= 4


def test_a_broken_device_is_no_fault_of_its_images(tmp_path):
    with pool_of(tmp_path, "broken", "steady") as pool:
        futures = [pool.submit(gray(i % 70, 100, 100)) for i in range(400)]
        assert [level_of(r) for r in results_of(futures)] == [i % 70 for i in range(400)]
        assert "broken: the device fails whatever it is given" in pool.health
        assert pool._shared.used == 0
    assert images_run(tmp_path, "broken") > 0


def test_images_of_one_broken_device_after_the_other_have_their_results(tmp_path):
    with pool_of(tmp_path, "gated-a", "gated-b", "gated-c") as pool:
        futures = [pool.submit(gray(i)) for i in range(9)]
        for dead, device in enumerate(("gated-a", "gated-b"), 1):
            (tmp_path / f"{device}.break").touch()
            eventually(lambda: pool.health.count("fails") == dead, "it is taken out")  # noqa: B023
        (tmp_path / "gated-c.open").touch()
        assert [level_of(r) for r in results_of(futures)] == list(range(9))
    assert images_run(tmp_path, "gated-c") >= 9


def test_a_suspect_whose_next_device_is_broken_is_not_convicted(tmp_path):
    with pool_of(tmp_path, "gated-a", "gated-b", "gated-c") as pool:
        future = pool.submit(gray(42))
        os.kill(pool.pids[0], signal.SIGKILL)
        eventually(lambda: "gated-a: killed" in pool.health, "it is a suspect")
        (tmp_path / "gated-b.break").touch()
        (tmp_path / "gated-c.open").touch()
        assert level_of(future.result(PATIENCE_S)) == 42
        assert "gated-b: the device fails" in pool.health


def test_deadly_images_among_many_convict_no_other_image(tmp_path):
    with pool_of(tmp_path, *(f"fragile-{i}" for i in range(7))) as pool:
        levels = [DEADLY if i in (20, 60, 61) else i % 70 for i in range(150)]
        futures = [pool.submit(gray(level), client=i % 4) for i, level in enumerate(levels)]
        for level, result in zip(levels, results_of(futures), strict=True):
            if level == DEADLY:
                assert result.failure == "runtime"
            else:
                assert level_of(result) == level
        assert pool.health.count("SIGKILL") <= 6


def test_when_every_device_is_broken_the_futures_and_the_next_callers_are_told(tmp_path):
    with pool_of(tmp_path, "broken-a", "broken-b") as pool:
        futures, refused = [], None
        try:
            for i in range(10_000):
                futures.append(pool.submit(gray(i % 70)))
        except DeviceFailedError as error:
            refused = error
        assert "every device fails: broken-a: " in str(refused)
        outcomes = [future.exception(PATIENCE_S) for future in futures]
        assert {type(error) for error in outcomes} == {type(None), DeviceFailedError}
        for i, future in enumerate(futures):
            assert outcomes[i] is not None or level_of(future.result()) == i % 70
        for call in (lambda: pool.submit(gray(1)), lambda: pool.stream(Grays(1)), pool.warm_up):
            with pytest.raises(DeviceFailedError, match="every device fails"):
                call()


def test_the_last_process_says_whether_the_device_or_a_crash_ended_the_job(tmp_path):
    with pool_of(tmp_path, "stalled", "broken") as pool:
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(DeviceFailedError, match=r"died: stalled: killed .*; broken: the dev"):
            list(pool.predict(Grays(2000)))
    (tmp_path / OPEN).touch()
    with pool_of(tmp_path, "broken", "stalled") as pool:
        with pytest.raises(EngineStoppedError, match="died: broken: the device") as raised:
            for row in pool.predict(Grays(None)):
                assert row.error is None
                if "broken" in pool.health:
                    os.kill(pool.pids[1], signal.SIGKILL)
        assert not isinstance(raised.value, DeviceFailedError)


def test_a_device_that_breaks_while_it_warms_up(tmp_path):
    with (
        pool_of(tmp_path, "broken") as pool,
        pytest.raises(DeviceFailedError, match="the device is lost"),
    ):
        for _ in range(50):
            pool.warm_up()


def test_what_a_process_cannot_warm_up_is_told_and_costs_nothing_else(tmp_path):
    with pool_of(tmp_path, "steady") as pool:
        with pytest.raises(UsageError, match=r"expected a uint8 array .*; got uint8 \(0, 0, 3\)"):
            pool.warm_up([(0, 0)])
        assert pool.health == "ok" and pool.warm_up() == [(64, 64)]


def test_an_engine_that_its_device_stopped_says_so_to_late_comers():
    """A process tells by the class of this error whether its images are suspects."""
    faults = DebugFaults(fail_forwards=frozenset(range(1, 100)))
    with Engine(DebugRuntime(faults=faults), EngineConfig(imgsz=64, canvas="square")) as engine:
        with pytest.raises(DeviceFailedError):
            engine.submit(gray(1)).result(PATIENCE_S)
        with pytest.raises(DeviceFailedError, match="the device fails whatever it is given"):
            engine.submit(gray(1))
        with pytest.raises(DeviceFailedError):
            list(engine.predict([gray(1)]))
