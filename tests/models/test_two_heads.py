"""A checkpoint whose two heads differ: the one that was asked for answers, on every runtime.

The tests' COCO checkpoint has two heads of the same weights, with which no test can notice a head
that was chosen wrongly. Here the NMS-free head calls each class by the next one's id.
"""

import functools

import cv2
import numpy as np
import pytest
import torch

from loading import load
from model_files import opened, saved, scratch
from oracles import asset, pair_detections, reference_predict, shared

SIDE = 320
KINDS = ("coco", "random")


@functools.cache
def two_heads(kind):
    """Return a YOLO26n whose one-to-one head has its classes moved by one."""
    source = shared("models", "yolo26n-coco.pt") if kind == "coco" else saved("yolo26n.yaml")
    held = torch.load(source, weights_only=False)
    for held_as in ("model", "ema"):
        if held.get(held_as) is None:
            continue
        head = held[held_as].model[-1]
        with torch.no_grad():
            for branch in head.one2one_cv3:
                for parameter in (branch[-1].weight, branch[-1].bias):
                    parameter.copy_(parameter.roll(1, 0))
    path = scratch() / f"two-heads-{kind}.pt"
    torch.save(held, path)
    return path


def photos():
    return [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]


def found(results):
    return [set(d.class_id[d.confidence > 0.4].tolist()) for d in results]


@functools.cache
def reference(kind, nms):
    return reference_predict(
        str(two_heads(kind)), photos(), imgsz=SIDE, rect=False, nms=nms, max_det=40
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_differ(kind):
    """Otherwise this file shows nothing."""
    with_nms, nms_free = (found(reference(kind, nms)) for nms in (True, False))
    classes = 80 if kind == "coco" else 5
    assert all(with_nms)
    assert with_nms != nms_free
    if kind == "coco":
        assert [{(c + 1) % classes for c in each} for each in with_nms] == nms_free


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("nms", [True, False, None])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_that_was_asked_for(kind, nms, runtime):
    """None is the NMS-free one where there is one; Ultralytics' own default is the other."""
    wanted = nms is True
    options = {"imgsz": SIDE, "canvas": "square", "max_det": 40, "runtime": runtime}
    with load(two_heads(kind), nms=nms, **options) as engine:
        assert engine.spec.head == ("raw" if wanted else "nms_free")
        ours = list(engine.predict(photos()))
    report = pair_detections(ours, reference(kind, wanted))
    assert report.reference >= 4
    assert report.ok, report
    other = pair_detections(ours, reference(kind, not wanted))
    assert not other.ok


@pytest.mark.parametrize("nms", [True, False])
def test_the_outputs_of_the_heads(nms):
    """Number by number, against the head of Ultralytics' own reading."""
    from ultralytics import YOLO

    network = opened(two_heads("random"), nms=nms).network
    images = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    scores = []
    for end2end in (nms is not True, nms is True):
        model = YOLO(two_heads("random")).model.float().eval()
        model.model[-1].end2end = end2end
        model.model[-1].export = True
        with torch.inference_mode():
            scores.append(model(images).numpy())
    with torch.inference_mode():
        ours = network(images).numpy()
    right, wrong = scores
    assert ours.shape == right.shape != wrong.shape
    assert np.allclose(by_class(ours), by_class(right), rtol=0.01, atol=0.01)
    moved = np.roll(by_class(right), 1, axis=1)
    assert not np.allclose(by_class(ours), moved, rtol=0.01, atol=0.01)


def by_class(output):
    """Return the sum of an output's scores by class: near ties may swap rows."""
    if output.shape[2] != 6:
        return output[:, 4:].sum(axis=2)
    scores, classes = output[..., 4], output[..., 5]
    return np.stack([(scores * (classes == c)).sum(axis=1) for c in range(5)], axis=1)
