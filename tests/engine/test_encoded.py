"""Images that the device decodes: the same results as from pixels, and the same guarantees."""

from __future__ import annotations

import random

import pytest
from engine_kit import (
    PATIENCE_S,
    Gate,
    ListedSource,
    bad_payloads,
    damaged_jpeg,
    debug_engine,
    eventually,
    gathered,
    gray,
    jpeg,
    level_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.runtimes.debug import DebugFaults, DebugRuntime, DebugSlot
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import read_encoded


def encoded_slot(levels: list[int]) -> tuple[DebugRuntime, DebugSlot]:
    """Return a runtime that decodes, and a slot with a JPEG of each level."""
    runtime = DebugRuntime(encoded="decode")
    slot = runtime.allocate((64, 64), capacity=len(levels))
    for position, level in enumerate(levels):
        put(slot, position, jpeg(level))
    return runtime, slot


def put(slot: DebugSlot, position: int, data: bytes) -> None:
    encoded = read_encoded(data)
    geometry = CanvasPolicy(mode="square", imgsz=(64, 64)).place(encoded.header.size)
    slot.put(position, encoded, geometry)


def levels_in(runtime: DebugRuntime, slot: DebugSlot, count: int) -> list[int]:
    """Return what a forward sees of the first images."""
    rows = runtime._forward(slot, count, None).rows
    return [round((float(score) - 0.5) * 2 * 255) for score in rows.confidence]


def test_jpegs_reach_the_slot_encoded_and_everything_else_as_pixels():
    seen: list[object] = []
    with debug_engine(encoded="decode", batch=4, workers=1) as engine:
        write = engine._lifecycle.preprocess.write

        def noted(image, geometry, slot, position) -> None:
            seen.append(type(image).__name__)
            write(image, geometry, slot, position)

        engine._lifecycle.preprocess.write = noted
        payloads = [jpeg(10), gray(20), jpeg(30)]
        results = list(engine.predict(ListedSource(payloads)))
    assert [level_of(r) for r in results] == [10, 20, 30]
    assert seen == ["Encoded", "ndarray", "Encoded"]


def test_results_are_those_of_pixels():
    sizes = [(24, 32), (32, 24), (90, 30), (64, 64), (17, 80)]
    payloads = [jpeg(i * 3 % 256, *sizes[i % 5]) for i in range(120)]
    found = {}
    for mode in (None, "decode"):
        with debug_engine(encoded=mode, canvas="auto", imgsz=160, batch=5, workers=3) as engine:
            found[mode] = list(engine.predict(payloads))
    for one, other in zip(found[None], found["decode"], strict=True):
        assert one.to_json_record() == other.to_json_record()
    assert [level_of(r) for r in found["decode"]] == [i * 3 % 256 for i in range(120)]


def test_an_image_that_the_device_cannot_decode_hurts_only_itself():
    gate = Gate()
    levels: list[int | None] = [10, 20, None, 40, 50, None, 70, 80]
    faults = DebugFaults(batch_ms=1)
    with debug_engine(
        encoded="decode", batch=9, faults=faults, sleep=gate, max_delay_ms=1e6
    ) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        futures = [
            engine.submit(damaged_jpeg(i) if level is None else jpeg(level), key=f"k{i}")
            for i, level in enumerate(levels)
        ]
        eventually(gathered(engine, 8), "all are in a batch")
        gate.open()
        assert level_of(first.result(PATIENCE_S)) == 0
        results = [future.result(PATIENCE_S) for future in futures]
        assert engine.runtime.batches == [1, 8], "nothing was run again"
    for i, (level, result) in enumerate(zip(levels, results, strict=True)):
        assert result.image == f"k{i}"
        if level is None:
            assert "JPEG" in result.error and len(result) == 0
            assert result.failure == "image"
            assert (result.height, result.width) == (64, 64)
        else:
            assert level_of(result) == level


@pytest.mark.parametrize(("poison", "memory"), [(44, None), (None, 3), (44, 3), (44, 1)])
def test_a_failed_forward_is_retried_with_encoded_images(poison, memory):
    gate = Gate()
    faults = DebugFaults(poison_level=poison, memory_images=memory, batch_ms=1)
    mixed = [jpeg(level) if level % 3 else gray(level) for level in range(40, 51)]
    with debug_engine(
        encoded="decode", batch=12, faults=faults, sleep=gate, max_delay_ms=1e6
    ) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        futures = [engine.submit(image) for image in mixed]
        eventually(gathered(engine, 11), "all are in a batch")
        gate.open()
        assert level_of(first.result(PATIENCE_S)) == 0
        results = [future.result(PATIENCE_S) for future in futures]
    for level, result in zip(range(40, 51), results, strict=True):
        if level == poison:
            assert "poison" in result.error and result.failure == "runtime"
        else:
            assert level_of(result) == level


def test_a_slot_does_not_remember_what_was_encoded_in_it():
    with debug_engine(encoded="decode", batch=1, workers=1) as engine:
        for level in range(0, 60, 2):
            assert level_of(engine.submit(jpeg(level)).result(PATIENCE_S)) == level
            assert level_of(engine.submit(gray(level + 1)).result(PATIENCE_S)) == level + 1


def test_keep_moves_encoded_images_and_rows_alike():
    runtime, slot = encoded_slot([1, 2, 3, 4, 5, 6])
    slot.inputs[3:5] = 0
    del slot.encoded[3], slot.encoded[4]
    slot.inputs[3], slot.inputs[4] = 40, 50  # two of them are pixels
    assert levels_in(runtime, slot, 6) == [1, 2, 3, 40, 50, 6]
    slot.keep(range(2))
    assert levels_in(runtime, slot, 2) == [1, 2]
    slot.keep(range(2, 4))
    assert levels_in(runtime, slot, 2) == [3, 40]
    slot.keep(range(4, 6))
    assert levels_in(runtime, slot, 2) == [50, 6]
    runtime.close()


@pytest.mark.parametrize(
    ("positions", "levels"),
    [
        (range(2, 4), [3, 40]),
        (range(4, 6), [50, 6]),
        ([0, 2, 5], [1, 3, 6]),
        ([1, 3, 4], [2, 40, 50]),
        ([3, 5], [40, 6]),
        (range(6), [1, 2, 3, 40, 50, 6]),
    ],
)
def test_only_the_images_that_are_kept_are_seen(positions, levels):
    runtime, slot = encoded_slot([1, 2, 3, 4, 5, 6])
    for position in (3, 4):  # two of them are pixels
        del slot.encoded[position]
        slot.inputs[position] = position * 10 + 10
    slot.keep(positions)
    assert levels_in(runtime, slot, len(levels)) == levels
    runtime.close()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), batch=st.integers(1, 12))
def test_every_image_has_exactly_one_result(seed, workers, batch):
    random_ = random.Random(seed)
    bad = bad_payloads()
    payloads: list = []
    expected: list[int | None] = []
    for _ in range(random_.randint(0, 120)):
        level = random_.randrange(256)
        size = random_.choice([(24, 32), (60, 20), (20, 60)])
        kind = random_.randrange(5)
        payload = [jpeg(level, *size), gray(level, *size), random_.choice(bad)][kind % 3]
        if kind == 3:
            payload = damaged_jpeg(level)
        payloads.append(payload)
        expected.append(level if kind in (0, 1, 4) else None)
    faults = DebugFaults(memory_images=random_.choice([None, 2]))
    with debug_engine(
        encoded="decode",
        canvas="auto",
        imgsz=160,
        batch=batch,
        workers=workers,
        concurrency=2,
        queue=random_.choice([1, 7, 200]),
        faults=faults,
    ) as engine:
        results = list(engine.predict(ListedSource(payloads)))
    assert [r.index for r in results] == list(range(len(payloads)))
    for level, result in zip(expected, results, strict=True):
        if level is None:
            assert result.error is not None and result.failure == "image"
        else:
            assert level_of(result) == level


def test_a_device_that_looks_at_nothing_says_so_for_every_image():
    with debug_engine(encoded="ignore", batch=16, canvas="auto", imgsz=160) as engine:
        results = list(engine.predict([jpeg(i, 24, 32) for i in range(50)]))
    assert {len(r) for r in results} == {9}
    assert all(r.error is None for r in results)
    assert max(float(r.boxes.max()) for r in results) <= 32


def test_a_slot_is_told_where_an_image_written_as_pixels_lies(monkeypatch):
    told = []

    def noted(self, position, geometry) -> None:
        told.append((geometry.image, int(self.inputs[position].max())))

    monkeypatch.setattr(DebugSlot, "place", noted)
    with debug_engine(encoded="decode", batch=2, workers=1) as engine:
        list(engine.predict(ListedSource([gray(120, 20, 30), jpeg(10), gray(200, 64, 40)])))
    # after its pixels are there; and what goes encoded is told by `put`
    assert sorted(told) == [((20, 30), 120), ((64, 40), 200)]
