"""`brimful predict --save`, as a process: folders, what goes to standard output, interruptions."""

from __future__ import annotations

import signal
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from cli_kit import (
    await_growth,
    end_with,
    partial,
    predict,
    rows,
    slow,
    start,
    wait_until,
    write_images,
)

from brimful.formats.json_record import from_record
from brimful.pictures.draw import draw
from brimful.runtimes.debug import DEBUG_NAMES
from video_kit import write_clip


def drawn(row: dict, image: np.ndarray) -> np.ndarray:
    return draw(image, from_record(row, task="detect", names=DEBUG_NAMES))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def gray(level: int) -> np.ndarray:
    return np.full((64, 96, 3), level, np.uint8)


def frame_count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_pictures_go_to_new_folders_and_nothing_to_standard_output(tmp_path):
    names = write_images(tmp_path / "in", 5, height=60, width=80)
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    write_clip(tmp_path / "in/clip.mp4", [gray(40 * i) for i in range(6)])
    done = predict("source=in", "save=True", "save_crop=True", cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == b""  # for the bad one
    said = done.stderr.decode()
    assert "(5 images, 1 video, 11 crops; none of 1 without a result)" in said
    folder = tmp_path / "runs/detect/predict"
    assert f"pictures: {folder}" in said
    pictures = [name for name in files(folder) if not name.startswith("crops/")]
    assert pictures == sorted([*names, "clip.mp4"])
    assert frame_count(folder / "clip.mp4") == 6

    again = predict(
        *("--source", "in", "--save", "--output", "-", "--max-failures", "1", "--vid-stride", 2),
        *("--no-show-labels", "--line-width", 1),
        cwd=tmp_path,
    )
    assert again.returncode == 0
    folder = tmp_path / "runs/detect/predict2"
    assert files(folder) == sorted([*names, "clip.mp4"])
    assert frame_count(folder / "clip.mp4") == 3
    results = rows(again.stdout)
    assert len(results) == 9
    for row, name in zip([r for r in results if r["image"] in names], names, strict=True):
        picture = cv2.imread(str(folder / name))
        image = cv2.imread(str(tmp_path / "in" / name))
        (box,) = row["detections"]
        x1, y1, x2, y2 = (round(value) for value in box["bbox"])
        inside = picture[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert (inside == image[0, 0]).all()
        assert (picture[y1, x1:x2] != image[0, 0]).any()


def test_a_picture_is_what_its_row_says(tmp_path):
    names = write_images(tmp_path / "in", 3, height=60, width=80)
    output = tmp_path / "out.jsonl"
    save = ("--save", "--save-dir", tmp_path / "pictures")
    done = predict("--source", tmp_path / "in", "--output", output, *save)
    assert done.returncode == 0, done.stderr
    for row, name in zip(rows(output), names, strict=True):
        image = cv2.imread(str(tmp_path / "in" / name))
        assert np.array_equal(cv2.imread(str(tmp_path / "pictures" / name)), drawn(row, image))


def test_what_is_refused_leaves_everything_as_it_was(tmp_path):
    write_images(tmp_path / "in", 3)
    stranger = tmp_path / "mine/00001.png"
    stranger.parent.mkdir()
    stranger.write_text("dear")
    output = ("--output", tmp_path / "out.jsonl")
    for options, why in (
        (("--save", "--save-dir", tmp_path / "mine"), "not empty"),
        (("--save", "--save-dir", tmp_path / "in/out"), "outside of it"),
        (("--save-dir", tmp_path / "new"), "add --save"),
        (("--save", "--line-width", "0"), "line_width"),
    ):
        done = predict("--source", tmp_path / "in", *output, *options, cwd=tmp_path)
        assert done.returncode == 2 and why in done.stderr.decode(), options
    assert files(tmp_path) == ["in/00000.png", "in/00001.png", "in/00002.png", "mine/00001.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "mine"]
    replaced = predict(
        *("--source", tmp_path / "in", "--save", "--save-dir", tmp_path / "mine", "--overwrite")
    )
    assert replaced.returncode == 0, replaced.stderr
    assert cv2.imread(str(stranger)).shape == (24, 32, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_job_is_completed(tmp_path, number):
    names = write_images(tmp_path / "in", 40, height=60, width=80)
    clip = write_clip(tmp_path / "in/z.mp4", [gray(i % 256) for i in range(300)])
    output, folder = tmp_path / "out.jsonl", tmp_path / "pictures"
    job = ("--source", tmp_path / "in", "--output", output, "--save", "--save-dir", folder)
    process = start(*job, "--batch", 4, program=slow(100))
    await_growth(process, output, 60)  # in the midst of the video
    wait_until(lambda: any("brimful-" in name for name in files(folder)), "the video is begun")
    code, said = end_with(process, number)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    kept = len(rows(partial(output)))
    assert 60 <= kept < 340
    assert not (folder / "z.mp4").exists()
    if number == signal.SIGINT:
        assert "--resume" in said
        assert set(files(folder)) <= set(names)  # nothing half is left
    for name in files(folder)[:3]:  # one that was lost, one that is half, as after a power cut
        (folder / name).unlink()
    other = predict("--source", tmp_path / "in", "--output", output, "--resume")
    assert other.returncode == 2 and "save was true" in other.stderr.decode()
    no_folder = predict(*job[:-2], "--resume", cwd=tmp_path)
    assert no_folder.returncode == 2 and "--save-dir" in no_folder.stderr.decode()

    done = predict(*job, "--resume")
    assert done.returncode == 0, done.stderr
    assert files(folder) == sorted([*names, "z.mp4"])
    assert len(rows(output)) == 340
    assert frame_count(folder / "z.mp4") == frame_count(clip) == 300
    for row, name in zip(rows(output), names, strict=False):
        image = cv2.imread(str(tmp_path / "in" / name))
        assert np.array_equal(cv2.imread(str(folder / name)), drawn(row, image))


def test_several_processes_make_the_same_pictures(tmp_path):
    names = write_images(tmp_path / "in", 6, height=60, width=80)
    write_clip(tmp_path / "in/z.mp4", [gray(40 * i) for i in range(5)])
    for device, folder in (("cpu", "one"), ("cpu,cpu", "two")):
        done = predict(
            *("--source", tmp_path / "in", "--device", device, "--save"),
            *("--save-dir", tmp_path / folder),
        )
        assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == [*names, "z.mp4"]
    for name in names:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
    assert frame_count(tmp_path / "two/z.mp4") == 5
