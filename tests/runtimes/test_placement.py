"""Where a model runs when nobody says: with GPUs and libraries that are pretended."""

from pathlib import Path

import pytest

from brimful.errors import UsageError
from brimful.gpus import Gpus
from brimful.models.model import Model, ModelOptions
from brimful.runtimes.placement import lacks_for_cuda, place
from brimful.runtimes.registry import RUNTIMES


def placed(device="auto", runtime="auto", kind="pt", gpus=0, lacks="", cuda=13):
    model = None if kind is None else Model(Path(f"m.{kind}"), kind, ModelOptions())
    return place(
        device,
        runtime,
        model,
        look=lambda: Gpus(gpus, cuda if gpus else 0),
        lacks=lambda entry, gpus: lacks,
    )


@pytest.mark.parametrize("kind", ["pt", "onnx", "torchscript"])
def test_auto_is_the_first_gpu_that_is_there(kind):
    assert placed(kind=kind, gpus=1) == placed("cuda:0")
    assert placed(kind=kind).devices == ("cpu",)
    assert placed(kind=kind).hint == "", "a machine without a GPU lacks nothing"


def test_idle_gpus_are_told_of():
    found = placed(gpus=4)
    assert found.devices == ("cuda:0",)
    assert "GPU 0 of 4" in found.hint and "--device all" in found.hint


def test_all_is_every_gpu():
    found = placed("all", gpus=3)
    assert (found.devices, found.hint) == (("cuda:0", "cuda:1", "cuda:2"), "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "this process has none"),
        ({"gpus": 2, "lacks": "triton would be needed"}, "triton would be needed"),
        ({"gpus": 2, "runtime": "openvino"}, "neither this runtime nor this model"),
        ({"gpus": 2, "kind": "openvino"}, "neither this runtime nor this model"),
        ({"gpus": 2, "kind": None, "runtime": "debug"}, "neither this runtime nor this model"),
    ],
)
def test_all_without_one_that_can_be_used(options, says):
    with pytest.raises(UsageError, match="every GPU") as refusal:
        placed("all", **options)
    assert says in str(refusal.value)


def test_auto_says_why_a_gpu_is_not_used():
    found = placed(gpus=1, lacks="triton would be needed")
    assert found.devices == ("cpu",)
    assert found.hint == "a GPU is here and is not used: triton would be needed"


@pytest.mark.parametrize(
    ("kind", "runtime"), [("openvino", "auto"), ("pt", "openvino"), ("onnx", "openvino")]
)
def test_who_has_no_use_for_a_gpu_does_not_look_for_one(kind, runtime):
    model = Model(Path(f"m.{kind}"), kind, ModelOptions())

    def look():
        raise AssertionError("nobody needs to know")

    assert place("auto", runtime, model, look=look).devices == ("cpu",)


@pytest.mark.parametrize("device", ["cpu", "cuda:7"])
def test_a_device_by_name_is_that_device(device):
    assert placed(device, gpus=1, lacks="everything").devices == (device,)


@pytest.mark.parametrize(
    "entry", [e for e in RUNTIMES if "cuda" in e.devices], ids=lambda e: e.name
)
@pytest.mark.parametrize(
    ("present", "torch_cuda", "driver", "lacks"),
    [
        (True, 13, 13, ""),
        (True, 12, 13, ""),
        (True, 13, 12, "only goes up to CUDA 12"),
        (True, None, 13, "a build without CUDA"),
        (False, 13, 13, "would be needed: pip install 'brimful["),
    ],
)
def test_what_a_runtime_lacks(entry, present, torch_cuda, driver, lacks, monkeypatch):
    monkeypatch.setattr("brimful.runtimes.placement.installed", lambda module: present)
    monkeypatch.setattr("brimful.runtimes.placement.installed_version", lambda *names: "1")
    monkeypatch.setattr("brimful.runtimes.placement.torch_cuda", lambda: torch_cuda)
    found = lacks_for_cuda(entry, Gpus(1, driver))
    assert lacks in found
    assert bool(found) == bool(lacks)


def test_onnxruntime_for_the_cpu_is_not_that_for_a_gpu(monkeypatch):
    """They are one module; what tells them apart is the package."""
    (entry,) = (e for e in RUNTIMES if e.name == "onnxruntime" and "cuda" in e.devices)
    monkeypatch.setattr("brimful.runtimes.placement.installed", lambda module: True)
    monkeypatch.setattr("brimful.runtimes.placement.installed_version", lambda *names: None)
    assert "onnxruntime-gpu would be needed" in lacks_for_cuda(entry, Gpus(1, 13))
