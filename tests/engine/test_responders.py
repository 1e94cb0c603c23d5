"""Responders: each is told of its own requests, once, whatever the others do."""

from __future__ import annotations

import threading

import pytest
from engine_kit import GATED, PATIENCE_S, Gate, eventually, gray, level_of
from pipeline_kit import Harness

from brimful.detections import Detections
from brimful.errors import EngineStoppedError


class Recorder:
    """A responder that notes what it is told, and may raise or do something first."""

    def __init__(self, *, before=None, before_fail=None) -> None:
        self.told: dict[int, Detections] = {}
        self.failed: dict[int, Exception] = {}
        self.calls = 0
        self._before = before
        self._before_fail = before_fail

    def wanted(self, request) -> bool:
        return True

    def settle(self, requests, results) -> None:
        self.calls += 1
        if self._before is not None:
            self._before()
        for request, result in zip(requests, results, strict=True):
            assert self._is_new(request.number)
            self.told[request.number] = result

    def fail(self, requests, error) -> None:
        if self._before_fail is not None:
            self._before_fail()
        for request in requests:
            assert self._is_new(request.number)
            self.failed[request.number] = error

    def _is_new(self, number: int) -> bool:
        return number not in self.told and number not in self.failed


def leave() -> None:
    raise SystemExit


def run_in_one_batch(harness: Harness, gate: Gate, responders: list[Recorder]) -> None:
    """Have two images of each responder in a batch on the device, and two more in the next."""
    first = harness.submit(gray(0), source="first")
    gate.await_waiting()
    for responder in responders:
        harness.admit([gray(10), gray(11)], responder)
    eventually(lambda: harness.load().running == 2, "the full batch waits behind the first")
    for responder in responders:
        harness.admit([gray(12), gray(13)], Shifted(responder))
    gate.open(1)
    assert level_of(first.result(PATIENCE_S)) == 0
    eventually(lambda: harness.load().running == 2, "the next full batch waits behind that")


class Shifted:
    """Another responder, which passes on to one what it is told, with other numbers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def wanted(self, request) -> bool:
        return True

    def settle(self, requests, results) -> None:
        for request in requests:
            request.number += 2
        self._recorder.settle(requests, results)

    def fail(self, requests, error) -> None:
        for request in requests:
            request.number += 2
        self._recorder.fail(requests, error)


def harness_of(gate: Gate, images: int) -> Harness:
    return Harness(slots=2, workers=2, batch=images, faults=GATED, sleep=gate, canvas="square")


def test_results_go_to_their_responders():
    gate = Gate()
    responders = [Recorder() for _ in range(3)]
    with harness_of(gate, 6) as harness:
        run_in_one_batch(harness, gate, responders)
        gate.open()
        eventually(lambda: harness.load().live == 0, "all are settled")
        eventually(lambda: all(len(r.told) == 4 for r in responders), "all are told")
    for responder in responders:
        found = {number: level_of(result) for number, result in responder.told.items()}
        assert found == {0: 10, 1: 11, 2: 12, 3: 13}
        assert not responder.failed
        assert responder.calls == 2, "one call for a batch"


def test_one_that_raises_costs_the_others_no_answer():
    """Those in its batch get their results; the stage dies, and what remains fails."""
    gate = Gate()
    responders = [Recorder(), Recorder(before=leave), Recorder(), Recorder()]
    with harness_of(gate, 8) as harness:
        run_in_one_batch(harness, gate, responders)
        gate.open()
        eventually(lambda: all(2 in r.failed and 3 in r.failed for r in responders), "all failed")
        assert "SystemExit" in str(harness.pipeline.error)
    for responder in (responders[0], *responders[2:]):
        assert {n: level_of(result) for n, result in responder.told.items()} == {0: 10, 1: 11}
        assert sorted(responder.failed) == [2, 3]
        assert all(isinstance(e, EngineStoppedError) for e in responder.failed.values())
    assert not responders[1].told


def test_a_stop_while_one_is_told_tells_nobody_twice():
    gate = Gate()
    told, stopped = threading.Event(), threading.Event()

    def hold() -> None:
        told.set()
        assert stopped.wait(PATIENCE_S)

    responders = [Recorder(), Recorder(before=hold), Recorder()]
    with harness_of(gate, 6) as harness:
        run_in_one_batch(harness, gate, responders)
        gate.open()
        assert told.wait(PATIENCE_S)
        harness.pipeline.stop(EngineStoppedError("over"))
        stopped.set()
    for responder in responders:
        assert {n: level_of(result) for n, result in responder.told.items()} == {0: 10, 1: 11}
        assert {n: str(error) for n, error in responder.failed.items()} == {2: "over", 3: "over"}


def test_one_that_raises_when_it_is_failed_costs_the_others_no_failure():
    gate = Gate()
    responders = [Recorder(), Recorder(before_fail=leave), Recorder()]
    harness = harness_of(gate, 6)
    run_in_one_batch(harness, gate, responders)
    with pytest.raises(SystemExit):
        harness.pipeline.stop(EngineStoppedError("over"))
    gate.open()
    with harness:
        pass
    for responder in (responders[0], responders[2]):
        assert sorted([*responder.told, *responder.failed]) == [0, 1, 2, 3]
    assert not responders[1].failed
