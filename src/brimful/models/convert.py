"""Conversion of a `.pt` in a process of its own.

Reading a checkpoint takes PyTorch and Ultralytics, over half a gigabyte of memory that an engine on
another runtime never needs again. A process that ends gives all of it back.

    python -m brimful.models.convert < request.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brimful import errors
from brimful.child_python import python_command
from brimful.errors import BrimfulError, ExportError, MissingExtraError, ModelError
from brimful.models.signature import SpecOverrides

LIMIT_S = 1200.0
"""Seconds after which a conversion is taken for one that never ends."""


def convert_in_child(
    checkpoint: Path,
    output: Path,
    *,
    nms: bool | None,
    overrides: SpecOverrides,
    trust: bool,
    max_det: int,
    digest: str | None = None,
) -> None:
    """Convert a checkpoint to ONNX in a child process.

    Args:
        checkpoint: The `.pt` file.
        output: The `.onnx` file to write.
        nms: Head selection, as in `load_checkpoint`.
        overrides: The user's word on task and names.
        trust: Read the checkpoint with the ordinary unpickler.
        max_det: Rows an NMS-free head returns at least.
        digest: SHA-256 that the file must have when it is read, in hex; None for any.

    Raises:
        BrimfulError: What the child raised.
        ExportError: The child died, for example for want of memory, or takes too long.
    """
    request = {
        "checkpoint": str(checkpoint.absolute()),
        "output": str(output.absolute()),
        "nms": nms,
        "overrides": asdict(overrides),
        "trust": trust,
        "max_det": max_det,
        "digest": digest,
    }
    # The child finds what this process finds, however this process came to find it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    try:
        child = subprocess.run(
            python_command("-m", "brimful.models.convert"),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"converting {checkpoint} was given up after {LIMIT_S:.0f} s. Try again on a machine "
            "with less to do, or export it to ONNX and give that file"
        ) from None
    if child.returncode == 0:
        return
    lines = child.stdout.splitlines()
    try:
        answer = json.loads(lines[-1])
        kind, message = answer["error"], answer["message"]
    except (IndexError, ValueError, KeyError, TypeError):
        last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise ExportError(f"converting {checkpoint} failed: {last[0]}") from None
    if kind == "MissingExtraError":
        raise MissingExtraError(message, answer["extra"], module=answer["module"])
    known = getattr(errors, kind, ModelError)
    raise known(message)


def main() -> int:
    """Be the child: read the request, convert, and answer with the error if there is one."""
    request: dict[str, Any] = json.load(sys.stdin)
    from brimful.models.checkpoint import load_checkpoint
    from brimful.models.export import write_onnx

    names = request["overrides"]["names"]
    overrides = SpecOverrides(
        task=request["overrides"]["task"], names=None if names is None else tuple(names)
    )
    try:
        loaded = load_checkpoint(
            Path(request["checkpoint"]),
            nms=request["nms"],
            overrides=overrides,
            trust=request["trust"],
            max_det=request["max_det"],
            digest=request["digest"],
        )
        write_onnx(loaded, Path(request["output"]))
    except MissingExtraError as error:
        answer = {"message": error.feature, "extra": error.extra, "module": error.module}
        print(json.dumps({"error": "MissingExtraError", **answer}))
        return error.exit_code
    except BrimfulError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
