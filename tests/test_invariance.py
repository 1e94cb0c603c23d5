"""Neighbours never change a result: not the batch size, not the position, not the order.

What holds for each runtime, on the CPU: within 1e-3 px and 1e-5 of a score. A library may sum in
another order for another batch, as oneDNN does, which blocks a convolution by the size of the
batch; which kernels it takes depends on the CPU. Results of `onnxruntime` and `openvino` were the
same bit by bit on all CPUs tried, but neither library promises that.
"""

import itertools
import random
import warnings

import cv2
import numpy as np
import pytest
import torch

from brimful.models.model import open_model
from brimful.runtimes.registry import load_runtime
from brimful.runtimes.runtime import RuntimeOptions
from loading import load
from model_files import artifact_cache, opened, outputs_of, scratch  # noqa: F401
from shared_files import shared

BATCHES = (1, 2, 3, 7, 16)
SIDE = 320
RUNTIMES = ("onnxruntime", "openvino", "torch", "torchscript")
NAMES = '{"names": %s, "task": "detect", "stride": 32, "imgsz": [320, 320]}'


def model_for(runtime, name):
    """Return a model file for a runtime: the checkpoint, or a trace of it."""
    checkpoint = shared("models", f"{name}.pt")
    if runtime != "torchscript":
        return checkpoint
    path = scratch() / f"{name}.torchscript"
    if not path.exists():
        loaded = opened(checkpoint)
        names = str(list(loaded.spec.names)).replace("'", '"')
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = torch.zeros(1, 3, SIDE, SIDE)
            network = torch.jit.trace(loaded.network, image, strict=False)
            torch.jit.save(network, str(path), _extra_files={"config.txt": NAMES % names})
    return path


def photos():
    """Return photographs of all the canvases, some of the same one."""
    paths = sorted(shared("voc100").rglob("*.jpg"))[:12]
    return {path.name: cv2.imread(str(path)) for path in paths}


def same(ours, reference):
    assert len(ours) == len(reference)
    assert np.array_equal(ours.class_id, reference.class_id)
    assert ours.canvas == reference.canvas
    assert np.abs(ours.boxes - reference.boxes).max(initial=0) < 1e-3
    assert np.abs(ours.confidence - reference.confidence).max(initial=0) < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_order_and_batch(runtime):
    """The same images shuffled, through the whole engine."""
    images = photos()
    path = model_for(runtime, "yolo26n-coco")
    canvas = {} if runtime == "torchscript" else {"imgsz": SIDE}
    reference = None
    largest = 0
    for batch in BATCHES:
        order = list(images)
        random.Random(batch).shuffle(order)
        with load(path, runtime=runtime, batch=batch, threads=1, **canvas) as engine:
            found = list(engine.predict([images[key] for key in order]))
            largest = max(largest, *engine.report().batches)
        assert len(found) == len(order)
        results = dict(zip(order, found, strict=True))
        if reference is None:
            reference = results
            assert sum(map(len, found)) > 15
            assert len({d.canvas for d in found}) == (1 if runtime == "torchscript" else 5)
            continue
        for key, result in results.items():
            same(result, reference[key])
    assert largest > 1  # otherwise nothing was tested


@pytest.mark.parametrize("name", ["yolo26n-coco", "yolov8n-coco"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_position(runtime, name):
    """One image in every position of every batch, between neighbours that differ each time."""
    image = cv2.resize(next(iter(photos().values())), (SIDE, SIDE))
    neighbours = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), np.uint8)
    loaded = load_runtime(
        runtime, open_model(model_for(runtime, name)), RuntimeOptions(max_batch=16, threads=1)
    )

    def pixels(picture):
        if loaded.input_format == "hwc_u8":
            return picture
        return picture[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255

    turn = itertools.count()
    slot = loaded.allocate((SIDE, SIDE), capacity=1)
    slot.inputs[0] = pixels(image)
    alone = np.array(outputs_of(loaded, slot, 1)[0][0])
    assert alone[..., 4].max() > 0.3 if alone.shape[-1] == 6 else alone[4:].max() > 0.3
    for batch in BATCHES:
        slot = loaded.allocate((SIDE, SIDE), capacity=batch)
        positions = range(batch) if batch < 7 else (0, batch // 2, batch - 1)
        for position in positions:
            for i in range(batch):
                slot.inputs[i] = pixels(neighbours[next(turn) % len(neighbours)])
            slot.inputs[position] = pixels(image)
            found = outputs_of(loaded, slot, batch)[0][position]
            sure = alone[:, 4] > 0.05 if alone.shape[-1] == 6 else ...
            gap = np.abs(found[sure] - alone[sure]).max()
            assert gap < 1e-3, (batch, position)
    loaded.close()
