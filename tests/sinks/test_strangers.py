"""What lies at or beside an output and is not the job's: it stays, or is refused by name."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from sink_kit import BATCH, names_in, sink_to, write

from brimful.errors import BrimfulError, UsageError
from brimful.formats.json_record import encode_jsonl
from brimful.sinks import DoneSet
from brimful.sinks.atomic import whole_file
from brimful.sinks.journal import Journal

NAMES_OF = {
    "jsonl": "out.jsonl",
    "json": "out.json",
    "coco": "out.coco.json",
    "parquet": "out.parquet",
    "yolo": "labels",
}


def test_a_folder_of_labels_leaves_its_neighbours_alone(tmp_path):
    for ending in ("old", "tmp"):
        (tmp_path / f"labels.{ending}").mkdir()
        (tmp_path / f"labels.{ending}/mine.jpg").write_text("mine")
    before = names_in(tmp_path)
    write(tmp_path / "labels", BATCH[:1], "yolo")
    write(tmp_path / "labels", BATCH[:1], "yolo", overwrite=True)
    assert names_in(tmp_path) == sorted([*before, "labels/a/1.txt"])


def test_files_of_other_formats_leave_their_neighbours_alone(tmp_path):
    for format in ("json", "coco", "parquet"):
        folder = tmp_path / format
        folder.mkdir()
        name = NAMES_OF[format]
        (folder / f"{name}.tmp").write_text("mine")
        (folder / f"{name}.job.json.tmp").write_text("mine")
        write(folder / name, BATCH, format)
        assert (folder / f"{name}.tmp").read_text() == "mine"
        assert (folder / f"{name}.job.json.tmp").read_text() == "mine"


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch):
    """Whoever may write in the folder could point it at any file of this user's."""
    target = tmp_path / "precious"
    target.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    for ending in (".tmp", ".brimful-0000000000000000"):
        (tmp_path / f"out.json{ending}").symlink_to(target)
    with pytest.raises(FileExistsError), whole_file(tmp_path / "out.json") as file:
        file.write(b"hello")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("ending", [".partial", ".job.json"])
def test_a_link_in_the_place_of_a_jobs_file_is_not_followed(tmp_path, ending):
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / f"out.jsonl{ending}").symlink_to(target)
    if ending == ".partial":
        with pytest.raises(UsageError, match=r"out\.jsonl\.partial cannot be written"):
            sink_to(tmp_path / "out.jsonl", overwrite=True)
    else:
        write(tmp_path / "out.jsonl", BATCH, overwrite=True)
    assert target.read_text() == "mine"


def test_labels_are_looked_at_again_before_they_are_replaced(tmp_path):
    output = tmp_path / "labels"
    write(output, BATCH[:1], "yolo")
    sink = sink_to(output, "yolo", overwrite=True)
    sink.write(BATCH[:1])
    (output / "photo.jpg").write_text("mine")
    with pytest.raises(UsageError, match=r"photo\.jpg, which is no label file"):
        sink.finish()
    sink.abandon()
    assert (output / "photo.jpg").read_text() == "mine"
    assert (tmp_path / "labels.partial").exists()
    (output / "photo.jpg").unlink()
    sink_to(output, "yolo", resume=True).finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]


def test_what_a_killed_conversion_left_is_removed_and_nothing_else(tmp_path):
    output = tmp_path / "labels"
    sink = sink_to(output, "yolo")
    sink.write(BATCH[:1])
    sink.abandon()
    (tmp_path / "labels.brimful-0123456789abcdef/a").mkdir(parents=True)
    strangers = ["labels.brimful-notours", "labels2.brimful-0123456789abcdef", "labels.old"]
    for name in strangers:
        (tmp_path / name).mkdir()
    sink_to(output, "yolo", resume=True).finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["labels", *strangers])


# --- what is no regular file ----------------------------------------------------------------


@pytest.mark.parametrize("format", NAMES_OF)
def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path, format):
    output = tmp_path / NAMES_OF[format]
    os.mkfifo(output)
    with pytest.raises(UsageError, match="is a device, pipe, socket"):
        sink_to(output, format, overwrite=True)
    assert stat.S_ISFIFO(output.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [output]
    link = tmp_path / f"link-{NAMES_OF[format]}"
    link.symlink_to("/dev/null")
    with pytest.raises(UsageError, match="/dev/null is a device"):
        sink_to(link, format, overwrite=True)
    with pytest.raises(UsageError, match="/dev/null is a device"):
        sink_to(Path("/dev/null"), format, overwrite=True)
    loop = tmp_path / f"loop-{NAMES_OF[format]}"
    loop.symlink_to(loop)
    with pytest.raises(UsageError):
        sink_to(loop, format, overwrite=True)
    assert loop.is_symlink()


@pytest.mark.parametrize("format", ["coco", "parquet", "yolo"])
def test_so_is_the_second_file(tmp_path, format):
    names = {"coco": "out.images.json", "parquet": "out.images.parquet"}
    second = tmp_path / names.get(format, "labels.errors.jsonl")
    os.mkfifo(second)
    with pytest.raises(UsageError, match="is a device, pipe, socket"):
        sink_to(tmp_path / NAMES_OF[format], format, overwrite=True)
    second.unlink()
    second.mkdir()
    with pytest.raises(UsageError, match="is a folder; give another output"):
        sink_to(tmp_path / NAMES_OF[format], format, overwrite=True)
    assert list(tmp_path.iterdir()) == [second]


@pytest.mark.parametrize("format", NAMES_OF)
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(tmp_path, format, exists):
    name = NAMES_OF[format]
    (tmp_path / "there").mkdir()
    link, target = tmp_path / name, tmp_path / "there" / name
    link.symlink_to(target)
    if exists:
        write(target, BATCH[:1], format)
    write(link, BATCH, format, overwrite=True)
    write(link, BATCH, format, overwrite=True)
    assert link.is_symlink() and not target.is_symlink()
    assert target.is_dir() if format == "yolo" else target.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "there"])


# --- two jobs -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_a_job_that_ends_while_another_begins_keeps_its_output(tmp_path, monkeypatch, format):
    output = tmp_path / f"out.{format}"
    first = sink_to(output)
    first.write(BATCH)
    lock, calls = fcntl.flock, []

    def slow(descriptor, how):
        calls.append(descriptor)
        if len(calls) == 1:  # the second job has opened the journal, and the first one ends
            first.finish()
        lock(descriptor, how)

    (tmp_path / "empty").touch()
    monkeypatch.setattr(fcntl, "flock", slow)
    monkeypatch.setattr("brimful.sinks.ledger.LedgerSink._check_partial", lambda *a, **k: None)
    with pytest.raises(UsageError, match="exists; use --overwrite"):
        sink_to(output)
    assert len(calls) == 2
    whole = output.read_bytes()
    assert orjson.loads(whole if format == "json" else b"[%b]" % whole.strip().replace(b"\n", b","))
    assert len(whole) >= len(encode_jsonl(BATCH))
    assert names_in(tmp_path) == ["empty", output.name]


def test_a_job_that_ends_leaves_the_next_ones_job_file(tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    first = sink_to(output)
    first.write(BATCH[:1])
    move, later = Path.replace, []

    def replace(path, target):
        moved = move(path, target)
        if path.name == "out.jsonl.partial":
            monkeypatch.setattr(Path, "replace", move)
            later.append(sink_to(output, overwrite=True))
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    first.finish()
    later[0].write(BATCH)
    later[0].abandon()
    sink = sink_to(output, resume=True)
    assert len(sink.done) == 4
    sink.abandon()


# --- edited and torn files ------------------------------------------------------------------


def interrupted(output: Path, format: str | None = None) -> Path:
    sink = sink_to(output, format)
    sink.write(BATCH)
    sink.abandon()
    return output.with_name(f"{output.name}.partial")


def edited(line: bytes, **changes) -> bytes:
    return orjson.dumps(orjson.loads(line) | changes)


BOX = {"bbox": [1, 2, 3, 4], "confidence": 0.5, "class_id": 0, "class_name": "person"}


@pytest.mark.parametrize(
    "change",
    [
        {"image": 7},
        {"image": None},
        {"image": ["a"]},
        {"frame": "7"},
        {"frame": 1.5},
        {"frame": -1},
        {"frame": True},
        {"frame": 2**70},
        {"index": "x"},
        {"error": 5},
        {"detections": 5},
        {"detections": [5]},
        {"detections": [BOX | {"class_id": 99}]},
        {"detections": [BOX | {"class_id": -1}]},
        {"detections": [BOX | {"class_id": "dog"}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", ["jsonl", "yolo"])
def test_an_edited_row_is_refused_at_once(tmp_path, change, format):
    output = tmp_path / NAMES_OF[format]
    partial = interrupted(output, format)
    lines = partial.read_bytes().splitlines()
    change = {k: float(v) if v == 2**70 else v for k, v in change.items()}
    lines[2] = edited(lines[2], **change)
    partial.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UsageError, match=r"line 3 of .* is no result of this job.*--overwrite"):
        sink_to(output, format, resume=True)
    sink_to(output, format, overwrite=True).abandon()


@pytest.mark.parametrize(
    "change",
    [
        {"detections": [BOX | {"bbox": [1, 2]}]},
        {"detections": [BOX | {"bbox": "x"}]},
        {"detections": [{"class_id": 0}]},
        {"detections": [BOX | {"segmentation": {"size": [2**20, 2**20], "counts": "0"}}]},
        {"detections": [BOX | {"segmentation": 7}]},
        {"canvas": 5},
        {"width": "wide"},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", ["yolo", "coco", "parquet"])
def test_a_row_that_cannot_be_converted_is_a_usage_error(tmp_path, change, format):
    output = tmp_path / NAMES_OF[format]
    partial = interrupted(output, format)
    lines = partial.read_bytes().splitlines()
    lines[2] = edited(lines[2], **change)
    partial.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UsageError, match=r"(line 3|a row) of .*is no result of this job"):
        sink_to(output, format, resume=True).finish()
    assert not output.exists()


@pytest.mark.parametrize("counts", ["o", "1", "Pfg97", "\u00e9", "n" * 40 + "0"])
def test_a_mask_that_does_not_fill_its_image_is_a_usage_error(tmp_path, counts):
    output = tmp_path / "labels"
    partial = interrupted(output, "yolo")
    mask = {"segmentation": {"size": [480, 640], "counts": counts}}
    partial.write_bytes(edited(partial.read_bytes().splitlines()[0], detections=[BOX | mask]))
    with partial.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(UsageError, match=r"a row of .*is no result of this job \(a/1\.jpg"):
        sink_to(output, "yolo", resume=True).finish()
    assert not output.exists()


def test_a_far_frame_costs_no_memory():
    done = DoneSet()
    done.add("v.mp4", 5)
    done.add("v.mp4", 2**36)
    done.add("v.mp4", 2**62 + 1, failed=True)
    assert sum(map(len, done._frames.values())) < 10_000
    assert ("v.mp4", 2**36) in done and ("v.mp4", 5) in done and ("v.mp4", 2**62 + 1) in done
    assert ("v.mp4", 2**36 + 1) not in done and ("v.mp4", None) not in done
    assert ("w.mp4", 2**36) not in done
    assert (len(done), done.failures) == (3, 1)


@pytest.mark.parametrize(
    "content", [b"[]", b"[1]", b"null", b'"x"', b"{}", b'{"version":1,"job":[]}', b"\xff\xfe", b""]
)
def test_a_job_file_that_is_none_is_refused(tmp_path, content):
    output = tmp_path / "out.jsonl"
    interrupted(output)
    (tmp_path / "out.jsonl.job.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged.*--overwrite"):
        sink_to(output, resume=True)


def test_a_job_file_of_another_kind_is_refused(tmp_path):
    output = tmp_path / "out.jsonl"
    interrupted(output)
    file = tmp_path / "out.jsonl.job.json"
    file.write_bytes(b'{"version":[9],"job":{}}')
    with pytest.raises(UsageError, match=r"is of version \[9\]"):
        sink_to(output, resume=True)
    file.unlink()
    file.mkdir()
    with pytest.raises(UsageError, match=r"cannot be read.*--overwrite"):
        sink_to(output, resume=True)


# --- full disks -----------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int):
    """Let no file grow beyond a size: the kernel refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path):
    output = tmp_path / "out.jsonl"
    with files_up_to(20), pytest.raises(BrimfulError, match=r"job\.json cannot be written.*room"):
        sink_to(output)
    assert names_in(tmp_path) == []
    write(output, BATCH)


@pytest.mark.parametrize("format", ["json", "coco", "parquet", "yolo"])
def test_a_full_disk_at_the_end_leaves_a_job_to_go_on_with(tmp_path, format):
    output = tmp_path / NAMES_OF[format]
    sink = sink_to(output, format)
    sink.write(BATCH)
    with files_up_to(30), pytest.raises(BrimfulError, match=r"cannot be written.*--resume"):
        sink.finish()
    sink.abandon()
    assert names_in(tmp_path) == [f"{output.name}.job.json", f"{output.name}.partial"]
    sink_to(output, format, resume=True).finish()
    assert output.exists()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be"):
        sink_to(tmp_path / "file/below/out.jsonl")


def test_a_journal_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no regular file"):
        Journal(tmp_path / "pipe")
    with pytest.raises(UsageError, match=os.strerror(errno.EISDIR)):
        Journal(tmp_path)
