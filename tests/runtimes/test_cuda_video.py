"""Videos decoded by NVDEC: PyAV's pixels to the last bit, its detections, memory given back."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.errors import ImageError
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sources.frames import read_frames
from brimful.sources.open_source import open_source
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.postprocess import PostprocessConfig
from model_files import saved
from shared_files import shared
from video_kit import moving, noise, turned, write_clip

pytestmark = pytest.mark.gpu

CLIPS = ("bottle-detection.mp4", "car-detection.mp4", "one-by-one-person-detection.mp4")


@pytest.fixture
def video() -> Any:
    """NVDEC of the first device."""
    import torch

    from brimful.runtimes.cuda.input.video import CudaVideo

    return CudaVideo(torch.device("cuda", 0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames of noise, 320x240, H.264 with B-frames."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", noise(120, (240, 320)))


def pixels(device_frame: DeviceFrame) -> np.ndarray:
    """Fetch a device frame from the device, upright."""
    device_frame.ready.synchronize()
    flat = device_frame.memory.cpu().numpy().reshape(-1)
    rows, columns = np.indices(device_frame.size)
    down, right = device_frame.strides
    first = device_frame.pointer - device_frame.memory.data_ptr() + rows * down + columns * right
    return flat[first[..., None] + np.arange(3)]


def assert_same_frames(path: Path, video: Any, *, on_device: bool = True, last: int = 10**9) -> int:
    """Compare the frames of a video with the CPU's; return how many there are."""
    count = 0
    pairs = zip(read_frames(str(path), device=video), read_frames(str(path)), strict=True)
    for found, expected in pairs:
        assert (found.number, found.pts_ms) == (expected.number, expected.pts_ms)
        assert isinstance(found.payload, DeviceFrame) == on_device
        image = pixels(found.payload) if on_device else found.payload.pixels()
        right = expected.payload.pixels()
        np.testing.assert_array_equal(image, right, err_msg=f"frame {found.number}")
        count += 1
        if count == last:
            break
    return count


@pytest.mark.parametrize("name", CLIPS)
def test_frames_of_real_clips_are_pyav_s(name: str, video: Any) -> None:
    assert assert_same_frames(shared("videos", name), video) > 300
    assert video.describe() == "nvdec"


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", ".mp4"), ("libx265", ".mkv"), ("libvpx-vp9", ".webm")]
)
@pytest.mark.parametrize("size", [(240, 320), (178, 210)])
def test_frames_of_every_codec_are_pyav_s(
    codec: str, suffix: str, size: tuple[int, int], video: Any, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", noise(40, size), codec=codec)
    assert assert_same_frames(path, video) == 40
    assert video.describe() == "nvdec"


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos(degrees: int, clip: Path, video: Any, tmp_path: Path) -> None:
    assert_same_frames(turned(clip, degrees, tmp_path / "turned.mp4"), video, last=20)


def test_frames_are_right_while_the_device_is_full(clip: Path, video: Any) -> None:
    """Kernels of other streams must not come between a copy, its conversion and its reader."""
    import torch

    stop = threading.Event()

    def load() -> None:
        side = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
        streams = [torch.cuda.Stream() for _ in range(3)]
        while not stop.is_set():
            for stream in streams:
                with torch.cuda.stream(stream):
                    for _ in range(8):
                        side @ side
            torch.cuda.synchronize()

    expected = [frame.payload.pixels() for frame in read_frames(str(clip))]
    busy = threading.Thread(target=load)
    busy.start()
    try:
        for _ in range(5):
            # All frames are alive at once, as in an engine: none may share memory with another.
            found = list(read_frames(str(clip), device=video))
            wrong = [
                frame.number
                for frame, right in zip(found, expected, strict=True)
                if not np.array_equal(pixels(frame.payload), right)
            ]
            assert not wrong
    finally:
        stop.set()
        busy.join()


def test_videos_side_by_side(clip: Path, video: Any) -> None:
    faults: list[BaseException] = []

    def read() -> None:
        try:
            assert_same_frames(clip, video)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def engine(*, video: bool = True, batch: int = 16, **config: Any) -> Engine:
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime

    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=batch, postprocess=PostprocessConfig()
    )
    model = open_model(saved("yolo26n.yaml"), ModelOptions())
    runtime = TorchCudaRuntime(model, options, Techniques(video=video, host_frames=video))
    return Engine(runtime, EngineConfig(canvas="square", **config))


def rows(running: Engine, path: Path, **options: Any) -> list[dict[str, Any]]:
    return [r.to_json_record() for r in running.predict(open_source(path, **options))]


def test_detections_are_those_of_the_cpu_s_frames() -> None:
    """The same pixels through the same kernels: not a bit of a box may differ."""
    path = shared("videos", "car-detection.mp4")
    with engine(video=False) as on_host:
        expected = rows(on_host, path, vid_stride=3)
        assert on_host.describe()["video"] == "cpu"
    with engine() as running:
        found = rows(running, path, vid_stride=3)
        assert running.describe()["video"] == "nvdec"
    assert [row["frame"] for row in found] == [row["frame"] for row in expected]
    assert sum(len(row["detections"]) for row in expected) > 0
    differing = [row["frame"] for row, other in zip(found, expected, strict=True) if row != other]
    # The host letterboxes with OpenCV, the device with a kernel that is tested to do the same.
    assert not differing


def test_many_videos_give_their_memory_back(clip: Path) -> None:
    import torch

    def used(videos: int) -> int:
        for _ in range(videos):
            assert len(rows(running, clip)) == 120
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return total - free

    with engine() as running:
        used(3)  # what the driver keeps for the decoder
        settled = used(2)
        assert used(15) <= settled + 32 * 2**20


def test_a_truncated_file(clip: Path, video: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    data = clip.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found, expected = (list(read_frames(str(path), device=d)) for d in (video, None))
    assert [frame.number for frame in found] == [frame.number for frame in expected]
    assert isinstance(found[-1].payload, ImageError)
    assert str(found[-1].payload) == str(expected[-1].payload)
    assert isinstance(found[5].payload, DeviceFrame)
    assert "truncated" in video.describe() or "invalid" in video.describe().lower()


def test_garbage_in_the_middle(clip: Path, video: Any, tmp_path: Path) -> None:
    """FFmpeg and NVDEC conceal what is lost in ways of their own; numbers and the end agree."""
    path = tmp_path / "bad.mp4"
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    found, expected = (list(read_frames(str(path), device=d)) for d in (video, None))
    assert isinstance(found[-1].payload, ImageError)
    assert abs(len(found) - len(expected)) <= 4  # where the fault shows depends on FFmpeg's threads
    assert [frame.number for frame in found] == list(range(len(found)))


@pytest.mark.parametrize(
    ("name", "size", "options", "reason"),
    [
        ("mpeg4.avi", (96, 128), {"codec": "mpeg4"}, "codec mpeg4"),
        ("ten.mp4", (160, 192), {"codec": "libx265", "pix_fmt": "yuv420p10le"}, "p010le"),
        ("444.mp4", (96, 128), {"pix_fmt": "yuv444p"}, "yuv444p"),
        ("tiny.mp4", (16, 16), {}, "NVDEC does not decode"),
        ("odd.webm", (161, 193), {"codec": "libvpx-vp9"}, "odd sides"),
    ],
)
def test_what_the_device_refuses_is_decoded_on_the_cpu(
    name: str, size: tuple[int, int], options: Any, reason: str, video: Any, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / name, moving(12, size), **options)
    assert assert_same_frames(path, video, on_device=False) == 12
    assert reason in video.describe()


def test_an_engine_goes_on_after_a_refused_video(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    write_clip(tmp_path / "b.avi", moving(9, (96, 128)), codec="mpeg4")
    (tmp_path / "c.mp4").write_bytes(clip.read_bytes())
    with engine() as running:
        found = rows(running, tmp_path)
        assert "1 videos on the cpu" in running.describe()["video"]
    assert [row["image"] for row in found] == ["a.mp4"] * 120 + ["b.avi"] * 9 + ["c.mp4"] * 120
    assert all(row["error"] is None for row in found)


def test_a_window_smaller_than_a_batch_does_not_deadlock(clip: Path) -> None:
    with engine(batch=64, queue_bytes=4 * 320 * 240 * 3) as running:
        assert len(rows(running, clip)) == 120


def test_pyav_can_use_nvdec_here() -> None:
    """What the others rest on, with FFmpeg's own words when it cannot."""
    import torch

    from brimful.runtimes.cuda.input.video import CudaVideo

    video = CudaVideo(torch.device("cuda", 0))
    with video.open(str(shared("videos", "car-detection.mp4"))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.is_hwaccel
        frame = next(container.decode(stream))
        assert (frame.format.name, frame.sw_format.name) == ("cuda", "nv12")
        assert [plane.buffer_ptr % 256 for plane in frame.planes] == [0, 0]
