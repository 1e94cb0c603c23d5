"""CudaVideo: frames of videos, decoded by NVDEC, as device frames that a slot takes.

PyAV's FFmpeg drives NVDEC (its `cuda` hwaccel), so what is not the decoding of a host frame is the
same code as on the CPU: demultiplexing, order, times, damaged files. It copies each host frame, as
NV12, into memory of its own on the legacy default stream; the kernel that turns it into BGR runs on
that stream too, so the copy is there when it reads, and is not overwritten before it has read.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from brimful.cpus import available_cpus
from brimful.cuda.captures import CAPTURES
from brimful.cuda.memory import zeros
from brimful.extras import installed, installed_version
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.video import TakeFrame, VideoRefusedError
from brimful.spec import ModelSpec
from brimful.vision.cuda.letterbox import upright
from brimful.vision.cuda.nv12 import Colour, pitch_of, to_bgr
from brimful.vision.device_frame import DeviceFrame

CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1"))
"""Codecs that say to the last bit what a host frame is, so that NVDEC's are the CPU's. Older ones
leave the inverse transform's rounding open."""

THREADS = 2
"""FFmpeg's threads for a stream: with two, a host frame is submitted before the one before it is
fetched. Each takes one more of the 32 device frames that NVDEC has, and some streams need 29."""

FEW_CPUS = 4
"""Up to so many, decoding on them is slower: they take 2 ms of a frame of 768x432 together with all
else, where NVDEC brings 1,100 frames a second (benchmarks/NOTES.md)."""

OLDEST_PYAV = 18
"""Major version of PyAV that leaves frames on the device and tells their format."""

ORIENTATIONS = (1, 8, 3, 6)
"""EXIF orientation by quarter turns, counter-clockwise."""

_log = logging.getLogger("brimful")


def open_video(
    techniques: Techniques, spec: ModelSpec, device: Any, *, budget: bool
) -> tuple[CudaVideo | None, str]:
    """Return what decodes videos on a device, or None, and where they are decoded and why.

    Args:
        techniques: What is on.
        spec: The model; only colour models that take a letterboxed image qualify.
        device: CUDA device, with its index.
        budget: Whether the device memory of the process is limited: what NVDEC takes is not known
            before a video is opened.
    """
    version = installed_version("av")
    cpus = available_cpus()
    wanted = cpus <= FEW_CPUS if techniques.video is None else techniques.video
    if not wanted:
        return None, "cpu" if techniques.video is False else f"cpu (faster with {cpus} of them)"
    if spec.task == "classify" or spec.channels != 3:
        return None, "cpu (only for colour models that take whole images)"
    if budget:
        return None, "cpu (gpu_mem is kept, and what NVDEC takes cannot be known before)"
    if not installed("av") or version is None or int(version.split(".")[0]) < OLDEST_PYAV:
        found = f"PyAV {version}" if version else "no PyAV"
        return None, f"cpu ({found}; PyAV {OLDEST_PYAV} is needed: pip install 'brimful[nvdec]')"
    return CudaVideo(device), "nvdec"


class CudaVideo:
    """NVDEC on one device. Frames are converted on the thread that reads them."""

    def __init__(self, device: Any) -> None:
        """Prepare for videos; nothing is imported or opened yet.

        Args:
            device: CUDA device, with its index.
        """
        self._device = device
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    def open(self, path: str) -> Any:
        """Return a container that NVDEC decodes if it can.

        Raises:
            VideoRefusedError: PyAV cannot use NVDEC here; or what `av.open` raises.
        """
        import av

        chosen = accelerator(self._device.index)
        try:
            with torch.cuda.device(self._device):
                # A thread has no current context before it launches something.
                zeros((1,), torch.uint8, self._device)
                with self.working():
                    return av.open(path, hwaccel=chosen)
        except av.FFmpegError as error:  # of the file or of the driver: the CPU finds out which
            reason = error.strerror or str(error)
            raise VideoRefusedError(f"it cannot be opened with NVDEC: {reason}") from None

    def start(self, stream: Any) -> TakeFrame:
        """Prepare to take the frames of a stream.

        Raises:
            VideoRefusedError: NVDEC does not decode its codec, or not to the last bit.
        """
        context = stream.codec_context
        if context.name not in CODECS:
            raise VideoRefusedError(f"codec {context.name} is decoded on the CPU")
        if not context.is_hwaccel:
            raise VideoRefusedError(f"this PyAV cannot decode {context.name} with CUDA")
        stream.thread_type = "AUTO"
        context.thread_count = THREADS

        def take(frame: Any, quarter_turns: int) -> DeviceFrame:
            check(frame, context.width, context.height)
            try:
                # FFmpeg's stream: the legacy default one, whichever is current here.
                queue = torch.cuda.default_stream(self._device)
                with torch.cuda.device(self._device), torch.cuda.stream(queue):
                    device_frame = surface_of(frame, quarter_turns, self._allocate)
                    device_frame.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    device_frame.ready.record(queue)
                    return device_frame
            except torch.OutOfMemoryError:
                raise VideoRefusedError("the device has no memory for its frames") from None

        return take

    def working(self) -> AbstractContextManager[None]:
        """Hold off captures: NVDEC waits for the device when it is opened and closed."""
        return CAPTURES.waiting()

    def refused(self, path: str, reason: str) -> None:
        """Count a video that the CPU decodes, and say so when the reason is a new one."""
        with self._lock:
            self._refused[reason] += 1
            first = self._refused[reason] == 1
        if first:
            _log.info("%s: decoded on the CPU: %s (said once for each reason)", path, reason)

    def describe(self) -> str:
        """Return where videos are decoded, and how many of them on the CPU after all, and why."""
        with self._lock:
            if not self._refused:
                return "nvdec"
            reason, _ = self._refused.most_common(1)[0]
            return f"nvdec ({self._refused.total()} videos on the cpu, such as: {reason})"

    def _allocate(self, shape: tuple[int, int]) -> Any:
        return torch.empty(shape, dtype=torch.uint8, device=self._device)


def accelerator(index: int) -> Any:
    """Return an `av.codec.hwaccel.HWAccel` that leaves frames on a CUDA device.

    It takes the context that is current when a file is opened. PyTorch's is the device's primary
    one, but FFmpeg refuses to be told so: it wants other flags than PyTorch has made it with.

    Raises:
        VideoRefusedError: PyAV was built without CUDA.
    """
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if "cuda" not in hwdevices_available():
        raise VideoRefusedError("this PyAV was built without CUDA")
    options: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel("cuda", device=str(index), options=options, is_hw_owned=True)


def check(frame: Any, width: int, height: int) -> None:
    """Refuse a frame that is not on the device, or that swscale converts in another way.

    Args:
        frame: A decoded `av.VideoFrame`.
        width: Of the stream's host frames, cropped as they should be.
        height: Likewise.

    Raises:
        VideoRefusedError: With the reason.
    """
    if frame.format.name != "cuda":  # FFmpeg falls back by itself, where NVDEC refuses the stream
        raise VideoRefusedError(
            f"NVDEC does not decode this {frame.format.name} stream of "
            f"{frame.width}x{frame.height} pixels"
        )
    pixels = frame.sw_format.name
    if pixels != "nv12":
        raise VideoRefusedError(f"its pixels are {pixels}, and only 8-bit 4:2:0 is converted")
    if frame.interlaced_frame:
        raise VideoRefusedError("it is interlaced")
    if width % 2 or height % 2:  # such a frame is larger by one
        raise VideoRefusedError(f"its pictures have odd sides, {width}x{height}")
    if (frame.width, frame.height) != (width, height):
        raise VideoRefusedError("its pictures are cropped at the left or the top")
    if Colour.of(int(frame.colorspace), int(frame.color_range)) is None:
        raise VideoRefusedError(f"its colour matrix, number {int(frame.colorspace)}, is unknown")


def surface_of(
    frame: Any, quarter_turns: int, allocate: Callable[[tuple[int, int]], Any]
) -> DeviceFrame:
    """Queue the conversion of a frame to BGR, on the current stream.

    Args:
        frame: A decoded `av.VideoFrame` that `check` accepts.
        quarter_turns: Counter-clockwise, after which it is upright.
        allocate: Returns an uninitialised uint8 tensor of a shape.

    Returns:
        The upright image, without an event.
    """
    luma, chroma = frame.planes
    stored = frame.height, frame.width
    pitch = pitch_of(frame.width)
    memory = allocate((frame.height, pitch))
    colour = Colour.of(int(frame.colorspace), int(frame.color_range))
    assert colour is not None
    to_bgr(
        luma.buffer_ptr,
        chroma.buffer_ptr,
        (luma.line_size, chroma.line_size),
        memory,
        size=stored,
        colour=colour,
    )
    orientation = ORIENTATIONS[quarter_turns]
    pointer, down, right, height, width = upright(
        orientation, stored, memory.data_ptr(), (pitch, 3)
    )
    return DeviceFrame(
        size=(height, width),
        pointer=pointer,
        strides=(down, right),
        nbytes=frame.height * pitch,
        memory=memory,
    )
