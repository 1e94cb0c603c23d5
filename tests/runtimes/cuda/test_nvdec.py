"""Device frames of videos, down to the canvas: the pixels of PyAV and OpenCV, without a GPU.

A frame of PyAV's own decoder, as NV12 in host memory, plays one that NVDEC left on the device.
"""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from brimful.runtimes.video import VideoRefusedError
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.encoded import Encoded
from brimful.vision.header import Header
from brimful.vision.letterbox import letterbox as host_letterbox
from video_kit import moving, write_clip

on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the reference is swscale on x86"
)


@dataclass
class DeviceFrame:
    """What PyAV gives for a frame on the device, with NV12 of the host behind it."""

    nv12: Any
    width: int = 0
    height: int = 0
    colorspace: int = 1
    color_range: int = 1
    interlaced_frame: bool = False
    format: Any = field(default_factory=lambda: SimpleNamespace(name="cuda"))
    sw_format: Any = field(default_factory=lambda: SimpleNamespace(name="nv12"))

    @classmethod
    def of(cls, frame: Any, **changes: Any) -> DeviceFrame:
        nv12 = interleaved(frame)
        facts = {
            "width": frame.width,
            "height": frame.height,
            "colorspace": int(frame.colorspace),
            "color_range": int(frame.color_range),
        }
        return cls(nv12, **{**facts, **changes})

    @property
    def planes(self) -> Any:
        return self.nv12.planes


def interleaved(frame: Any) -> Any:
    """Return a yuv420p frame as NV12, sample by sample."""
    nv12 = av.VideoFrame(frame.width, frame.height, "nv12")
    luma, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    for plane, samples in zip(nv12.planes, (luma, np.stack((blue, red), 2)), strict=True):
        rows = np.zeros((len(samples), plane.line_size), np.uint8)
        rows[:, : frame.width] = samples.reshape(len(samples), -1)
        plane.update(rows.tobytes())
    return nv12


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Any]:
    """Decoded frames, 96x128."""
    path = write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(6, (96, 128)))
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def device_frame(frame: Any, turns: int = 0) -> Any:
    import torch

    from brimful.runtimes.cuda.input.video import surface_of

    return surface_of(frame, turns, lambda shape: torch.empty(shape, dtype=torch.uint8))


@on_x86
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_surface_is_what_the_cpu_path_gives(frames, turns):
    found = device_frame(DeviceFrame.of(frames[2]), turns)
    expected = np.rot90(frames[2].to_ndarray(format="bgr24"), turns)
    assert found.size == expected.shape[:2]
    assert found.nbytes == found.memory.numel()
    flat = found.memory.numpy().reshape(-1)
    origin = found.pointer - found.memory.data_ptr()
    down, right = found.strides
    rows, columns = np.indices(found.size)
    first = origin + rows * down + columns * right
    for channel in range(3):
        np.testing.assert_array_equal(flat[first + channel], expected[..., channel])


@on_x86
def test_surfaces_land_on_the_canvas_as_pixels_do(frames):
    """A slot of both kinds, in the letterbox kernel, against OpenCV."""
    import torch

    from brimful.runtimes.cuda.input.loader import Loader
    from brimful.runtimes.cuda.slot import CudaSlot
    from brimful.vision.cuda.letterbox import letterbox

    policy = CanvasPolicy(mode="square", imgsz=(64, 64))
    slot = CudaSlot((64, 64), 4, 3)
    expected = np.empty((3, 64, 64, 3), np.uint8)
    for position, turns in enumerate((0, 1, 2)):
        image = device_frame(DeviceFrame.of(frames[position]), turns)
        geometry = policy.place(image.size)
        slot.put(position, image, geometry)
        pixels = np.ascontiguousarray(np.rot90(frames[position].to_ndarray(format="bgr24"), turns))
        host_letterbox(pixels, geometry, expected[position])
    loader = object.__new__(Loader)  # its other half needs a device
    (piece,) = Loader.pieces(loader, slot, 3, {})
    assert not piece.decoded
    out = torch.zeros((3, 3, 64, 64)).contiguous(memory_format=torch.channels_last)
    letterbox(torch.from_numpy(piece.table), out, count=3)
    found = (out.permute(0, 2, 3, 1).flip(3) * 255).round().numpy().astype(np.uint8)
    np.testing.assert_array_equal(found, expected)


def test_events_of_surfaces_are_waited_for(frames):
    from brimful.runtimes.cuda.input.loader import Loader
    from brimful.runtimes.cuda.slot import CudaSlot

    slot = CudaSlot((64, 64), 4, 3)
    geometry = CanvasPolicy(mode="square", imgsz=(64, 64)).place((96, 128))
    for position in (3, 1):
        image = device_frame(DeviceFrame.of(frames[position]))
        image.ready = f"event {position}"
        slot.put(position, image, geometry)
    slot.put(0, Encoded(b"", Header("JPEG", (96, 128))), geometry)
    slot.keep(range(1, 4))  # 1, 2 (pixels), 3
    pieces = Loader.pieces(object.__new__(Loader), slot, 3, {})
    piece = next(pieces)
    assert piece.ready == ["event 1", "event 3"]
    assert piece.table[:, 10].tolist() == [0, 2]
    assert slot.encoded[:3] == [None] * 3


def test_a_cleared_slot_holds_no_surface(frames):
    from brimful.runtimes.cuda.slot import CudaSlot

    slot = CudaSlot((64, 64), 2, 3)
    slot.put(1, device_frame(DeviceFrame.of(frames[0])), CanvasPolicy().place((96, 128)))
    slot.clear()
    assert slot.device_frames == [None, None]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": SimpleNamespace(name="yuv420p")}, "NVDEC does not decode this yuv420p"),
        ({"sw_format": SimpleNamespace(name="p010le")}, "p010le.*8-bit"),
        ({"interlaced_frame": True}, "interlaced"),
        ({"width": 126}, "cropped"),
        ({"colorspace": 8}, "matrix, number 8"),
    ],
)
def test_frames_that_the_cpu_must_convert(frames, changes, reason):
    from brimful.runtimes.cuda.input.video import check

    check(DeviceFrame.of(frames[0]), 128, 96)
    with pytest.raises(VideoRefusedError, match=reason):
        check(DeviceFrame.of(frames[0], **changes), 128, 96)


def test_odd_sides_are_for_the_cpu(frames):
    from brimful.runtimes.cuda.input.video import check

    with pytest.raises(VideoRefusedError, match="odd sides, 127x96"):
        check(DeviceFrame.of(frames[0], width=127), 127, 96)


def stream(name: str, *, is_hwaccel: bool = True) -> Any:
    context = SimpleNamespace(name=name, is_hwaccel=is_hwaccel, thread_count=0, width=0, height=0)
    return SimpleNamespace(codec_context=context, thread_type="SLICE")


def test_codecs_that_are_not_exact_are_for_the_cpu():
    from brimful.runtimes.cuda.input.video import CudaVideo

    video = CudaVideo(SimpleNamespace(index=0))
    chosen = stream("hevc")
    assert callable(video.start(chosen))
    assert chosen.codec_context.thread_count == 2
    with pytest.raises(VideoRefusedError, match="codec mpeg4"):
        video.start(stream("mpeg4"))
    with pytest.raises(VideoRefusedError, match="this PyAV cannot decode av1"):
        video.start(stream("av1", is_hwaccel=False))


def test_the_accelerator_is_the_device_s_and_keeps_its_frames():
    from brimful.runtimes.cuda.input.video import accelerator

    chosen = accelerator(3)
    assert chosen.is_hw_owned
    assert chosen.allow_software_fallback
    assert chosen.device_id == 3
    assert chosen.options == {"primary_ctx": "0", "current_ctx": "1"}


def test_a_machine_without_a_device_decodes_on_the_cpu(tmp_path, monkeypatch):
    """PyAV's real accelerator, which finds no driver or no such device."""
    from brimful.runtimes.cuda.input import video as module
    from brimful.sources.frames import read_frames

    @contextlib.contextmanager
    def current(device):
        yield

    monkeypatch.setattr(module.torch.cuda, "device", current)
    monkeypatch.setattr(module, "zeros", lambda *make: None)

    path = write_clip(tmp_path / "clip.mp4", moving(6, (96, 128)))
    video = module.CudaVideo(SimpleNamespace(index=99))
    found = list(read_frames(str(path), device=video))
    assert [frame.number for frame in found] == list(range(6))
    for frame, expected in zip(found, read_frames(str(path)), strict=True):
        np.testing.assert_array_equal(frame.payload.pixels(), expected.payload.pixels())
    assert "1 videos on the cpu, such as: it cannot be opened with NVDEC" in video.describe()


def test_what_the_cpu_decodes_is_told_once_a_reason(caplog):
    from brimful.runtimes.cuda.input.video import CudaVideo

    video = CudaVideo(SimpleNamespace(index=0))
    assert video.describe() == "nvdec"
    with caplog.at_level("INFO", "brimful"):
        for name in ("a.avi", "b.avi"):
            video.refused(name, "codec mpeg4 is decoded on the CPU")
        video.refused("c.mp4", "it is interlaced")
    assert [record.args[0] for record in caplog.records] == ["a.avi", "c.mp4"]
    assert video.describe() == (
        "nvdec (3 videos on the cpu, such as: codec mpeg4 is decoded on the CPU)"
    )


def test_when_there_is_a_device_for_videos(monkeypatch):
    from brimful.runtimes.cuda.input.video import open_video
    from brimful.runtimes.cuda.techniques import Techniques

    def opened(*, budget=False, version="18.1.0", **changes):
        monkeypatch.setattr(
            "brimful.runtimes.cuda.input.video.installed_version", lambda *names: version
        )
        facts = {"task": "detect", "head": "raw", "names": ("a",), **changes}
        video, note = open_video(
            Techniques(video=True), ModelSpec(**facts), SimpleNamespace(index=0), budget=budget
        )
        assert (video is not None) == (note == "nvdec")
        return note

    assert opened() == "nvdec"
    assert "gpu_mem" in opened(budget=True)
    assert "whole images" in opened(task="classify", head="classify")
    assert "whole images" in opened(channels=1)
    assert "PyAV 17.0.1" in opened(version="17.0.1")
    assert "no PyAV" in opened(version=None)
    video, note = open_video(
        Techniques(video=False),
        ModelSpec(task="detect", head="raw", names=("a",)),
        SimpleNamespace(index=0),
        budget=False,
    )
    assert (video, note) == (None, "cpu")


@pytest.mark.parametrize(("cpus", "on"), [(1, True), (4, True), (5, False), (64, False)])
def test_many_cpus_decode_videos_themselves_unless_told_otherwise(cpus, on, monkeypatch):
    from brimful.runtimes.cuda.input.video import open_video
    from brimful.runtimes.cuda.techniques import Techniques

    monkeypatch.setattr(
        "brimful.runtimes.cuda.input.video.installed_version", lambda *names: "18.1.0"
    )
    monkeypatch.setattr("brimful.runtimes.cuda.input.video.available_cpus", lambda: cpus)
    spec = ModelSpec(task="detect", head="raw", names=("a",))
    for asked in (None, True, False):
        video, note = open_video(
            Techniques(video=asked), spec, SimpleNamespace(index=0), budget=False
        )
        assert (video is not None) == (on if asked is None else asked)
        refused = "cpu" if asked is False else f"cpu (faster with {cpus} of them)"
        assert note == ("nvdec" if video is not None else refused)
