"""Model: a model file, what it is, and how to have it in the form a runtime wants."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from brimful.errors import ModelError
from brimful.extras import installed_version
from brimful.log_slow import log_slow
from brimful.models.artifact import artifact, digest_of
from brimful.models.content import check_content
from brimful.models.convert import convert_in_child
from brimful.models.signature import SpecOverrides

Format = Literal["pt", "onnx", "openvino", "torchscript"]
"""What kind of file a model is."""

EXPORTER = 3
"""Raised whenever `write_onnx` writes other bytes for the same network, or refuses another one."""

SUFFIXES: dict[str, Format] = {
    ".pt": "pt",
    ".onnx": "onnx",
    ".torchscript": "torchscript",
    ".xml": "openvino",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model file is to be read.

    Attributes:
        overrides: The user's word on task and names.
        nms: Head of a `.pt`: True with NMS, False NMS-free, None NMS-free where there is one.
        trust: Read a `.pt` with the ordinary unpickler, which may run code from the file.
        max_det: Detections per image; an NMS-free head is built for at least as many.
    """

    overrides: SpecOverrides = field(default_factory=SpecOverrides)
    nms: bool | None = None
    trust: bool = False
    max_det: int = 300


@dataclass(frozen=True)
class Model:
    """A model file that was found and recognised.

    Attributes:
        path: The file, or the folder or .xml file of an OpenVINO model.
        format: What kind of file it is.
        options: How it is read.
    """

    path: Path
    format: Format
    options: ModelOptions

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file's content, in hex."""
        return digest_of(self.path)

    def as_onnx(self) -> Path:
        """Return the model as an ONNX file, converting a `.pt` once (artifact cache).

        Raises:
            ModelError: The file is of a kind that cannot be converted.
        """
        if self.format == "onnx":
            return self.path
        if self.format != "pt":
            raise ModelError(
                f"{self.path} cannot be turned into ONNX; give the .pt or the .onnx file instead"
            )
        options = self.options

        def build(folder: Path) -> None:
            with log_slow(f"converting {self.path.name} to ONNX, once; the result is kept"):
                convert_in_child(
                    self.path,
                    folder / "model.onnx",
                    nms=options.nms,
                    overrides=options.overrides,
                    trust=options.trust,
                    max_det=options.max_det,
                    digest=self.digest,
                )

        facts = {
            "model": self.digest,
            "nms": options.nms,
            "max_det": max(options.max_det, 300),
            "names": options.overrides.names,
            "task": options.overrides.task,
            "exporter": EXPORTER,
            # Versions from the environment's package index: importing torch takes seconds.
            "torch": installed_version("torch"),
            "ultralytics": installed_version("ultralytics-opencv-headless", "ultralytics"),
        }
        return artifact("onnx", facts, build) / "model.onnx"


def open_model(path: str | Path, options: ModelOptions | None = None) -> Model:
    """Find a model file and tell its kind by suffix; of its content only the start is looked at.

    Raises:
        ModelError: There is no such file, it is of no known kind, or it is plainly no model.
    """
    path = Path(path)
    options = options or ModelOptions()
    if path.is_dir():
        networks = sorted(path.glob("*.xml"))
        if not networks:
            raise ModelError(
                f"{path} is a folder without an .xml file; an OpenVINO model is a folder with "
                "one .xml and one .bin"
            )
        _check_openvino(networks[0])
        return Model(path, "openvino", options)
    if not path.exists():
        raise ModelError(f"there is no model file {path}")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ModelError(
            f"{path}: a model's kind is told by its suffix; expected one of "
            f"{', '.join(sorted(SUFFIXES))} or an OpenVINO folder"
        )
    if kind == "openvino":
        _check_openvino(path)
    else:
        check_content(path)
    return Model(path, kind, options)


def _check_openvino(network: Path) -> None:
    """Refuse an .xml without its .bin, and either of them that is plainly something else.

    Raises:
        ModelError: Naming the file.
    """
    check_content(network)
    weights = network.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(
            f"{network} is an OpenVINO network whose weights are missing: expected {weights.name} "
            "beside it. Copy the whole folder"
        )
    check_content(weights)
