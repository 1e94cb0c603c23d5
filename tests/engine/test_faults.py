"""Bad images, failed forwards and dead stages: who is hurt, and who is told."""

from __future__ import annotations

import re
import threading

import pytest
from engine_kit import (
    GATED,
    PATIENCE_S,
    Gate,
    ListedSource,
    bad_payloads,
    brimful_threads,
    debug_engine,
    eventually,
    gathered,
    gray,
    jpeg,
    level_of,
)

from brimful.engine.breaker import PROBE_DELAYS_S
from brimful.errors import (
    DeviceFailedError,
    EngineStoppedError,
    ImageError,
    ModelError,
    UsageError,
)
from brimful.runtimes.debug import DebugFaults


def test_bad_images_hurt_only_themselves():
    payloads = []
    for i, bad in enumerate(bad_payloads()):
        payloads += [gray(i), bad]
    with debug_engine() as engine:
        results = list(engine.predict(ListedSource(payloads)))
        assert engine.health == "ok"
    for i in range(0, len(payloads), 2):
        assert level_of(results[i]) == i // 2
        failed = results[i + 1]
        assert failed.error and len(failed) == 0 and failed.image == f"k{i + 1}"
        assert failed.failure == "image"
    reasons = [result.error for result in results[1::2]]
    assert len(set(reasons)) == len(reasons), "each says its own reason"
    assert "neither could this one" in reasons[9]


def test_an_error_of_a_source_that_is_shared_does_not_grow():
    """The same exception object may be the payload of many images."""
    shared = ImageError("the disk is gone")
    with debug_engine(workers=4) as engine:
        results = list(engine.predict(ListedSource([shared] * 200)))
    assert {r.error for r in results} == {"the disk is gone"}
    assert shared.__traceback__ is None


def test_submit_refuses_what_is_no_image():
    with debug_engine() as engine:
        for nonsense in (5, None, object(), [gray(1)]):
            with pytest.raises(UsageError, match="is no image"):
                engine.submit(nonsense)
        assert engine.submit(gray(3)).result(PATIENCE_S).error is None


def filled_batch(engine, gate: Gate, levels: list[int]):
    """Have exactly these images run in one batch, by holding up a first one before."""
    first = engine.submit(gray(0))
    gate.await_waiting()
    futures = [engine.submit(gray(level)) for level in levels]
    eventually(gathered(engine, len(levels)), "the batch is filled")
    gate.open()
    assert level_of(first.result(PATIENCE_S)) == 0
    return [future.result(PATIENCE_S) for future in futures]


def test_a_poison_image_hurts_only_itself():
    gate = Gate()
    faults = DebugFaults(poison_level=13, batch_ms=1)
    with debug_engine(batch=9, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [10, 11, 12, 13, 14, 15, 16, 17])
        assert engine.runtime.batches == [1, 8, *[1] * 8]
    assert [level_of(r) for i, r in enumerate(results) if i != 3] == [10, 11, 12, 14, 15, 16, 17]
    assert "poison" in results[3].error and results[3].failure == "runtime"
    assert (results[3].height, results[3].width) == (24, 32)


def test_a_forward_that_fails_once_is_run_again_singly():
    gate = Gate()
    faults = DebugFaults(fail_forwards=frozenset({2}), batch_ms=1)
    with debug_engine(batch=5, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [20, 21, 22, 23])
        assert engine.runtime.batches == [1, 4, 1, 1, 1, 1]
    assert [level_of(r) for r in results] == [20, 21, 22, 23]


def test_a_forward_that_fails_twice_is_an_error():
    """The third one is of a blank image: it tells that the device works."""
    faults = DebugFaults(fail_forwards=frozenset({1, 2}))
    with debug_engine(faults=faults) as engine:
        failed = engine.submit(gray(1)).result(PATIENCE_S)
        assert "forward 2 was told to fail" in failed.error and failed.failure == "runtime"
        assert engine.runtime.batches == [1, 1, 1]
        assert level_of(engine.submit(gray(2)).result(PATIENCE_S)) == 2


def test_a_device_that_fails_twice_more_and_then_works_is_not_broken():
    faults = DebugFaults(fail_forwards=frozenset({1, 2, 3, 4}))
    with debug_engine(faults=faults) as engine:
        assert engine.submit(gray(1)).result(PATIENCE_S).failure == "runtime"
        assert engine.runtime.batches == [1] * 5
        assert level_of(engine.submit(gray(2)).result(PATIENCE_S)) == 2


def test_a_device_that_fails_the_blank_image_each_time_stops_the_engine():
    faults = DebugFaults(fail_forwards=frozenset(range(2, 99)))
    with debug_engine(faults=faults, batch=4) as engine:
        assert level_of(engine.submit(gray(1)).result(PATIENCE_S)) == 1
        with pytest.raises(DeviceFailedError, match=r"also a blank image: forward 3 was told"):
            engine.submit(gray(1)).result(PATIENCE_S)
        assert engine.runtime.batches == [1, 1, 1, *[1] * len(PROBE_DELAYS_S)]
        assert "blank image" in engine.health
        with pytest.raises(EngineStoppedError, match="blank image"):
            engine.submit(gray(1))


def test_members_that_fail_between_others_that_do_not_need_no_probe():
    """A later forward that succeeds says the same as a blank image."""
    gate = Gate()
    faults = DebugFaults(fail_forwards=frozenset({2, 4}), batch_ms=1)
    with debug_engine(batch=5, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [20, 21, 22, 23])
        assert engine.runtime.batches == [1, 4, 1, 1, 1, 1]
    assert [r.failure for r in results] == [None, "runtime", None, None]
    assert [level_of(r) for i, r in enumerate(results) if i != 1] == [20, 22, 23]


@pytest.mark.parametrize("images", [7, 8, 11, 16])
@pytest.mark.parametrize("fit", [1, 2, 3, 5])
def test_out_of_memory_splits_the_batch(images, fit):
    gate = Gate()
    faults = DebugFaults(memory_images=fit, batch_ms=1)
    with debug_engine(batch=17, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [30 + i for i in range(images)])
        ran = engine.runtime.batches[2:]
    assert [level_of(r) for r in results] == [30 + i for i in range(images)]
    assert max(size for size in ran if size <= fit) > fit / 2, "no smaller than need be"


def test_memory_and_poison_together():
    gate = Gate()
    faults = DebugFaults(memory_images=3, poison_level=44, batch_ms=1)
    with debug_engine(batch=12, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, list(range(40, 51)))
    assert "poison" in results.pop(4).error
    assert [level_of(r) for r in results] == [40, 41, 42, 43, *range(45, 51)]


def test_one_image_that_does_not_fit_is_an_error():
    with debug_engine(faults=DebugFaults(memory_images=0)) as engine:
        failed = engine.submit(gray(1)).result(PATIENCE_S)
        assert "do not fit" in failed.error and failed.failure == "runtime"
        assert engine.runtime.batches == [1], "a blank image would tell nothing"


def test_a_hung_forward_fails_everything_in_flight():
    gate = Gate()
    engine = debug_engine(faults=GATED, sleep=gate, stall_s=0.2, batch=2, workers=2)
    futures = [engine.submit(gray(i)) for i in range(20)]
    for future in futures:
        with pytest.raises(EngineStoppedError, match=r"clock stage died.*has not ended"):
            future.result(PATIENCE_S)
    assert "has not ended" in engine.health
    with pytest.raises(EngineStoppedError):
        list(engine.predict([gray(1)]))
    gate.open()
    engine.close()


def test_a_retry_that_hangs_fails_everything_in_flight():
    gate = Gate()
    faults = DebugFaults(fail_forwards=frozenset({1}), batch_ms=1)
    engine = debug_engine(faults=faults, sleep=gate, stall_s=0.2)
    with pytest.raises(EngineStoppedError, match=r"retry stage died.*did not end"):
        engine.submit(gray(1)).result(PATIENCE_S)
    gate.open()
    engine.close()


class Bomb:
    """Goes off once, in the method it is put before, after it was armed."""

    def __init__(self, owner, name: str, kind: type[Exception] = ZeroDivisionError) -> None:
        self.armed = threading.Event()
        self.kind = kind
        self._inner = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *arguments, **keywords):
        if self.armed.is_set():
            self.armed.clear()
            raise self.kind("boom")
        return self._inner(*arguments, **keywords)


STAGES = {
    "allocate": ("decode", lambda e: Bomb(e.runtime, "allocate")),
    "written": ("decode", lambda e: Bomb(e._lifecycle.pipeline.scheduler, "written")),
    "submit": ("forward", lambda e: Bomb(e.runtime, "submit")),
    "landed": ("forward", lambda e: Bomb(e._lifecycle.pipeline.costs, "observe")),
    "postprocess": (
        "postprocess",
        lambda e: Bomb(e._lifecycle.pipeline, "_postprocess", ModelError),
    ),
    "clock": ("clock", lambda e: Bomb(e._lifecycle.pipeline.scheduler, "await_due")),
}


@pytest.mark.parametrize("policy", ["stop", "restart"])
@pytest.mark.parametrize("where", STAGES)
def test_when_a_stage_dies_everything_in_flight_fails(where, policy):
    stage, plant = STAGES[where]
    gate = Gate()
    before = brimful_threads()
    engine = debug_engine(
        faults=GATED, sleep=gate, batch=4, workers=2, canvas="exact", on_stage_death=policy
    )
    bomb = plant(engine)
    futures = [engine.submit(gray(0))]
    gate.await_waiting()
    job_errors: list[str] = []

    def job() -> None:
        try:
            list(engine.predict([gray(1)] * 4))
        except EngineStoppedError as error:
            job_errors.append(str(error))

    consumer = threading.Thread(target=job)
    consumer.start()
    eventually(lambda: engine.load().live == 5, "all of the job is in flight")
    bomb.armed.set()
    for size in range(10, 18):
        try:
            futures.append(engine.submit(gray(2, size, 50)))
        except EngineStoppedError:
            break  # it is dead already
    if where in ("landed", "postprocess", "submit"):
        gate.open(1)
    consumer.join(PATIENCE_S)
    assert not consumer.is_alive()
    assert len(job_errors) == 1 and "boom" in job_errors[0]
    if policy == "restart":
        # At once: who learns of the failure may rely on the restart.
        assert engine.health == "ok"
        gate.open()
        assert level_of(engine.submit(gray(7)).result(PATIENCE_S)) == 7
        assert engine.restarts == 1
        results = list(engine.predict([gray(i) for i in range(40)]))
        assert [level_of(r) for r in results] == list(range(40))
    else:
        assert stage in engine.health and "boom" in engine.health
        with pytest.raises(EngineStoppedError, match="boom"):
            list(engine.predict([gray(1)]))
        with pytest.raises(EngineStoppedError, match="boom"):
            engine.submit(gray(1))
        assert engine.restarts == 0
        gate.open()
    errors = [future.exception(PATIENCE_S) for future in futures]
    if where == "submit" and errors[0] is None:
        errors.pop(0)  # its forward had landed before the next one was started
    if policy == "restart":
        errors = [error for error in errors if error is not None]  # submitted afterwards
    assert errors
    for error in errors:
        assert isinstance(error, EngineStoppedError)
        assert re.search(f"the {stage}.* stage died.*boom", str(error))
        assert isinstance(error.__cause__, bomb.kind)
    engine.close()
    assert brimful_threads() <= before


def test_a_callback_that_raises_costs_nobody_an_answer(caplog):
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=2) as engine:
        raised: list[type] = []

        def leave(kind: type[BaseException]) -> None:
            raised.append(kind)
            raise kind("a caller's own affair")

        kinds = [SystemExit, KeyboardInterrupt, ValueError] * 3
        futures = [engine.submit(gray(i)) for i in range(len(kinds))]
        gate.await_waiting()
        for future, kind in zip(futures, kinds, strict=True):
            future.add_done_callback(lambda _, kind=kind: leave(kind))
        gate.open()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(len(kinds)))
        eventually(lambda: len(raised) == len(kinds), "every callback has run")
        assert engine.health == "ok"
        assert level_of(engine.submit(gray(7)).result(PATIENCE_S)) == 7
    assert caplog.text.count("a callback of a result raised") == len(kinds)


def test_cancelled_futures_disturb_nobody_and_are_not_run():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=13, max_delay_ms=1e6) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        futures = [engine.submit(gray(i)) for i in range(12)]
        eventually(gathered(engine, 12), "all are in a batch")
        assert futures[3].cancel() and futures[7].cancel()
        gate.open()
        left = [i for i in range(12) if i not in (3, 7)]
        assert [level_of(futures[i].result(PATIENCE_S)) for i in left] == left
        assert level_of(first.result(PATIENCE_S)) == 0
        assert engine.runtime.batches == [1, 10]
        assert engine.health == "ok"


@pytest.mark.parametrize("make", [gray, jpeg])
def test_a_poison_image_alone_is_no_broken_device(make):
    """The image of the probe is a blank one, in the slot of the one that failed."""
    faults = DebugFaults(poison_level=13)
    with debug_engine(batch=1, encoded="decode", faults=faults) as engine:
        assert engine.submit(make(13)).result(PATIENCE_S).failure == "runtime"
        assert engine.runtime.batches == [1, 1, 1]
        assert level_of(engine.submit(make(14)).result(PATIENCE_S)) == 14
