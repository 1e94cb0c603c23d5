"""HostFrames on their way to the canvas: the pixels of PyAV and OpenCV, without a GPU.

The device's stream is played by a queue that does everything as late as it may.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from brimful.errors import ImageError
from brimful.runtimes.cuda.input import host_frames, loader
from brimful.runtimes.cuda.input.host_frames import HostFramePlans, HostFrames, open_host_frames
from brimful.runtimes.cuda.input.loader import Loader
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.techniques import Techniques
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.letterbox import letterbox
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import letterbox as host_letterbox
from video_kit import HostVideo, planar

on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the reference is swscale on x86"
)

CANVAS_SIZE = (32, 32)
POLICY = CanvasPolicy(mode="fixed", imgsz=CANVAS_SIZE)
SIZES = [(34, 18), (16, 40), (2, 2), (18, 34)]


class Queue:
    """A stream on which nothing happens before somebody waits for it."""

    device = "here"

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        self.done = 0

    def run(self, count: int) -> None:
        while self.done < count:
            self.work[self.done]()
            self.done += 1

    def synchronize(self) -> None:
        self.run(len(self.work))


class Device:
    """What the code sees of a device. `room` is how many bytes it can give in a piece."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.room = 2**40
        self.made: list[int] = []
        self.pinned: list[int] = []
        self.copies: list[int] = []
        self.launches: list[int] = []

    def empty(self, size: int, *, dtype: Any, pin_memory: bool = False, device: Any = None) -> Any:
        if device is not None and self.made:
            idle = self.queue.done == len(self.queue.work)
            assert idle, "memory that goes is not read any more"
        if device is not None and size > self.room:
            raise torch.OutOfMemoryError("scarce")
        if size:
            (self.pinned if pin_memory else self.made).append(size)
        return torch.empty(size, dtype=dtype)

    def copy_in(self, target: int, source: int, size: int) -> None:
        self.copies.append(size)
        self.queue.work.append(lambda: ctypes.memmove(target, source, size))

    def to_bgr(self, table: Any, *, count: int, largest: tuple[int, int]) -> None:
        self.launches.append(count)
        self.queue.work.append(lambda: REAL_TO_BGR(table, count=count, largest=largest))

    def event(self, blocking: bool = False) -> Any:
        queue, at = self.queue, 0

        def record(stream: Any) -> None:
            nonlocal at
            at = len(queue.work)

        return SimpleNamespace(
            record=record, synchronize=lambda: queue.run(at), wait=lambda stream: None
        )


REAL_TO_BGR = host_frames.to_bgr


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    played = Device()
    fake = SimpleNamespace(
        empty=played.empty,
        cuda=SimpleNamespace(stream=lambda stream: contextlib.nullcontext()),
        **{name: getattr(torch, name) for name in ("uint8", "int64", "OutOfMemoryError")},
    )
    for module in (host_frames, loader):
        monkeypatch.setattr(module, "torch", fake)
        monkeypatch.setattr(module, "Event", played.event)
    monkeypatch.setattr(host_frames, "copy_in", played.copy_in)
    monkeypatch.setattr(host_frames, "to_bgr", played.to_bgr)
    monkeypatch.setattr(loader, "take_stream", lambda device: played.queue)
    monkeypatch.setattr(loader, "give_stream", lambda stream: None)
    return played


def some(seed: int = 0, sizes: list[tuple[int, int]] = SIZES) -> list[HostFrame]:
    """Return host frames of several sizes, matrices, ranges and turns."""
    return [
        HostFrame(
            planar(size, seed * 100 + i, matrix=(1, 6, 9)[i % 3], value_range=i % 3), (i + seed) % 4
        )
        for i, size in enumerate(sizes)
    ]


def fetched(device_frame: DeviceFrame) -> np.ndarray:
    """Read a device frame out of the memory of this machine."""
    down, right = device_frame.strides
    pixels = [
        ctypes.string_at(device_frame.pointer + y * down + x * right, 3)
        for y in range(device_frame.size[0])
        for x in range(device_frame.size[1])
    ]
    return np.frombuffer(b"".join(pixels), np.uint8).reshape(*device_frame.size, 3)


def brought(tested: HostFrames, images: list[HostFrame]) -> list[DeviceFrame]:
    plans = tested.fitting(images)
    assert len(plans) == len(images)
    found = tested.bring(images, plans)
    assert None not in found
    return [device_frame for device_frame in found if device_frame is not None]


@on_x86
def test_surfaces_are_what_pyav_gives(device: Device) -> None:
    images = some() + some(1)
    tested = HostFrames(12, device.queue)  # it holds the memory
    device_frames = brought(tested, images)
    assert len(device.copies) == 1 and device.launches == [8], "one copy and one launch for all"
    device.queue.synchronize()
    for device_frame, image in zip(device_frames, images, strict=True):
        expected = image.pixels()
        assert device_frame.size == image.size == expected.shape[:2]
        np.testing.assert_array_equal(fetched(device_frame), expected)


@on_x86
@pytest.mark.parametrize("value_range", [0, 1, 2])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
def test_every_range_whatever_it_is_called(pixels: str, value_range: int, device: Device) -> None:
    image = HostFrame(planar((8, 12), pixels=pixels, value_range=value_range), 0)
    tested = HostFrames(12, device.queue)
    (device_frame,) = brought(tested, [image])
    device.queue.synchronize()
    np.testing.assert_array_equal(fetched(device_frame), image.pixels())


@on_x86
def test_a_batch_does_not_overwrite_the_one_before_it(device: Device) -> None:
    """The second one is brought while nothing of the first has happened yet."""
    tested = HostFrames(4, device.queue)
    first, second, third = some(), some(1), some(2, SIZES * 3)
    found: dict[int, list[np.ndarray]] = {}
    for number, images in enumerate((first, second, third, first)):
        device_frames = brought(tested, images)
        # what reads the device frames is given to the stream before the next batch
        device.queue.work.append(
            lambda n=number, s=device_frames: found.update({n: list(map(fetched, s))})
        )
    assert 3 not in found, "nobody waited for the last one"
    device.queue.synchronize()
    for number, images in enumerate((first, second, third, first)):
        for pixels, image in zip(found[number], images, strict=True):
            np.testing.assert_array_equal(pixels, image.pixels())
    assert len(device.made) == len(device.pinned) == 2, "memory grows once, and is used again"


def test_one_picture_makes_room_for_a_batch(device: Device) -> None:
    images = [HostFrame(planar((16, 40), i), 0) for i in range(7)]
    tested = HostFrames(7, device.queue)
    for count in (1, 3, 7, 2):
        brought(tested, images[:count])
    assert (len(device.made), len(device.pinned)) == (1, 1)


def test_a_bad_picture_among_good_ones(device: Device) -> None:
    class Short(HostFrame):
        """Its rows are shorter than they should be."""

        @property
        def planes(self) -> Any:
            luma, *chroma = super().planes
            return [luma._replace(pitch=10), *chroma]

        def pixels(self) -> Any:
            raise ImageError("it is short")

    images: list[HostFrame] = some()
    images[1] = Short(planar((16, 40)), 0)
    _, errors, found = through(device, images)
    assert errors == {1: "it is short"}
    for i in (0, 2, 3):
        np.testing.assert_array_equal(found[i], expected(images[i]))
    alone, errors, _ = through(device, [images[1]])
    assert errors == {0: "it is short"} and alone.host_frames[0] is images[1]


def test_what_the_device_cannot_convert_the_host_does(device: Device) -> None:
    """A host frame that no plan is made for: the runtime would not have taken it."""
    images = [*some(), HostFrame(planar((15, 20)), 1)]
    slot, errors, _ = through(device, images, on_host=[4])
    assert not errors
    np.testing.assert_array_equal(slot.inputs[4], expected(images[4]))


def expected(image: HostFrame) -> np.ndarray:
    rows = np.zeros((*CANVAS_SIZE, 3), np.uint8)
    host_letterbox(image.pixels(), POLICY.place(image.size), rows)
    return rows


def through(
    device: Device,
    images: list[Any],
    *,
    tested: Loader | None = None,
    on_host: list[int] | None = None,
) -> tuple[CudaSlot, dict[int, str], np.ndarray]:
    """Bring images to a canvas as a driver does; return uint8 BGR canvases."""
    tested = tested or Loader(len(images), 3, "here", host_frames=True)
    slot = CudaSlot(CANVAS_SIZE, len(images), 3)
    slot._pinned = torch.zeros((len(images), *CANVAS_SIZE, 3), dtype=torch.uint8)
    for i, image in enumerate(images):
        if isinstance(image, np.ndarray):
            host_letterbox(image, POLICY.place(image.shape[:2]), slot.inputs[i])
            slot.place(i, POLICY.place(image.shape[:2]))
        else:
            slot.put(i, image, POLICY.place(image.size))
    out = torch.zeros((len(images), 3, *CANVAS_SIZE)).contiguous(memory_format=torch.channels_last)
    errors: dict[int, str] = {}
    pinned = slice(slot.inputs.ctypes.data, slot.inputs.ctypes.data + slot.inputs.nbytes)
    came = []
    for piece in tested.pieces(slot, len(images), errors):
        table = piece.table
        assert table is not None
        device.queue.work.append(
            lambda table=table: letterbox(torch.from_numpy(table), out, count=len(table))
        )
        came += table[(table[:, 0] >= pinned.start) & (table[:, 0] < pinned.stop), 10].tolist()
    if on_host is not None:
        assert came == on_host
    device.queue.synchronize()
    return slot, errors, (out.permute(0, 2, 3, 1).flip(3) * 255).round().numpy().astype(np.uint8)


@on_x86
def test_a_slot_of_every_kind(device: Device) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    frame = planar((16, 24), 8)
    device_frame = HostVideo().device_frame(frame, 1)
    images: list[Any] = [pixels, *some(), device_frame, pixels[::-1].copy(), *some(1)]
    slot, errors, found = through(device, images, on_host=[0, 6])
    assert not errors
    for i, image in enumerate(images):
        if isinstance(image, HostFrame):
            np.testing.assert_array_equal(found[i], expected(image))
    np.testing.assert_array_equal(found[5], expected(HostFrame(frame, 1)))
    np.testing.assert_array_equal(found[0], slot.inputs[0])
    np.testing.assert_array_equal(found[6], slot.inputs[6])
    slot.keep(range(4, 7))
    assert slot.host_frames[:3] == [images[4], None, None] and slot.device_frames[1] is device_frame
    slot.clear()
    assert slot.host_frames == [None] * len(images)


@on_x86
def test_a_batch_in_pieces(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit together; what does not fit alone is the host's."""
    images = [HostFrame(planar((16, 16), i), 0) for i in range(5)]
    large = HostFrame(planar((64, 64)), 0)
    plan = HostFramePlans().of(images[0].format)
    assert plan is not None
    tested = Loader(6, 3, "here", host_frames=True)
    tested._host_frames = HostFrames(6, device.queue, limit=2 * plan.total + 7)
    images.insert(3, large)
    _, errors, found = through(device, images, tested=tested, on_host=[3])
    assert not errors and device.launches == [2, 1, 2]
    assert max(device.made) <= 2 * plan.total + 7
    for i, image in enumerate(images):
        np.testing.assert_array_equal(found[i], expected(image))


@on_x86
def test_where_memory_is_short_pieces_get_smaller(device: Device) -> None:
    images = [HostFrame(planar((16, 16), i), 0) for i in range(6)]
    plan = HostFramePlans().of(images[0].format)
    assert plan is not None
    device.room = 2 * plan.total
    tested = Loader(6, 3, "here", host_frames=True)
    failed = 0
    while True:
        try:
            _, errors, found = through(device, images, tested=tested)
        except torch.OutOfMemoryError:  # the engine splits the batch, and goes on
            failed += 1
            assert failed < 5
            continue
        break
    assert failed and not errors and len(device.launches) > 1
    for i, image in enumerate(images):
        np.testing.assert_array_equal(found[i], expected(image))


def test_a_loader_that_is_closed_holds_nothing(device: Device) -> None:
    tested = Loader(4, 3, "here", host_frames=True)
    through(device, some(), tested=tested)
    tested.close()
    assert tested._host_frames is None


def takes(**changes: Any) -> Any:
    techniques = Techniques(host_frames=changes.pop("host_frames", True))
    budget = changes.pop("budget", False)
    spec = ModelSpec(**{"task": "detect", "head": "raw", "names": ("a",), **changes})
    return open_host_frames(techniques, spec, budget=budget)


def test_when_pictures_are_taken() -> None:
    assert takes()[1] == "gpu"
    assert takes(host_frames=False) == (None, "cpu")
    for changes, reason in (
        ({"budget": True}, "gpu_mem"),
        ({"task": "classify", "head": "classify"}, "whole images"),
        ({"channels": 1}, "whole images"),
    ):
        tell, note = takes(**changes)
        assert tell is None and reason in note


@pytest.mark.parametrize(
    ("frame", "taken"),
    [
        (planar((16, 16)), True),
        (planar((2, 2), matrix=9, value_range=2), True),
        (planar((16, 16), pixels="yuvj420p"), True),
        (planar((16, 16), pixels="nv12"), False),  # swscale interpolates its chroma
        (planar((16, 16), pixels="yuv422p"), False),
        (planar((16, 16), pixels="yuv420p10le"), False),
        (planar((16, 16), pixels="yuva420p"), False),
        (planar((16, 16), pixels="gray"), False),
        (planar((15, 16)), False),
        (planar((16, 15)), False),
        (planar((16, 16), matrix=8), False),
    ],
)
def test_which_pictures_are_taken(frame: Any, taken: bool) -> None:
    tell, _ = takes()
    for sequencer in range(4):
        assert tell(HostFrame(frame, sequencer)) == taken


def test_interlaced_pictures_are_not_taken() -> None:
    frame = planar((16, 16))
    facts = {name: getattr(frame, name) for name in
             ("format", "height", "width", "colorspace", "color_range", "planes")}  # fmt: skip
    tell, _ = takes()
    assert tell(HostFrame(SimpleNamespace(**facts, interlaced_frame=False), 0))
    assert not tell(HostFrame(SimpleNamespace(**facts, interlaced_frame=True), 0))
