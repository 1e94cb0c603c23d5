"""Pictures of images: files whole and exact, strangers untouched, faults counted."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_kit import found, noise

from brimful.detections import Detections
from brimful.errors import BrimfulError, UsageError
from brimful.pictures import picture_sink
from brimful.pictures.draw import draw
from brimful.pictures.folder import open_folder
from brimful.pictures.picture_sink import PictureOptions, PictureSink


def of(path: Path, image: np.ndarray, boxes: list[list[float]], **fields) -> Detections:
    """Return detections in an image that is written to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        cv2.imwrite(str(path), image)
    height, width = image.shape[:2]
    return found(height, width, boxes, image=path.name, original=str(path), **fields)


def make(folder: Path, batch: list[Detections], **options) -> PictureSink:
    folder.mkdir(exist_ok=True)
    sink = PictureSink(PictureOptions(folder=folder.resolve(), **options))
    sink.write(batch)
    sink.finish()
    return sink


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_pictures_are_what_draw_gives_and_crops_are_slices(tmp_path):
    image = noise(60, 80)
    boxes = [[10.4, 20.6, 30, 50], [-5, 40, 200, 90], [7, 7, 7.2, 7.2]]
    d = of(tmp_path / "in/a.png", image, boxes)
    sink = make(tmp_path / "out", [d], crops=True)
    assert np.array_equal(cv2.imread(str(tmp_path / "out/a.png")), draw(image, d))
    assert files(tmp_path / "out") == ["a.png", "crops/bolt/a-0.png", "crops/nut/a-1.png"]
    first = cv2.imread(str(tmp_path / "out/crops/bolt/a-0.png"))
    assert np.array_equal(first, image[21:50, 10:30])
    second = cv2.imread(str(tmp_path / "out/crops/nut/a-1.png"))
    assert np.array_equal(second, image[40:60, 0:80])
    assert (sink.images, sink.crops, sink.failed, sink.lost) == (1, 2, 0, 0)


def test_crops_alone(tmp_path):
    d = of(tmp_path / "in/a.png", noise(60, 80), [[10, 20, 30, 50]])
    make(tmp_path / "out", [d], save=False, crops=True)
    assert files(tmp_path / "out") == ["crops/bolt/a-0.png"]


@pytest.mark.parametrize(
    "image",
    [
        noise(40, 60)[:, :, 0],
        np.dstack((noise(40, 60), noise(40, 60, 1)[:, :, 0])),
        noise(40, 60).astype(np.uint16) * 257,
        noise(40, 60)[:, :, 0].astype(np.uint16) * 257,
    ],
    ids=["gray", "alpha", "16-bit", "16-bit-gray"],
)
def test_images_of_other_kinds_are_drawn_as_opencv_reads_them(tmp_path, image):
    d = of(tmp_path / "in/a.png", image, [[5, 5, 30, 30]])
    make(tmp_path / "out", [d])
    seen = cv2.imread(str(tmp_path / "in/a.png"), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.imread(str(tmp_path / "out/a.png")), draw(seen, d))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_that_exif_turns_is_drawn_upright(tmp_path, orientation):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "in/a.png"
    path.parent.mkdir()
    Image.fromarray(noise(40, 60)).save(path, exif=exif)
    seen = cv2.imread(str(path))
    assert seen.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
    d = of(path, seen, [[5, 5, 30, 30]])
    make(tmp_path / "out", [d])
    assert np.array_equal(cv2.imread(str(tmp_path / "out/a.png")), draw(seen, d))


def test_a_jpeg_differs_by_its_compression_alone(tmp_path):
    smooth = cv2.resize(noise(4, 6), (240, 160), interpolation=cv2.INTER_CUBIC)
    d = of(tmp_path / "in/a.jpg", smooth, [[50, 50, 120, 100]])
    make(tmp_path / "out", [d])
    seen = cv2.imread(str(tmp_path / "in/a.jpg"))
    picture = cv2.imread(str(tmp_path / "out/a.jpg"))
    assert np.abs(picture.astype(int) - draw(seen, d)).mean() < 2


def test_results_without_pixels_are_counted(tmp_path, caplog):
    good = of(tmp_path / "in/a.png", noise(40, 60), [[5, 5, 30, 30]])
    failed = found(0, 0, [], image="b.png", error="torn")
    gone = found(40, 60, [], image="c.png", original=str(tmp_path / "in/c.png"))
    changed = of(tmp_path / "in/d.png", noise(40, 60), [])
    cv2.imwrite(str(tmp_path / "in/d.png"), noise(30, 30))
    sink = make(tmp_path / "out", [good, failed, gone, changed])
    assert (sink.images, sink.failed, sink.lost) == (1, 1, 2)
    assert files(tmp_path / "out") == ["a.png"]
    assert "c.png: there is no such file" in caplog.text
    assert "60x40, and this one is 30x30" in caplog.text


def test_files_of_the_same_name_in_two_folders(tmp_path):
    one = of(tmp_path / "in/x/a.png", noise(40, 60), [])
    two = of(tmp_path / "in/y/a.png", noise(40, 60, 1), [])
    for d, key in ((one, "x/a.png"), (two, "y/a.png")):
        object.__setattr__(d, "image", key)
    make(tmp_path / "out", [one, two])
    assert files(tmp_path / "out") == ["x/a.png", "y/a.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "out/y/a.png")), noise(40, 60, 1))


def test_an_original_is_never_replaced(tmp_path):
    d = of(tmp_path / "in/a.png", noise(40, 60), [[5, 5, 30, 30]])
    before = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for path in (tmp_path / "in/a.png", tmp_path / "link/a.png"):
        object.__setattr__(d, "original", str(path))
        with pytest.raises(UsageError, match="outside of the source"):
            make(tmp_path / "in", [d])
    assert (tmp_path / "in/a.png").read_bytes() == before


def test_abandoned_pictures_leave_nothing_half(tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    real = picture_sink.draw_onto

    def slowly(*arguments):
        begun.set()
        assert go_on.wait(60)
        real(*arguments)

    monkeypatch.setattr(picture_sink, "draw_onto", slowly)
    batch = [
        of(tmp_path / f"in/{i}.png", noise(40, 60), [[5, 5, 30, 30]], index=i) for i in range(9)
    ]
    folder = tmp_path / "out"
    folder.mkdir()
    sink = PictureSink(PictureOptions(folder=folder), workers=2)
    sink.write(batch)
    assert begun.wait(60)
    threading.Timer(0.1, go_on.set).start()
    sink.abandon()
    sink.abandon()
    assert len(files(folder)) <= 2  # those that were begun
    for name in files(folder):
        assert np.array_equal(cv2.imread(str(folder / name)), draw(noise(40, 60), batch[0]))


def test_waiting_is_bounded(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(picture_sink, "original_of", lambda d: go_on.wait(60) and noise(4, 4))
    sink = PictureSink(PictureOptions(folder=tmp_path, crops=False), workers=1)
    taken = []

    def feed():
        for i in range(50):
            sink.write([found(4, 4, [], image=f"{i}.png", original="/nowhere")])
            taken.append(i)

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.5)
    assert feeder.is_alive() and len(taken) <= 8
    go_on.set()
    feeder.join(60)
    sink.finish()
    assert sink.images == 50


def test_a_folder_that_cannot_be_written_ends_the_job(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "x").write_text("a file, where a folder is needed")
    d = of(tmp_path / "in/a.png", noise(40, 60), [])
    object.__setattr__(d, "image", "x/a.png")
    sink = PictureSink(PictureOptions(folder=folder))
    sink.write([d])
    with pytest.raises(BrimfulError, match="cannot be written"):
        sink.finish()
    sink.abandon()
    assert files(folder) == ["x"]


def test_folders_are_new_unless_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"source": "elsewhere", "resume": False, "overwrite": False}
    made = [open_folder(None, Path("runs/detect"), **given).relative_to(tmp_path) for _ in range(3)]
    assert [str(path) for path in made] == [f"runs/detect/predict{n}" for n in ("", 2, 3)]
    stranger = tmp_path / "mine/letter.txt"
    stranger.parent.mkdir()
    stranger.write_text("dear")
    half = tmp_path / "mine/a.mp4.brimful-0123456789abcdef"
    half.write_text("half a video")
    with pytest.raises(UsageError, match="not empty"):
        open_folder(tmp_path / "mine", Path("runs/detect"), **given)
    open_folder(tmp_path / "mine", Path("runs/detect"), **{**given, "overwrite": True})
    assert half.exists()  # it may be another job's that runs
    open_folder(tmp_path / "mine", Path("runs/detect"), **{**given, "resume": True})
    assert files(tmp_path / "mine") == ["letter.txt"]
    with pytest.raises(UsageError, match="it is a file"):
        open_folder(stranger, Path("runs/detect"), **given)


@pytest.mark.parametrize(
    ("source", "folder", "refused"),
    [
        (".", "out", True),
        (".", ".", True),
        ("photos", "photos/out", True),
        ("photos", "photos/.out", False),
        ("photos", "out", False),
        ("photos/*.png", "photos/out", False),
        ("photos/*.png", "photos", True),
        ("photos/**/*.png", "photos/a/b", True),
    ],
)
def test_pictures_are_never_read_as_images(tmp_path, monkeypatch, source, folder, refused):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    options = {"source": source, "resume": False, "overwrite": True}
    if refused:
        before = sorted(Path().iterdir())
        with pytest.raises(UsageError, match="outside of it"):
            open_folder(Path(folder), Path("runs/detect"), **options)
        assert sorted(Path().iterdir()) == before
    else:
        open_folder(Path(folder), Path("runs/detect"), **options)
