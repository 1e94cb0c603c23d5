"""Detections: made in two ways, the same in all."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from brimful.detections import Detections, new_detections


def test_the_short_way_sets_every_field():
    names = [field.name for field in dataclasses.fields(Detections)]
    assert names[-3:] == ["error", "failure", "original"], "which a new result has not"
    marks = {name: object() for name in names[:-3]}
    made = new_detections(*marks.values())
    ordinary = Detections(**marks)
    assert type(made) is Detections
    for name, mark in marks.items():
        assert getattr(made, name) is getattr(ordinary, name) is mark
    assert made.error is made.failure is made.original is None
    assert made == ordinary


def test_an_error_has_a_kind_of_failure():
    facts = {"image": "a", "index": 0, "width": 0, "height": 0, "task": "detect", "names": ("x",)}
    assert Detections(**facts).failure is None
    assert Detections(**facts, error="bad").failure == "image"
    assert Detections(**facts, error="bad", failure="deadline").failure == "deadline"


def test_they_stay_frozen_and_can_be_copied():
    made = new_detections(
        "a.jpg", 1, 4, 3, "detect", ("x",), None, None, (32, 32), np.ones((1, 4), np.float32),
        np.ones(1, np.float32), np.zeros(1, np.int32), None, None, None, None, False,
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.width = 5
    assert not hasattr(made, "__dict__")
    for twin in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is Detections and twin.to_json_record() == made.to_json_record()
    assert dataclasses.replace(made, index=7).index == 7


def full(**changes) -> Detections:
    values = {
        **{"image": "a.jpg", "index": 1, "width": 4, "height": 3, "task": "segment"},
        **{"names": ("x", "y"), "frame": 2, "pts_ms": 40.0, "canvas": (32, 32)},
        "boxes": np.arange(8, dtype=np.float32).reshape(2, 4),
        "confidence": np.array([0.5, np.nan], np.float32),
        "class_id": np.array([0, 1], np.int32),
        "masks": ({"size": [3, 4], "counts": "a"}, {"size": [3, 4], "counts": "b"}),
        "keypoints": np.ones((2, 3, 2), np.float32),
        "obb": np.ones((2, 5), np.float32),
        "probs": np.array([0.25, 0.75], np.float32),
    }
    return Detections(**values | changes)


def test_equal_is_equal_in_every_value():
    assert full() == full() and (full() != full()) is False
    assert [full(), full()] == [full()] * 2 and full() in [full(index=5), full()]
    others = {
        **{"image": "b.jpg", "index": 2, "width": 5, "height": 5, "task": "pose", "frame": None},
        **{"names": ("x", "z"), "pts_ms": None, "canvas": None, "truncated": True, "error": "bad"},
        "failure": "runtime",
        "boxes": np.ones((2, 4), np.float32),
        "confidence": np.array([0.5, 0.5], np.float32),
        "class_id": np.array([0, 1, 1], np.int32),
        "masks": None,
        "keypoints": np.ones((2, 3, 3), np.float32),
        "obb": None,
        "probs": np.array([0.25, 0.5], np.float32),
    }
    compared = {field.name for field in dataclasses.fields(Detections) if field.compare}
    assert set(others) == compared
    for name, value in others.items():
        assert full() != full(**{name: value}), name
        assert full(**{name: value}) != full(), name
    assert full() != "a.jpg" and full() != None  # noqa: E711 - the comparison itself


def test_what_can_be_changed_has_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(full())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Detections(image="a", index=0, width=0, height=0, task="detect", names=()))
