"""halve: an fp32 ONNX model into one that computes in fp16 and decodes its boxes in fp32.

What leads up to a convolution (or a matrix product with weights) computes in half precision.
What comes after the last of them stays float32: in half precision a coordinate beyond 512 is only
known to half a pixel. A converter that keeps chosen nodes in float32 but rounds between them, as
onnxruntime's own does, would not keep that.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from brimful.errors import ExportError
from brimful.extras import require
from brimful.log_slow import log_slow
from brimful.models.artifact import artifact, digest_of

HALVER = 1
"""Raised whenever `halve` writes other bytes for the same model."""

EXTERNAL = (".data", "_data")
"""What exporters add to an ONNX file's name for the file of its weights, where they are apart."""

LARGEST = 65504.0
"""The largest float16."""

QUANTISED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "QLinearConv", "MatMulInteger")

ALWAYS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the operator only takes as float32, or that are better so: regions and scales."""


def to_fp16(path: Path) -> Path:
    """Return an fp32 ONNX file's fp16 version, converting it once (artifact cache).

    Raises:
        MissingExtraError: The `onnx` package is not installed.
        ExportError: It cannot be converted; the message says why.
    """
    digest = digest_of(path)

    def build(folder: Path) -> None:
        onnx = require("onnx", feature="Converting an ONNX model to fp16", extra="ultralytics")
        with log_slow(f"converting {path.name} to fp16, once; the result is kept"):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ExportError(f"{path} has changed while it was being converted; start again")
            model = onnx.load_from_string(content)
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
            halve(model, origin=str(path))
            onnx.checker.check_model(model)
            onnx.save(model, str(folder / "model.onnx"))

    weights = [path.with_name(path.name + suffix) for suffix in EXTERNAL]
    facts = {
        "model": digest,
        "weights": [digest_of(file) for file in weights if file.is_file()],
        "halver": HALVER,
    }
    return artifact("half", facts, build) / "model.onnx"


def halve(model: Any, *, origin: str = "the model") -> None:
    """Convert a model in place: float16 input, float32 outputs, float16 convolutions.

    Args:
        model: An ONNX ModelProto in fp32.
        origin: What error messages call it.

    Raises:
        ExportError: It is quantised, has control flow, or weights that float16 cannot hold.
    """
    onnx = require("onnx", feature="Converting an ONNX model to fp16", extra="ultralytics")
    _Halving(model, onnx, origin).run()


class _Halving:
    """One conversion."""

    def __init__(self, model: Any, onnx: Any, origin: str) -> None:
        self._graph = model.graph
        self._onnx = onnx
        self._origin = origin
        self._single, self._half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        self._check()
        self._name_constants()
        # One list for the whole conversion: its nodes are told apart by identity.
        self._nodes = list(model.graph.node)
        typed = onnx.shape_inference.infer_shapes(model).graph
        self._types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*typed.input, *typed.output, *typed.value_info)
        }
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._types |= {name: tensor.data_type for name, tensor in self._weights.items()}
        self._casts: dict[str, Any] = {}
        self._halves: dict[str, str] = {}

    def run(self) -> None:
        """Rewrite the graph."""
        graph = self._graph
        body = self._body()
        if not body:
            raise ExportError(f"{self._origin} has no convolution that could compute in fp16")
        inner = {name for node in body for name in node.output if self._is_float(name)}
        for value in graph.input:
            if self._is_float(value.name) and value.name not in self._weights:
                value.type.tensor_type.elem_type = self._half
                inner.add(value.name)
        chosen = {id(node) for node in body}
        for node in self._nodes:
            if id(node) in chosen:
                self._lower(node)
            else:
                self._raise_inputs(node, inner)
        self._keep_outputs(body, inner)
        self._place_casts()
        self._drop_unused()
        del graph.value_info[:]  # the types are others now

    def _check(self) -> None:
        for node in self._graph.node:
            if node.op_type in QUANTISED:
                raise ExportError(
                    f"{self._origin} is quantised ({node.op_type}) and cannot be converted to "
                    "fp16; run it with precision=fp32, or convert the original"
                )
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise ExportError(
                    f"{self._origin} has control flow ({node.op_type}) and cannot be converted to "
                    "fp16; export it in fp16, or run it with precision=fp32"
                )

    def _name_constants(self) -> None:
        """Turn constants into weights: one that both halves read is kept in both types."""
        nodes = list(self._graph.node)
        for node in nodes:
            if node.op_type != "Constant":
                continue
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.data_type == self._single:
                    tensor = self._graph.initializer.add()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    self._graph.node.remove(node)

    def _body(self) -> list[Any]:
        """Return the nodes that lead up to a convolution, in order."""
        makers = {name: node for node in self._nodes for name in node.output}
        waiting = [node for node in self._nodes if self._computes(node)]
        found = {id(node) for node in waiting}
        while waiting:
            node = waiting.pop()
            for position, name in enumerate(node.input):
                maker = makers.get(name)
                if maker is None or id(maker) in found:
                    continue
                if position in ALWAYS_FLOAT.get(node.op_type, ()):
                    continue
                if any(self._is_float(one) for one in maker.output):
                    found.add(id(maker))
                    waiting.append(maker)
        return [node for node in self._nodes if id(node) in found]

    def _computes(self, node: Any) -> bool:
        """Tell whether a node has trained weights: those of box decoding are fixed numbers."""
        if node.op_type in ("ConvTranspose", "Gemm"):
            return True
        if node.op_type == "MatMul":
            return any(name in self._weights for name in node.input)
        if node.op_type != "Conv":
            return False
        weight = self._weights.get(node.input[1])
        if weight is None or weight.dims[0] != 1 or list(weight.dims[2:]) != [1, 1]:
            return True
        values = self._onnx.numpy_helper.to_array(weight).ravel()
        return not np.array_equal(values, np.arange(len(values)))

    def _is_float(self, name: str) -> bool:
        return bool(self._types.get(name) == self._single)

    def _lower(self, node: Any) -> None:
        """Let a node of the body compute in half precision."""
        for position, name in enumerate(node.input):
            held = position in ALWAYS_FLOAT.get(node.op_type, ())
            if name in self._weights and self._is_float(name) and not held:
                node.input[position] = self._halved_weight(name)
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == self._single:
                    attribute.i = self._half
        elif node.op_type == "ConstantOfShape":
            given = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            numpy_helper = self._onnx.numpy_helper
            values = numpy_helper.to_array(given[0]) if given else np.zeros(1, np.float32)
            if values.dtype == np.float32:
                half = numpy_helper.from_array(self._as_half(values, node.output[0]))
                del node.attribute[:]
                node.attribute.append(self._onnx.helper.make_attribute("value", half))

    def _halved_weight(self, name: str) -> str:
        if name not in self._halves:
            values = self._onnx.numpy_helper.to_array(self._weights[name])
            half = f"{name}.half"
            self._graph.initializer.append(
                self._onnx.numpy_helper.from_array(self._as_half(values, name), half)
            )
            self._halves[name] = half
        return self._halves[name]

    def _as_half(self, values: Any, name: str) -> Any:
        finite = values[np.isfinite(values)]
        if finite.size and np.abs(finite).max() > LARGEST:
            raise ExportError(
                f"{self._origin}: the weight {name} has values beyond {LARGEST:.0f}, which float16 "
                "cannot hold; run it with precision=fp32"
            )
        return values.astype(np.float16)

    def _raise_inputs(self, node: Any, inner: set[str]) -> None:
        """Let a node outside the body read float32; a shape is one whatever the type."""
        if node.op_type in ("Shape", "Size"):
            return
        for position, name in enumerate(node.input):
            if name in inner:
                node.input[position] = self._cast(name)

    def _cast(self, name: str) -> str:
        """Return the name of a half value's float32 copy."""
        if name not in self._casts:
            self._casts[name] = self._onnx.helper.make_node(
                "Cast", [name], [f"{name}.single"], name=f"{name}.single", to=self._single
            )
        return str(self._casts[name].output[0])

    def _keep_outputs(self, body: list[Any], inner: set[str]) -> None:
        """Let the model's outputs stay float32, under their names."""
        for value in self._graph.output:
            if value.name not in inner:
                continue
            half = f"{value.name}.half"
            for node in self._nodes:
                for position, name in enumerate(node.input):
                    if name == value.name:
                        node.input[position] = half
            for node in body:
                for position, name in enumerate(node.output):
                    if name == value.name:
                        node.output[position] = half
            cast = self._casts.pop(value.name, None)
            if cast is not None:
                cast.input[0] = half
                self._casts[half] = cast
            self._casts[f"{half}.output"] = self._onnx.helper.make_node(
                "Cast", [half], [value.name], name=f"{value.name}.output", to=self._single
            )

    def _place_casts(self) -> None:
        """Put each cast right behind what makes its input: nodes are in the order they run."""
        behind: dict[str, list[Any]] = defaultdict(list)
        for cast in self._casts.values():
            behind[cast.input[0]].append(cast)
        nodes = []
        for value in self._graph.input:
            nodes += behind.pop(value.name, [])
        for node in self._nodes:
            nodes.append(node)
            for name in node.output:
                nodes += behind.pop(name, [])
        copies = []
        for node in nodes:
            copy = self._onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _drop_unused(self) -> None:
        """Drop float32 weights of which only the half is read."""
        read = {name for node in self._graph.node for name in node.input}
        read |= {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        copies = []
        for tensor in kept:
            copy = self._onnx.TensorProto()
            copy.CopyFrom(tensor)
            copies.append(copy)
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)
