"""Formats against pycocotools, Ultralytics' own writers and supervision."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from brimful.detections import Detections
from brimful.errors import ImageError, UsageError
from brimful.formats.coco import COCO91, COCO_NAMES, category_ids
from brimful.formats.json_record import encode_jsonl, from_record
from brimful.formats.polygon import obb_corners
from brimful.formats.rle import decode_rle

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported

NAMES = ("person", "bicycle", "traffic light", "dog")
TASKS = ("detect", "segment", "pose", "obb", "classify")


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(3):
        center = tuple(int(v) for v in rng.integers(5, (width - 5, height - 5)))
        cv2.circle(mask, center, int(rng.integers(3, 30)), 1, -1)
    return mask


def rle_of(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}


def example(task: str, n: int = 3, seed: int = 0, **fields) -> Detections:
    rng = np.random.default_rng(seed)
    common = {"image": "a/b.jpg", "index": 5, "width": 640, "height": 480, "canvas": (480, 640)}
    common |= {"task": task, "names": NAMES} | fields
    if task == "classify":
        return Detections(**common, probs=rng.dirichlet(np.ones(4)).astype(np.float32))
    corners = rng.random((n, 2, 2)) * (640, 480)
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32)
    extra = {}
    if task == "segment":
        extra["masks"] = tuple(rle_of(blobs(rng, 480, 640)) for _ in range(n))
    elif task == "pose":
        extra["keypoints"] = (rng.random((n, 17, 3)) * (640, 480, 1)).astype(np.float32)
    elif task == "obb":
        angle = rng.random((n, 1)) * 3
        extra["obb"] = np.hstack((rng.random((n, 4)) * 200 + 20, angle)).astype(np.float32)
    return Detections(
        **common,
        boxes=boxes,
        confidence=np.sort(rng.random(n).astype(np.float32))[::-1].copy(),
        class_id=rng.integers(0, 4, n).astype(np.int32),
        **extra,
    )


def assert_same(left: Detections, right: Detections) -> None:
    for name in Detections.__dataclass_fields__:
        a, b = getattr(left, name), getattr(right, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name


def test_record_is_the_contract():
    record = json.loads(encode_jsonl([example("detect", 2)]))
    assert list(record) == [
        *("image", "index", "frame", "pts_ms", "width", "height", "canvas", "detections", "error")
    ]
    assert record["canvas"] == [480, 640]
    assert record["frame"] is record["pts_ms"] is record["error"] is None
    assert list(record["detections"][0]) == ["bbox", "confidence", "class_id", "class_name"]
    assert record["detections"][0]["class_name"] == NAMES[record["detections"][0]["class_id"]]
    assert example("detect").to_json_record() == json.loads(encode_jsonl([example("detect")]))
    segment = json.loads(encode_jsonl([example("segment")]))["detections"][0]
    assert segment["segmentation"]["size"] == [480, 640]
    obb = json.loads(encode_jsonl([example("obb")]))["detections"][0]
    assert len(obb["obb"]) == 5
    assert np.shape(obb["polygon"]) == (4, 2)
    assert np.shape(json.loads(encode_jsonl([example("pose")]))["detections"][0]["keypoints"]) == (
        17,
        3,
    )
    classify = json.loads(encode_jsonl([example("classify")]))
    assert "detections" not in classify
    assert sum(classify["probs"]) == pytest.approx(1)
    assert json.loads(encode_jsonl([example("detect", truncated=True)]))["truncated"] is True


def written_plainly(d: Detections) -> bytes:
    """Return the line of an image as orjson writes a plain object of numpy values."""
    record = {name: getattr(d, name) for name in ("image", "index", "frame", "pts_ms")}
    record |= {"width": d.width, "height": d.height, "canvas": d.canvas}
    if d.task == "classify":
        best = max(range(len(d.probs)), key=lambda i: (d.probs[i], -i))
        record["top1"] = {"class_id": best, "class_name": d.names[best]}
        record["top1"]["confidence"] = d.probs[best]
        record["probs"] = d.probs
    else:
        record["detections"] = rows = []
        for i in range(len(d)):
            row = {"bbox": np.ascontiguousarray(d.boxes[i]), "confidence": d.confidence[i]}
            row |= {"class_id": int(d.class_id[i]), "class_name": d.names[d.class_id[i]]}
            if d.masks is not None:
                row["segmentation"] = d.masks[i]
            if d.keypoints is not None:
                row["keypoints"] = np.ascontiguousarray(d.keypoints[i])
            if d.obb is not None:
                row |= {"obb": d.obb[i].copy(), "polygon": obb_corners(d.obb)[i].copy()}
            rows.append(row)
    if d.truncated:
        record["truncated"] = True
    record["error"] = d.error
    if d.error is not None:
        record["failure"] = d.failure
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(record, option=options)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(TASKS),
            st.sampled_from([0, 0, 1, 2, 9]),
            st.booleans(),
            st.sampled_from([None, "it is empty", 'with "quotes"\n']),
            st.sampled_from([NAMES, ("a", "b", 'c "d"', "é")]),
        ),
        max_size=12,
    ),
    st.sampled_from(["a/b.jpg", 'quo"te, "x".jpg', "日本/é.jpg", "back\\slash"]),
)
def test_a_batch_is_written_as_its_images_one_by_one(images, key):
    batch = []
    for i, (task, n, truncated, error, names) in enumerate(images):
        common = {"names": names, "image": key, "index": i, "truncated": truncated, "error": error}
        d = example(task, n, seed=i, **common)
        if n and task != "classify":  # what JSON writes in other ways than plain numbers
            d.boxes[0, 0], d.confidence[0] = np.nan, 1e-30
            d.boxes[-1] = (-0.0, 1e20, np.inf, 123456.789)
        batch.append(d)
    assert encode_jsonl(batch) == b"".join(written_plainly(d) for d in batch)


def test_arrays_that_are_no_whole_piece_of_memory_are_written_all_the_same():
    wide = np.arange(80, dtype=np.float64).reshape(8, 10) / 7
    d = example("detect", 4)
    views = {"boxes": wide[::2, 1:9:2], "confidence": wide[:4, 3], "class_id": d.class_id[::-1]}
    fields = {name: getattr(d, name) for name in ("image", "index", "width", "height", "task")}
    strided = Detections(**fields, names=NAMES, **views)
    same = {name: np.ascontiguousarray(value) for name, value in views.items()}
    same |= {name: same[name].astype(np.float32) for name in ("boxes", "confidence")}
    assert encode_jsonl([strided]) == written_plainly(Detections(**fields, names=NAMES, **same))


def test_arrays_that_do_not_belong_together_are_refused():
    fields = {"image": "x", "index": 0, "width": 1, "height": 1, "task": "detect", "names": NAMES}
    wrong = Detections(
        **fields,
        boxes=np.zeros((3, 4), np.float32),
        confidence=np.zeros(2, np.float32),
        class_id=np.zeros(2, np.int32),
    )
    with pytest.raises(ValueError, match="zip"):
        encode_jsonl([wrong])


def test_error_row():
    failed = Detections(
        image="x.jpg", index=0, width=0, height=0, task="detect", names=NAMES, error="it is empty"
    )
    record = json.loads(encode_jsonl([failed]))
    assert record["error"] == "it is empty"
    assert record["detections"] == []
    assert record["canvas"] is None
    assert_same(from_record(record, task="detect", names=NAMES), failed)


@pytest.mark.parametrize("task", TASKS)
def test_round_trip_to_the_last_bit(task):
    batch = [example(task, n, seed=n, frame=n, pts_ms=n / 3, index=n) for n in (1, 2, 7)]
    lines = encode_jsonl(batch).splitlines()
    assert len(lines) == 3
    for line, original in zip(lines, batch, strict=True):
        assert_same(from_record(orjson.loads(line), task=task, names=NAMES), original)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5))
def test_every_float32_survives(values):
    original = Detections(
        image="x", index=0, width=1, height=1, task="detect", names=NAMES,
        boxes=np.array([values[:4]], np.float32), confidence=np.array(values[4:], np.float32),
        class_id=np.zeros(1, np.int32),
    )  # fmt: skip
    record = orjson.loads(encode_jsonl([original]))
    assert_same(from_record(record, task="detect", names=NAMES), original)


def test_rle_equals_pycocotools():
    rng = np.random.default_rng(1)
    masks = [blobs(rng, 97, 61), np.zeros((5, 7), np.uint8), np.ones((5, 7), np.uint8)]
    masks += [rng.integers(0, 2, (33, 21), np.uint8), blobs(rng, 700, 900)]
    for mask in masks:
        np.testing.assert_array_equal(decode_rle(rle_of(mask)), mask)


def test_obb_corners_equal_ultralytics():
    ops = pytest.importorskip("ultralytics.utils.ops")
    boxes = example("obb", 20).obb
    np.testing.assert_allclose(
        obb_corners(boxes), ops.xywhr2xyxyxyxy(boxes.astype(np.float64)), atol=1e-3
    )


def test_category_maps():
    assert len(COCO91) == len(COCO_NAMES) == 80
    assert (COCO91[0], COCO91[11], COCO91[79]) == (1, 13, 90)
    assert category_ids("auto", COCO_NAMES) == COCO91
    assert category_ids("auto", NAMES) == (0, 1, 2, 3)
    assert category_ids("one", NAMES) == (1, 2, 3, 4)
    assert category_ids("zero", COCO_NAMES) == tuple(range(80))
    with pytest.raises(UsageError, match="80 classes"):
        category_ids("coco91", NAMES)
    with pytest.raises(UsageError, match="auto, coco91, zero, one"):
        category_ids("two", NAMES)


def test_coco91_equals_ultralytics():
    converter = pytest.importorskip("ultralytics.data.converter")
    assert tuple(converter.coco80_to_coco91_class()) == COCO91


def test_coco_results():
    d = example("detect", 2, image="val/000000000139.jpg")
    first = d.to_coco(categories="one")[0]
    x1, y1, x2, y2 = d.boxes[0].tolist()
    assert first == {
        "image_id": 139,
        "category_id": int(d.class_id[0]) + 1,
        "bbox": pytest.approx([x1, y1, x2 - x1, y2 - y1]),
        "score": pytest.approx(float(d.confidence[0])),
    }
    assert example("detect", 1, image="2007_000027.jpg").to_coco()[0]["image_id"] == 5
    assert len(example("pose", 1).to_coco()[0]["keypoints"]) == 51
    assert len(example("obb", 1).to_coco()[0]["segmentation"][0]) == 8
    with pytest.raises(UsageError, match="classify"):
        example("classify").to_coco()


def ultralytics_txt(d: Detections, tmp_path) -> str:
    """What Ultralytics' Results.save_txt writes for the same arrays."""
    torch = pytest.importorskip("torch")
    results = pytest.importorskip("ultralytics.engine.results")
    columns = [d.confidence[:, None], d.class_id[:, None].astype(np.float32)]
    keywords = {}
    if d.task == "obb":
        keywords["obb"] = torch.tensor(np.hstack((d.obb, *columns)))
    else:
        keywords["boxes"] = torch.tensor(np.hstack((d.boxes, *columns)))
    if d.keypoints is not None:
        keywords["keypoints"] = torch.tensor(d.keypoints)
    result = results.Results(
        np.zeros((d.height, d.width, 3), np.uint8),
        path="x",
        names=dict(enumerate(NAMES)),
        **keywords,
    )
    path = tmp_path / "labels.txt"
    result.save_txt(path, save_conf=True)
    return path.read_text()


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_yolo_txt_equals_ultralytics(task, tmp_path):
    d = example(task, 5)
    ours = np.array([line.split() for line in d.to_yolo_txt().splitlines()], float)
    theirs = ultralytics_txt(d, tmp_path)
    np.testing.assert_allclose(
        ours, np.array([line.split() for line in theirs.splitlines()], float), atol=2e-6
    )


def test_yolo_txt_of_pose_has_box_keypoints_confidence():
    d = example("pose", 2)
    row = [float(v) for v in d.to_yolo_txt().splitlines()[1].split()]
    assert len(row) == 1 + 4 + 51 + 1
    x1, y1, x2, y2 = d.boxes[1]
    center = [(x1 + x2) / 1280, (y1 + y2) / 960, (x2 - x1) / 640, (y2 - y1) / 480]
    assert row[1:5] == pytest.approx(center, abs=1e-5)
    points = (d.keypoints[1] / (640, 480, 1)).ravel()
    assert row[5:56] == pytest.approx(points, abs=1e-5)
    assert row[56] == pytest.approx(float(d.confidence[1]), abs=1e-5)
    assert len(d.to_yolo_txt(confidence=False).splitlines()[0].split()) == 56


def test_yolo_txt_of_segment_outlines_the_mask():
    mask = np.zeros((480, 640), np.uint8)
    cv2.circle(mask, (200, 150), 60, 1, -1)
    cv2.circle(mask, (500, 400), 10, 1, -1)  # a smaller part is lost
    d = example("segment", 1)
    d = Detections(
        **{name: getattr(d, name) for name in Detections.__dataclass_fields__}
        | {"masks": (rle_of(mask),)}
    )
    row = [float(v) for v in d.to_yolo_txt().split()]
    polygon = np.array(row[1:-1]).reshape(-1, 2) * (640, 480)
    drawn = np.zeros_like(mask)
    cv2.fillPoly(drawn, [polygon.round().astype(np.int32)], 1)
    largest = mask.copy()
    largest[300:] = 0
    np.testing.assert_array_equal(drawn, largest)


def test_yolo_txt_without_detections_and_of_classify():
    assert example("detect", 0).to_yolo_txt() == ""
    d = example("classify")
    first = d.to_yolo_txt().splitlines()[0]
    assert first == f"{d.probs.max():.2f} {NAMES[int(d.probs.argmax())]}"


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools, numpy 2
def test_supervision():
    sv = pytest.importorskip("supervision")
    d = example("segment", 2)
    converted = d.to_supervision()
    assert isinstance(converted, sv.Detections)
    np.testing.assert_array_equal(converted.xyxy, d.boxes)
    np.testing.assert_array_equal(converted.class_id, d.class_id)
    np.testing.assert_array_equal(converted.mask[1], coco_mask.decode(d.masks[1]).astype(bool))
    assert list(converted.data["class_name"]) == [NAMES[i] for i in d.class_id]
    oriented = example("obb", 2).to_supervision()
    assert oriented.data[sv.config.ORIENTED_BOX_COORDINATES].shape == (2, 4, 2)
    assert len(example("detect", 0).to_supervision()) == 0
    assert example("pose", 2).to_supervision().data["keypoints"].shape == (2, 17, 3)
    top = example("classify").to_supervision()
    assert isinstance(top, sv.Classifications)
    with pytest.raises(ImageError, match="empty"):
        example("detect", 0, error="it is empty").to_supervision()
