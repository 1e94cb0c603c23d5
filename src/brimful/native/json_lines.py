"""The JSON lines of a batch, written in one call side by side with the interpreter.

In Python an image of nine boxes costs as much of the interpreter as all else that is done for it
(benchmarks/NOTES.md), while other threads wait to bring the next one to the device.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from brimful.detections import Detections
from brimful.formats.json_record import encode_jsonl, error_members
from brimful.native.load import compiled_or, load_library
from brimful.spec import Size

EncodeLines = Callable[[Sequence[Detections]], bytes]
"""Returns the JSON lines of a batch, each with its newline: the bytes that `encode_jsonl` gives."""

_DETECTION, _IMAGE = 160, 64
"""Bytes of a detection but for its class, at most, and of an image but for its texts: names,
brackets and numbers, of which a float32 takes 17 and an index 19."""

_TAIL = b'],"error":null}\n'


@functools.cache
def open_encoder() -> EncodeLines:
    """Return what writes lines: in C where it can be compiled, or else in Python, slower."""
    return compiled_or(compiled_encoder, encode_jsonl, "JSON lines are written by the interpreter")


def compiled_encoder() -> EncodeLines:
    """Return the one in C, which leaves to `encode_jsonl` what is not just boxes.

    Raises:
        NotCompiledError: There is no C compiler, or it failed.
        UsageError: The artifact cache cannot be written.
    """
    run = load_library("json_lines").brimful_json_lines
    run.restype = ctypes.c_int64

    def encode(batch: Sequence[Detections]) -> bytes:
        if not _are_plain(batch):
            return encode_jsonl(batch)
        keys = orjson.dumps([d.image for d in batch])
        index = np.array([d.index for d in batch], np.int64)
        middles = _Texts([_middle(d.frame, d.pts_ms, d.width, d.height, d.canvas) for d in batch])
        tails = _Texts(
            [_TAIL if d.error is None and not d.truncated else _rare_tail(d) for d in batch]
        )
        names = batch[0].names
        classes = _classes(names)
        boxes = _column([d.boxes for d in batch], np.float32)
        confidence = _column([d.confidence for d in batch], np.float32)
        class_id = _column([d.class_id for d in batch], np.int32)
        counts = np.array([len(d.confidence) for d in batch], np.int64)
        rows = len(confidence)
        if len(class_id) != rows or boxes.shape != (rows, 4) or (index < 0).any():
            return encode_jsonl(batch)
        texts = len(keys) + len(middles.text) + len(tails.text)
        room = texts + len(batch) * _IMAGE + rows * (_DETECTION + classes.longest)
        out = np.empty(room, np.uint8)
        size = run(
            *(ctypes.c_int64(len(batch)), keys, _address(index)),
            *(middles.text, _address(middles.ends), tails.text, _address(tails.ends)),
            *map(_address, (counts, boxes, confidence, class_id)),
            *(classes.text, _address(classes.ends), ctypes.c_int64(len(names)), _address(out)),
        )
        # What C does not write: NaN, tiny and huge numbers, a class without a name.
        return encode_jsonl(batch) if size < 0 else out[:size].tobytes()

    return encode


class _Texts:
    """Texts one behind the other, and where each of them ends."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.text = b"".join(texts)
        lengths = np.array(list(map(len, texts)), np.int64)
        self.ends = np.cumsum(lengths)
        self.longest = int(lengths.max(initial=0))


def _are_plain(batch: Sequence[Detections]) -> bool:
    """Whether images of one model have nothing but boxes."""
    if not batch:
        return False
    names = batch[0].names
    for d in batch:  # a generator's turn an image would cost as much as the rest of it
        if d.names is not names or d.task == "classify":
            return False
        if d.masks is not None or d.keypoints is not None or d.obb is not None:
            return False
    return True


@functools.lru_cache(maxsize=1024, typed=True)
def _middle(
    frame: int | None, pts_ms: float | None, width: int, height: int, canvas: Size | None
) -> bytes:
    """Return what comes between the index and the detections of an image."""
    members = {
        "frame": frame,
        "pts_ms": pts_ms,
        "width": width,
        "height": height,
        "canvas": canvas,
    }
    return b',%b,"detections":[' % orjson.dumps(members)[1:-1]


def _rare_tail(d: Detections) -> bytes:
    """Return what comes after the detections of an image that has an error or too many."""
    truncated = b',"truncated":true' if d.truncated else b""
    return b']%b,"error":%b}\n' % (truncated, error_members(d))


@functools.lru_cache(maxsize=8)
def _classes(names: tuple[str, ...]) -> _Texts:
    """Return the id and name of each class as members of an object."""
    each = enumerate(names)
    return _Texts([b',"class_id":%d,"class_name":%b' % (id, orjson.dumps(n)) for id, n in each])


def _column(arrays: Sequence[Any], dtype: Any) -> Any:
    return np.ascontiguousarray(np.concatenate(arrays), dtype)


def _address(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
