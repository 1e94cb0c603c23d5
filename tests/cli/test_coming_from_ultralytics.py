"""Every command of docs/coming-from-ultralytics.md, and its Python, on the debug runtime."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_kit import PATIENCE_S, environment, write_images

import brimful
from brimful.runtimes import debug
from servers import http_server, rtsp_server
from video_kit import write_clip

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported

PAGE = Path(__file__).parents[2] / "docs/coming-from-ultralytics.md"

ALL = """
import shlex, sys
from brimful.cli.main import run
for line in sys.stdin:
    code = run(shlex.split(line))
    print(f"{code} {line}", end="", file=sys.stderr, flush=True)
"""
"""Runs the lines of standard input in one process, which starts once."""


def gray(level: int) -> np.ndarray:
    return np.full((64, 96, 3), level, np.uint8)


@pytest.fixture
def desk(tmp_path):
    write_images(tmp_path / "photos", 4, height=64, width=96)
    write_clip(tmp_path / "clip.mp4", [gray(30 * i) for i in range(6)])
    return tmp_path


def commands(program: str) -> list[str]:
    return re.findall(rf"`({program} [^`]*)`", PAGE.read_text())


def test_every_command_runs(desk):
    lines = [line for line in commands("brimful") if "source=" in line]
    assert len(lines) >= 14
    with http_server() as http, rtsp_server([gray(60), gray(90)]) as rtsp:
        http.files["/dog.jpg"] = ("image/jpeg", cv2.imencode(".jpg", gray(90))[1].tobytes())
        here = f"127.0.0.1:{rtsp.server_address[1]}"
        script = [
            line.removeprefix("brimful ")
            .replace("model=yolo26n.pt", "runtime=debug")
            .replace("https://example.com", http.url(""))
            .replace("rtsp://camera", f"rtsp://{here}")
            .replace("person,car", "level1,level2")
            for line in lines
        ]
        done = subprocess.run(
            [sys.executable, "-c", ALL],
            input="\n".join(script) + "\n",
            cwd=desk, env=environment(), capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    ran = re.findall(r"^(\d+) (.*)$", done.stderr, flags=re.MULTILINE)
    codes = {line: code for code, line in ran if line in script}
    assert codes == dict.fromkeys(script, "0"), done.stderr
    saved = desk / "runs/detect"
    assert sorted(p.name for p in saved.iterdir())[:2] == ["predict", "predict2"]
    assert (desk / "out/run").is_dir() and (desk / "found.coco.json").is_file()


def test_ultralytics_takes_its_column():
    """Of the other column, options and values are checked by Ultralytics' own parser."""
    cfg = pytest.importorskip("ultralytics.cfg")
    lines = [line for line in commands("yolo") if "source=" in line]
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(line)[1:]
        modes, pairs = ([w for w in words if ("=" in w) == pair] for pair in (False, True))
        assert modes in (["predict"], ["detect", "predict"])
        values = dict(cfg.parse_key_value_pair(pair) for pair in pairs)
        cfg.check_dict_alignment(cfg.DEFAULT_CFG_DICT, values)
        if "classes" in values:  # written 0,2
            values["classes"] = [*map(int, pairs[-1].partition("=")[2].split(","))]
        cfg.check_cfg(dict(values))


def test_its_python_runs(desk, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = ("person", "dog", *debug.DEBUG_NAMES[2:])
    monkeypatch.setattr(debug, "DEBUG_NAMES", names)
    real = brimful.load
    monkeypatch.setattr(brimful, "load", lambda model: real(None, runtime="debug"))
    monkeypatch.chdir(desk)
    scope: dict[str, object] = {}
    exec(block, scope)
    assert len(scope["results"]) == 6 and scope["picture"].shape == (64, 96, 3)
    said = capsys.readouterr().out
    assert "00000.png person" in said and "00001.png dog" in said
    assert "00002.png" not in said.replace("name,class", "")
