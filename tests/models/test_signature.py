"""From shapes to a head: every layout, and the ones that look alike."""

import pytest

from brimful.errors import ModelError
from brimful.models.metadata import Metadata
from brimful.models.signature import Signature, SpecOverrides, spec_from

ANY = (None, 3, None, None)


def spec(outputs, *, task="detect", classes=80, inputs=(ANY,), overrides=None, **metadata):
    facts = Metadata(task=task, names=tuple(f"c{i}" for i in range(classes)), **metadata)
    signature = Signature(inputs=tuple(inputs), outputs=tuple(outputs))
    return spec_from(signature, facts, overrides or SpecOverrides(), origin="some.onnx")


@pytest.mark.parametrize(
    ("outputs", "task", "classes", "head"),
    [
        ([(None, 84, 8400)], "detect", 80, "raw"),
        ([(None, 84, None)], "detect", 80, "raw"),
        ([(None, 5, 8400)], "detect", 1, "raw"),
        ([(None, 6, 8400)], "detect", 2, "raw"),
        ([(1, 300, 6)], "detect", 80, "nms_free"),
        ([(None, None, 6)], "detect", 80, "nms_free"),
        ([(None, 25200, 85)], "detect", 80, "yolov5"),
        ([(None, None, 85)], "detect", 80, "yolov5"),
        ([(None, 116, 8400), (None, 32, 160, 160)], "segment", 80, "raw"),
        ([(None, 300, 38), (None, 32, 160, 160)], "segment", 80, "nms_free"),
        ([(None, 25200, 117), (None, 32, 160, 160)], "segment", 80, "yolov5"),
        ([(None, 56, 8400)], "pose", 1, "raw"),
        ([(None, 300, 57)], "pose", 1, "nms_free"),
        ([(None, 20, 21504)], "obb", 15, "raw"),
        ([(None, 300, 7)], "obb", 15, "nms_free"),
        ([(None, 1000)], "classify", 1000, "classify"),
    ],
)
def test_layouts(outputs, task, classes, head):
    kpt_shape = (17, 3) if task == "pose" else None
    found = spec(outputs, task=task, classes=classes, kpt_shape=kpt_shape)
    assert found.head == head
    assert found.extra == {"segment": 32, "pose": 51, "obb": 1}.get(task, 0)


@pytest.mark.parametrize(
    ("shape", "classes", "end_to_end", "head"),
    [
        # one class: both have six columns
        ((None, 300, 6), 1, None, "nms_free"),
        ((None, 100, 6), 1, None, "nms_free"),
        ((None, 25200, 6), 1, None, "yolov5"),
        ((None, None, 6), 1, None, "yolov5"),
        ((None, None, 6), 1, True, "nms_free"),
        ((None, 300, 6), 1, False, "yolov5"),
        # 300 rows of 296 classes: a raw head of six anchors
        ((None, 300, 6), 296, True, "nms_free"),
        ((None, 300, 6), 296, False, "raw"),
        # the shape goes before what the file says of itself
        ((None, 84, 8400), 80, True, "raw"),
    ],
)
def test_what_looks_alike(shape, classes, end_to_end, head):
    assert spec([shape], classes=classes, end_to_end=end_to_end).head == head


def test_nms_free_rows_of_a_head_that_is_none():
    with pytest.raises(ModelError, match=r"\(\?, 300, 6\) could only be .*end2end is False"):
        spec([(None, 300, 6)], classes=80, end_to_end=False)


@pytest.mark.parametrize(
    ("outputs", "task", "expected"),
    [
        ([(None, 85, 8400)], "detect", r"\(batch, 84, anchors\), \(batch, k, 6\) or"),
        ([(None, 84)], "detect", "no known output layout"),
        ([(None, 84, 80, 80)], "detect", "no known output layout"),
        ([(None, 300, 6)], "detect", "no known output layout"),  # 296 classes and nobody to tell
        ([(None, 1000)], "classify", r"expected \(batch, 80\), found \(\?, 1000\)"),
        ([(None, 116, 8400)], "segment", "two outputs"),
        ([(None, 84, 8400)], "pose", "kpt_shape"),
        ([], "detect", "unknown"),
    ],
)
def test_unknown_layouts_say_what_was_expected(outputs, task, expected):
    classes = 296 if outputs == [(None, 300, 6)] else 80
    with pytest.raises(ModelError, match=expected) as refusal:
        spec(outputs, task=task, classes=classes)
    assert "some.onnx" in str(refusal.value)


def test_what_is_fixed():
    found = spec([(4, 84, 8400)], inputs=[(4, 3, 480, 640)])
    assert (found.fixed_batch, found.fixed_size, found.imgsz) == (4, (480, 640), (480, 640))
    found = spec([(None, 84, None)], imgsz=(320, 320))
    assert (found.fixed_batch, found.fixed_size, found.imgsz) == (None, None, (320, 320))
    assert spec([(None, 80)], task="classify").imgsz == (224, 224)
    assert spec([(None, 100, 6)]).max_det == 100


@pytest.mark.parametrize(
    "inputs", [[], [ANY, ANY], [(None, 640, 640)], [(None, 3, 640, 640), (1,)]]
)
def test_more_or_other_than_one_image_input(inputs):
    with pytest.raises(ModelError, match="expected one input"):
        spec([(None, 84, 8400)], inputs=inputs)


def test_the_users_word_is_needed_and_goes_first():
    signature = Signature(inputs=(ANY,), outputs=((None, 6, 8400),))
    with pytest.raises(ModelError, match="--task and --names"):
        spec_from(signature, Metadata(), SpecOverrides(), origin="m")
    with pytest.raises(ModelError, match="with --names"):
        spec_from(signature, Metadata(task="detect"), SpecOverrides(), origin="m")
    said = SpecOverrides(task="detect", names=("bolt", "nut"))
    assert spec_from(signature, Metadata(), said, origin="m").names == ("bolt", "nut")
    filed = Metadata(task="obb", names=("a",))
    found = spec_from(signature, filed, said, origin="m")
    assert (found.task, found.names) == ("detect", ("bolt", "nut"))


def test_wrong_number_of_names_is_told():
    said = SpecOverrides(names=("bolt", "nut"))
    with pytest.raises(ModelError, match="number of --names"):
        spec([(None, 84, 8400)], overrides=said)


@pytest.mark.parametrize(
    ("said", "output", "batch"),
    [
        ({"nms_inside": True}, (None, 300, 6), 4),
        ({"nms_inside": None}, (None, 300, 6), 4),  # a release that did not say it
        ({"nms_inside": False, "end_to_end": True}, (None, 300, 6), None),
        ({"nms_inside": None}, (None, 84, 8400), None),
    ],
)
def test_the_batch_of_nms_inside(said, output, batch):
    """NMS inside is written into the graph once for each image of the export's batch."""
    assert spec([output], batch=4, **said).fixed_batch == batch
