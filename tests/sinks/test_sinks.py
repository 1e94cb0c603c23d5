"""Sinks: every format read back by its own library."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from sink_kit import BATCH, NAMES, failed, found, names_in, sink_to, write

from brimful.errors import UsageError
from brimful.formats.coco import COCO91, COCO_NAMES
from brimful.formats.json_record import encode_jsonl


def test_jsonl_appears_at_the_end_and_leaves_nothing_else(tmp_path):
    output = tmp_path / "new/folder/out.jsonl"
    sink = sink_to(output)
    sink.write(BATCH[:2])
    assert names_in(tmp_path / "new/folder") == ["out.jsonl.job.json", "out.jsonl.partial"]
    # Flushed at every call: another reader sees it before any close.
    assert (output.parent / "out.jsonl.partial").read_bytes() == encode_jsonl(BATCH[:2])
    sink.write(BATCH[2:])
    sink.write([])
    sink.finish()
    sink.finish()
    assert names_in(tmp_path / "new/folder") == ["out.jsonl"]
    assert output.read_bytes() == encode_jsonl(BATCH)


def test_json_is_a_list_of_the_same_objects(tmp_path):
    write(tmp_path / "out.json", BATCH)
    assert json.loads((tmp_path / "out.json").read_text()) == [d.to_json_record() for d in BATCH]
    write(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert names_in(tmp_path) == ["none.json", "out.json"]


def test_stdout_is_jsonl_and_cannot_be_resumed():
    stream = io.BytesIO()
    sink = sink_to(None, stream=stream)
    sink.write(BATCH)
    assert stream.getvalue() == encode_jsonl(BATCH)
    sink.finish()
    assert len(sink.done) == 0
    with pytest.raises(UsageError, match="standard output cannot be resumed"):
        sink_to(None, resume=True)
    with pytest.raises(UsageError, match="jsonl only"):
        sink_to(None, "coco")


def test_formats_by_name_and_suffix(tmp_path):
    for suffix in (".xlsx", "", ".txt"):
        with pytest.raises(
            UsageError, match=r"\.coco\.json, \.csv, \.json.*jsonl, json, csv, coco"
        ):
            sink_to(tmp_path / f"out{suffix}")
    with pytest.raises(UsageError, match="jsonl, json, csv, coco, parquet, yolo"):
        sink_to(tmp_path / "out.jsonl", "xml")
    with pytest.raises(UsageError, match="classify"):
        sink_to(tmp_path / "out.coco.json", task="classify")
    with pytest.raises(UsageError, match="80 classes"):
        sink_to(tmp_path / "out.coco.json", categories="coco91")
    with pytest.raises(UsageError, match="is a folder"):
        sink_to(tmp_path, "jsonl")
    assert names_in(tmp_path) == []


# --- CSV ------------------------------------------------------------------------------------


def read_csv(path: Path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_a_detection(tmp_path):
    write(tmp_path / "out.csv", BATCH)
    lines = read_csv(tmp_path / "out.csv")
    expected = [(d, i) for d in BATCH for i in range(len(d) if d.error is None else 1)]
    assert len(lines) == len(expected) > 0
    for line, (d, i) in zip(lines, expected, strict=True):
        assert (line["image"], int(line["index"])) == (d.image, d.index)
        assert line["frame"] == ("" if d.frame is None else str(d.frame))
        assert line["error"] == (d.error or "")
        if d.error is not None:
            assert line["class_id"] == line["x1"] == ""
            continue
        assert (int(line["class_id"]), line["class_name"]) == (d.class_id[i], NAMES[d.class_id[i]])
        assert float(line["confidence"]) == pytest.approx(d.confidence[i], abs=1e-5)
        box = [float(line[side]) for side in ("x1", "y1", "x2", "y2")]
        np.testing.assert_allclose(box, d.boxes[i], atol=5e-3)
    assert names_in(tmp_path) == ["out.csv"]


def test_csv_quotes_what_would_break_a_line(tmp_path):
    odd = 'a "b",\nc\r;=1+1 ä.jpg'
    write(tmp_path / "out.csv", [found(odd, 0, n=1), failed("x.jpg", 1)])
    first, last = read_csv(tmp_path / "out.csv")
    assert first["image"] == odd
    assert last["image"] == "x.jpg" and last["error"] and last["class_name"] == ""


# --- COCO -----------------------------------------------------------------------------------


def load_coco(images: Path, results: Path):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(images.read_text())
        truth.dataset["annotations"] = []
        truth.createIndex()
        return truth.loadRes(str(results))


def test_coco_results_load_in_pycocotools(tmp_path):
    batch = [
        found("x/000000000139.jpg", 0, names=COCO_NAMES),
        found("y/dog.jpg", 1, names=COCO_NAMES),
    ]
    write(tmp_path / "out.coco.json", batch, names=COCO_NAMES)
    assert names_in(tmp_path) == ["out.coco.json", "out.images.json"]
    loaded = load_coco(tmp_path / "out.images.json", tmp_path / "out.coco.json")
    assert sorted(loaded.getImgIds()) == [1, 139]
    rows = loaded.loadAnns(loaded.getAnnIds(imgIds=[139]))
    assert [row["category_id"] for row in rows] == [COCO91[i] for i in batch[0].class_id]
    x1, y1, x2, y2 = batch[0].boxes[0].tolist()
    assert rows[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    companion = json.loads((tmp_path / "out.images.json").read_text())
    assert companion["category_map"] == "coco91"
    assert [image["file_name"] for image in companion["images"]] == [d.image for d in batch]


def test_coco_ids_never_collide(tmp_path):
    write(tmp_path / "a.coco.json", [found("a/1.jpg", 0), found("b/1.jpg", 1)])
    write(tmp_path / "b.json", [found("7.jpg", 0), found("x.jpg", 7), failed("y.jpg", 2)], "coco")
    frames = [found("5.mp4", i, frame=i, pts_ms=i * 40.0) for i in range(3)]
    write(tmp_path / "c.coco.json", frames, categories="one")
    for stem, ids in {"a": [0, 1], "b": [0, 7, 2], "c": [0, 1, 2]}.items():
        companion = json.loads((tmp_path / f"{stem}.images.json").read_text())
        assert companion["image_id"] == "index"
        assert [image["id"] for image in companion["images"]] == ids
    assert companion["images"][2]["frame"] == 2
    assert [c["id"] for c in companion["categories"]] == [1, 2]
    failures = json.loads((tmp_path / "b.images.json").read_text())["images"]
    assert failures[2]["error"] == "bad file"


def test_coco_masks_and_keypoints_load(tmp_path):
    from pycocotools import mask

    drawn = np.zeros((480, 640), np.uint8)
    drawn[100:200, 50:80] = 1
    rle = mask.encode(np.asfortranarray(drawn))
    rle = {"size": [480, 640], "counts": rle["counts"].decode()}
    write(
        tmp_path / "s.coco.json",
        [found("1.jpg", 0, 1, task="segment", masks=(rle,))],
        task="segment",
    )
    loaded = load_coco(tmp_path / "s.images.json", tmp_path / "s.coco.json")
    assert loaded.anns[1]["segmentation"] == rle
    points = np.random.default_rng(0).random((1, 17, 3)).astype(np.float32)
    write(
        tmp_path / "p.coco.json", [found("1.jpg", 0, 1, task="pose", keypoints=points)], task="pose"
    )
    loaded = load_coco(tmp_path / "p.images.json", tmp_path / "p.coco.json")
    assert loaded.anns[1]["keypoints"] == pytest.approx(points.ravel().tolist())


# --- Parquet --------------------------------------------------------------------------------


def test_parquet_reads_back(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr("brimful.sinks.to_parquet._IMAGES_AT_ONCE", 2)
    write(tmp_path / "out.parquet", [*BATCH, found("v.mp4", 4, frame=0, pts_ms=1.5)])
    assert names_in(tmp_path) == ["out.images.parquet", "out.parquet"]
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["a/1.jpg"] * 2 + ["b/4.jpg"] * 5 + ["v.mp4"] * 2
    boxes = np.array([[row[side] for side in ("x1", "y1", "x2", "y2")] for row in rows], np.float32)
    np.testing.assert_array_equal(boxes[2:7], BATCH[3].boxes)
    assert rows[0]["class_name"] == NAMES[BATCH[0].class_id[0]]
    assert (rows[-1]["frame"], rows[-1]["pts_ms"]) == (0, 1.5)
    images = pq.read_table(tmp_path / "out.images.parquet").to_pylist()
    assert [image["error"] for image in images] == [None, "bad file", None, None, None]
    assert [image["detections"] for image in images] == [2, 0, 0, 5, 2]
    assert images[0]["canvas_height"] == 480


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_parquet_of_other_tasks(tmp_path, task):
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    extra = {
        "segment": {"masks": ({"size": [480, 640], "counts": "abc"},) * 2},
        "pose": {"keypoints": rng.random((2, 17, 3)).astype(np.float32)},
        "obb": {"obb": rng.random((2, 5)).astype(np.float32)},
        "classify": {"probs": np.array([0.25, 0.75], np.float32)},
    }[task]
    n = 0 if task == "classify" else 2
    write(tmp_path / "out.parquet", [found("1.jpg", 0, n, task=task, **extra)], task=task)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    images = pq.read_table(tmp_path / "out.images.parquet").to_pylist()
    if task == "segment":
        assert rows[1]["segmentation"] == {"height": 480, "width": 640, "counts": "abc"}
    elif task == "pose":
        assert rows[1]["keypoints"] == extra["keypoints"][1].ravel().tolist()
    elif task == "obb":
        assert rows[1]["obb"] == extra["obb"][1].tolist()
        assert len(rows[1]["polygon"]) == 8
    else:
        assert (rows[0]["class_name"], rows[0]["confidence"]) == ("dog", 0.75)
        assert images[0]["probs"] == [0.25, 0.75]


# --- YOLO -----------------------------------------------------------------------------------


def test_yolo_mirrors_paths_without_collisions(tmp_path):
    keys = ["a/b.jpg", "a/b.png", "a/b.png.jpg", "a/b.jpg.png", "../up.jpg", f"{tmp_path}/abs.jpg"]
    keys += ["c.txt/d.jpg", "c.jpg", "é.jpg", "x" * 250 + ".jpg", "./dot.jpg"]
    batch = [found(key, i) for i, key in enumerate(keys)]
    batch += [found("v.mp4", 20, frame=7), found("v_7.jpg", 21), found("empty.jpg", 22, 0)]
    batch.append(failed("bad.jpg", 23))
    write(tmp_path / "labels", batch, "yolo")
    made = names_in(tmp_path / "labels")
    assert len(made) == len(batch) - 1
    assert {"a/b.txt", "a/b.png.txt", "__/up.txt", "v_7.txt", "empty.txt", "dot.txt"} <= set(made)
    texts = [(tmp_path / "labels" / name).read_text() for name in made]
    assert sorted(texts) == sorted(d.to_yolo_txt() for d in batch[:-1])
    assert (tmp_path / "labels/a/b.txt").read_text() == batch[0].to_yolo_txt()
    assert (tmp_path / "labels/a/b.png.txt").read_text() == batch[1].to_yolo_txt()
    assert (tmp_path / "labels/empty.txt").read_text() == ""
    (error,) = (tmp_path / "labels.errors.jsonl").read_text().splitlines()
    assert json.loads(error) == {
        "image": "bad.jpg",
        "frame": None,
        "error": "bad file",
        "failure": "image",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "labels.errors.jsonl"]


def test_yolo_overwrites_labels_only(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", BATCH, "yolo")
    with pytest.raises(UsageError, match="--overwrite"):
        sink_to(tmp_path / "empty", "yolo")
    write(tmp_path / "empty", [found("z.jpg", 0)], "yolo", overwrite=True)
    assert names_in(tmp_path / "empty") == ["z.txt"]
    assert not (tmp_path / "empty.errors.jsonl").exists()
    (tmp_path / "empty/photo.jpg").touch()
    with pytest.raises(UsageError, match=r"photo\.jpg, which is no label file"):
        sink_to(tmp_path / "empty", "yolo", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="yolo writes a folder"):
        sink_to(tmp_path / "file", "yolo", overwrite=True)
