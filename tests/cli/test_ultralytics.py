"""What users of `yolo predict` type, as processes; label files against Ultralytics' own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_kit import brimful, level_of, predict, rows, write_images

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.sinks.label_files import LabelFiles
from servers import LOGIN, http_server, protected, rtsp_server
from video_kit import write_clip

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported


def gray(level: int) -> np.ndarray:
    return np.full((64, 96, 3), level, np.uint8)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 12, height=64, width=96)
    return folder


# Spellings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["detect", "predict"],
        ["predict", "detect"],
        ["predict", "mode=predict", "task=detect"],
        ["mode=predict"],
    ],
)
def test_words_in_ultralytics_order(photos, words):
    more = ["runtime=debug", f"source={photos}", "verbose=False", "quantize=32", "augment=False"]
    done = brimful(*more, *words) if len(words) == 1 else brimful(*words, *more)
    assert done.returncode == 0, done.stderr
    assert [level_of(row) for row in rows(done.stdout)] == list(range(12))
    assert done.stderr == b"", "verbose=False is quiet"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["detect", "train", "data=coco8.yaml"], "no mode 'train'"),
        (["predict", "augment=True"], "test-time augmentation"),
        (["predict", "stream_buffer=False"], "--vid-stride"),
        (["predict", "quantize=8"], "expected 16 or 32"),
        (["predict", "save_conf=True"], "--save-txt"),
        (["predict", "project=x"], "add --save"),
        (["predict", "save=True", "save_dir=a", "name=b"], "--save-dir is the folder itself"),
        (["predict", "save=True", "name=../up"], "expected a folder's name"),
        (["predict", "show=True", "save=True"], "give one of them"),
        (["predict", "classes=levels3"], "close are level3"),
    ],
)
def test_what_is_not_there_is_answered(photos, arguments, says, tmp_path):
    extra = [] if arguments[1] == "train" else ["runtime=debug", f"source={photos}"]
    done = brimful(*arguments, *extra, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == b""
    assert says in done.stderr.decode() and "Traceback" not in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_classes_by_name_and_id(photos):
    done = predict("--source", photos, "classes=['level3', 5]")
    found = [level_of(row) for row in rows(done.stdout) if row["detections"]]
    assert done.returncode == 0 and found == [3, 5]


def test_a_size_off_the_stride_is_rounded_up_with_a_word(photos):
    done = predict("--source", photos, "imgsz=100", "--canvas", "square", "--quiet")
    assert done.returncode == 0
    assert {tuple(row["canvas"]) for row in rows(done.stdout)} == {(128, 128)}
    said = done.stderr.decode()
    assert "imgsz 100 is no multiple of 32, the model's stride: it is rounded up to 128x128" in said
    assert predict("--source", photos, "imgsz=96", "--quiet").stderr == b""


def test_a_window_without_a_display(photos):
    environ = {**os.environ, "DISPLAY": ":987"}
    for display, says in [("", "there is no display"), (":987", "DISPLAY :987")]:
        environ["DISPLAY"] = display
        done = _with(environ, "--source", photos, "show=True")
        assert done.returncode == 2, done.stderr
        said = done.stderr.decode()
        assert "--show" in said and "--save writes pictures" in said and "Traceback" not in said
        assert says in said or "tkinter" in said


def _with(environ, *arguments):
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        return predict(*arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


# Folders and label files --------------------------------------------------------------------------


def test_project_name_and_exist_ok(photos, tmp_path):
    base = ["--source", photos, "save_txt=True", "--quiet", "project=out", "name=run"]
    for folder in ("run", "run2", "run3"):
        assert predict(*base, cwd=tmp_path).returncode == 0
        assert len(files(tmp_path / "out" / folder / "labels")) == 12
    done = predict(*base, "exist_ok=True", "classes=level3", cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["run", "run2", "run3"]
    assert files(tmp_path / "out/run/labels") == ["00003.txt"], "labels of before are gone"
    (tmp_path / "out/run/labels/notes.md").touch()
    done = predict(*base, "exist_ok=True", cwd=tmp_path)
    assert done.returncode == 2 and b"notes.md, which is no label file" in done.stderr


def ultralytics_labels(results: list[dict], folder: Path, *, save_conf: bool) -> None:
    """Write what Ultralytics' Results.save_txt writes for the rows of a job."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("ultralytics.engine.results")
    for row in results:
        boxes = [[*d["bbox"], d["confidence"], d["class_id"]] for d in row["detections"]]
        result = module.Results(
            np.zeros((row["height"], row["width"], 3), np.uint8),
            path=row["image"],
            names={i: f"level{i}" for i in range(10)},
            boxes=torch.tensor(boxes).reshape(-1, 6),
        )
        result.save_txt(folder / f"{Path(row['image']).stem}.txt", save_conf=save_conf)


@pytest.mark.parametrize("save_conf", [False, True])
def test_label_files_are_ultralytics_own(photos, tmp_path, save_conf):
    done = predict(
        *("--source", photos, "save_txt=True", f"save_conf={save_conf}", "--output", "-"),
        *("--save-dir", tmp_path / "ours", "classes=[1,2,3]"),
    )
    assert done.returncode == 0, done.stderr
    assert b"(3 label files)" in done.stderr or b"(4 label files)" in done.stderr
    ultralytics_labels(rows(done.stdout), tmp_path / "theirs", save_conf=save_conf)
    ours, theirs = tmp_path / "ours/labels", tmp_path / "theirs"
    assert files(ours) == files(theirs) != []
    for name in files(ours):
        one, other = ((folder / name).read_text().split() for folder in (ours, theirs))
        assert len(one) == len(other) == 5 + save_conf
        assert [float(v) for v in one] == pytest.approx([float(v) for v in other], abs=2e-6)


def test_label_files_lie_where_ultralytics_puts_them(tmp_path):
    """Ultralytics' predictor itself, on a network that finds something everywhere."""
    ultralytics = pytest.importorskip("ultralytics")
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.png", "b.jpg"):
        cv2.imwrite(str(source / name), gray(90))
    write_clip(source / "clip.mp4", [gray(20 * i) for i in range(7)])
    model = ultralytics.YOLO("yolo26n.yaml", task="detect")
    options = {"imgsz": 64, "conf": 0.0, "max_det": 1, "save": False, "vid_stride": 2}
    list(
        model.predict(
            source, **options, save_txt=True, project=str(tmp_path), name="theirs",
            stream=True, verbose=False, device="cpu",
        )
    )  # fmt: skip
    done = predict(
        *("--source", source, "save_txt=True", "vid_stride=2", "imgsz=64", "save=True"),
        *("--save-dir", tmp_path / "ours"),
    )
    assert done.returncode == 0, done.stderr
    ours = files(tmp_path / "ours/labels")
    theirs = files(tmp_path / "theirs/labels")
    # of seven frames it takes the second, fourth and sixth, and brimful the first, third, ...
    assert [name for name in ours if name != "clip_4.txt"] == theirs
    assert {"clip_1.txt", "clip_3.txt", "a.txt"} <= set(theirs)
    assert files(tmp_path / "ours")[:3] == ["a.png", "b.jpg", "clip.mp4"]


def test_images_of_one_stem_have_a_file_each_and_a_resumed_job_knows_its_own(tmp_path):
    def found(key: str, score: float) -> Detections:
        return Detections(
            image=key, index=0, width=10, height=10, task="detect", names=("x",),
            boxes=np.array([[1, 2, 3, 4]], np.float32),
            confidence=np.array([score], np.float32), class_id=np.zeros(1, np.int32),
        )  # fmt: skip

    options = {"confidence": True, "vid_stride": 1, "overwrite": False}
    labels = LabelFiles(tmp_path / "l", resume=False, **options)
    for number, key in enumerate(["a.jpg", "a.png", "sub/a.jpg", "../a.jpg"]):
        labels.write(found(key, 0.5 + number / 10))
    labels.write(Detections(image="n", index=1, width=9, height=9, task="detect", names=("x",)))
    expected = ["__/a.txt", "a-2.txt", "a.txt", "sub/a.txt"]
    assert files(tmp_path / "l") == expected and labels.count == 4
    again = LabelFiles(tmp_path / "l", resume=True, **options)
    for number, key in enumerate(["a.jpg", "a.png"]):  # done when the job was killed
        again.write(found(key, 0.5 + number / 10))
    assert files(tmp_path / "l") == expected and again.count == 0
    (tmp_path / "l/mine.doc").touch()
    with pytest.raises(UsageError, match=r"mine\.doc"):
        LabelFiles(tmp_path / "l", resume=False, **{**options, "overwrite": True})


def test_an_interrupted_job_goes_on_with_its_label_files(photos, tmp_path):
    output, folder = tmp_path / "x.jsonl", tmp_path / "saved"
    base = ["--source", photos, "save_txt=True", "--save-dir", folder, "--output", output]
    bad = photos.parent / "broken"
    bad.mkdir(exist_ok=True)
    write_images(bad, 6, height=64, width=96)
    (bad / "00003.png").write_bytes(b"no image")
    base[1] = bad
    done = predict(*base, "--max-failures", 0)
    assert done.returncode == 3
    done = predict(*base, "--max-failures", 1, "--resume")
    assert done.returncode == 0, done.stderr
    assert files(folder) == [f"labels/0000{i}.txt" for i in (0, 1, 2, 4, 5)]
    done = predict(*base, "--max-failures", 1, "--overwrite")
    assert done.returncode == 0 and len(files(folder)) == 5


# Addresses ----------------------------------------------------------------------------------------


def test_a_url_of_an_image_with_everything_around_it(tmp_path):
    picture = cv2.imencode(".png", gray(90))[1].tobytes()
    with http_server() as server:
        server.files["/in/x.png"] = ("image/png", picture)
        server.files["/secret.png"] = protected("image/png", picture)
        done = predict("source=" + server.url("/in/x.png"))
        (row,) = rows(done.stdout)
        assert done.returncode == 0 and row["image"] == "x.png" and level_of(row) == 90
        done = predict(
            *("source=" + server.url("/in/x.png"), "save=True", "save_crop=True", "save_txt=True"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert [name.split("/")[0] for name in files(tmp_path / "runs/detect/predict")] == [
            *("crops", "labels", "x.png")
        ]
        output = tmp_path / "x.jsonl"
        done = predict("source=" + server.url("/secret.png", LOGIN), "--output", output)
        assert done.returncode == 0 and level_of(*rows(output)) == 90
        for text in (done.stderr, output.read_bytes()):
            assert b"p%40ss" not in text and b"p@ss" not in text
        done = predict("source=" + server.url("/none.png"))
        (row,) = rows(done.stdout)
        assert done.returncode == 3 and "the server answered 404" in row["error"]
        done = predict("source=" + server.url("/in/x.png"), "--max-bytes", 50)
        assert done.returncode == 3 and b"more than max_bytes 50" in done.stdout


def test_a_stream_of_a_camera_in_the_shell(tmp_path):
    levels = [40, 90, 140, 190, 240]
    with rtsp_server([gray(level) for level in levels]) as server:
        url = f"rtsp://127.0.0.1:{server.server_address[1]}/cam"
        done = predict(f"source={url}", "stream_buffer=True")
        assert done.returncode == 0, done.stderr
        assert [row["frame"] for row in rows(done.stdout)] == list(range(5))
        assert [level_of(row) for row in rows(done.stdout)][1:] == pytest.approx(levels[1:], abs=8)
        done = predict(f"source={url}", "save=True", cwd=tmp_path)
        assert done.returncode == 2 and b"Record it" in done.stderr
        assert list(tmp_path.iterdir()) == []
    done = predict("source=987")
    assert done.returncode == 2 and b"there is no camera /dev/video987" in done.stderr


def test_the_network_is_not_loaded_where_nobody_asks_for_it(photos):
    script = (
        "import sys; from brimful.cli.main import run; code = run(sys.argv[1:]); "
        "never = {'ssl', 'http.client', 'urllib.request', 'asyncio', 'tkinter'}; "
        "found = never & set(sys.modules); "
        "sys.exit(f'{code} {found}' if code or found else 0)"
    )
    done = predict("--source", photos, "--quiet", program=(sys.executable, "-c", script))
    assert done.returncode == 0, done.stderr
