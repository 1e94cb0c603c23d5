"""TorchScript files: with NMS inside, with pixels of their own scale, and broken ones."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from brimful.errors import ModelError
from loading import load
from model_files import ultralytics_export
from oracles import asset, pair_detections, reference_predict, shared

SIDE = 320
SAID = {"task": "detect", "names": {0: "a", 1: "b"}, "imgsz": [64, 64]}

LOADS = """
import sys
from brimful.load import load
with load(sys.argv[1], device="cpu") as engine:
    print(engine.spec.head, len(list(engine.predict(sys.argv[2]))[0]))
"""


@pytest.mark.filterwarnings("ignore")  # the exporters' own
def test_nms_inside():
    """The file calls an operator of torchvision, which only exists once that is imported."""
    checkpoint = shared("models", "yolov8n-coco.pt")
    path = ultralytics_export(checkpoint, "nms-script", imgsz=SIDE, format="torchscript", nms=True)
    images = [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]
    with load(path) as engine:
        assert engine.spec.head == "nms_free"
        ours = list(engine.predict(images))
    report = pair_detections(
        ours, reference_predict(str(checkpoint), images, imgsz=SIDE, rect=False)
    )
    assert report.reference >= 5
    assert report.ok, report
    # a process that has imported nothing yet
    command = [sys.executable, "-c", LOADS, str(path), str(asset("bus.jpg"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["nms_free", str(len(ours[0]))], done.stderr


class Boxes(torch.nn.Module):
    """A network that has a detector's shapes."""

    def __init__(self, normalise):
        super().__init__()
        self.normalise = normalise
        self.conv = torch.nn.Conv2d(3, 6, 8, 8)

    def forward(self, images):
        return self.conv(self.normalise(images)).flatten(2)


def script(path, normalise=lambda images: images, said=SAID):
    network = Boxes(normalise).eval()
    traced = torch.jit.trace(network, torch.zeros(1, 3, 64, 64))
    text = said if isinstance(said, str | bytes) else json.dumps(said)
    torch.jit.save(traced, path, _extra_files={"config.txt": text})
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "normalise",
    [
        lambda images: images / 255,
        lambda images: images.float() / 255.0,
        lambda images: images.to(torch.float32).contiguous() * (1 / 255),
        lambda images: images.flip(1).div_(255),
    ],
)
def test_pixels_of_its_own_scale(normalise, tmp_path):
    """A network that divides by 255 itself would see nothing but black."""
    with pytest.raises(ModelError, match=r"net\.torchscript: .*pixels from 0 to 1, .* divides"):
        load(script(tmp_path / "net.torchscript", normalise))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "normalise", [lambda x: x, lambda x: (x - 0.5) / 0.25, lambda x: x / 2, lambda x: x * 0.1]
)
def test_other_arithmetic_stays(normalise, tmp_path):
    with load(script(tmp_path / "net.torchscript", normalise)) as engine:
        assert engine.spec.head == "raw"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("[1, 2]", "should hold keys and values"),
        ("{", "no JSON"),
        (b"\xff\xfe", "net.torchscript"),
        ("[" * 100_000, "net.torchscript"),
        (SAID | {"imgsz": [65536, 65536]}, "imgsz"),
        (SAID | {"imgsz": "x"}, "imgsz"),
        (SAID | {"batch": 10**9}, "batch"),
        (SAID | {"batch": "\u00b2"}, "batch"),
        (SAID | {"batch": 0}, "batch"),
        (SAID | {"channels": 4}, "cannot run an input of shape"),
        (SAID | {"names": 5}, "names"),
        (SAID | {"names": {"0": "a"}}, "number of --names"),
        (SAID | {"task": "segment"}, "two outputs"),
        (SAID | {"task": "semantic"}, "task"),
        (SAID | {"stride": [32]}, "stride"),
    ],
)
def test_hostile_metadata(said, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load(script(tmp_path / "net.torchscript", said=said))


class Odd(torch.nn.Module):
    """A network that returns what is no detector's."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        if self.kind == "dict":
            return {"boxes": images}
        if self.kind == "nested":
            return (images, [images])
        return images.mean()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dict", "nested", "scalar"])
def test_odd_outputs(kind, tmp_path):
    path = tmp_path / "net.torchscript"
    traced = torch.jit.trace(Odd(kind), torch.zeros(1, 3, 64, 64), strict=False)
    torch.jit.save(traced, path, _extra_files={"config.txt": json.dumps(SAID)})
    with pytest.raises(ModelError, match=r"net\.torchscript"):
        load(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keep", [3, 100, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file(keep, tmp_path):
    whole = script(tmp_path / "whole.torchscript").read_bytes()
    size = keep if isinstance(keep, int) else int(len(whole) * keep)
    (tmp_path / "net.torchscript").write_bytes(whole[:size])
    with pytest.raises(ModelError, match=r"net\.torchscript cannot be read as TorchScript"):
        load(tmp_path / "net.torchscript")


@pytest.mark.filterwarnings("ignore")
def test_another_kind_of_zip_file(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    torch.save({"a": torch.zeros(3)}, tmp_path / "b.pt")
    for name in ("a.npz", "b.pt"):
        (tmp_path / "net.torchscript").write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(ModelError, match=r"net\.torchscript cannot be read as TorchScript"):
            load(tmp_path / "net.torchscript")
