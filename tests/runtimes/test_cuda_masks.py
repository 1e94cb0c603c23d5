"""Masks of the torch runtime on CUDA: computed and encoded on the device, as the host has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.cuda.runtime import TorchCudaRuntime
from brimful.runtimes.cuda.techniques import Techniques
from brimful.runtimes.runtime import Precision, RuntimeOptions
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda import masks as device_masks
from brimful.vision.geometry import Geometry
from brimful.vision.heads.rows import Inverse
from brimful.vision.letterbox import letterbox
from brimful.vision.postprocess import PostprocessConfig
from mask_oracle import assert_same_masks, host_masks, placed
from model_files import outputs_of, saved
from oracles import asset, pair_detections

pytestmark = pytest.mark.gpu

PHOTOS = [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]
# larger and smaller than the canvas, and with an odd padding on either side
IMAGES = [
    *PHOTOS,
    cv2.resize(PHOTOS[0], (333, 500)),
    cv2.resize(PHOTOS[1], (97, 61)),
    cv2.resize(PHOTOS[1], (640, 640)),
]


@contextmanager
def opened(
    precision: Precision,
    *,
    batch: int = 8,
    max_det: int = 20,
    yaml_name: str = "yolo26n-seg.yaml",
    techniques: Techniques | None = None,
) -> Iterator[TorchCudaRuntime]:
    """Give a runtime that selects on the device."""
    options = RuntimeOptions(
        device="cuda:0",
        precision=precision,
        max_batch=batch,
        postprocess=PostprocessConfig(max_det=max_det),
    )
    model = open_model(saved(yaml_name), ModelOptions())
    runtime = TorchCudaRuntime(model, options, techniques or Techniques())
    try:
        yield runtime
    finally:
        runtime.close()


def filled(runtime: TorchCudaRuntime, images: list[Any]) -> tuple[Any, list[Geometry]]:
    """Return a slot with images, and where they lie."""
    policy = CanvasPolicy(mode="square")
    geometries = [policy.place(image.shape[:2]) for image in images]
    slot = runtime.allocate((640, 640))
    for i, (image, geometry) in enumerate(zip(images, geometries, strict=True)):
        letterbox(image, geometry, slot.inputs[i])
        slot.place(i, geometry)
    return slot, geometries


@pytest.fixture
def prototypes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the network gave for each forward, copied to the host beside the masks."""
    kept: list[Any] = []
    masks = device_masks.DeviceMasks.masks

    def remembering(self: Any, found: Any, again: Any = nullcontext) -> Any:
        kept.append(self._prototypes[: len(found)].cpu().numpy())
        return masks(self, found, again)

    monkeypatch.setattr(device_masks.DeviceMasks, "masks", remembering)
    return kept


def check(selected: Any, prototypes: Any, geometries: list[Geometry]) -> int:
    """Compare a forward's masks with the host's from the same prototypes; return how many."""
    rows = selected.rows
    boxes = Inverse.of(rows, placed(geometries)).boxes(rows.boxes)
    found = selected.masks.masks(rows, boxes, placed(geometries))
    wanted = host_masks(rows, np.ascontiguousarray(prototypes), boxes, geometries)
    different = assert_same_masks(found, wanted, rows, prototypes, geometries)
    assert different <= max(2, len(found) // 3)  # noise has many pixels near 0
    return sum(mask is not None for mask in found)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_the_same_masks_as_the_hosts(
    precision: Precision, graphs: bool, prototypes: list[Any]
) -> None:
    """Whatever the precision of the network: behind it all is float32.

    A pixel may differ where its logit is 0 but for rounding (`mask_oracle`), and no other.
    """
    with opened(precision, techniques=Techniques(graphs=graphs)) as runtime:
        for images in (IMAGES, IMAGES[2:3], IMAGES[::-1] + IMAGES[:3]):
            slot, geometries = filled(runtime, images)
            selected = outputs_of(runtime, slot, len(images))
            assert not selected.masks.prototypes
            assert check(selected, prototypes[-1], geometries) >= len(images)


def test_the_raw_head_too(prototypes: list[Any]) -> None:
    with opened("fp16", yaml_name="yolov8n-seg.yaml") as runtime:
        slot, geometries = filled(runtime, IMAGES)
        selected = outputs_of(runtime, slot, len(IMAGES))
        assert check(selected, prototypes[-1], geometries) >= len(IMAGES)


@pytest.mark.parametrize("room", ["COLUMN_ROOM", "CHANGE_ROOM", "TEXT_ROOM"])
def test_what_has_no_room_is_computed_by_the_host(
    room: str, prototypes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_masks, room, 1500)
    with opened("fp16") as runtime:
        slot, geometries = filled(runtime, IMAGES)
        selected = outputs_of(runtime, slot, len(IMAGES))
        assert selected.masks.prototypes
        assert (selected.masks.lengths > 0).any()
        check(selected, prototypes[-1], geometries)


def test_what_crosses_the_bus_is_bounded() -> None:
    """Rows and text, of a size that is fixed, and no prototypes."""
    with opened("fp16") as runtime:
        slot, _ = filled(runtime, IMAGES)
        selected = outputs_of(runtime, slot, len(IMAGES))
        graphs = [lane.graph((640, 640), 8) for lane in runtime._lanes]
        assert all(graph is not None and graph.outputs == [] for graph in graphs)
        assert slot.outputs == []
        rows = selected.rows
        width = 6 + rows.extra.shape[1]
        crossed = 4 * len(rows.image) * (width + 1) + len(selected.masks.text)
        bound = 20 * 4 * (width + 1) + device_masks.TEXT_ROOM
        assert crossed <= len(IMAGES) * bound < len(IMAGES) * 4 * 32 * 160 * 160 / 20
        for lane in runtime._lanes:
            buffers = lane._mask_buffers
            assert buffers is not None
            pinned = [t for t in vars(buffers).values() if getattr(t, "is_cpu", False)]
            assert len(pinned) == 3 and all(t.is_pinned() for t in pinned)
            size = sum(t.numel() * t.element_size() for t in pinned)
            assert size == 8 * (device_masks.TEXT_ROOM + 20 * 4 + 16 * 8)


def test_with_and_without_the_technique() -> None:
    """The same detections from the engine, whoever computes the masks."""
    found = []
    for masks in (True, False):
        with opened("fp32", techniques=Techniques(masks=masks)) as runtime:
            slot, _ = filled(runtime, IMAGES)
            selected = outputs_of(runtime, slot, len(IMAGES))
            assert (selected.masks is not None) == masks == (len(selected.arrays) == 0)
            with Engine(runtime, EngineConfig(canvas="square")) as engine:
                found.append(list(engine.predict(IMAGES * 5)))
    report = pair_detections(*found)
    assert report.paired_fraction >= 0.99, report.complaints


def test_nothing_is_allocated_in_the_steady_state() -> None:
    import torch

    def encoded(count: int) -> list[bytes]:
        files = [Path(asset(name)).read_bytes() for name in ("bus.jpg", "zidane.jpg")]
        return [files[i % 2] for i in range(count)]

    with opened("fp16", batch=4, max_det=5) as runtime:
        engine = Engine(runtime, EngineConfig())
        with engine:
            list(engine.predict(encoded(40)))
            before = torch.cuda.memory_stats()["allocation.all.allocated"]
            results = list(engine.predict(encoded(100)))
            after = torch.cuda.memory_stats()["allocation.all.allocated"]
    assert after == before
    assert all(result.error is None for result in results)
    assert all(result.masks for result in results)
