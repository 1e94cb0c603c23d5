"""What a call asks for: thresholds and classes of a source, classes by name, sizes."""

from __future__ import annotations

import asyncio

import numpy as np
import orjson
import pytest
from engine_kit import PATIENCE_S, debug_engine, gray, level_of

import brimful
from brimful.errors import UsageError
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig

LEVELS = [100, 101, 102, 240]
"""Scores 0.696, 0.698, 0.7 and 0.97; classes 0, 1, 2 and 0."""

OPTIONS = [
    ({}, LEVELS),
    ({"conf": 0.9}, [240]),
    ({"classes": [1, 2]}, [101, 102]),
    ({"classes": ["level1", 2]}, [101, 102]),
    ({"classes": "level0"}, [100, 240]),
    ({"classes": 0, "conf": 0.9}, [240]),
    ({"classes": np.array([2])}, [102]),
    ({"classes": []}, []),
    ({"max_det": 1, "iou": 0.3}, LEVELS),
]


def images():
    return [gray(level) for level in LEVELS]


def seen(results) -> list[int]:
    return [level_of(result) for result in results if len(result)]


@pytest.mark.parametrize(("option", "expected"), OPTIONS)
def test_a_source_has_its_own_thresholds_and_classes(option, expected):
    with debug_engine() as engine:
        assert seen(engine.predict(images(), **option)) == expected
        assert seen(engine(images(), **option)) == expected
        assert seen(r for rows in engine.stream(images(), **option) for r in rows) == expected
        lines = b"".join(part.lines for part in engine.stream_encoded(images(), **option))
        found = [bool(orjson.loads(line)["detections"]) for line in lines.splitlines()]
        assert found == [level in expected for level in LEVELS]
        futures = [engine.submit(image, **option) for image in images()]
        assert seen(f.result(PATIENCE_S) for f in futures) == expected
        assert seen(asyncio.run(engine.detect(i, **option)) for i in images()) == expected
        assert seen(engine.predict(images())) == LEVELS  # a call leaves nothing behind


def test_two_sources_at_once_keep_their_own():
    with debug_engine() as engine:
        weak, strong = engine.predict(images()), engine.predict(images(), conf=0.9)
        pairs = list(zip(weak, strong, strict=True))
    assert seen(pair[0] for pair in pairs) == LEVELS
    assert seen(pair[1] for pair in pairs) == [240]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"classes": ["level10"]}, "no class 'level10'; close are level1"),
        ({"classes": ["LEVEL3"]}, "no class 'LEVEL3'; close are level3"),
        ({"classes": "zebra"}, "no class 'zebra'; it has level0.* and others"),
        ({"classes": [10]}, "10 classes, 0 to 9"),
        ({"classes": [-1]}, "classes has -1"),
        ({"conf": 1.5}, "conf is 1.5"),
        ({"max_det": 301}, "max_det=300"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_call(option, message):
    with debug_engine() as engine:
        for call in (engine, engine.predict, engine.stream, engine.stream_encoded, engine.submit):
            with pytest.raises(UsageError, match=message):
                call(gray(1), **option)


def test_a_size_that_the_engine_does_not_have():
    with debug_engine() as engine:
        for same in (64, (64, 64), [64, 64]):
            assert len(list(engine.predict(gray(1), imgsz=same))) == 1
        for call in (engine, engine.predict, engine.stream):
            with pytest.raises(UsageError, match=r"64x64; load another one.*imgsz=96"):
                call(gray(1), imgsz=96)


def test_names_serve_the_code_that_ultralytics_users_have():
    with debug_engine() as engine:
        (result,) = engine.predict(gray(13))
        assert [engine.names[int(c)] for c in result.class_id] == ["level3"]
        assert dict(engine.names.items()) == {i: f"level{i}" for i in range(10)}
        engine.names.clear()
        assert len(engine.names) == 10


def test_load_takes_class_names():
    with brimful.load(None, runtime="debug", classes=["level2", 1], imgsz=64) as engine:
        assert engine.config.postprocess.classes == (1, 2)
        assert seen(engine.predict(images())) == [101, 102]
        assert seen(engine.predict(images(), classes=["level0"])) == [100, 240]
    with pytest.raises(UsageError, match="close are level2"):
        brimful.load(None, runtime="debug", classes=["level22"])


def test_a_name_of_several_classes_stands_for_all_of_them():
    spec = ModelSpec(task="detect", head="raw", names=("bolt", "nut", "bolt"))
    assert spec.class_ids("bolt") == (0, 2)
    assert spec.class_ids(["nut", "bolt", 0]) == (1, 0, 2)
    config = PostprocessConfig().reporting(["bolt"])
    assert config.of_model(spec) == PostprocessConfig(classes=(0, 2))
    assert PostprocessConfig().reporting(None) == PostprocessConfig()
