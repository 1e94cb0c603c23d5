"""Metadata of model files: known keys only, checked, and never evaluated."""

import sys

import pytest

from brimful.errors import ModelError
from brimful.models.metadata import Metadata, parse_metadata

EXPORTED = {  # as Ultralytics writes it into an ONNX file: everything is text
    "description": "Ultralytics YOLO26n-pose model",
    "author": "Ultralytics",
    "date": "2026-01-14T10:00:00",
    "license": "AGPL-3.0",
    "stride": "32",
    "task": "pose",
    "batch": "1",
    "imgsz": "[480, 640]",
    "names": "{0: 'person', 1: \"it's\"}",
    "channels": "3",
    "kpt_shape": "[17, 3]",
    "end2end": "True",
    "args": "{'batch': 1, 'half': False, 'nms': False}",
}


def test_exporters_text():
    assert parse_metadata(EXPORTED, origin="m.onnx") == Metadata(
        task="pose",
        names=("person", "it's"),
        stride=32,
        imgsz=(480, 640),
        kpt_shape=(17, 3),
        channels=3,
        end_to_end=True,
        nms_inside=False,
    )


def test_typed_values_mean_the_same():
    typed = {
        "task": "pose",
        "stride": 32,
        "imgsz": [480, 640],
        "names": {0: "person", 1: "it's"},
        "channels": 3,
        "kpt_shape": [17, 3],
        "end2end": True,
        "args": {"nms": False},
    }
    assert parse_metadata(typed, origin="m") == parse_metadata(EXPORTED, origin="m")


def test_nothing_is_said():
    assert parse_metadata({}, origin="m") == Metadata()
    assert parse_metadata({"names": "", "stride": "None"}, origin="m") == Metadata()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"names": "['a', 'b']"}, ("a", "b")),
        ({"names": '{"0": "a", "1": "b"}'}, ("a", "b")),
        ({"names": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"names": {i: str(i) for i in range(12)}}, tuple(map(str, range(12)))),
        ({"names": {0: 7}}, ("7",)),
    ],
)
def test_names(raw, expected):
    assert parse_metadata(raw, origin="m").names == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, (None, None, 8)),
        ({"end2end": "False"}, (False, False, None)),
        ({"end2end": "True"}, (True, False, None)),
        ({"end2end": False, "args": {"nms": True}}, (True, True, 8)),
        ({"args": "{'nms': True}"}, (True, True, 8)),
        ({"args": "{'nms': False}"}, (None, False, None)),
    ],
)
def test_end_to_end(raw, expected):
    found = parse_metadata(raw | {"batch": "8"}, origin="m")
    assert (found.end_to_end, found.nms_inside, found.batch) == expected


def test_other_keys_are_not_looked_at():
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError(f"looked at {name}")

    junk = {"model": Untouchable(), "__class__": Untouchable(), "forward": "x" * 10}
    assert parse_metadata(junk | {"stride": 8}, origin="m") == Metadata(stride=8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "detection"),
        ("task", 3),
        ("names", "person"),
        ("names", "[]"),
        ("names", "{0: 'a', 2: 'b'}"),
        ("names", "{'a': 'b'}"),
        ("names", {0: "x" * 300}),
        ("names", 5),
        ("stride", "0"),
        ("stride", "-32"),
        ("stride", "True"),
        ("stride", "32.5"),
        ("stride", "99999"),
        ("stride", "many"),
        ("channels", "[3]"),
        ("imgsz", "big"),
        ("imgsz", "[640, 640, 3]"),
        ("imgsz", "[0, 640]"),
        ("imgsz", "[True, 640]"),
        ("imgsz", "1000000"),
        ("imgsz", "[65536, 65536]"),
        ("kpt_shape", "[17]"),
        ("kpt_shape", "[17, 4]"),
        ("kpt_shape", "[0, 3]"),
        ("kpt_shape", "seventeen"),
    ],
)
def test_wrong_kinds_are_refused_by_name(key, value):
    with pytest.raises(ModelError) as refusal:
        parse_metadata({key: value}, origin="some.onnx")
    assert repr(key) in str(refusal.value)
    assert "some.onnx" in str(refusal.value)


@pytest.mark.parametrize("key", ["names", "stride", "imgsz", "kpt_shape", "channels"])
def test_text_is_never_evaluated(key):
    sys.modules.pop("this", None)
    with pytest.raises(ModelError, match=repr(key)):
        parse_metadata({key: "__import__('this')"}, origin="m")
    parse_metadata({"args": "__import__('this')"}, origin="m")
    assert "this" not in sys.modules


@pytest.mark.parametrize("key", ["names", "stride", "imgsz", "kpt_shape", "task"])
def test_a_value_of_billions_of_items(key):
    """As a YAML makes it of a few lines; writing it out would never end."""
    value = ["x"]
    for _ in range(60):
        value = [value] * 9
    with pytest.raises(ModelError, match=repr(key)) as refusal:
        parse_metadata({key: value}, origin="m")
    assert len(str(refusal.value)) < 300


def test_a_name_may_look_like_code():
    raw = {"names": "{0: \"__import__('os')\"}"}
    assert parse_metadata(raw, origin="m").names == ("__import__('os')",)


@pytest.mark.parametrize("text", ["(" * 5000, "[" * 100_000, "1" * 10_000, "\x00", "{0: "])
def test_hostile_text_is_only_text(text):
    with pytest.raises(ModelError):
        parse_metadata({"names": text}, origin="m")
