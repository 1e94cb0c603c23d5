"""OpenVINO folders that are damaged or hostile: an error that names the file, never a traceback."""

import re
import shutil

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from brimful.errors import ModelError
from loading import load
from model_files import scratch

SAID = "task: detect\nnames: {0: a, 1: b}\nstride: 32\nimgsz: [64, 64]\n"


def whole():
    """Return a folder with a network of a detector's shapes: one convolution."""
    folder = scratch() / "one_openvino_model"
    if not folder.exists():
        images = opset13.parameter([1, 3, 64, 64], np.float32, name="images")
        weights = np.random.default_rng(0).random((6, 3, 8, 8), np.float32)
        conv = opset13.convolution(images, weights, [8, 8], [0, 0], [0, 0], [1, 1])
        rows = opset13.reshape(conv, np.array([1, 6, 64]), special_zero=False)
        ov.save_model(ov.Model([rows], [images], "one"), folder / "one.xml", compress_to_fp16=False)
        (folder / "metadata.yaml").write_text(SAID)
    return folder


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(whole(), tmp_path / "net")


def test_a_whole_one(folder):
    with load(folder) as engine:
        assert engine.spec.head == "raw"
        (found,) = engine.predict([np.zeros((64, 64, 3), np.uint8)])
    assert found.error is None


@pytest.mark.parametrize("size", [1, 100, -1])
def test_truncated_weights(folder, size):
    weights = (folder / "one.bin").read_bytes()
    (folder / "one.bin").write_bytes(weights[:size])
    with pytest.raises(ModelError, match=r"one\.xml cannot be read by OpenVINO"):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r'size="(\d+)"', f'size="{2**40}"'),
        (r'size="(\d+)"', 'size="-5"'),
        (r'offset="(\d+)"', 'offset="99999999999"'),
        (r'offset="(\d+)"', 'offset="-1"'),
        (r'shape="6, ?3, ?8, ?8"', 'shape="6,3,8,9999"'),
        (r'type="Convolution"', 'type="Nothing"'),
        (r"<edge [^>]*>", ""),
        (r"</layers>.*", ""),
        (r"<net .*", "<net></net>"),
        (r"<dim>64</dim>", "<dim>-7</dim>"),
    ],
)
def test_wrong_sizes(folder, old, new):
    text = (folder / "one.xml").read_text()
    changed = re.sub(old, new, text, flags=re.DOTALL)
    assert changed != text
    (folder / "one.xml").write_text(changed)
    with pytest.raises(ModelError, match=r"one\.xml cannot be read by OpenVINO"):
        load(folder)


@pytest.mark.parametrize("text", [b"hello", bytes(range(256)), b"{}", b"<?xml version='1.0'?><x/>"])
def test_what_is_no_network(folder, text, capfd):
    """OpenVINO would try its other formats, and their libraries write to standard error."""
    (folder / "one.xml").write_bytes(text)
    with pytest.raises(ModelError, match=r"one\.xml is no OpenVINO network"):
        load(folder)
    assert capfd.readouterr().err == ""


BOMB = "".join(
    f"{'abcdefghijkl'[i]}: &{'abcdefghijkl'[i]} [{','.join(['*' + 'abcdefghijkl'[i - 1]] * 9)}]\n"
    if i
    else "a: &a [x, x]\n"
    for i in range(12)
)


@pytest.mark.parametrize(
    "text",
    [
        "- 1\n- 2\n",
        "task: " + "[" * 20_000,
        "task: [detect\n",
        "!!python/object/apply:os.getcwd []\n",
        BOMB + "names: *l\n",
        BOMB + "task: *l\n",
        SAID + "names: 5\n",
        SAID + "names: {a: b}\n",
        SAID + "names: [[1], [2]]\n",
        SAID + "names: [a]\n",
        SAID + "stride: x\n",
        SAID + "imgsz: [1, 2, 3]\n",
        SAID + "imgsz: [99999, 99999]\n",
        SAID + "task: [detect]\n",
        SAID + "task: {a: 1}\n",
        SAID + "task: pose\n",
        SAID + "channels: -3\n",
        SAID + "kpt_shape: 5\n",
        "\x00",
    ],
)
def test_hostile_metadata(folder, text):
    (folder / "metadata.yaml").write_text(text)
    with pytest.raises(ModelError):
        load(folder)
    (folder / "metadata.yaml").write_bytes(b"\xff" + text.encode())
    with pytest.raises(ModelError, match=r"metadata\.yaml"):
        load(folder)


@pytest.mark.parametrize(
    "text", ["args: 5\n", "end2end: x\n", "head: 5\n", "description: [1]\n", "batch: x\n", "1: 2\n"]
)
def test_what_does_not_matter(folder, text):
    (folder / "metadata.yaml").write_text(SAID + text)
    with load(folder) as engine:
        assert engine.spec.names == ("a", "b")
