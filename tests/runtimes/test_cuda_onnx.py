"""onnxruntime on CUDA: the detections of the CPU, whatever the batch, within the memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.runtime import OutOfMemoryError, RuntimeOptions
from brimful.vision.postprocess import PostprocessConfig
from loading import load
from onnx_models import FIXED, TASKS, onnx_file
from oracles import asset, pair_detections

pytestmark = pytest.mark.gpu

FILES = [asset("bus.jpg"), asset("zidane.jpg")]
IMAGES = [cv2.imread(str(file)) for file in FILES]  # pixels: decoders differ, networks shall not
MIB = 2**20


@pytest.fixture(autouse=True)
def provider() -> None:
    """Skip without onnxruntime-gpu, unless REQUIRE_ONNX_CUDA=1."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return
    if os.environ.get("REQUIRE_ONNX_CUDA") == "1":
        pytest.fail("REQUIRE_ONNX_CUDA=1, but this onnxruntime has no CUDA provider")
    pytest.skip("needs onnxruntime-gpu")


def detect(
    model: Path, device: str = "cuda", precision: Any = "fp32", batch: int = 4, **options: Any
) -> list[Detections]:
    options = {"precision": precision, "batch": batch, "canvas": "square", **options}
    with load(model, runtime="onnxruntime", device=device, **options) as engine:
        return list(engine.predict(IMAGES * 4))


def engine_with(model: Path, precision: Any, batch: int, **techniques: bool) -> Engine:
    """Return an engine with the provider's techniques as given."""
    from brimful.runtimes.cuda.onnx.provider import ProviderTechniques
    from brimful.runtimes.cuda.onnx.runtime import OnnxCudaRuntime

    config = PostprocessConfig()
    options = RuntimeOptions(
        device="cuda:0", precision=precision, max_batch=batch, postprocess=config
    )
    runtime = OnnxCudaRuntime(
        open_model(model, ModelOptions()), options, provider=ProviderTechniques(**techniques)
    )
    return Engine(runtime, EngineConfig(postprocess=config, canvas="square"))


def held() -> int:
    """Return the bytes that this process holds on the device, onnxruntime's too."""
    import gc

    import torch

    from brimful.memory.nvml import DeviceMemory

    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return DeviceMemory(str(torch.cuda.get_device_properties(0).uuid)).process()


@pytest.mark.parametrize("name", TASKS)
def test_fp32_agrees_with_the_cpu(name: str) -> None:
    model = onnx_file(name)
    report = pair_detections(detect(model, batch=1), detect(model, "cpu"))
    # Random weights put scores close together: another order of summation swaps a few near-ties.
    assert report.paired_fraction >= 0.995, report.complaints


def test_fp16_finds_the_same_objects() -> None:
    found = detect(onnx_file("yolov8n.yaml", "fp16"), precision="fp16")
    wanted = detect(onnx_file("yolov8n.yaml"), "cpu")
    report = pair_detections(found, wanted, iou=0.8, score=0.15)
    assert report.paired_fraction > 0.9, report.complaints


@pytest.mark.parametrize("batch", [2, 7, 16])
def test_a_batch_agrees_with_single_images(batch: int) -> None:
    model = onnx_file("yolo26n.yaml")
    report = pair_detections(detect(model, batch=batch), detect(model, batch=1))
    assert report.paired_fraction >= 0.995, report.complaints


def test_a_fixed_batch_and_canvas() -> None:
    """The file's batch runs whole, and what is left of the batch before is nobody's."""
    model = onnx_file(FIXED)
    found, wanted = ([], [])
    for device, results in (("cuda", found), ("cpu", wanted)):
        options: dict[str, Any] = {"runtime": "onnxruntime", "device": device}
        with load(model, **options) as engine:
            assert engine.runtime.max_batch == 4
            results += list(engine.predict([*IMAGES, *IMAGES, IMAGES[0]]))
    assert len(found) == 5
    report = pair_detections(found, wanted)
    assert report.paired_fraction >= 0.995, report.complaints


def test_canvases_and_lanes_do_not_disturb_each_other() -> None:
    """Images of several canvases, many at once, in two orders."""
    model = onnx_file("yolov8n.yaml")
    shapes = [(480, 640), (640, 480), (384, 640), (640, 640)]
    images = [cv2.resize(IMAGES[i % 2], shape[::-1]) for i, shape in enumerate(shapes * 12)]
    with load(model, device="cuda", batch=4) as engine:
        assert engine.describe()["runtime"] == "onnxruntime"
        forth = list(engine.predict(images))
        back = list(engine.predict(images[::-1]))[::-1]
    with load(model, runtime="onnxruntime") as engine:
        wanted = list(engine.predict(images[:4])) * 12
    for found in (forth, back):
        report = pair_detections(found[:2] + found[-2:], wanted[:2] + wanted[2:4])
        assert report.paired_fraction >= 0.99, report.complaints
        for i, result in enumerate(found[8:]):
            assert len(result) == pytest.approx(len(found[i % 8]), abs=2)


@pytest.mark.parametrize(
    "techniques",
    [
        {"static": True},
        {"static": True, "nhwc": True},
        {"graphs": True},
        {"static": True, "nhwc": True, "graphs": True},
    ],
    ids=lambda chosen: " ".join(chosen),
)
def test_what_makes_it_faster_changes_nothing(techniques: dict[str, bool]) -> None:
    model = onnx_file("yolov8n.yaml", "fp16")
    found = []
    for chosen in ({}, techniques):
        with engine_with(model, "fp16", 4, **chosen) as engine:
            found.append(list(engine.predict(IMAGES * 10)))
            if chosen.get("graphs"):
                assert engine.describe()["graphs"] == "on"
    report = pair_detections(*found, iou=0.8, score=0.15)
    assert report.paired_fraction > 0.95, report.complaints


def test_graphs_of_a_model_that_allows_none() -> None:
    """It runs without, and says so."""
    with engine_with(onnx_file("yolo26n.yaml", "fp16"), "fp16", 2, graphs=True) as engine:
        assert str(engine.describe()["graphs"]).startswith("off: ")
        assert all(result.error is None for result in engine.predict(IMAGES))


def test_selection_on_the_host_is_the_devices() -> None:
    from brimful.runtimes.cuda.onnx.runtime import OnnxCudaRuntime
    from brimful.runtimes.cuda.techniques import Techniques

    config = PostprocessConfig()
    model = open_model(onnx_file("yolov8n.yaml"), ModelOptions())
    found = []
    for select in (True, False):
        options = RuntimeOptions(device="cuda:0", max_batch=2, postprocess=config)
        runtime = OnnxCudaRuntime(model, options, Techniques(select=select))
        with Engine(runtime, EngineConfig(postprocess=config, canvas="square")) as engine:
            found.append(list(engine.predict(IMAGES)))
    report = pair_detections(*found)
    assert report.ok, report.complaints


def test_close_gives_memory_back() -> None:
    model = onnx_file("yolov8n.yaml", "fp16")

    def after(engines: int) -> int:
        for _ in range(engines):
            detect(model, precision="fp16", batch=16)
        return held()

    settled = after(2)  # the libraries' code stays
    assert after(4) <= settled + 16 * MIB


def test_nothing_is_allocated_in_the_steady_state() -> None:
    import torch

    with load(
        onnx_file("yolo26n.yaml", "fp16"), device="cuda", precision="fp16", batch=8
    ) as engine:
        list(engine.predict(IMAGES * 40))
        before = torch.cuda.memory_stats()
        device = held()
        list(engine.predict(IMAGES * 100))
        after = torch.cuda.memory_stats()
        assert held() <= device
    for name in ("allocation.all.allocated", "segment.all.allocated"):
        assert after[name] == before[name]


def test_a_session_above_its_limit_is_out_of_memory() -> None:
    import torch

    from brimful.runtimes.cuda.onnx.network import OnnxNetwork

    device = torch.device("cuda:0")
    network = OnnxNetwork(open_model(onnx_file("yolov8n.yaml"), ModelOptions()), "fp32", device)
    try:
        stream = torch.cuda.Stream(device)
        network.limit = MIB
        with pytest.raises(OutOfMemoryError):
            network.on(stream)
        network.limit = 64 * MIB
        with torch.cuda.stream(stream):
            forward = network.on(stream)
            forward(torch.zeros(1, 3, 64, 64, device=device))
            with pytest.raises(OutOfMemoryError):
                forward(torch.zeros(16, 3, 640, 640, device=device))
            assert forward(torch.zeros(1, 3, 64, 64, device=device))  # it goes on
    finally:
        network.close()


def test_a_budget_is_kept_and_what_does_not_fit_is_refused() -> None:
    import torch

    from brimful.errors import MemoryBudgetError
    from brimful.memory.nvml import DeviceMemory

    model = onnx_file("yolo26n.yaml", "fp16")
    memory = DeviceMemory(str(torch.cuda.get_device_properties(0).uuid))
    start = held()
    budget = start + 2500 * MIB  # what earlier tests left behind counts too
    options: dict[str, Any] = {"device": "cuda", "precision": "fp16", "gpu_mem": budget}
    with load(model, batch="auto", **options) as engine:
        assert engine.runtime.max_batch >= 4
        files = [Path(file).read_bytes() for file in FILES] * 30
        assert all(result.error is None for result in engine.predict(files))
        assert memory.process() <= budget
    with pytest.raises(MemoryBudgetError, match="batch 4096 at 640x640 in fp16 does not fit"):
        load(model, batch=4096, **options)
    with pytest.raises(MemoryBudgetError, match="too small"):
        load(model, device="cuda", precision="fp16", gpu_mem="64MiB")
    assert held() <= start + 600 * MIB  # libraries that were loaded by now


def test_a_forward_out_of_memory_is_split_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    from brimful.runtimes.cuda.onnx.forward import OnnxForward

    run = OnnxForward.__call__

    def failing(self: Any, images: Any) -> Any:
        if len(images) > 2:
            raise OutOfMemoryError("Failed to allocate memory for requested buffer")
        return run(self, images)

    with load(onnx_file("yolo26n.yaml"), device="cuda", batch=8, canvas="square") as engine:
        expected = [len(result) for result in engine.predict(IMAGES * 8)]
        monkeypatch.setattr(OnnxForward, "__call__", failing)
        results = list(engine.predict(IMAGES * 8))
    assert [result.error for result in results] == [None] * 16
    assert np.allclose([len(result) for result in results], expected, atol=2)


def test_several_processes_on_a_device_agree_with_one() -> None:
    from functools import partial

    from brimful.cluster.start import start_engines

    model = onnx_file("yolo26n.yaml", "fp16")
    start = partial(load, model, precision="fp16", batch=4, canvas="square")
    found = []
    for devices in (["cuda:0"], ["cuda:0", "cuda:0"]):
        with start_engines(start, devices, None, threads=None, workers=2) as engine:
            found.append([len(result) for result in engine.predict(FILES * 12)])
    assert np.allclose(*found, atol=2)
