"""The torch runtime on CUDA: the same detections as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.cuda.feeder import Feeder
from brimful.runtimes.cuda.runtime import TorchCudaRuntime
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.runtime import Precision, RuntimeOptions
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.jpeg import JpegDecoder
from brimful.vision.letterbox import letterbox
from brimful.vision.postprocess import PostprocessConfig
from loading import load
from model_files import saved
from oracles import asset, pair_detections, shared

pytestmark = pytest.mark.gpu

FILES = [asset("bus.jpg"), asset("zidane.jpg")]
IMAGES = [cv2.imread(str(file)) for file in FILES]  # pixels: decoders differ, networks shall not
TASKS = (
    "yolo26n.yaml",
    "yolov8n.yaml",
    "yolo26n-seg.yaml",
    "yolo26n-pose.yaml",
    "yolo26n-obb.yaml",
)


def detect(
    model: Path, device: str, precision: Precision = "fp32", batch: int = 4
) -> list[Detections]:
    # One canvas: every further one costs cuDNN's search again, seconds in fp32.
    options: dict[str, Any] = {"precision": precision, "batch": batch, "canvas": "square"}
    with load(model, runtime="torch", device=device, **options) as engine:
        return list(engine.predict(IMAGES * 4))


@pytest.mark.parametrize("yaml_name", TASKS)
def test_fp32_agrees_with_the_cpu(yaml_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # TF32 is a precision of its own; here the claim is fp32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = saved(yaml_name)
    report = pair_detections(detect(model, "cuda", batch=1), detect(model, "cpu"))
    # Random weights put scores close together: another order of summation swaps a few near-ties
    # (2 of 554 for obb on an H200). Everything else must agree to 0.99 IoU and 0.005 in score.
    assert report.paired_fraction >= 0.995, report.complaints


@pytest.mark.parametrize(("precision", "iou"), [("fp16", 0.8), ("bf16", 0.5)])
def test_half_precision_finds_the_same_objects(precision: Precision, iou: float) -> None:
    model = saved("yolov8n.yaml")
    # Random weights amplify rounding: boxes may move, but nearly all must be found again.
    report = pair_detections(
        detect(model, "cuda", precision), detect(model, "cpu"), iou=iou, score=0.15
    )
    assert report.paired_fraction > 0.9, report.complaints


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo26n-coco.pt"])
def test_fused_kernels_are_no_further_from_fp32_than_pytorchs(
    name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from brimful.runtimes.cuda.network.network import CudaNetwork

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    path = shared("models", name) if name.endswith(".pt") else saved(name)
    photos = np.stack([cv2.resize(image, (640, 480)) for image in IMAGES])
    images = torch.from_numpy(photos).cuda().flip(3).permute(0, 3, 1, 2) / 255

    def read_by_the_head(precision: Precision, *, fused: bool) -> list[Any]:
        network = CudaNetwork(
            open_model(path, ModelOptions()), precision, torch.device("cuda:0"), fused=fused
        )
        read: list[Any] = []
        network.head.register_forward_pre_hook(lambda module, inputs: read.extend(inputs[0]))
        with torch.inference_mode():
            network(images.to(network.dtype).contiguous(memory_format=torch.channels_last))
        return [level.float() for level in read]

    wanted = read_by_the_head("fp32", fused=False)
    theirs = read_by_the_head(precision, fused=False)
    ours = read_by_the_head(precision, fused=True)
    assert len(wanted) == len(ours) == 3
    for exact, plain, fused in zip(wanted, theirs, ours, strict=True):
        error = (fused - exact).abs().mean()
        assert 0 < error <= 1.5 * (plain - exact).abs().mean()


def test_a_batch_agrees_with_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = saved("yolo26n.yaml")
    report = pair_detections(detect(model, "cuda", batch=2), detect(model, "cuda", batch=1))
    assert report.ok, report.complaints


def test_close_gives_memory_back() -> None:
    import gc

    import torch

    model = saved("yolov8n.yaml")

    def reserved_after(engines: int) -> int:
        for _ in range(engines):
            detect(model, "cuda", "fp16")
        gc.collect()  # what only a cycle holds is garbage, and counts as given back
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    # The first engines leave the libraries' own workspaces behind; then nothing may grow.
    reserved_after(3)
    settled = reserved_after(1)
    assert reserved_after(4) <= settled


def test_batches_and_positions_change_no_bit() -> None:
    model = saved("yolo26n.yaml")
    single = detect(model, "cuda", "fp16", batch=1)
    for batch in (2, 7, 32):
        together = detect(model, "cuda", "fp16", batch=batch)
        for a, b in zip(single, together, strict=True):
            assert np.allclose(a.boxes, b.boxes, atol=0.05)
            assert np.allclose(a.confidence, b.confidence, atol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_on_the_device_agrees_with_the_cpu(orientation: int) -> None:
    import torch

    from brimful.runtimes.cuda.input.loader import Loader
    from brimful.vision.decode import decode, read_encoded

    data = with_orientation(Path(asset("bus.jpg")).read_bytes(), orientation)
    encoded = read_encoded(data)
    size = encoded.header.size
    assert size is not None
    geometry = CanvasPolicy().place(size)
    canvas = geometry.canvas
    expected = np.empty((*canvas, 3), np.uint8)
    letterbox(decode(data), geometry, expected)
    with torch.cuda.device(0):
        device = torch.device("cuda:0")
        loader = Loader(4, 3, device, decoder=JpegDecoder(device), limit=64 * 2**20)
        assert loader.takes(encoded.header)
        slot = CudaSlot(canvas, 4, 3)
        slot.put(2, encoded, geometry)
        slot.put(0, encoded, geometry)
        slot.inputs[1] = expected
        slot.inputs[3] = 0
        out = torch.zeros((4, 3, *canvas), device="cuda").contiguous(
            memory_format=torch.channels_last
        )
        found = load_into(loader, slot, 3, out)
        loader.close()
    pixels = (found.permute(0, 2, 3, 1).flip(3) * 255).round().cpu().numpy()
    assert np.array_equal(pixels[1], expected)
    assert np.array_equal(pixels[0], pixels[2])
    assert np.array_equal(pixels[0], expected)


def decoding(path: Path, *, batch: int) -> Engine:
    """Return an engine that decodes on the device, which is not the default."""
    options = RuntimeOptions(
        device="cuda:0",
        precision="fp16",
        max_batch=batch,
        postprocess=PostprocessConfig(),
    )
    model = open_model(path, ModelOptions())
    return Engine(TorchCudaRuntime(model, options, Techniques(decode=True)), EngineConfig())


def many(files: list[Any], count: int) -> list[bytes]:
    """Return encoded images, the files over and over."""
    data = [Path(file).read_bytes() for file in files]
    return [data[i % len(data)] for i in range(count)]


def load_into(loader: Any, slot: CudaSlot, count: int, out: Any) -> Any:
    """Run a loader's pieces as a lane would, without a graph."""
    import torch

    from brimful.vision.cuda.letterbox import letterbox as device_letterbox

    errors: dict[int, str] = {}
    for piece in loader.pieces(slot, count, errors):
        if piece.decoded:
            loader._decoding.place(out, piece.decoded)
        else:
            table = torch.from_numpy(piece.table).cuda()
            device_letterbox(table, out, count=len(piece.table))
        torch.cuda.synchronize()  # the next piece takes the memory
    assert not errors
    return out


def with_orientation(data: bytes, orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + bytes(7)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def test_images_larger_than_the_memory_go_in_pieces_or_to_the_cpu() -> None:
    import torch

    from brimful.runtimes.cuda.input.loader import Loader
    from brimful.vision.decode import read_encoded

    encoded = read_encoded(Path(asset("bus.jpg")).read_bytes())  # 810x1080, 3.9 MB
    assert encoded.header.size is not None
    geometry = CanvasPolicy().place(encoded.header.size)
    with torch.cuda.device(0):
        device = torch.device("cuda:0")
        decoder = JpegDecoder(device)
        small = Loader(8, 3, device, decoder=decoder, limit=2 * 2**20)
        assert not small.takes(encoded.header)
        small.close()
        loader = Loader(8, 3, device, decoder=decoder, limit=12 * 2**20)
        slot = CudaSlot(geometry.canvas, 8, 3)
        for position in range(8):
            slot.put(position, encoded, geometry)
        shape = (8, 3, *geometry.canvas)
        out = torch.zeros(shape, device="cuda").contiguous(memory_format=torch.channels_last)
        found = load_into(loader, slot, 8, out)
        loader.close()
    assert all(torch.equal(found[0], other) for other in found)
    assert found[0].std() > 0.1


def test_an_image_that_the_device_refuses_is_decoded_on_the_cpu() -> None:
    image = IMAGES[0]
    factor = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]
    files = [cv2.imencode(".jpg", image, extra)[1].tobytes() for extra in ([], factor, [])]
    files.append(files[0][:2] + b"\xff\xc4\x00\x03\x00" + files[0][200:])  # no tables worth a name
    with decoding(saved("yolov8n.yaml"), batch=4) as engine:
        results = list(engine.predict(files))
    assert [result.error is None for result in results] == [True, True, True, False]
    assert len(results[1]) > 0
    assert np.allclose(results[0].boxes, results[2].boxes)


def test_nothing_is_allocated_in_the_steady_state() -> None:
    import torch

    with decoding(saved("yolo26n.yaml"), batch=8) as engine:
        list(engine.predict(many(FILES, 400)))  # so that both drivers have had batches
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        segments = torch.cuda.memory_stats()["segment.all.allocated"]
        list(engine.predict(many(FILES, 100)))
        after = torch.cuda.memory_stats()
    assert after["allocation.all.allocated"] == before
    assert after["segment.all.allocated"] == segments


def test_the_graphs_of_all_lanes_share_their_memory() -> None:
    import torch

    before = {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}
    with load(saved("yolo26n.yaml"), device="cuda", precision="fp16", batch=4) as engine:
        assert all(result.error is None for result in engine.predict(FILES * 8))
        runtime = engine.runtime
        assert isinstance(runtime, TorchCudaRuntime)
        assert len(runtime._lanes) > 1 and all(lane._graphs for lane in runtime._lanes)
        pools = {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}
        assert len(pools - before - {(0, 0)}) == 1


def test_a_forward_out_of_memory_is_split_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's contract with the runtime: a failed batch's images all get results."""
    import torch

    launch = Feeder.launch

    def failing(self: Any, flight: Any, idle_s: float) -> None:
        if flight.count > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        launch(self, flight, idle_s)

    with load(saved("yolo26n.yaml"), device="cuda", precision="fp16", batch=8) as engine:
        expected = [len(result) for result in engine.predict(IMAGES * 8)]
        monkeypatch.setattr(Feeder, "launch", failing)
        results = list(engine.predict(IMAGES * 8))
    assert [result.error for result in results] == [None] * 16
    assert [len(result) for result in results] == expected


def test_a_budget_is_kept_and_what_does_not_fit_is_refused() -> None:
    import torch

    from brimful.errors import MemoryBudgetError
    from brimful.memory.nvml import DeviceMemory

    model = saved("yolo26n.yaml")
    memory = DeviceMemory(str(torch.cuda.get_device_properties(0).uuid))
    budget = memory.process() + 1200 * 2**20  # what earlier tests left behind counts too
    options: dict[str, Any] = {"device": "cuda", "precision": "fp16", "gpu_mem": budget}
    with load(model, batch="auto", **options) as engine:
        assert engine.runtime.max_batch >= 4
        assert all(result.error is None for result in engine.predict(many(FILES, 60)))
        assert memory.process() <= budget
    with pytest.raises(MemoryBudgetError, match="batch 4096 at 640x640 in fp16 does not fit"):
        load(model, batch=4096, **options)
    with pytest.raises(MemoryBudgetError, match="too small"):
        load(model, device="cuda", gpu_mem="64MiB")
    assert torch.cuda.memory_reserved() < 64 * 2**20


def test_several_processes_on_a_device_agree_with_one() -> None:
    from functools import partial

    from brimful.cluster.start import start_engines

    start = partial(load, saved("yolo26n.yaml"), precision="fp16", batch=4)
    found = []
    for devices in (["cuda:0"], ["cuda:0", "cuda:0"]):
        with start_engines(start, devices, None, threads=None, workers=2) as engine:
            found.append([result.to_json_record() for result in engine.predict(many(FILES, 24))])
    assert found[0] == found[1]


@pytest.mark.parametrize("decode", [False, True])
def test_a_repeated_image_gives_the_same_bits(decode: bool) -> None:
    """Whatever the lane, the batch's size and the position; it tells decode and network apart."""
    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=4, postprocess=PostprocessConfig()
    )
    model = open_model(saved("yolo26n.yaml"), ModelOptions())
    runtime = TorchCudaRuntime(model, options, Techniques(decode=decode))
    with Engine(runtime, EngineConfig(workers=1)) as engine:
        for source in (many(FILES, 2), IMAGES):
            for image in source:
                results = list(engine.predict([image] * 41))
                assert len(results) == 41
                for result in results[1:]:
                    assert np.array_equal(result.boxes, results[0].boxes)
                    assert np.array_equal(result.confidence, results[0].confidence)
