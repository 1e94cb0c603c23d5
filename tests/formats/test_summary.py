"""Boxes in four layouts, summaries and tables, against Ultralytics' own Results."""

from __future__ import annotations

import csv
import io
import json
import os
import types

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from brimful.detections import Detections
from brimful.errors import MissingExtraError
from brimful.formats import summary as summary_module
from brimful.formats.polygon import obb_corners

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported

NAMES = ("person", "bicycle", "traffic light", "dog", "cat", "kite")
TASKS = ("detect", "segment", "pose", "obb", "classify")
HEIGHT, WIDTH = 123, 517


def made(task: str, count: int = 4) -> Detections:
    rng = np.random.default_rng(3)
    common = {"image": "a.jpg", "index": 0, "width": WIDTH, "height": HEIGHT, "task": task}
    common["names"] = NAMES
    if task == "classify":
        return Detections(**common, probs=rng.dirichlet(np.ones(6)).astype(np.float32))
    corners = rng.random((count, 2, 2)) * (WIDTH, HEIGHT)
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32)
    extra = {}
    if task == "segment":
        extra["masks"] = tuple(_rle(30 + 60 * i) for i in range(count))
    elif task == "pose":
        extra["keypoints"] = (rng.random((count, 17, 3)) * (WIDTH, HEIGHT, 1)).astype(np.float32)
    elif task == "obb":
        sizes = np.sort(rng.random((count, 2)) * 60 + 20)[:, ::-1]
        angles = rng.random((count, 1))
        centers = rng.random((count, 2)) * (WIDTH, HEIGHT)
        extra["obb"] = np.hstack((centers, sizes, angles)).astype(np.float32)
        points = obb_corners(extra["obb"])
        boxes = np.concatenate((points.min(1), points.max(1)), 1)
    return Detections(
        **common,
        boxes=boxes,
        confidence=rng.random(count).astype(np.float32),
        class_id=rng.integers(0, 6, count).astype(np.int32),
        **extra,
    )


def _mask(x: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (x, 60), (25, 40), 20, 0, 360, 1, -1)
    return mask


def _rle(x: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(_mask(x)))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def theirs(d: Detections):
    """The Results that hold the same arrays."""
    torch = pytest.importorskip("torch")
    results = pytest.importorskip("ultralytics.engine.results")
    fields = {}
    columns = [d.confidence[:, None], d.class_id[:, None].astype(np.float32)]
    if d.probs is not None:
        fields["probs"] = torch.tensor(d.probs)
    elif d.obb is not None:
        fields["obb"] = torch.tensor(np.hstack((d.obb, *columns)))
    else:
        fields["boxes"] = torch.tensor(np.hstack((d.boxes, *columns)))
    if d.keypoints is not None:
        fields["keypoints"] = torch.tensor(d.keypoints)
    if d.masks is not None:
        fields["masks"] = torch.tensor(np.stack([_mask(30 + 60 * i) for i in range(len(d))]))
    image = np.zeros((d.height, d.width, 3), np.uint8)
    return results.Results(image, path="a.jpg", names=dict(enumerate(NAMES)), **fields)


@pytest.mark.parametrize("name", ["xywh", "xyxyn", "xywhn"])
def test_boxes_are_ultralytics_own(name):
    d = made("detect")
    found = getattr(d, name)
    assert found.dtype == np.float32 and found.shape == (4, 4)
    np.testing.assert_allclose(found, getattr(theirs(d).boxes, name).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(d.boxes, made("detect").boxes)  # xyxy, and left alone


def test_boxes_of_an_image_without_any():
    bad = Detections(image="a", index=0, width=0, height=0, task="detect", names=("x",), error="e")
    for empty in (made("detect", 0), bad):
        assert [getattr(empty, n).shape for n in ("xywh", "xyxyn", "xywhn")] == [(0, 4)] * 3
        assert empty.summary() == empty.summary(normalize=True) == []


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_summary_is_ultralytics_own(task, normalize):
    d = made(task)
    ours, expected = d.summary(normalize=normalize), theirs(d).summary(normalize=normalize)
    assert json.loads(json.dumps(ours)) == ours, "plain values only"
    assert len(ours) == len(expected) == (5 if task == "classify" else 4)
    for one, other in zip(ours, expected, strict=True):
        assert list(one) == list(other)
        for key in ("name", "class"):
            assert one[key] == other[key]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1.1e-5)
        if task == "obb":  # the same corners, from another one on
            points, others = (
                sorted((r["box"][f"x{i}"], r["box"][f"y{i}"]) for i in (1, 2, 3, 4))
                for r in (one, other)
            )
            np.testing.assert_allclose(points, others, rtol=1e-5, atol=2e-4)
        elif task != "classify":
            assert one["box"] == pytest.approx(other["box"], abs=1.1e-5)
        for key in ("segments", "keypoints"):
            assert (one.get(key) is None) == (other.get(key) is None)
            for axis in one.get(key, ()):
                assert list(one[key]) == list(other[key])
                np.testing.assert_allclose(one[key][axis], other[key][axis], atol=1.1e-5)


def test_decimals():
    (first, *_) = made("detect").summary(decimals=1)
    assert all(value == round(value, 1) for value in first["box"].values())


COLUMNS = {
    "detect": ["x1", "y1", "x2", "y2"],
    "segment": ["x1", "y1", "x2", "y2", "segments"],
    "pose": ["x1", "y1", "x2", "y2", "keypoints"],
    "obb": ["x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"],
    "classify": [],
}


@pytest.mark.parametrize("task", TASKS)
def test_csv_and_table_hold_the_summary(task):
    polars = pytest.importorskip("polars")
    d = made(task)
    columns = ["name", "class", "confidence", *COLUMNS[task]]
    lines = list(csv.DictReader(io.StringIO(d.to_csv(normalize=True))))
    frame = d.to_df(normalize=True)
    assert isinstance(frame, polars.DataFrame)
    assert frame.columns == list(lines[0]) == columns
    for row, line, record in zip(d.summary(normalize=True), lines, frame.to_dicts(), strict=True):
        flat = row | row.get("box", {})
        assert record == {name: flat[name] for name in columns}
        read = {k: v if k == "name" else json.loads(v) for k, v in line.items()}
        assert read == record


@pytest.mark.parametrize("task", TASKS[:4])
def test_tables_without_rows_have_their_columns(task):
    pytest.importorskip("polars")
    d = made(task, 0)
    assert d.to_csv().splitlines() == [",".join(["name", "class", "confidence", *COLUMNS[task]])]
    assert d.to_df().columns == ["name", "class", "confidence", *COLUMNS[task]]


def test_pandas_goes_first_and_neither_is_an_error(monkeypatch):
    asked = {}
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: asked.update(rows=rows, columns=columns)
    monkeypatch.setitem(__import__("sys").modules, "pandas", pandas)
    monkeypatch.setattr(summary_module, "installed", lambda name: True)
    made("detect").to_df()
    assert len(asked["rows"]) == 4 and asked["columns"][:3] == ["name", "class", "confidence"]
    monkeypatch.setattr(summary_module, "installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"brimful\[pandas\]"):
        made("detect").to_df()
