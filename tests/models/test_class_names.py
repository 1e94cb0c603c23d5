"""Fewer names than classes: an error at the load where the number is known, else error rows."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from brimful.errors import ModelError
from loading import load
from model_files import exported, opened, saved, scratch

PEOPLE = ["person", "bike"]


def rows_of(*class_ids, named=2, **metadata):
    """Write an NMS-free model that finds these classes in every image, and names so many."""
    path = scratch() / f"classes-{class_ids}-{named}-{sorted(metadata)}.onnx"
    rows = np.array([[8, 8, 24, 24, 0.9, class_id] for class_id in class_ids], np.float32)[None]
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Constant", [], ["rows"], value=onnx.numpy_helper.from_array(rows)),
        helper.make_node("Constant", [], ["none"], value_float=0.0),
        helper.make_node("Mul", ["images", "none"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["rows", "zero"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classes",
        [helper.make_tensor_value_info("images", float32, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output0", float32, [1, len(class_ids), 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {"task": "detect", "names": str([f"name{i}" for i in range(named)]), "end2end": "True"}
    helper.set_model_props(model, said | metadata)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n-cls"])
@pytest.mark.parametrize("names", [PEOPLE, list("abcdef")], ids=len)
def test_a_checkpoint_knows_its_classes(name, names):
    with pytest.raises(ModelError, match=rf"5 classes, and --names gives {len(names)}; .* be 5"):
        opened(saved(f"{name}.yaml"), names=tuple(names))


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_a_runtime_knows_the_classes_of_a_checkpoint(runtime):
    with pytest.raises(ModelError, match=r"5 classes, and --names gives 2; .* be 5"):
        load(saved("yolo26n.yaml"), runtime=runtime, names=PEOPLE)


def test_a_checkpoint_whose_names_were_cut(tmp_path):
    import torch

    held = torch.load(saved("yolo26n.yaml"), weights_only=False)
    held["model"].names = {0: "person", 1: "bike"}
    torch.save(held, tmp_path / "cut.pt")
    with pytest.raises(ModelError, match=r"its head has 5 classes, and it names 2; .* be 5"):
        opened(tmp_path / "cut.pt")
    assert opened(tmp_path / "cut.pt", names=tuple("abcde")).spec.names == tuple("abcde")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_file_that_names_more(runtime):
    path = exported(saved("yolo26n.yaml"))
    with pytest.raises(ModelError, match="metadata names 5 classes, and --names gives 2"):
        load(path, runtime=runtime, names=PEOPLE)
    with load(path, runtime=runtime, names=list("abcde")) as engine:
        assert engine.spec.names == tuple("abcde")


@pytest.mark.parametrize(("found", "wrong"), [((1, 2), 2), ((-1,), -1), ((0, 4e9), None)])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_class_without_a_name_is_an_error_row(runtime, found, wrong):
    """The file names two classes and finds others: nobody can know it before."""
    images = [np.zeros((32, 32, 3), np.uint8)] * 2
    with load(rows_of(*found), runtime=runtime) as engine:
        results = list(engine.predict(images))
    assert len(results) == 2
    for result in results:
        said = "the model found class " + ("" if wrong is None else f"{wrong}, ")
        assert result.error is not None
        assert said in result.error
        assert "only the classes 0 to 1 have names; give the name of every class" in result.error
        assert len(result) == 0
    with load(rows_of(0, 1), runtime=runtime) as engine:
        (good,) = engine.predict(images[:1])
    assert good.error is None
    assert good.class_id.tolist() == [0, 1]
    with load(rows_of(1, 2), runtime=runtime, names=list("abc")) as engine:
        (repaired,) = engine.predict(images[:1])
    assert repaired.error is None
    assert [repaired.names[i] for i in repaired.class_id] == ["b", "c"]


def test_a_job_ends_with_its_rows(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    output = tmp_path / "out.jsonl"
    program = str(Path(sys.executable).with_name("brimful"))
    options = ["--model", str(rows_of(7)), "--runtime", "onnxruntime", "--device", "cpu"]
    options += ["--output", str(output)]
    done = subprocess.run(
        [program, "predict", "--source", str(tmp_path / "a.png"), *options],
        capture_output=True,
        text=True,
    )
    (row,) = map(json.loads, output.read_text().splitlines())
    assert "the model found class 7" in row["error"]
    assert row["detections"] == []
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
