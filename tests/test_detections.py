"""Detections: made in two ways, the same in all."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from brimful.detections import Detections, new_detections


def test_the_short_way_sets_every_field():
    fields = dataclasses.fields(Detections)
    marks = [object() for _ in fields]
    made = new_detections(*marks)
    ordinary = Detections(**{f.name: mark for f, mark in zip(fields, marks, strict=True)})
    assert type(made) is Detections
    for field, mark in zip(fields, marks, strict=True):
        assert getattr(made, field.name) is getattr(ordinary, field.name) is mark
    assert made == ordinary and hash(made) == hash(ordinary)


def test_they_stay_frozen_and_can_be_copied():
    made = new_detections(
        "a.jpg", 1, 4, 3, "detect", ("x",), None, None, (32, 32), np.ones((1, 4), np.float32),
        np.ones(1, np.float32), np.zeros(1, np.int32), None, None, None, None, False, None,
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.width = 5
    assert not hasattr(made, "__dict__")
    for twin in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is Detections and twin.to_json_record() == made.to_json_record()
    assert dataclasses.replace(made, index=7).index == 7
