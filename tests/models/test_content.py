"""Files that are no model, and models that are no YOLO: an error says what came."""

import sys
import types

import numpy as np
import onnx
import pytest
import torch

from brimful.errors import ModelError
from brimful.models.checkpoint import read_network
from loading import load

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5493173\n"
PAGES = (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", b"\xef\xbb\xbf\n <HTML lang=en>")
NAMES = {"task": "detect", "names": list("ab")}


@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".torchscript", ".xml"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "Git LFS pointer .* git lfs pull"),
        (PAGES[0], r"page of a web site \(HTML\) .* Download"),
        (PAGES[1], r"page of a web site \(HTML\) .* Download"),
        (b"", "an empty file"),
    ],
)
def test_what_is_plainly_no_model(content, said, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(b"weights")
    with pytest.raises(ModelError, match=rf"model\{suffix} is .*{said}"):
        load(path, **NAMES)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, r"net\.xml is an OpenVINO network whose weights are missing: expected net\.bin"),
        (POINTER, r"net\.bin is a Git LFS pointer"),
        (b"", r"net\.bin is an empty file"),
    ],
)
def test_the_weights_of_an_openvino_network(weights, said, tmp_path):
    (tmp_path / "net.xml").write_text("<?xml version='1.0'?><net></net>")
    if weights is not None:
        (tmp_path / "net.bin").write_bytes(weights)
    for path in (tmp_path, tmp_path / "net.xml"):
        with pytest.raises(ModelError, match=said):
            load(path, **NAMES)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("module", ["models.yolo", "yolov6.models.yolo"])
def test_a_checkpoint_of_another_repository(module, trust, tmp_path, monkeypatch):
    """It needs that repository's code, so --trust-model would not help and is not proposed."""
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    kind = type("Model", (torch.nn.Module,), {"__module__": module})
    sys.modules[module].Model = kind
    torch.save({"model": kind()}, tmp_path / "v5.pt")
    for i in range(len(parts)):
        monkeypatch.delitem(sys.modules, ".".join(parts[: i + 1]))
    said = rf"v5\.pt: the checkpoint is made of {parts[0]}.*another repository .* export\.py"
    with pytest.raises(ModelError, match=said) as refusal:
        read_network(tmp_path / "v5.pt", trust=trust)
    assert "--trust-model" not in str(refusal.value)


WEIGHTS = {"0.weight": torch.zeros(2), "0.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (WEIGHTS, r"found a dict of 2 tensors \(a state_dict\): weights without their network"),
        (
            {"model": WEIGHTS, "epoch": 3},
            r"found a value of type dict under 'model' of 2 tensors \(a state_dict",
        ),
        ({"epoch": 3, "state": {}}, "found a dict with 'epoch', 'state'"),
        ({}, "found a dict with nothing in it"),
        ({"ema": 5}, "found a value of type int under 'ema'"),
        ([1], "found a value of type list"),
        (torch.zeros(2), "found a value of type Tensor"),
    ],
)
def test_a_checkpoint_without_a_network(held, said, tmp_path):
    torch.save(held, tmp_path / "held.pt")
    with pytest.raises(ModelError, match=rf"held\.pt holds no YOLO network: .*{said}"):
        read_network(tmp_path / "held.pt", trust=False)


def network(path, dtype, shape, *, output=(1, 84, 21)):
    """Write a network whose output does not depend on its input, which has some type."""
    value = onnx.numpy_helper.from_array(np.zeros(output, np.float32))
    nodes = [
        onnx.helper.make_node("Constant", [], ["rows"], value=value),
        onnx.helper.make_node("Cast", ["images"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Constant", [], ["scale"], value_float=255.0),
        onnx.helper.make_node("Div", ["pixels", "scale"], ["normal"]),
        onnx.helper.make_node("ReduceMean", ["normal"], ["mean"], keepdims=0),
        onnx.helper.make_node("Add", ["rows", "mean"], ["output0"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("images", dtype, shape)],
        [onnx.helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, output)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.helper.set_model_props(
        model, {"task": "detect", "names": str([str(i) for i in range(80)])}
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "auto"])
@pytest.mark.parametrize("dtype", ["UINT8", "INT8", "INT32", "INT64", "DOUBLE"])
def test_an_input_of_another_type(runtime, dtype, tmp_path):
    """Fed with fractions as a float input is, one of bytes would only ever see 0 and 1."""
    kind = getattr(onnx.TensorProto, dtype)
    path = network(tmp_path / "net.onnx", kind, [1, 3, 32, 32])
    with pytest.raises(ModelError, match="float32 or float16 pixels from 0 to 1, found") as refusal:
        load(path, runtime=runtime)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_channels(runtime, channels_last, tmp_path):
    shape = [1, 32, 32, 3] if channels_last else [1, 4, 32, 32]
    path = network(tmp_path / "net.onnx", onnx.TensorProto.FLOAT, shape)
    said = r"expected an input of shape \(batch, channels, height, width\) with 1 or 3 channels, "
    said += r"found \(1, 32, 32, 3\) with the channels last" if channels_last else r"found \(1, 4, "
    with pytest.raises(ModelError, match=said):
        load(path, runtime=runtime)


def test_an_openvino_network_that_takes_bytes(tmp_path):
    """What OpenVINO's own preprocessing makes: uint8 pixels with the channels last."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    core = ov.Core()
    read = core.read_model(network(tmp_path / "net.onnx", onnx.TensorProto.FLOAT, [1, 3, 32, 32]))
    processor = PrePostProcessor(read)
    processor.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    processor.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
    processor.input().model().set_layout(ov.Layout("NCHW"))
    ov.save_model(processor.build(), tmp_path / "net.xml")
    with pytest.raises(ModelError, match="float16 pixels from 0 to 1, found u8"):
        load(tmp_path / "net.xml", task="detect", names=[str(i) for i in range(80)])
