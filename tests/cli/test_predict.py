"""`brimful predict` as a process: what comes out, on which stream, with which exit code."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest
from cli_kit import (
    BRIMFUL,
    PATIENCE_S,
    brimful,
    check_complete,
    environment,
    level_of,
    predict,
    rows,
    slow,
    start,
    write_images,
)

# Usage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 12)
    return folder


def test_key_value_is_the_same_as_options(photos):
    one = predict("--source", photos, "--imgsz", 320, "--max-det", 3, "--canvas", "square")
    two = brimful(
        "predict",
        "runtime=debug",
        f"source={photos}",
        "imgsz=320",
        "max_det=3",
        "canvas=square",
        "half=False",
        "nms=None",
    )
    assert one.returncode == two.returncode == 0
    assert one.stdout == two.stdout
    assert rows(one.stdout)[0]["canvas"] == [320, 320]


@pytest.mark.parametrize("wrong", [["imgz=640"], ["--imgz", "640"], ["--imgz=640"]])
def test_an_unknown_option_lists_the_right_ones(photos, wrong):
    done = predict("--source", photos, *wrong)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert "no option --imgz" in said
    assert {"--imgsz", "--source", "--max-det", "--resume"} <= set(said.split())
    assert "Traceback" not in said and done.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--source", "/nowhere/at/all"], 2, "there is no source"),
        ([], 2, "--source"),
        (["--source", "{photos}", "--canvas", "round"], 2, "expected auto, square"),
        (["--source", "{photos}", "--canvas", "100x100"], 2, "stride"),
        (["--source", "{photos}", "--imgsz", "big"], 2, "expected a side"),
        (["--source", "{photos}", "--conf", "2"], 2, "expected 0 to 1"),
        (["--source", "{photos}", "--conf", "high"], 2, "--conf"),
        (["--source", "{photos}", "--batch", "0"], 2, "batch must be at least 1"),
        (["--source", "{photos}", "--workers", "0"], 2, "workers must be at least 1"),
        (["--source", "{photos}", "--classes", "99"], 2, "10 classes"),
        (["--source", "{photos}", "--classes", "level11,2"], 2, "close are level1"),
        (["--source", "{photos}", "--format", "xml"], 2, "jsonl"),
        (["--source", "{photos}", "--format", "coco"], 2, "standard output"),
        (["--source", "{photos}", "--output", "{photos}/x.xyz"], 2, "suffix"),
        (["--source", "{photos}", "--max-failures", "many"], 2, "expected a number"),
        (["--source", "{photos}", "--resume"], 2, "cannot be resumed"),
        (["--source", "{photos}", "--model", "/nowhere/model.onnx"], 4, "/nowhere/model.onnx"),
        (["--source", "{photos}", "--device", "cuda"], 2, "cpu"),
        (["--source", "{photos}", "photo.jpg"], 2, "photo.jpg"),
    ],
)
def test_wrong_usage(photos, arguments, code, says):
    done = predict(*(argument.format(photos=photos) for argument in arguments))
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert says in said
    assert "Traceback" not in said
    assert done.stdout == b""
    assert len(list(photos.iterdir())) == 12, "nothing was left beside the images"


def test_a_model_is_needed_and_the_error_says_so(photos):
    done = brimful("predict", "--source", photos)
    assert done.returncode in (2, 4)
    assert "model" in done.stderr.decode() and "Traceback" not in done.stderr.decode()


def test_without_a_verb_the_verbs_are_listed():
    for arguments in [[], ["pedict"]]:
        done = brimful(*arguments)
        assert done.returncode == 2
        assert "verbs: demo, info, predict" in done.stderr.decode()


def test_help_and_version():
    done = brimful("predict", "--help")
    assert done.returncode == 0 and b"--max-failures" in done.stdout and done.stderr == b""
    done = brimful("--version")
    assert done.returncode == 0 and done.stdout.startswith(b"brimful")


def test_info_lists_the_runtimes():
    done = brimful("info")
    assert done.returncode == 0
    assert {"onnxruntime", "openvino", "torch"} <= set(done.stdout.decode().split())


def test_info_shows_what_a_model_takes_here(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    for options, words in (((), "assumed"), (("--measure",), "measured"), ((), "measured")):
        done = brimful("info", "--model", "demo", *options)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.decode().splitlines() if line.startswith(words)]
        assert {"openvino", "onnxruntime"} <= {line.split()[1] for line in lines}
    assert "measured for yolo26n-factory.onnx" in brimful("info").stdout.decode()
    assert brimful("info", "--measure").returncode == 2


# Output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("o.jsonl", []),
        ("o.json", []),
        ("o.coco.json", []),
        ("o.parquet", []),
        ("labels", ["--format", "yolo"]),
        ("no/such/folder/o.jsonl", []),
    ],
)
def test_every_format(tmp_path, photos, name, arguments):
    output = tmp_path / name
    done = predict("--source", photos, "--output", output, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert str(output) in done.stderr.decode()
    levels = list(range(12))
    if name.endswith(".jsonl"):
        assert [level_of(row) for row in rows(output)] == levels
    elif name == "o.json":
        assert [level_of(row) for row in json.loads(output.read_bytes())] == levels
    elif name == "o.coco.json":
        found = json.loads(output.read_bytes())
        assert [round((r["score"] - 0.5) * 2 * 255) for r in found] == levels
        assert len({r["image_id"] for r in found}) == 12
    elif name == "o.parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(output)
        assert table.num_rows == 12
        assert sorted(table.column("class_id").to_pylist()) == sorted(i % 10 for i in levels)
    else:
        labels = sorted(output.rglob("*.txt"))
        assert [int(path.read_text().split()[0]) for path in labels] == [i % 10 for i in levels]
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.job.json"))


def test_an_existing_output_is_not_lost_by_accident(tmp_path, photos):
    output = tmp_path / "o.jsonl"
    output.write_text("precious")
    done = predict("--source", photos, "--output", output)
    assert done.returncode == 2 and "--overwrite" in done.stderr.decode()
    assert output.read_text() == "precious"
    assert predict("--source", photos, "--output", output, "--overwrite").returncode == 0
    assert len(rows(output)) == 12


def test_standard_output_is_json_lines_and_nothing_else(photos):
    done = predict("--source", photos)
    assert done.returncode == 0
    assert [level_of(row) for row in rows(done.stdout)] == list(range(12))
    assert "12 images" in done.stderr.decode()


def test_quiet_says_nothing_whatever_the_files(tmp_path):
    """OpenCV's own complaints would come on standard error, below Python."""
    (name,) = write_images(tmp_path, 1)
    png = (tmp_path / name).read_bytes()
    (tmp_path / "damaged.png").write_bytes(png[:40] + b"\xff" * 20 + png[60:])
    (tmp_path / "tiff.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff" + b"\x07" * 90)
    done = predict("--source", tmp_path, "--quiet", "--max-failures", "100%")
    assert done.returncode == 0
    assert done.stderr == b""
    assert [row["error"] is None for row in rows(done.stdout)] == [True, False, False]


def test_a_reader_that_has_enough_ends_the_job(tmp_path):
    write_images(tmp_path, 500)
    process = start("--source", tmp_path, "--batch", 2, program=slow(5))
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()  # as `| head -1` does
    assert process.stderr is not None
    with process.stderr as stderr:
        said = stderr.read().decode()
    assert process.wait(PATIENCE_S) == 0, said
    assert level_of(json.loads(line)) == 0
    assert "Traceback" not in said and "Exception" not in said


def test_head_in_a_shell(tmp_path):
    write_images(tmp_path, 3000)
    pipe = 'set -o pipefail; "$0" predict runtime=debug source="$1" | head -1'
    done = subprocess.run(
        ["bash", "-c", pipe, *BRIMFUL, str(tmp_path)],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(done.stdout)) == 1
    assert b"Traceback" not in done.stderr


def test_nobody_reads_the_progress(tmp_path):
    """A job that writes a file goes on when standard error is closed."""
    names = write_images(tmp_path / "in", 60)
    output = tmp_path / "o.jsonl"
    process = start(
        "--source", tmp_path / "in", "--output", output, "--batch", 2, program=slow(2, 0.001)
    )
    assert process.stderr is not None
    assert process.stderr.readline()
    process.stderr.close()
    process.communicate(timeout=PATIENCE_S)
    check_complete(output, names)


def test_paths_on_standard_input(photos):
    paths = b"".join(bytes(photos / f"{i:05}.png") + b"\n" for i in range(12))
    done = predict("--source", "-", "--quiet", input=paths)
    assert done.returncode == 0
    assert [level_of(row) for row in rows(done.stdout)] == list(range(12))


# Progress and summary ---------------------------------------------------------------------------


def test_the_summary_says_what_was_done_and_what_limits(tmp_path, photos):
    output = tmp_path / "o[b]-[/b].jsonl"  # no markup, whatever it looks like
    done = predict("--source", photos, "--output", output, "--batch", 4)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert said.startswith("12 images, 12 detections in ")
    for stage in ("source", "decode", "preprocess", "forward", "postprocess", "sink"):
        assert f"\n{stage} " in said
    assert "limits: " in said and "runtime debug" in said and "batch 4" in said
    assert said.rstrip().endswith(f"detections: {output}")


def test_plain_lines_show_progress_where_there_is_no_terminal(tmp_path):
    write_images(tmp_path, 40)
    done = predict("--source", tmp_path, "--batch", 2, program=slow(20, 0.001))
    lines = done.stderr.decode().splitlines()
    progress = [line for line in lines if "of 40 images, " in line and line.endswith("img/s")]
    assert len(progress) >= 2
    counts = [int(line.split()[0]) for line in progress]
    assert counts == sorted(counts) and counts[-1] <= 40
    assert "\x1b" not in done.stderr.decode()


def test_quiet_shows_no_progress(tmp_path):
    write_images(tmp_path, 40)
    done = predict("--source", tmp_path, "--batch", 2, "--quiet", program=slow(20, 0.001))
    assert done.returncode == 0 and done.stderr == b""


def test_failures_show_in_the_progress(tmp_path):
    write_images(tmp_path, 40)
    (tmp_path / "00000.png").write_bytes(b"")
    done = predict("--source", tmp_path, "--batch", 2, program=slow(20, 0.001))
    assert ", 1 failed\n" in done.stderr.decode()
    assert done.returncode == 3


def test_a_bar_on_a_terminal(tmp_path):
    write_images(tmp_path, 40)
    master, terminal = pty.openpty()
    process = start("--source", tmp_path, "--batch", 2, program=slow(20, 0.01), stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert b"\x1b[" in shown and "━".encode() in shown
    assert b"of 40 images" not in shown, "no plain lines beside the bar"
    assert b"limits: " in shown
    assert len(rows(stdout)) == 40
