"""JSON lines written in C: to the byte what Python writes, and Python's where C does not write."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.formats.json_record import encode_jsonl
from brimful.native import json_lines
from brimful.native.json_lines import EncodeLines, compiled_encoder, open_encoder
from brimful.native.load import NotCompiledError

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)

NAMES = ("person", 'quo"ted\n', "Öl")


@pytest.fixture
def left_to_python(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each batch that C did not write."""
    left: list[int] = []

    def noted(batch: Any) -> bytes:
        left.append(len(batch))
        return encode_jsonl(batch)

    monkeypatch.setattr(json_lines, "encode_jsonl", noted)
    return left


@pytest.fixture
def encode(left_to_python: list[int]) -> EncodeLines:
    return compiled_encoder()


def image(numbers: NDArray[Any], **fields: Any) -> Detections:
    """Return an image with a detection for every five numbers."""
    rows = numbers[: len(numbers) // 5 * 5].reshape(-1, 5)
    facts: dict[str, Any] = {
        "image": "a/b.jpg",
        "index": 7,
        "width": 640,
        "height": 480,
        "task": "detect",
        "names": NAMES,
        "canvas": (480, 640),
        "boxes": rows[:, :4].copy(),
        "confidence": rows[:, 4].copy(),
        "class_id": (np.arange(len(rows)) % len(NAMES)).astype(np.int32),
    }
    return Detections(**(facts | fields))


def numbers() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(26)
    anything = rng.integers(0x38D1B717, 0x4B000000, 200_000, dtype=np.uint32).view(np.float32)
    powers = 2.0 ** np.arange(-13, 23, dtype=np.float32)
    around = [(powers.view(np.int32) + step).view(np.float32) for step in (-1, 0, 1)]
    halves = (np.arange(4_000) * 2 + 1) / 2.0 ** rng.integers(1, 12, 4_000)
    return {
        "0 to 1": rng.random(200_000, np.float32).clip(1e-4),
        "pixels": (rng.random(200_000, np.float32) * 8192).clip(1e-4),
        "two decimals": np.round(rng.random(50_000) * 1000 + 0.01, 2).astype(np.float32),
        "whole": np.arange(5_000, dtype=np.float32) * np.float32(1677.0),
        "ties": halves.astype(np.float32),
        "powers of two and neighbours": np.concatenate([*around, around[0]]).clip(1.1e-4),
        "any that C writes, either sign": anything
        * rng.choice([-1, 1], 200_000).astype(np.float32),
        "zeros and the ends": np.array([0, -0.0, 1e-4, 8388607.5, 8388607], np.float32),
    }


@pytest.mark.parametrize("kind", numbers())
def test_numbers_are_written_as_python_writes_them(
    kind: str, encode: EncodeLines, left_to_python: list[int]
) -> None:
    batch = [image(numbers()[kind])]
    assert len(batch[0]) > 0
    assert encode(batch) == encode_jsonl(batch)
    assert left_to_python == []


def test_every_field_of_an_image_is_written(encode: EncodeLines, left_to_python: list[int]) -> None:
    rng = np.random.default_rng(1)
    few, none = rng.random(15, np.float32) + 1, np.empty(0, np.float32)
    batch = [
        image(few),
        image(none, image='"},{"image":"x\\', index=0),
        image(few, image="", index=2**62, frame=12, pts_ms=400.0),
        image(few, frame=12, pts_ms=400, canvas=None),
        image(none, error='no "such" file\n', width=0, height=0, image="ä/\U0001f600\x01,"),
        image(few, truncated=True, image="\\"),
        image(few, truncated=True, error="both", image='\\"'),
    ]
    assert encode(batch) == encode_jsonl(batch)
    assert left_to_python == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 9e-5, -9e-5, 8388608, 1e30])
@pytest.mark.parametrize("column", [1, 4])
def test_other_numbers_are_left_to_python(
    value: float, column: int, encode: EncodeLines, left_to_python: list[int]
) -> None:
    row = np.full(5, 0.5, np.float32)
    row[column] = value
    batch = [image(np.full(5, 0.25, np.float32)), image(row)]
    assert encode(batch) == encode_jsonl(batch)
    assert left_to_python == [2]


def test_what_is_not_just_boxes_is_left_to_python(
    encode: EncodeLines, left_to_python: list[int]
) -> None:
    few = np.full(10, 0.5, np.float32)
    plain = image(few)
    others = [
        image(few, task="segment", masks=({"size": [1, 1], "counts": "0"},) * 2),
        image(few, task="pose", keypoints=np.ones((2, 1, 3), np.float32)),
        image(few, task="obb", obb=np.ones((2, 5), np.float32)),
        image(few[:0], task="classify", probs=few),
        image(few, names=("another", "model", "")),
        dataclasses.replace(plain, index=-1),
    ]
    for other in others:
        assert encode([plain, other]) == encode_jsonl([plain, other])
    assert left_to_python == [2] * len(others)
    assert encode([]) == b""


def test_a_class_without_a_name_is_an_error_as_in_python(encode: EncodeLines) -> None:
    with pytest.raises(IndexError):
        encode([image(np.full(5, 0.5, np.float32), class_id=np.array([3], np.int32))])


def test_a_machine_without_a_compiler_writes_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise NotCompiledError("there is no C compiler")

    monkeypatch.setattr(json_lines, "load_library", none)
    open_encoder.cache_clear()
    try:
        assert open_encoder() is encode_jsonl
    finally:
        open_encoder.cache_clear()
