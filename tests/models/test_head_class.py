"""Models of other families whose output has a YOLO's shape: refused by name, whatever the file."""

import functools

import onnx
import pytest
import torch

from brimful.errors import ModelError
from brimful.models.head_class import check_description, check_head_class
from brimful.models.metadata import parse_metadata
from brimful.models.signature import Signature, SpecOverrides, spec_from
from loading import load
from model_files import exported, opened, saved, scratch, ultralytics_export

RTDETR = {
    "nc": 80,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
    ],
    "head": [[[2, 3, 4], 1, "RTDETRDecoder", ["nc", 32, 300, 4, 2, 1]]],
}
"""An RT-DETR of 120,000 weights."""


@functools.cache
def rtdetr():
    """Return the checkpoint of a random RT-DETR."""
    from ultralytics.nn.tasks import RTDETRDetectionModel

    model = RTDETRDetectionModel(RTDETR, nc=80, verbose=False)
    model.args = {"task": "detect", "imgsz": 320, "model": "rtdetr.yaml"}
    model.task = "detect"
    path = scratch() / "rt.pt"
    torch.save({"model": model, "train_args": model.args}, path)
    return path


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "openvino", "torch"])
def test_a_checkpoint_of_rtdetr(runtime):
    with pytest.raises(ModelError, match=r"rt\.pt is no YOLO: .*RTDETRDecoder head \(RT-DETR\)"):
        load(rtdetr(), runtime=runtime)


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize(
    ("kind", "runtimes"),
    [
        ("onnx", ("onnxruntime", "openvino")),
        ("openvino", ("openvino",)),
        ("torchscript", ("torchscript",)),
    ],
)
def test_an_export_of_rtdetr(kind, runtimes):
    path = ultralytics_export(rtdetr(), kind, imgsz=320, format=kind)
    for runtime in runtimes:
        with pytest.raises(ModelError, match=r"is no YOLO: .*RTDETRDecoder head \(RT-DETR\)"):
            load(path, runtime=runtime)


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_does_not_name_its_head(tmp_path):
    """The same file without the head's class: `end2end` is False, and only NMS-free rows fit."""
    model = onnx.load(ultralytics_export(rtdetr(), "bare", imgsz=320, format="onnx"))
    entries = [entry for entry in model.metadata_props if entry.key != "head"]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    onnx.save(model, tmp_path / "bare.onnx")
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match=r"\(.*, 300, 6\) could only be .*end2end is False"):
            load(tmp_path / "bare.onnx", runtime=runtime)


@pytest.mark.parametrize("name", ["RTDETRDecoder", "SemanticSegment", "Depth", "LRPCHead", "", "X"])
def test_heads_that_are_none(name):
    with pytest.raises(ModelError, match=rf"m is no YOLO: .* a {name} head"):
        check_head_class(name, origin="m")


def test_heads_of_every_release():
    from ultralytics.nn.modules import head

    ours = (head.Detect, head.Classify)
    names = [n for n, c in vars(head).items() if isinstance(c, type) and issubclass(c, ours)]
    assert {"Detect", "Segment26", "Pose26", "OBB26", "v10Detect", "Classify"} <= set(names)
    for name in names:
        check_head_class(name, origin="m")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("Ultralytics rtdetr-l model trained on coco.yaml", True),
        ("Ultralytics RT-DETR-x model ", True),
        ("Ultralytics YOLO26n model trained on rtdetr.yaml", False),
        ("Ultralytics YOLOv8n model ", False),
        ("", False),
    ],
)
def test_descriptions_of_older_releases(text, refused):
    """Before the head's class was written, two classes of RT-DETR made NMS-free rows of it."""
    if refused:
        with pytest.raises(ModelError, match="is no YOLO"):
            check_description(text, origin="m")
        with pytest.raises(ModelError, match="is no YOLO"):
            parse_metadata({"description": text}, origin="m")
    else:
        check_description(text, origin="m")


@pytest.mark.parametrize(
    "said", [{}, {"args": "{'nms': True}"}, {"end2end": "False", "args": "{'nms': True}"}]
)
def test_exports_with_nms_inside_stay(said):
    """Releases before 8.4 write no `end2end`, older ones no `args` either."""
    raw = {"task": "detect", "names": "['a', 'b', 'c']", **said}
    signature = Signature(inputs=((1, 3, 640, 640),), outputs=((1, 300, 6),))
    spec = spec_from(signature, parse_metadata(raw, origin="m"), SpecOverrides(), origin="m")
    assert spec.head == "nms_free"


def test_our_own_exports_stay():
    for nms, head in ((None, "nms_free"), (True, "raw")):
        with load(exported(saved("yolo26n.yaml"), nms=nms), runtime="onnxruntime") as engine:
            assert engine.spec.head == head
    assert opened(saved("yolov10n.yaml")).spec.head == "nms_free"
