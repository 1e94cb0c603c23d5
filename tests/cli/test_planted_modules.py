"""A folder with Python files in it: none of them runs in a process that is started there."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_kit import brimful

MODULES = (
    *("random", "tempfile", "selectors", "socket", "pickle", "signal", "threading", "struct"),
    *("subprocess", "shutil", "json", "dataclasses", "numpy", "torch", "ultralytics", "queue"),
)
"""Modules that Python's own libraries import in a process that is starting."""


@pytest.fixture
def folder(tmp_path):
    """Return a data set's folder with code in it that leaves a trace when it is imported."""
    for module in MODULES:
        trace = tmp_path / f"{module}.ran"
        text = f"open({str(trace)!r}, 'w').close()\nraise ImportError('planted')\n"
        (tmp_path / f"{module}.py").write_text(text)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.ran"))


def test_the_plants_would_run(folder):
    """As `python -c` in that folder shows."""
    done = brimful("-c", "import multiprocessing.spawn", program=(sys.executable,), cwd=folder)
    assert done.returncode != 0
    assert ran(folder)


def test_the_conversion_of_a_checkpoint(folder, monkeypatch):
    from model_files import saved

    monkeypatch.setenv("BRIMFUL_CACHE", str(folder / "cache"))
    options = ("--model", saved("yolov8n.yaml"), "--device", "cpu", "--imgsz", 64, "--quiet")
    done = brimful("predict", *options, "--source", "a.png", "--runtime", "onnxruntime", cwd=folder)
    assert ran(folder) == []
    assert done.returncode == 0, done.stderr
    assert list((folder / "cache").glob("onnx-*/model.onnx"))


def test_engine_processes(folder):
    options = ("--runtime", "debug", "--device", "cpu,cpu", "--quiet")
    done = brimful("predict", *options, "--source", "a.png", cwd=folder)
    assert ran(folder) == []
    assert done.returncode == 0, done.stderr


DRAW = """
from pathlib import Path
from brimful.demo.dataset import write_dataset

if __name__ == "__main__":
    write_dataset(Path("out"), images=1, workers=2)
"""


def test_drawing_the_demo(folder):
    """In processes of their own, where there are several CPUs."""
    (folder / "tools").mkdir()
    (folder / "tools" / "draw.py").write_text(DRAW)
    done = brimful("tools/draw.py", program=(sys.executable,), cwd=folder)
    assert ran(folder) == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", [None, "", "1"])
def test_the_environment_is_given_back(before, monkeypatch):
    import os

    from brimful.child_python import python_command, safe_path

    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    with safe_path(), safe_path():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ.get("PYTHONSAFEPATH") == before
    assert python_command("-c", "") == [sys.executable, "-P", "-c", ""]
