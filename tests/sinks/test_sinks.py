"""Sinks: every format read back by its own library, and jobs killed at every byte."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import orjson
import pytest

from brimful.detections import Detections
from brimful.errors import BrimfulError, UsageError
from brimful.formats.coco import COCO91, COCO_NAMES
from brimful.formats.json_record import encode_jsonl
from brimful.sinks import DoneSet, open_sink

JOB = {"model": "sha256:1234", "source": Path("photos"), "conf": 0.25, "limits": {"max": 1}}
NAMES = ("person", "dog")


def found(key: str, index: int, n: int = 2, **fields) -> Detections:
    rng = np.random.default_rng(index)
    corners = rng.random((n, 2, 2)) * (640, 480)
    values = {"task": "detect", "names": NAMES, "canvas": (480, 640)} | fields
    classes = len(values["names"])
    return Detections(
        image=key,
        index=index,
        width=640,
        height=480,
        boxes=np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32),
        confidence=rng.random(n).astype(np.float32),
        class_id=rng.integers(0, classes, n).astype(np.int32),
        **values,
    )


def failed(key: str, index: int) -> Detections:
    return Detections(
        image=key, index=index, width=0, height=0, task="detect", names=NAMES, error="bad file"
    )


def sink_to(output: Path | None, format: str | None = None, **options):
    return open_sink(output, format, **{"job": JOB, "names": NAMES, "task": "detect"} | options)


def write(output: Path, batch: list[Detections], format: str | None = None, **options) -> None:
    sink = sink_to(output, format, **options)
    for start in range(0, len(batch), 2):
        sink.write(batch[start : start + 2])
    sink.finish()


BATCH = [found("a/1.jpg", 0), failed("a/2.jpg", 1), found("b/3.png", 2, 0), found("b/4.jpg", 3, 5)]


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


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
    for suffix in (".csv", "", ".txt"):
        with pytest.raises(UsageError, match=r"\.coco\.json, \.json, \.jsonl.*jsonl, json, coco"):
            sink_to(tmp_path / f"out{suffix}")
    with pytest.raises(UsageError, match="jsonl, json, coco, parquet, yolo"):
        sink_to(tmp_path / "out.jsonl", "xml")
    with pytest.raises(UsageError, match="classify"):
        sink_to(tmp_path / "out.coco.json", task="classify")
    with pytest.raises(UsageError, match="80 classes"):
        sink_to(tmp_path / "out.coco.json", categories="coco91")
    with pytest.raises(UsageError, match="is a folder"):
        sink_to(tmp_path, "jsonl")
    assert names_in(tmp_path) == []


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
    assert json.loads(error) == {"image": "bad.jpg", "frame": None, "error": "bad file"}
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


# --- resume ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["out.jsonl", "out.json", "out.coco.json", "out.parquet", "labels"]
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, name):
    format = "yolo" if name == "labels" else None
    write(tmp_path / "whole" / name, BATCH, format)
    output = tmp_path / "part" / name
    sink = sink_to(output, format)
    sink.write(BATCH[:3])
    sink.abandon()
    assert not output.exists()
    sink = sink_to(output, format, resume=True)
    left = [d for d in BATCH if (d.image, d.frame) not in sink.done]
    assert left == BATCH[3:]
    assert len(sink.done) == 3
    sink.write(left)
    sink.finish()
    assert names_in(output.parent) == names_in(tmp_path / "whole")
    for file in names_in(output.parent):
        if name != "out.parquet":
            assert (output.parent / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_torn_at_every_byte_of_the_last_two_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    sink = sink_to(output)
    sink.write(BATCH)
    sink.abandon()
    data = partial.read_bytes()
    job = (tmp_path / "out.jsonl.job.json").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(ends[-3], len(data) + 1):
        partial.write_bytes(data[:cut])
        (tmp_path / "out.jsonl.job.json").write_bytes(job)
        sink = sink_to(output, resume=True)
        whole = sum(end <= cut for end in ends)
        assert len(sink.done) == whole
        left = [d for d in BATCH if (d.image, d.frame) not in sink.done]
        assert left == BATCH[whole:]
        sink.write(left)
        sink.finish()
        assert output.read_bytes() == data
        output.unlink()


def test_torn_first_line_and_tail_of_zeros(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH[:1])
    sink.abandon()
    partial = tmp_path / "out.jsonl.partial"
    whole = partial.read_bytes()
    for data, done in [(whole[:5], 0), (whole + bytes(5000), 1), (whole + b"x" * 200_000, 1)]:
        partial.write_bytes(data)
        sink = sink_to(tmp_path / "out.jsonl", resume=True)
        assert len(sink.done) == done
        sink.abandon()
        assert partial.read_bytes() == whole * done


def test_edited_journal_is_refused(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    sink.abandon()
    partial = tmp_path / "out.jsonl.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    lines[1] = b"hello\n"
    partial.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"line 2 of .* is no result"):
        sink_to(tmp_path / "out.jsonl", resume=True)


def test_another_job_is_refused_and_the_difference_listed(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    sink.abandon()
    other = JOB | {"conf": 0.5, "limits": {"max": 2}, "half": True}
    with pytest.raises(UsageError) as caught:
        sink_to(tmp_path / "out.jsonl", resume=True, job=other)
    message = str(caught.value)
    assert "conf was 0.25 and is now 0.5" in message
    assert "limits.max was 1 and is now 2" in message
    assert "half was null and is now true" in message
    assert "model" not in message
    with pytest.raises(UsageError, match="names was"):
        sink_to(tmp_path / "out.jsonl", resume=True, names=("cat", "dog"))
    sink_to(tmp_path / "out.jsonl", resume=True).abandon()
    (tmp_path / "out.jsonl.job.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        sink_to(tmp_path / "out.jsonl", resume=True)
    (tmp_path / "out.jsonl.job.json").unlink()
    with pytest.raises(UsageError, match="missing"):
        sink_to(tmp_path / "out.jsonl", resume=True)


def test_existing_files_are_refused_unless_told(tmp_path):
    output = tmp_path / "out.jsonl"
    sink = sink_to(output)
    sink.write(BATCH)
    sink.abandon()
    with pytest.raises(UsageError, match="--resume to go on with it, or --overwrite"):
        sink_to(output)
    with pytest.raises(UsageError, match="give one of them"):
        sink_to(output, resume=True, overwrite=True)
    write(output, BATCH[:1], overwrite=True)
    assert output.read_bytes() == encode_jsonl(BATCH[:1])
    with pytest.raises(UsageError, match="exists; use --overwrite"):
        sink_to(output)
    with pytest.raises(UsageError, match="the job is finished"):
        sink_to(output, resume=True)
    sink = sink_to(output, overwrite=True)
    sink.write(BATCH)
    assert output.read_bytes() == encode_jsonl(BATCH[:1])  # the old output stays until the end
    sink.finish()
    assert output.read_bytes() == encode_jsonl(BATCH)
    (tmp_path / "c.images.json").touch()
    with pytest.raises(UsageError, match=r"c\.images\.json exists"):
        sink_to(tmp_path / "c.coco.json")


def test_resume_without_a_job_starts_one(tmp_path):
    write(tmp_path / "out.jsonl", BATCH, resume=True)
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)
    (tmp_path / "new.jsonl.partial").touch()  # killed before anything was written
    write(tmp_path / "new.jsonl", BATCH, resume=True)


def test_two_writers_of_one_job(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    with pytest.raises(UsageError, match="another process is writing"):
        sink_to(tmp_path / "out.jsonl", overwrite=True)
    sink.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)


def test_conversion_that_fails_leaves_the_ledger(tmp_path, monkeypatch):
    output = tmp_path / "out.coco.json"
    sink = sink_to(output)
    sink.write(BATCH)

    def fail(*arguments, **keywords):
        raise RuntimeError("disk gone")

    with monkeypatch.context() as patch:
        patch.setattr("brimful.sinks.to_coco.to_results", fail)
        with pytest.raises(RuntimeError):
            sink.finish()
    sink.abandon()
    assert not output.exists()
    sink = sink_to(output, resume=True)
    assert len(sink.done) == 4
    sink.finish()
    assert len(json.loads(output.read_text())) == 7


def test_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH[:1])
    real, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(BrimfulError, match=r"No space left.*--resume"):
            sink.write(BATCH[1:])
    sink.write(BATCH[1:])
    sink.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)


def test_killed_process_loses_nothing_written(tmp_path):
    code = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_sinks import BATCH, sink_to
        sink = sink_to(Path({str(tmp_path)!r}) / "out.jsonl")
        sink.write(BATCH[:3])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert process.returncode == -signal.SIGKILL
    sink = sink_to(tmp_path / "out.jsonl", resume=True)
    assert len(sink.done) == 3
    sink.write(BATCH[3:])
    sink.finish()
    rows = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["image"] for row in rows] == [d.image for d in BATCH]


def test_done_set_agrees_with_a_set():
    rng = np.random.default_rng(0)
    done, reference = DoneSet(), set()
    for i in rng.integers(0, 2000, 1500).tolist():
        item = (f"é/{i}.jpg", None) if i % 3 else (f"v{i % 5}.mp4", i)
        done.add(*item)
        reference.add(item)
    for i in range(2000):
        for item in ((f"é/{i}.jpg", None), (f"v{i % 5}.mp4", i), (f"é/{i}.jpg", 0)):
            assert (item in done) == (item in reference)
    assert len(done) == 1500
    assert ("x", None) not in DoneSet()
    assert "x" not in done
