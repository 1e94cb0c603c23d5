"""onnxruntime with bound tensors, on the CPU, against the CPU runtime on the same files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from brimful.errors import ModelError, UsageError
from brimful.models.model import Model, open_model
from brimful.models.signature import SpecOverrides
from brimful.runtimes.cuda.onnx import network as onnx_network
from brimful.runtimes.cuda.onnx.network import OnnxNetwork
from brimful.runtimes.cuda.onnx.provider import ProviderTechniques
from brimful.runtimes.cuda.onnx.runtime import torch_bytes
from brimful.runtimes.onnx import OnnxRuntime
from brimful.runtimes.runtime import RuntimeOptions
from model_files import (
    artifact_cache,  # noqa: F401
    exported,
    outputs_of,
    saved,
    ultralytics_export,
)
from shared_files import shared

CPU = torch.device("cpu")
MODELS = (
    ("yolo26n.yaml", None),
    ("yolo26n.yaml", True),
    ("yolo26n-seg.yaml", None),
    ("yolo26n-pose.yaml", None),
    ("yolo26n-obb.yaml", None),
    ("yolo26n-cls.yaml", None),
    ("yolov8n-seg.yaml", None),
)


def host_frames(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(shape, np.float32)


def network_of(path: Path, precision: Any = "fp32", **techniques: bool) -> OnnxNetwork:
    return OnnxNetwork(
        open_model(path), precision, CPU, techniques=ProviderTechniques(**techniques)
    )


def found_by(forward: Any, network: OnnxNetwork, images: np.ndarray[Any, Any]) -> list[Any]:
    pixels = torch.from_numpy(images).to(network.dtype)
    return [out.numpy().copy() for out in forward(pixels.to(memory_format=torch.channels_last))]


def wanted_of(path: Path, images: np.ndarray[Any, Any]) -> list[Any]:
    """Return what the CPU runtime says of the same images."""
    runtime = OnnxRuntime(open_model(path), RuntimeOptions(max_batch=len(images), threads=1))
    slot = runtime.allocate((images.shape[2], images.shape[3]))
    slot.inputs[: len(images)] = images
    outputs = [out.copy() for out in outputs_of(runtime, slot, len(images))]
    runtime.close()
    return outputs


def alike(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        assert np.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("yaml", "nms"), MODELS)
def test_outputs_are_the_cpu_runtimes(yaml: str, nms: bool | None) -> None:
    path = exported(saved(yaml), nms=nms)
    network = network_of(path)
    forward = network.on(None)
    for shape in ((1, 3, 64, 96), (3, 3, 128, 96), (4, 3, 64, 96)):
        images = host_frames(shape, seed=shape[0])
        alike(found_by(forward, network, images), wanted_of(path, images))
    network.close()


@pytest.mark.parametrize("static", [False, True])
def test_shapes_do_not_disturb_each_other(static: bool) -> None:
    """Whatever ran before, a shape's outputs are its own, and in the same place every time."""
    path = exported(saved("yolov8n.yaml"))
    network = network_of(path, static=static)
    forward = network.on(None)
    shapes = [(2, 3, 96, 128), (1, 3, 64, 96), (2, 3, 96, 64), (1, 3, 96, 128)]
    kept, places = [], []
    for shape in shapes:  # the largest first, as a lane captures
        forward.compile(torch.zeros(shape))
        kept.append(forward.anchors())
        places.append(forward(torch.zeros(shape))[0].data_ptr())
    for seed in (1, 2):
        for shape, place in zip(shapes, places, strict=True):
            images = host_frames(shape, seed)
            outputs = forward(torch.from_numpy(images))
            assert outputs[0].data_ptr() == place
            alike([out.numpy() for out in outputs], wanted_of(path, images))
    assert len(set(places)) == 1  # one runs at a time: they share their memory
    network.close()


def test_a_larger_shape_moves_nobody() -> None:
    """A graph has captured where a smaller shape's outputs are."""
    path = exported(saved("yolov8n.yaml"))
    network = network_of(path)
    forward = network.on(None)
    small, large = host_frames((1, 3, 64, 64)), host_frames((2, 3, 96, 96))
    outputs = forward(torch.from_numpy(small))
    kept = forward.anchors()
    forward(torch.from_numpy(large))
    for output in outputs:
        output.zero_()
    again = forward(torch.from_numpy(small))
    assert [a.data_ptr() for a in again] == [o.data_ptr() for o in outputs]
    alike([out.numpy() for out in outputs], wanted_of(path, small))
    assert kept
    network.close()


@pytest.mark.parametrize("static", [False, True])
def test_a_shape_that_nobody_keeps_is_forgotten(static: bool) -> None:
    """Canvases may be without number; a lane keeps the last ones."""
    import gc

    network = network_of(exported(saved("yolov8n.yaml")), static=static)
    forward = network.on(None)
    kept = None
    for width in (64, 96, 128, 160):
        images = torch.zeros(1, 3, 64, width)
        forward(images)
        if width == 96:
            kept = forward.anchors()
    gc.collect()
    assert sorted(key[3] for key in forward._bound) == [96, 160]
    assert sorted(key[3] for key in forward._sessions) == ([96, 160] if static else [])
    assert kept
    network.close()


def test_two_lanes_do_not_disturb_each_other() -> None:
    path = exported(saved("yolov8n.yaml"))
    network = network_of(path)
    one, other = network.on(None), network.on(None)
    images = [host_frames((2, 3, 64, 96), seed) for seed in (1, 2)]
    kept = one(torch.from_numpy(images[0]))
    other(torch.from_numpy(images[1]))
    alike([out.numpy() for out in kept], wanted_of(path, images[0]))
    network.close()


@pytest.mark.filterwarnings("ignore")  # the exporter's
def test_a_fixed_batch_and_canvas() -> None:
    path = ultralytics_export(
        saved("yolov8n.yaml"), "fixed", format="onnx", imgsz=(96, 160), batch=2, dynamic=False
    )
    network = network_of(path)
    assert (network.spec.fixed_batch, network.spec.fixed_size) == (2, (96, 160))
    images = host_frames((2, 3, 96, 160))
    alike(found_by(network.on(None), network, images), wanted_of(path, images))
    network.close()


def test_outputs_whose_shape_the_file_does_not_tell(tmp_path: Path) -> None:
    model = onnx.load(exported(saved("yolo26n.yaml")))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    path = tmp_path / "untold.onnx"
    onnx.save(model, path)
    network = network_of(path)
    images = host_frames((3, 3, 64, 64))  # 84 anchors: fewer rows than the head returns elsewhere
    found = found_by(network.on(None), network, images)
    assert found[0].shape == (3, 84, 6)
    alike(found, wanted_of(path, images))
    network.close()


def mean_model(
    path: Path, *, input_type: int, output_type: int, weight: int | None = None
) -> Model:
    """Write a classifier of two classes whose probabilities are channel means."""
    kind = input_type if weight is None else weight
    number = numpy_helper.from_array(
        np.array([[[[1.0]], [[0]], [[0]]], [[[0]], [[1.0]], [[0]]]]).astype(
            helper.tensor_dtype_to_np_dtype(kind)
        ),
        "weight",
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=kind),
        helper.make_node("Conv", ["pixels", "weight"], ["two"]),
        helper.make_node("GlobalAveragePool", ["two"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["output0"], to=output_type),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", input_type, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", output_type, ["batch", 2])],
        [number],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    opened = open_model(path)
    overrides = SpecOverrides(task="classify", names=("a", "b"))
    return Model(path, "onnx", opened.options.__class__(overrides=overrides))


@pytest.mark.parametrize(
    ("input_type", "output_type", "precision"),
    [
        (TensorProto.FLOAT16, TensorProto.FLOAT16, "fp16"),
        (TensorProto.FLOAT16, TensorProto.FLOAT, "fp16"),
        (TensorProto.FLOAT, TensorProto.DOUBLE, "fp32"),
        (TensorProto.FLOAT, TensorProto.INT64, "fp32"),
    ],
)
def test_types_of_inputs_and_outputs(
    input_type: int, output_type: int, precision: Any, tmp_path: Path
) -> None:
    model = mean_model(tmp_path / "m.onnx", input_type=input_type, output_type=output_type)
    network = OnnxNetwork(model, precision, CPU)
    assert network.dtype == (torch.float16 if precision == "fp16" else torch.float32)
    forward = network.on(None)
    images = np.zeros((2, 3, 32, 32), np.float32)
    images[0, 0], images[1, 1] = 1, 1
    for _ in range(2):  # the second forward writes to the same tensors
        (found,) = found_by(forward, network, images)
        assert found.dtype == np.float32
        assert np.array_equal(found, [[1, 0], [0, 1]])
        images = images[::-1].copy()
        (found,) = found_by(forward, network, images)
        assert np.array_equal(found, [[0, 1], [1, 0]])
        images = images[::-1].copy()
    network.close()


def test_fp16_of_an_fp32_file() -> None:
    """Boxes of a trained network stay within half a pixel of what fp32 finds."""
    path = open_model(shared("models", "yolov8n-coco.pt")).as_onnx()
    photo = cv2.resize(cv2.imread(str(shared("photos", "dog.jpg"))), (320, 256))
    images = (photo[..., ::-1].transpose(2, 0, 1)[None] / 255).astype(np.float32)
    network = network_of(path, "fp16")
    assert network.dtype == torch.float16
    (found,) = found_by(network.on(None), network, images)
    network.close()
    (wanted,) = wanted_of(path, images)
    assert not np.array_equal(found, wanted)  # it is not fp32 under another name
    sure = wanted[0, 4:].max(axis=0) > 0.3
    assert sure.sum() > 5
    gap = np.abs(found - wanted)[0][:, sure]
    print(f"boxes {gap[:4].max():.3f} px, scores {gap[4:].max():.4f}")
    assert gap[:4].max() < 0.5
    assert gap[4:].max() < 0.02


@pytest.mark.parametrize(
    ("weight", "precision", "there"),
    [
        (TensorProto.FLOAT16, "fp32", "use precision=fp16"),
        (TensorProto.DOUBLE, "fp32", "export it in fp32"),
        (TensorProto.DOUBLE, "fp16", "export it in fp16"),
        (TensorProto.FLOAT, "bf16", "use fp16 or fp32"),
    ],
)
def test_a_precision_that_the_file_does_not_have(
    weight: int, precision: Any, there: str, tmp_path: Path
) -> None:
    kind = TensorProto.FLOAT  # what the input is does not tell what is computed in
    model = mean_model(tmp_path / "m.onnx", input_type=kind, output_type=kind, weight=weight)
    with pytest.raises(UsageError, match=there) as refusal:
        OnnxNetwork(model, precision, CPU)
    assert repr(precision) in str(refusal.value)


def test_an_input_that_is_no_image(tmp_path: Path) -> None:
    model = mean_model(
        tmp_path / "m.onnx",
        input_type=TensorProto.UINT8,
        output_type=TensorProto.FLOAT,
        weight=TensorProto.FLOAT,
    )
    with pytest.raises(ModelError, match="float32 or float16 pixels"):
        OnnxNetwork(model, "fp32", CPU)


def test_an_operator_that_nobody_knows(tmp_path: Path) -> None:
    model = onnx.load(exported(saved("yolov8n.yaml")))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Convolute", "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="cannot be loaded by onnxruntime") as refusal:
        network_of(path)
    assert "Convolute" in str(refusal.value)


def test_a_batch_that_is_not_first(tmp_path: Path) -> None:
    model = mean_model(
        tmp_path / "m.onnx", input_type=TensorProto.FLOAT, output_type=TensorProto.FLOAT
    )
    written = onnx.load(model.path)
    transpose = helper.make_node("Transpose", ["flat"], ["turned"], perm=[1, 0])
    written.graph.node.insert(4, transpose)
    written.graph.node[5].input[0] = "turned"
    onnx.save(written, model.path)
    network = OnnxNetwork(model, "fp32", CPU)
    with pytest.raises(ModelError, match="expected the batch first"):
        network.on(None)(torch.zeros(3, 3, 32, 32))
    network.close()


def test_one_thread_makes_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime keeps handles and graphs for each thread that calls it."""
    opening = onnx_network.open_session
    callers: list[int] = []

    class Watched:
        def __init__(self, session: Any) -> None:
            self._session = session

        def io_binding(self) -> Any:
            return self._session.io_binding()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            callers.append(threading.get_ident())
            self._session.run_with_iobinding(binding, options)

    def watched(*arguments: Any, **options: Any) -> Any:
        callers.append(threading.get_ident())
        return Watched(opening(*arguments, **options))

    monkeypatch.setattr(onnx_network, "open_session", watched)
    network = network_of(exported(saved("yolov8n.yaml")))
    images = torch.zeros(1, 3, 64, 64)
    threads = [threading.Thread(target=lambda: network.on(None)(images)) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    network.close()
    assert len(callers) == 9  # a session, a forward that tells the shape, and the forward
    assert len(set(callers)) == 1
    assert threading.get_ident() not in callers
    assert not [t for t in threading.enumerate() if t.ident in callers]


def test_the_last_reference_to_a_session_goes_with_release() -> None:
    import gc
    import weakref

    network = network_of(exported(saved("yolov8n.yaml")))
    forward = network.on(None)
    forward(torch.zeros(1, 3, 64, 64))
    session = weakref.ref(forward._session)
    kept = forward, forward.anchors()  # a lane may still be somewhere, and its graphs
    network.release()
    network.call(lambda: None)  # a thread keeps the result of its last call
    gc.collect()
    assert session() is None
    assert kept
    network.close()


@pytest.mark.parametrize(("yaml", "nms"), MODELS)
def test_the_room_for_tensors_is_enough(yaml: str, nms: bool | None) -> None:
    """What is set aside for PyTorch in a budget holds what a lane binds."""
    network = network_of(exported(saved(yaml), nms=nms))
    forward = network.on(None)
    batch, canvas = 4, (160, 96)
    for count in (batch, 1):
        forward(torch.zeros(count, 3, *canvas))
    taken = sum(memory.numel() * memory.itemsize for memory in forward._memory.values())
    lane_input = batch * 3 * canvas[0] * canvas[1] * 4
    empty = torch_bytes(network.spec, 0, canvas, 4)
    assert 2 * (taken + lane_input) <= torch_bytes(network.spec, batch, canvas, 4) - empty
    network.close()
