"""What `auto` means for runtime and precision, on CPUs that are pretended."""

from pathlib import Path

import pytest

from brimful.errors import UsageError
from brimful.models.model import Model, ModelOptions
from brimful.runtimes.choice import Choice, best_precision, choose
from brimful.runtimes.registry import named_entry
from onnx_models import onnx_file

AMX = frozenset({"avx2", "avx512f", "amx_bf16"})
PLAIN = frozenset({"avx2", "avx512f"})


def model_of(kind):
    return Model(Path(f"m.{kind}"), kind, ModelOptions())


@pytest.mark.parametrize(
    ("runtime", "kind", "flags", "precision"),
    [
        ("openvino", "pt", AMX, "bf16"),
        ("openvino", "pt", frozenset({"avx512_bf16"}), "bf16"),
        ("openvino", "pt", PLAIN, "fp32"),
        ("openvino", "pt", frozenset(), "fp32"),
        ("torch", "pt", AMX, "bf16"),
        ("onnxruntime", "pt", AMX, "fp32"),
        ("torchscript", "torchscript", AMX, "fp32"),
    ],
)
def test_precision_on_a_cpu(runtime, kind, flags, precision):
    model = model_of(kind)
    assert choose(runtime, "auto", model, "cpu", flags=flags) == Choice(runtime, precision)


@pytest.mark.parametrize(
    ("runtime", "kind", "precision"),
    [("torch", "pt", "fp16"), ("torchscript", "torchscript", "fp32")],
)
def test_precision_on_a_gpu(runtime, kind, precision):
    model = model_of(kind)
    assert choose(runtime, "auto", model, "cuda:0", flags=AMX) == Choice(runtime, precision)


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_an_onnx_file_on_a_gpu(stored):
    path = onnx_file("yolov8n.yaml", stored)
    model = Model(path, "onnx", ModelOptions())
    entry = named_entry("onnxruntime", model, "cuda")
    assert best_precision(entry, model, "cuda:0", frozenset()) == "fp16"


def test_without_the_onnx_package_an_fp32_file_stays_so_on_a_gpu(monkeypatch):
    monkeypatch.setattr("brimful.runtimes.choice.installed", lambda module: False)
    found = {}
    for stored in ("fp32", "fp16"):
        model = Model(onnx_file("yolov8n.yaml", stored), "onnx", ModelOptions())
        entry = named_entry("onnxruntime", model, "cuda")
        found[stored] = best_precision(entry, model, "cuda:0", frozenset())
    assert found == {"fp32": "fp32", "fp16": "fp16"}


def test_a_precision_by_name_is_that_precision():
    assert choose("openvino", "fp32", model_of("pt"), "cpu", flags=AMX).precision == "fp32"
    # Its runtime refuses it, with a word on what there is.
    assert choose("onnxruntime", "bf16", model_of("pt"), "cpu", flags=AMX).precision == "bf16"
    assert choose("auto", "bf16", model_of("pt"), "cpu", flags=AMX) == Choice("openvino", "bf16")


def test_debug_takes_fp32():
    assert choose("debug", "auto", None, "cpu", flags=AMX) == Choice("debug", "fp32")


def test_an_unknown_runtime():
    with pytest.raises(UsageError, match="'tensorflow' is unknown"):
        choose("tensorflow", "auto", model_of("pt"), "cpu")
