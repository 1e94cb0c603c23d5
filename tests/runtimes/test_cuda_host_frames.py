"""Frames that CPUs have decoded, converted and letterboxed on a device, to the last bit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sources.frames import read_frames
from brimful.sources.open_source import open_source
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import letterbox
from brimful.vision.postprocess import PostprocessConfig
from model_files import saved
from shared_files import shared
from video_kit import moving, noise, planar, turned, write_clip

pytestmark = pytest.mark.gpu

CLIPS = ("bottle-detection.mp4", "car-detection.mp4", "one-by-one-person-detection.mp4")
CANVAS = (256, 320)
POLICY = CanvasPolicy(mode="fixed", imgsz=CANVAS)


@pytest.fixture
def loader() -> Iterator[Any]:
    """A loader for batches of 24, as a driver has it."""
    import torch

    from brimful.runtimes.cuda.input.loader import Loader

    device = torch.device("cuda", 0)
    with torch.cuda.device(device), torch.inference_mode():
        made = Loader(24, 3, device, host_frames=True)
        yield made
        torch.cuda.synchronize()
        made.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames of noise, 320x240."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", noise(120, (240, 320)))


def expected(host_frame: HostFrame) -> np.ndarray:
    """Letterbox on the host, uint8 BGR."""
    rows = np.zeros((*CANVAS, 3), np.uint8)
    letterbox(host_frame.pixels(), POLICY.place(host_frame.size), rows)
    return rows


def load(loader: Any, host_frames: list[HostFrame]) -> Any:
    """Queue a batch as a driver does, without waiting for anything; return canvases."""
    import torch

    from brimful.runtimes.cuda.slot import CudaSlot
    from brimful.vision.cuda.letterbox import COLUMNS
    from brimful.vision.cuda.letterbox import letterbox as device_letterbox

    slot = CudaSlot(CANVAS, len(host_frames), 3)
    for i, host_frame in enumerate(host_frames):
        slot.put(i, host_frame, POLICY.place(host_frame.size))
    shape = (len(host_frames), 3, *CANVAS)
    out = torch.empty(shape, device="cuda").contiguous(memory_format=torch.channels_last)
    torch.cuda.current_stream().synchronize()
    errors: dict[int, str] = {}
    for piece in loader.pieces(slot, len(host_frames), errors):
        count = len(piece.table)
        host = torch.empty((count, COLUMNS), dtype=torch.int64, pin_memory=True)
        host.numpy()[:] = piece.table
        with torch.cuda.stream(loader._stream):
            table = torch.empty((count, COLUMNS), dtype=torch.int64, device="cuda")
            table.copy_(host, non_blocking=True)
            device_letterbox(table, out, count=count)
            loader._kept = (*getattr(loader, "_kept", ()), host, table, slot)
    assert not errors
    return out


def assert_right(out: Any, host_frames: list[HostFrame]) -> None:
    """Compare canvases, once they are there."""
    import torch

    torch.cuda.synchronize()
    found = (out.permute(0, 2, 3, 1).flip(3) * 255).round().cpu().numpy().astype(np.uint8)
    for i, host_frame in enumerate(host_frames):
        np.testing.assert_array_equal(found[i], expected(host_frame), err_msg=f"picture {i}")


def pictures_of(path: Path, count: int) -> list[HostFrame]:
    frames = itertools.islice(read_frames(str(path)), count)
    found = [frame.payload for frame in frames]
    assert all(isinstance(host_frame, HostFrame) for host_frame in found)
    return [host_frame for host_frame in found if isinstance(host_frame, HostFrame)]


@pytest.mark.parametrize("name", CLIPS)
def test_frames_of_real_clips(name: str, loader: Any) -> None:
    host_frames = pictures_of(shared("videos", name), 24)
    assert_right(load(loader, host_frames), host_frames)


def test_every_matrix_range_size_and_turn_in_a_batch(loader: Any) -> None:
    sizes = [(2, 2), (48, 64), (98, 130), (256, 320), (720, 1282), (34, 1922), (1080, 34)]
    host_frames = [
        HostFrame(planar(sizes[i % 7], i, matrix=matrix, value_range=value_range), i % 4)
        for i, (matrix, value_range) in enumerate(
            itertools.product((1, 2, 4, 5, 6, 7, 9), (0, 1, 2))
        )
    ]
    host_frames += [HostFrame(planar((64, 48), i, pixels="yuvj420p"), i) for i in range(3)]
    assert_right(load(loader, host_frames), host_frames)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos(degrees: int, clip: Path, loader: Any, tmp_path: Path) -> None:
    host_frames = pictures_of(turned(clip, degrees, tmp_path / "turned.mp4"), 20)
    assert_right(load(loader, host_frames), host_frames)


def test_batches_one_behind_the_other_while_the_device_is_full(clip: Path, loader: Any) -> None:
    """Staging and device memory are used again at once; nobody waits but for the copy."""
    import torch

    stop = threading.Event()

    def busy() -> None:
        side = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
        streams = [torch.cuda.Stream() for _ in range(3)]
        while not stop.is_set():
            for stream in streams:
                with torch.cuda.stream(stream):
                    for _ in range(8):
                        side @ side
            torch.cuda.synchronize()

    host_frames = pictures_of(clip, 120)
    large = [HostFrame(planar((1080, 1920), i), 0) for i in range(24)]
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(4):
            batches = [host_frames[i : i + 24] for i in range(0, 120, 24)]
            batches.insert(2, large)
            loaded = [load(loader, batch) for batch in batches]
            for out, batch in zip(loaded, batches, strict=True):
                assert_right(out, batch)
    finally:
        stop.set()
        thread.join()


def test_more_than_the_memory_goes_in_pieces(loader: Any) -> None:
    from brimful.runtimes.cuda.input.host_frames import HostFrames

    loader._host_frames = HostFrames(24, loader._stream, limit=20 * 2**20)
    host_frames = [HostFrame(planar((1080, 1920), i), 0) for i in range(7)]  # 9 MB each
    host_frames.insert(3, HostFrame(planar((2160, 3840)), 0))  # more than there is
    assert_right(load(loader, host_frames), host_frames)
    assert loader._host_frames._memory.numel() <= 20 * 2**20


def engine(*, host_frames: bool = True, batch: int = 16, **config: Any) -> Engine:
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime

    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=batch, postprocess=PostprocessConfig()
    )
    model = open_model(saved("yolo26n.yaml"), ModelOptions())
    runtime = TorchCudaRuntime(model, options, Techniques(video=False, host_frames=host_frames))
    return Engine(runtime, EngineConfig(canvas="square", **config))


def rows(running: Engine, path: Path, **options: Any) -> list[dict[str, Any]]:
    return [r.to_json_record() for r in running.predict(open_source(path, **options))]


def assert_same_rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Compare an engine that converts on the device with one that does on the CPU."""
    with engine(host_frames=False) as on_host:
        assert on_host.describe()["frames"] == "cpu"
        right = rows(on_host, path, **options)
    with engine() as running:
        assert running.describe()["frames"] == "gpu"
        put = _count_pictures(running)
        found = rows(running, path, **options)
        again = rows(running, path, **options)
    assert put(), "pictures went as they are"
    assert found == right
    assert again == right
    return right


def _count_pictures(running: Engine) -> Any:
    """Return what tells how many host frames were written to slots from now on."""
    write, count = running._preprocess.write, itertools.count()
    seen = [0]

    def noted(image: Any, *where: Any) -> None:
        if isinstance(image, HostFrame):
            seen[0] = next(count) + 1
        write(image, *where)

    running._preprocess.write = noted  # type: ignore[method-assign]
    return lambda: seen[0]


def test_detections_are_those_of_the_cpu_s_pixels() -> None:
    """The same pixels through the same kernels: not a bit of a box may differ."""
    found = assert_same_rows(shared("videos", "car-detection.mp4"), vid_stride=3)
    assert sum(len(row["detections"]) for row in found) > 0


def test_videos_of_several_kinds_and_photographs(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip.read_bytes())
    turned(clip, 90, folder / "b.mp4")
    write_clip(folder / "c.mp4", moving(9, (160, 192)), codec="libx265", pix_fmt="yuv420p10le")
    write_clip(folder / "d.avi", moving(9, (96, 128)), codec="mpeg4")
    for i in range(20):
        pixels = np.full((100 + i, 200, 3), 10 * i, np.uint8)
        assert cv2.imwrite(str(folder / f"e{i:02}.jpg"), pixels)
    write_clip(folder / "f.webm", moving(11, (161, 193)), codec="libvpx-vp9")
    found = assert_same_rows(folder)
    assert len(found) == 120 + 120 + 9 + 9 + 20 + 11
    assert all(row["error"] is None for row in found)


def test_a_window_smaller_than_a_batch_does_not_deadlock(clip: Path) -> None:
    with engine(batch=64, queue_bytes=4 * 320 * 240 * 3) as running:
        assert len(rows(running, clip)) == 120


def test_under_a_budget_the_cpu_converts(clip: Path) -> None:
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime

    options = RuntimeOptions(
        device="cuda:0",
        precision="fp16",
        max_batch=4,
        memory=4 * 2**30,
        postprocess=PostprocessConfig(),
    )
    model = open_model(saved("yolo26n.yaml"), ModelOptions())
    with Engine(TorchCudaRuntime(model, options), EngineConfig(canvas="square")) as running:
        assert "gpu_mem" in running.describe()["frames"]
        assert running.runtime.accepts_frame is None
        assert len(rows(running, clip)) == 120
