"""Read an Ultralytics `.pt` checkpoint into a network and its ModelSpec.

Works with Ultralytics 8.4.2 and later. What changed between its releases is hidden here: how the
NMS-free head is selected (a property that follows the presence of layers, later a settable one),
and which branch `fuse` removes.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brimful.errors import BrimfulError, ModelError
from brimful.extras import require
from brimful.models.checkpoint_audit import audit_checkpoint
from brimful.models.head_class import check_head_class
from brimful.models.metadata import Metadata, parse_metadata
from brimful.models.module_graph import check_module_graph
from brimful.models.signature import Signature, SpecOverrides, spec_from
from brimful.models.transforms import check_transforms, crop_of
from brimful.models.unpickler import FOREIGN_ROOTS, RestrictedPickle, foreign_repository
from brimful.spec import ModelSpec

FEATURE = "Reading a .pt checkpoint"

_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network ready for inference, and what it is.

    Attributes:
        network: torch.nn.Module in eval mode, float32, convolution and batch norm fused; takes
            (batch, channels, height, width) in 0..1 RGB and returns a tensor, or a tuple of two
            for segment, laid out as `spec.head` says.
        spec: What the model is.
    """

    network: Any
    spec: ModelSpec


def load_checkpoint(
    path: Path,
    *,
    nms: bool | None,
    overrides: SpecOverrides,
    trust: bool,
    max_det: int = 300,
    digest: str | None = None,
) -> Checkpoint:
    """Read a checkpoint, pick its head and fuse it for inference.

    Args:
        path: The `.pt` file.
        nms: True takes the head that needs NMS, False the NMS-free one, None the NMS-free one
            where the model has it.
        overrides: The user's word on task and names.
        trust: Read it with the ordinary unpickler, which may run code from the file.
        max_det: Rows that an NMS-free head returns (Ultralytics takes at least 300).
        digest: SHA-256 that the file must have when it is read, in hex; None for any.

    Raises:
        MissingExtraError: torch or ultralytics is not installed.
        ModelError: Not a YOLO checkpoint, not trusted, or without the head asked for.
    """
    try:
        network = read_network(path, trust=trust, digest=digest)
        return _prepared(network, path, nms=nms, overrides=overrides, max_det=max_det)
    except BrimfulError:
        raise
    except Exception as error:  # a file can hold a network that makes no sense in any way
        raise ModelError(
            f"{path} holds a network that cannot be prepared for inference: "
            f"{type(error).__name__}: {error}"
        ) from error


def _prepared(
    network: Any, path: Path, *, nms: bool | None, overrides: SpecOverrides, max_det: int
) -> Checkpoint:
    _check_head(network.model[-1], path)
    metadata = _metadata(network, path)
    task = overrides.task or metadata.task
    head = network.model[-1]
    end_to_end = _select_head(head, nms, path) if task != "classify" else False
    network = _fused(network)
    head = network.model[-1]
    head.export = True
    head.dynamic = True  # anchors are made in the graph, for whatever canvas comes
    head.format = "onnx"
    head.max_det = max(max_det, 300)
    signature = _signature(network, metadata)
    metadata = replace(metadata, end_to_end=end_to_end, classes=_class_count(head))
    return Checkpoint(network, spec_from(signature, metadata, overrides, origin=str(path)))


def read_network(path: Path, *, trust: bool, digest: str | None = None) -> Any:
    """Unpickle the network of a checkpoint, in float32 and eval mode, not yet fused.

    The EMA weights are taken where the checkpoint has them, as Ultralytics does.
    """
    # Nothing may be fetched or installed at run time, whatever the checkpoint lacks.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    torch = require("torch", feature=FEATURE, extra="ultralytics")
    require("ultralytics", feature=FEATURE, extra="ultralytics")
    content = _content(path, digest)
    records = _records(path, content, torch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if trust:
                loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
            else:
                loaded = torch.load(
                    io.BytesIO(content),
                    map_location="cpu",
                    weights_only=False,
                    pickle_module=RestrictedPickle(records),
                )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in FOREIGN_ROOTS:  # --trust-model was given
            raise ModelError(f"{path}: {foreign_repository(str(error.name))}") from None
        raise ModelError(f"{path} cannot be read as a PyTorch checkpoint: {error}") from error
    except Exception as error:
        raise ModelError(f"{path} cannot be read as a PyTorch checkpoint: {error}") from error
    network = loaded
    if isinstance(loaded, dict):
        network = next(
            (loaded[key] for key in ("ema", "model") if loaded.get(key) is not None), None
        )
    if not isinstance(network, torch.nn.Module) or not hasattr(network, "model"):
        raise ModelError(
            f"{path} holds no YOLO network: expected a dict with 'model' or 'ema', as Ultralytics "
            f"writes it, found {_what_it_holds(loaded, torch)}"
        )
    network.__dict__.pop("criterion", None)  # the loss of a training that was interrupted
    try:
        check_module_graph(network)
        if not trust:
            audit_checkpoint(network)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    network.__dict__["args"] = _arguments(network, loaded)
    network = network.float().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def _what_it_holds(loaded: Any, torch: Any) -> str:
    """Say what a checkpoint holds in place of a network."""
    if not isinstance(loaded, dict):
        return f"a value of type {type(loaded).__name__}"
    for name in ("ema", "model"):
        if loaded.get(name) is not None:
            kind = type(loaded[name]).__name__
            return f"a value of type {kind} under {name!r}{_state(loaded[name], torch)}"
    if state := _state(loaded, torch):
        return f"a dict{state}"
    keys = ", ".join(f"{key!r:.40}" for key in list(loaded)[:8])
    return f"a dict with {keys or 'nothing in it'}"


def _state(value: Any, torch: Any) -> str:
    """Say that a mapping is a state_dict, if it is one."""
    parts = list(value.values()) if isinstance(value, dict) else []
    if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
        return ""
    return (
        f" of {len(parts)} tensors (a state_dict): weights without their network. Save the model "
        "with Ultralytics' model.save()"
    )


def _content(path: Path, digest: str | None) -> bytes:
    """Read a file once: what is checked is what is loaded, whatever becomes of the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"{path} has changed while it was being converted; start again")
    return content


def _records(path: Path, content: bytes, torch: Any) -> dict[str, int]:
    """Return the bytes of each record of a checkpoint, by name.

    What torch.load would read by another way than the zip file that torch.save writes is refused.
    """
    expected = f"{path} is not a PyTorch checkpoint: expected the zip file that torch.save writes"
    magic = content[:4]
    if magic != _ZIP_MAGIC:
        raise ModelError(f"{expected}, found a file that starts with {magic!r}")
    try:
        # torch's own reader: another one may see other records in the same bytes
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = reader.get_all_records()
        size = getattr(reader, "get_record_size", lambda name: len(reader.get_record(name)))
        records = {name: int(size(name)) for name in names}
    except RuntimeError as error:
        raise ModelError(f"{expected}: {error}") from error
    if "constants.pkl" in names:
        raise ModelError(f"{path} is a TorchScript archive: name it .torchscript")
    return records


def _check_head(head: Any, path: Path) -> None:
    """Refuse a head that derives from none of a YOLO's."""
    bases = {base.__name__ for base in type(head).__mro__}
    if not bases & {"Detect", "Classify"}:
        check_head_class(type(head).__name__, origin=str(path))


def _metadata(network: Any, path: Path) -> Metadata:
    head = network.model[-1]
    args = network.args
    transforms = getattr(network, "transforms", None)
    stride = getattr(network, "stride", None)
    yaml = getattr(network, "yaml", None) or {}
    metadata = parse_metadata(
        {
            "task": getattr(network, "task", None) or args.get("task") or _task_of(head),
            "names": getattr(network, "names", None),
            "stride": int(max(stride)) if stride is not None and len(stride) else None,
            "imgsz": (None if args["trained"] else crop_of(transforms)) or args.get("imgsz"),
            "kpt_shape": tuple(head.kpt_shape) if hasattr(head, "kpt_shape") else None,
            "channels": yaml.get("channels", 3),
        },
        origin=str(path),
    )
    if metadata.task == "classify" and metadata.imgsz is not None:
        try:
            check_transforms(transforms, metadata.imgsz)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
    return metadata


def _arguments(network: Any, loaded: Any) -> dict[str, Any]:
    """Return what a network says of its making, below what its training says of it.

    `trained` is added: whether the training said a size.
    """
    args = getattr(network, "args", None)
    own = args if isinstance(args, dict) else getattr(args, "__dict__", {})
    training = loaded.get("train_args") if isinstance(loaded, dict) else None
    training = training if isinstance(training, dict) else {}
    said = {key: training[key] for key in ("task", "imgsz") if training.get(key) is not None}
    return {**own, **said, "trained": "imgsz" in said}


def _class_count(head: Any) -> int | None:
    """Return how many classes a head computes."""
    linear = getattr(head, "linear", None)  # a classifier's last layer
    return getattr(head, "nc", None) if linear is None else int(linear.out_features)


def _task_of(head: Any) -> str | None:
    """Tell the task from the class of the head, for checkpoints that do not name it."""
    for base in type(head).__mro__:
        task = {
            "Segment": "segment",
            "Pose": "pose",
            "OBB": "obb",
            "Classify": "classify",
            "Detect": "detect",
        }.get(base.__name__)
        if task:
            return task
    return None


def _select_head(head: Any, nms: bool | None, path: Path) -> bool:
    """Pick the NMS-free or the one-to-many branch; return whether it is the NMS-free one."""
    has_nms_free = getattr(head, "one2one_cv2", None) is not None
    has_raw = getattr(head, "cv2", None) is not None
    if nms is False and not has_nms_free:
        raise ModelError(f"{path} has no NMS-free head; leave out nms=False")
    if nms is True and not has_raw:
        raise ModelError(f"{path} was saved with its NMS-free head only; leave out nms=True")
    nms_free = has_nms_free and nms is not True
    try:
        head.end2end = nms_free  # 8.4.20 and later
    except AttributeError:
        # 8.4.2: the property says True wherever the one-to-one layers exist.
        if not nms_free and has_nms_free:
            for name in [name for name in head._modules if name.startswith("one2one_")]:
                delattr(head, name)
    return nms_free


def _fused(network: Any) -> Any:
    """Fold batch norm into the convolutions and drop the branch that was not selected."""
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel("ERROR")
    try:
        return network.fuse(verbose=False)
    finally:
        LOGGER.setLevel(level)


def _signature(network: Any, metadata: Metadata) -> Signature:
    """Learn the output shapes from one tiny forward; anchors and batch are left open."""
    import torch

    # Large enough for 300 anchors, since 8.4.2 takes that many unconditionally.
    side = max(metadata.stride or 32, 32) * 8
    channels = metadata.channels or 3
    with torch.inference_mode():
        out = network(torch.zeros(1, channels, side, side))
    outputs = out if isinstance(out, tuple | list) else (out,)
    shapes: list[tuple[int | None, ...]] = []
    for output in outputs:
        shape: list[int | None] = [None, *output.shape[1:]]
        if len(shape) == 3 and output.shape[2] > output.shape[1]:
            shape[2] = None
        elif len(shape) == 4:
            shape[2] = shape[3] = None
        shapes.append(tuple(shape))
    return Signature(inputs=((None, channels, None, None),), outputs=tuple(shapes))
