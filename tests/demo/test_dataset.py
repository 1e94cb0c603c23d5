"""Datasets: readable by pycocotools, resumable, and never on top of something else."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from brimful.demo import dataset
from brimful.demo.dataset import write_dataset
from brimful.demo.line import FactoryLine
from brimful.demo.scene import CLASSES
from brimful.errors import UsageError

SIZE = (240, 320)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_pycocotools_reads_back_what_was_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    write_dataset(tmp_path / "set", 5, seed=3, size=SIZE)
    coco = coco_module.COCO(str(tmp_path / "set" / "annotations.json"))
    capsys.readouterr()
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(enumerate(CLASSES))
    line = FactoryLine(seed=3, size=SIZE)
    for index in range(5):
        (image,) = coco.loadImgs(index)
        assert image["file_name"] == f"{index:06d}.jpg"
        assert (image["height"], image["width"]) == SIZE
        pixels, labels = line.image(index)
        decoded = cv2.imread(str(tmp_path / "set" / "images" / image["file_name"]))
        assert decoded is not None
        assert np.abs(decoded.astype(int) - pixels).mean() < 8
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert [(a["category_id"], *a["bbox"]) for a in found] == [
            (c, x1, y1, x2 - x1, y2 - y1) for c, x1, y1, x2, y2 in labels
        ]
        assert all(a["iscrowd"] == 0 and a["id"] > 0 for a in found)
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in found)


def test_workers_write_the_same_bytes_as_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 3)
    done: list[int] = []
    write_dataset(tmp_path / "one", 8, seed=1, size=SIZE)
    write_dataset(tmp_path / "two", 8, seed=1, size=SIZE, workers=2, progress=done.append)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sum(done) == 8


def test_an_interrupted_run_is_completed_without_drawing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 2)
    write_dataset(tmp_path / "whole", 6, seed=1, size=SIZE)

    class Interrupted(Exception):
        pass

    def stop_after_first(done: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        write_dataset(tmp_path / "set", 6, seed=1, size=SIZE, progress=stop_after_first)
    assert not (tmp_path / "set" / "annotations.json").exists()
    first = tmp_path / "set" / "images" / "000000.jpg"
    stamp = first.stat().st_mtime_ns
    write_dataset(tmp_path / "set", 6, seed=1, size=SIZE)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert first.stat().st_mtime_ns == stamp
    # complete: the same call again changes nothing
    write_dataset(tmp_path / "set", 6, seed=1, size=SIZE)
    assert first.stat().st_mtime_ns == stamp


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_dataset(tmp_path, 2, size=SIZE)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(UsageError, match="is a file"):
        write_dataset(tmp_path / "notes.txt", 2, size=SIZE)


def test_a_foreign_coco_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(UsageError, match="not empty"):
        write_dataset(tmp_path, 2, size=SIZE)


def test_other_arguments_are_refused_and_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 2, seed=1, size=SIZE)
    with pytest.raises(UsageError, match="seed 1"):
        write_dataset(tmp_path / "set", 2, seed=2, size=SIZE)
    with pytest.raises(UsageError, match="images 2"):
        write_dataset(tmp_path / "set", 3, seed=1, size=SIZE)


def test_image_quality_follows_the_range(tmp_path: Path) -> None:
    write_dataset(tmp_path / "low", 3, size=SIZE, quality=(20, 20))
    write_dataset(tmp_path / "high", 3, size=SIZE, quality=(95, 95))
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name / "images").iterdir())
        for name in ("low", "high")
    ]
    assert sizes[0] * 2 < sizes[1]


def test_yolo_labels_are_the_coco_boxes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 4, seed=3, size=SIZE, layout="yolo")
    coco = json.loads((tmp_path / "set" / "annotations.json").read_bytes())
    scale = np.array((SIZE[1], SIZE[0], SIZE[1], SIZE[0]))
    for image in coco["images"]:
        text = (tmp_path / "set" / "labels" / f"{image['id']:06d}.txt").read_text()
        rows = [[float(value) for value in line.split()] for line in text.splitlines()]
        boxes = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert [row[0] for row in rows] == [a["category_id"] for a in boxes]
        for row, annotation in zip(rows, boxes, strict=True):
            cx, cy, w, h = np.array(row[1:]) * scale
            np.testing.assert_allclose(
                (cx - w / 2, cy - h / 2, w, h), annotation["bbox"], atol=0.01
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images"),
        ({"quality": (0, 101)}, "quality"),
        ({"workers": 0}, "workers"),
        ({"layout": "voc"}, "coco, yolo"),
        ({"size": (10, 10)}, "size"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_dataset(tmp_path / "set", **({"images": 2} | options))  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()
