"""fp32 ONNX files turned into fp16: what computes in which, and what cannot be turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from brimful.errors import ExportError, MissingExtraError, ModelError
from brimful.models.export import write_onnx
from brimful.models.model import open_model
from brimful.models.onnx_precision import arithmetic
from brimful.models.to_fp16 import halve, to_fp16
from model_files import (
    artifact_cache,  # noqa: F401
    exported,
    opened,
    saved,
)
from shared_files import shared

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def run(model: Any, images: np.ndarray[Any, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (port,) = session.get_inputs()
    dtype = np.float16 if port.type == "tensor(float16)" else np.float32
    outputs: list[Any] = session.run(None, {port.name: images.astype(dtype)})
    return outputs


def conv_model(*more: Any, outputs: tuple[str, ...] = ("out",), **weights: Any) -> Any:
    """A 1x1 convolution named `seen`, and nodes after it."""
    kernel = np.array([[[[0.5]], [[0.25]], [[2]]]] * 2, np.float32)
    nodes = [helper.make_node("Conv", ["images", "kernel"], ["seen"]), *more]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info(name, FLOAT, list("nchw")) for name in outputs],
        [numpy_helper.from_array(kernel, "kernel")]
        + [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


IMAGES = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)


def test_the_bodys_weights_are_halves_and_the_outputs_are_not() -> None:
    model = onnx.load(exported(saved("yolov8n.yaml")))
    weights = {t.name for t in model.graph.initializer if t.data_type == FLOAT and len(t.dims) == 4}
    halve(model)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == HALF
    assert [o.type.tensor_type.elem_type for o in model.graph.output] == [FLOAT]
    types = {t.name: t.data_type for t in model.graph.initializer}
    kept = [name for name in weights if name in types]
    assert len(kept) == 1  # the fixed weights of box decoding
    assert all(types[f"{name}.half"] == HALF for name in weights if name not in kept)


def test_a_trained_network_finds_the_same() -> None:
    import cv2

    photo = cv2.resize(cv2.imread(str(shared("photos", "dog.jpg"))), (640, 480))
    images = (photo[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)
    model = onnx.load(open_model(shared("models", "yolo26n-coco.pt")).as_onnx())
    (wanted,) = run(model, images)
    halve(model)
    (found,) = run(model, images)
    sure = wanted[0, :, 4] > 0.5
    assert sure.sum() >= 3
    assert np.allclose(found[0, sure, :4], wanted[0, sure, :4], atol=0.5)
    assert np.allclose(found[0, sure, 4:], wanted[0, sure, 4:], atol=0.01)


@pytest.mark.parametrize("yaml", ["yolo26n.yaml", "yolov8n.yaml"])
def test_boxes_are_decoded_in_single_precision(yaml: str) -> None:
    """Beyond 1024 a float16 is a whole number; boxes are not."""
    model = onnx.load(exported(saved(yaml)))
    halve(model)
    (found,) = run(model, np.random.default_rng(0).random((1, 3, 64, 1600), np.float32))
    boxes = found[0, :4].ravel() if yaml.startswith("yolov8") else found[0, :, :4].ravel()
    far = boxes[np.abs(boxes) > 1024]
    assert len(far) > 20
    assert np.mean(far == far.astype(np.float16)) < 0.1


def test_what_both_precisions_read_is_kept_in_both() -> None:
    """A constant is rounded for the body alone."""
    model = conv_model(
        helper.make_node("Add", ["seen", "third"], ["shifted"]),
        helper.make_node("Conv", ["shifted", "last"], ["end"]),
        helper.make_node("Mul", ["end", "third"], ["out"]),
        third=np.float32(1 / 3),
        last=np.ones((1, 2, 1, 1), np.float32) * 0.5,
    )
    wanted = run(model, IMAGES)
    halve(model)
    onnx.checker.check_model(model, full_check=True)
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types == {"kernel.half": HALF, "third": FLOAT, "third.half": HALF, "last.half": HALF}
    assert np.allclose(run(model, IMAGES)[0], wanted[0], atol=0.01)


def test_an_output_that_the_body_reads_too() -> None:
    """An inner value that is an output keeps its name and type, for everybody who reads it."""
    model = conv_model(
        helper.make_node("Conv", ["seen", "last"], ["end"]),
        helper.make_node("Add", ["seen", "end"], ["out"]),
        outputs=("out", "seen"),
        last=np.full((2, 2, 1, 1), 0.5, np.float32),
    )
    wanted = run(model, IMAGES)
    halve(model)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, IMAGES)
    assert [f.dtype for f in found] == [np.float32, np.float32]
    for a, b in zip(found, wanted, strict=True):
        assert np.allclose(a, b, atol=0.01)
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("computed", [False, True])
def test_scales_of_a_resize_stay_single(computed: bool) -> None:
    sides = np.array([1, 1, 2, 2], np.int64 if computed else np.float32)
    maker = helper.make_node("Cast", ["sides"], ["scales"], to=FLOAT)
    model = conv_model(
        maker if computed else helper.make_node("Identity", ["seen"], ["nobody"]),
        helper.make_node("Resize", ["seen", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Conv", ["large", "last"], ["out"]),
        last=np.full((2, 2, 1, 1), 0.5, np.float32),
        **{"sides" if computed else "scales": sides},
    )
    wanted = run(model, IMAGES)
    halve(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.allclose(run(model, IMAGES)[0], wanted[0], atol=0.01)


@pytest.mark.parametrize(
    ("nodes", "weights", "there"),
    [
        (
            [helper.make_node("DequantizeLinear", ["number", "scale"], ["out"])],
            {"number": np.array([3], np.uint8), "scale": np.float32(0.5)},
            "quantised",
        ),
        (
            [helper.make_node("Conv", ["seen", "last"], ["out"])],
            {"last": np.full((2, 2, 1, 1), 1e5, np.float32)},
            "last has values beyond 65504",
        ),
    ],
)
def test_what_cannot_be_halved(nodes: Any, weights: Any, there: str) -> None:
    with pytest.raises(ExportError, match=there):
        halve(conv_model(*nodes, **weights))


def test_control_flow_and_no_convolution() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["seen"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, None)],
    )
    branch = helper.make_node("If", ["flag"], ["out"], then_branch=graph, else_branch=graph)
    with pytest.raises(ExportError, match="control flow"):
        halve(conv_model(branch, flag=np.bool_(True)))
    model = conv_model()
    model.graph.node[0].op_type = "Identity"
    del model.graph.node[0].input[1]
    with pytest.raises(ExportError, match="no convolution"):
        halve(model)


def test_a_conversion_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    path = exported(saved("yolov8n.yaml"))
    first = to_fp16(path)
    monkeypatch.setattr("brimful.models.to_fp16.halve", None)  # not called again
    assert to_fp16(path) == first
    assert arithmetic(first) == "fp16"


def test_without_the_onnx_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    monkeypatch.setattr("brimful.extras.installed", lambda module: module != "onnx")
    with pytest.raises(MissingExtraError, match="Converting an ONNX model to fp16"):
        to_fp16(exported(saved("yolov8n.yaml")))


# What a file computes in --------------------------------------------------------------------------


def test_arithmetic_of_exports(tmp_path: Path) -> None:
    assert arithmetic(exported(saved("yolov8n.yaml"))) == "fp32"
    stored = tmp_path / "stored.onnx"  # float16 weights, each cast back before it is used
    write_onnx(opened(saved("yolov8n.yaml")), stored, half_weights=True)
    kinds = [t.data_type for t in onnx.load(stored).graph.initializer if len(t.dims) == 4]
    assert kinds.count(HALF) > kinds.count(FLOAT)
    assert arithmetic(stored) == "fp32"


@pytest.mark.parametrize(
    ("kind", "name"),
    [(FLOAT, "fp32"), (HALF, "fp16"), (TensorProto.BFLOAT16, "bf16"), (TensorProto.DOUBLE, "fp64")],
)
def test_arithmetic_by_weights(kind: int, name: str, tmp_path: Path) -> None:
    """The weight may be stored, cast, or a constant."""
    path = tmp_path / "m.onnx"
    weight = helper.make_tensor("kernel", kind, [1, 1, 1, 1], [1.0])
    for maker in (
        None,
        helper.make_node("Constant", [], ["kernel"], value=weight),
        helper.make_node("Cast", ["elsewhere"], ["kernel"], to=kind),
    ):
        model = conv_model()
        del model.graph.initializer[:]
        if maker is None:
            model.graph.initializer.append(weight)
        else:
            model.graph.node.insert(0, maker)
        onnx.save(model, path)
        assert arithmetic(path) == name


def test_arithmetic_of_quantised_models(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = conv_model()
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["kernel"]))
    del model.graph.initializer[:]
    onnx.save(model, path)
    assert arithmetic(path) == "int8"
    model.graph.node[1].op_type = "QLinearConv"
    onnx.save(model, path)
    assert arithmetic(path) == "int8"


def test_arithmetic_without_weights(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.node[0].op_type = "Relu"
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert arithmetic(path) == "fp32"


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b"])
def test_arithmetic_of_a_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        arithmetic(path)
