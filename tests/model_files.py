"""Model files that tests share: one artifact cache for the whole run, and models built once."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brimful.models.checkpoint import Checkpoint, load_checkpoint
from brimful.models.export import write_onnx
from brimful.models.signature import SpecOverrides
from oracles import random_model

os.environ.setdefault("YOLO_OFFLINE", "1")


@functools.cache
def scratch() -> Path:
    """Return a folder that lives as long as the test run."""
    folder = Path(tempfile.mkdtemp(prefix="brimful-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def artifact_cache() -> Iterator[Path]:
    """Point the artifact cache at a folder that all of these tests share."""
    root = scratch() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIMFUL_CACHE", str(root))
        yield root


@functools.cache
def saved(yaml_name: str, seed: int = 1, nc: int = 5) -> Path:
    """Return a checkpoint of a random model that detects something, as Ultralytics saves it."""
    path = scratch() / f"{yaml_name.removesuffix('.yaml')}-{seed}-{nc}.pt"
    random_model(yaml_name, seed, nc).save(path)
    return path


def opened(path: Path, *, nms: bool | None = None, **overrides: Any) -> Checkpoint:
    """Load a checkpoint the restricted way."""
    return load_checkpoint(path, nms=nms, overrides=SpecOverrides(**overrides), trust=False)


@functools.cache
def exported(path: Path, *, nms: bool | None = None) -> Path:
    """Return our dynamic ONNX export of a checkpoint."""
    target = scratch() / f"{path.stem}-{nms}.onnx"
    write_onnx(opened(path, nms=nms), target)
    return target


@functools.cache
def ultralytics_export(path: Path, tag: str, **options: Any) -> Path:
    """Return Ultralytics' own export of a checkpoint."""
    from ultralytics import YOLO

    # the export lands beside the checkpoint, under its name
    copy = scratch() / f"{path.stem}-{tag}.pt"
    shutil.copy(path, copy)
    copy.chmod(0o644)
    return Path(YOLO(copy).export(verbose=False, **options))


def outcome_of(runtime: Any, slot: Any, count: int, *, timeout_s: float = 120) -> Any:
    """Run one forward and return its outputs or its error; None when it does not end in time."""
    told: list[Any] = []
    done = threading.Event()

    def finish(outputs: Any, error: BaseException | None, seconds: float | None = None) -> None:
        told.append(outputs if error is None else error)
        done.set()

    runtime.submit(slot, count, finish)
    return told[0] if done.wait(timeout_s) else None


def outputs_of(runtime: Any, slot: Any, count: int) -> Any:
    """Run one forward and return its outputs."""
    outcome = outcome_of(runtime, slot, count)
    assert outcome is not None, "the forward did not end"
    assert not isinstance(outcome, BaseException), outcome
    return outcome
