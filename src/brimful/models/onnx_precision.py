"""arithmetic: the number type that an ONNX file computes in, read without the `onnx` package.

The type of a file's input does not tell it (exporters keep float32 there), nor does that of its
stored weights (they may be float16 with a cast behind each). What a convolution takes as weights
does. An ONNX file is a protocol buffer; the few fields that are read here have had their numbers
since the format's first version (onnx.proto).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from brimful.errors import ModelError

TYPES = {1: "fp32", 2: "uint8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}
"""Names of TensorProto.DataType, as far as weights go."""

WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is a weight."""

Field = tuple[int, int | memoryview]
"""(number, value) of a field: an integer, or the bytes of a text, a message or a packed list."""


def arithmetic(path: Path) -> str:
    """Return what most convolutions and matrix products of an ONNX file compute in.

    Args:
        path: The file.

    Returns:
        `fp32`, `fp16`, `bf16`, `fp64`, or `int8` for a quantised model; `fp32` for a file without
        such operators.

    Raises:
        ModelError: It is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                return _arithmetic(view)
            finally:
                view.release()
    except (ValueError, IndexError, TypeError, OSError) as error:
        raise ModelError(f"{path} cannot be read as ONNX: {error}") from error


def _arithmetic(model: memoryview) -> str:
    weights: list[str] = []
    types: dict[str, str] = {}
    for number, graph in _fields(model):
        if number != 7:
            continue
        for kind, item in _fields(_message(graph)):
            if kind == 5:
                name, value = _tensor(_message(item))
                types[name] = value
            elif kind == 1:
                operator, inputs, outputs, value = _node(_message(item))
                if operator in WEIGHED and len(inputs) > 1:
                    weights.append(inputs[1])
                elif operator in ("Cast", "Constant") and outputs:
                    types[outputs[0]] = value
                elif operator == "DequantizeLinear" and outputs:
                    types[outputs[0]] = "int8"
                elif operator in ("ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"):
                    return "int8"
    # A matrix product of two activations has no weight whose type is known: it does not count.
    found = Counter(types[name] for name in weights if name in types)
    return found.most_common(1)[0][0] if found else "fp32"


def _node(node: memoryview) -> tuple[str, list[str], list[str], str]:
    """Return operator, inputs, outputs, and the type that a Cast or a Constant gives."""
    operator, given = "", ""
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in _fields(node):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            parts = dict(_fields(_message(value)))
            name = _text(parts.get(1, memoryview(b"")))
            if name == "to":
                kind = parts.get(3)
                given = TYPES.get(kind, "other") if isinstance(kind, int) else "other"
            elif name == "value" and 5 in parts:
                given = _tensor(_message(parts[5]))[1]
    return operator, inputs, outputs, given


def _tensor(tensor: memoryview) -> tuple[str, str]:
    """Return a tensor's name and the name of its type."""
    name, kind = "", "other"
    for number, value in _fields(tensor):
        if number == 8:
            name = _text(value)
        elif number == 2 and isinstance(value, int):
            kind = TYPES.get(value, "other")
    return name, kind


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message, in the protocol buffer wire format."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        value: int | memoryview
        if wire == 0:
            value, position = _varint(message, position)
        else:
            if wire == 2:
                size, position = _varint(message, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire} is unknown")
            if position + size > len(message):
                raise ValueError("it ends in the middle of a field")
            value = message[position : position + size]
            position += size
        yield key >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()
