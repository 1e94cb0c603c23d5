"""Frames that go to the device as FFmpeg left them: the results and the guarantees of pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_kit import ListedSource, gray, jpeg, level_of

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.engine.preprocess import HostPreprocess
from brimful.errors import ImageError
from brimful.runtimes.debug import DebugFaults, DebugRuntime, DebugSlot
from brimful.runtimes.runtime import RuntimeOptions, new_input
from brimful.sources import open_source
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import DecodeLimits
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import letterbox
from video_kit import moving, planar, turned, write_clip

SIZE = (48, 64)


class PictureSlot(DebugSlot):
    """A slot that keeps host frames for the forward."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.host_frames: dict[int, tuple] = {}

    def put(self, position, image, geometry) -> None:
        if isinstance(image, HostFrame):
            assert geometry.image == image.size
            self.host_frames[position] = image, geometry
        else:
            super().put(position, image, geometry)

    def keep(self, positions) -> None:
        super().keep(positions)
        for to, position in enumerate(positions):
            held = self.host_frames.get(position)
            if held is None:
                self.host_frames.pop(to, None)
            else:
                self.host_frames[to] = held

    def clear(self) -> None:
        super().clear()
        self.host_frames.clear()


class PictureRuntime(DebugRuntime):
    """The debug runtime as a device that decodes JPEGs and converts frames in its forward."""

    def __init__(self, *arguments, takes: Callable[[HostFrame], bool] | None, **options) -> None:
        super().__init__(*arguments, encoded="decode", **options)
        self.accepts_frame = takes
        self.converted = 0

    def allocate(self, canvas, *, capacity=None) -> DebugSlot:
        count = capacity or self.max_batch
        return PictureSlot(canvas, new_input(self.spec, self.input_format, canvas, count))

    def _forward(self, slot, count, params):
        errors: dict[int, str] = {}
        for position, (host_frame, geometry) in slot.host_frames.items():
            if position < count:
                self.converted += 1
                try:
                    letterbox(host_frame.pixels(), geometry, slot.inputs[position])
                except ImageError as error:
                    errors[position] = str(error)
        found = super()._forward(slot, count, params)
        return dataclasses.replace(found, errors={**found.errors, **errors})


def engine(
    takes: Callable[[HostFrame], bool] | None,
    *,
    batch: int = 4,
    faults: DebugFaults | None = None,
    **config,
) -> Engine:
    runtime = PictureRuntime(RuntimeOptions(max_batch=batch), faults, takes=takes)
    return Engine(runtime, EngineConfig(**{"imgsz": 64, "canvas": "auto", "workers": 2, **config}))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """50 frames, 64x48."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(50, SIZE))


def rows(running: Engine, path: Path) -> list[dict]:
    return [result.to_json_record() for result in running.predict(open_source(path))]


def expected(path: Path) -> list[dict]:
    with engine(None) as on_host:
        found = rows(on_host, path)
        assert on_host.runtime.converted == 0
    assert [row["error"] for row in found] == [None] * len(found)
    return found


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_results_are_those_of_pixels(degrees, clip, tmp_path):
    path = turned(clip, degrees, tmp_path / "turned.mp4") if degrees else clip
    with engine(lambda host_frame: True) as running:
        found = rows(running, path)
        assert running.runtime.converted == 50
    assert found == expected(path)
    height, width = SIZE if degrees != 90 else SIZE[::-1]
    assert {(row["height"], row["width"]) for row in found} == {(height, width)}


def test_only_what_is_taken_goes_as_it_is(clip):
    """Both kinds share batches."""
    asked = 0

    def every_third(host_frame: HostFrame) -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    with engine(every_third, batch=8, workers=1) as running:
        found = rows(running, clip)
        assert (asked, running.runtime.converted) == (50, 16)
    assert found == expected(clip)


@pytest.mark.parametrize("memory", [1, 3])
def test_failed_forwards_are_retried_with_pictures(memory, clip):
    faults = DebugFaults(memory_images=memory, batch_ms=5)
    with engine(lambda host_frame: True, batch=8, faults=faults) as running:
        found = rows(running, clip)
        assert max(running.runtime.batches) > memory
    assert found == expected(clip)


class Broken(HostFrame):
    """A host frame that cannot be converted."""

    def pixels(self):
        raise ImageError("its planes are gone")


def test_a_picture_that_cannot_be_converted_hurts_only_itself():
    good = [HostFrame(planar(SIZE, seed), 0) for seed in range(6)]
    payloads = [good[0], gray(30), Broken(planar(SIZE), 0), jpeg(40), *good[1:], gray(50)]
    found = {}
    for takes in (lambda host_frame: True, None):
        with engine(takes, batch=12) as running:
            found[takes is None] = list(running.predict(ListedSource(payloads)))
    assert [r.to_json_record() for r in found[False] if r.index != 2] == [
        r.to_json_record() for r in found[True] if r.index != 2
    ]
    for results in found.values():
        assert [r.error for r in results] == [None, None, "its planes are gone", *[None] * 7]
        assert [level_of(results[i]) for i in (1, 3, 9)] == [30, 40, 50]


def test_a_picture_is_placed_upright_and_handed_on():
    spec = ModelSpec(task="detect", head="nms_free", names=("a",))
    policy = CanvasPolicy(mode="square", imgsz=(64, 64))
    told = []
    preprocess = HostPreprocess(
        spec, policy, DecodeLimits(), accepts_frame=lambda p: p.format.quarter_turns == 1
    )

    def decoded(payload: HostFrame):
        image = SourceImage(index=0, key="a", payload=payload)
        return preprocess.decode(image, None, lambda: told.append("on host"))

    taken, left = HostFrame(planar(SIZE), 1), HostFrame(planar(SIZE), 2)
    image = decoded(taken)
    assert image is taken and not told, "a worker that hands it on keeps its permit"
    assert preprocess.place(image) == policy.place(SIZE[::-1])
    np.testing.assert_array_equal(decoded(left), left.pixels())
    assert told == ["on host"]


def test_slots_of_the_host_take_no_pictures():
    slot = DebugSlot((64, 64), np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(TypeError, match="not frames"):
        slot.put(0, HostFrame(planar(SIZE), 0), CanvasPolicy().place(SIZE))
