"""Batches with settings of their own on their way through a feeder, a lane and one graph."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from brimful.runtimes.cuda import lane as lane_module
from brimful.runtimes.cuda.feeder import Feeder
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.lane_job import LaneJob
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.runtime import Params
from brimful.spec import ModelSpec
from brimful.vision.cuda.select import DeviceSelect
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.rows import Rows
from brimful.vision.heads.select import select_each, select_nms_free, select_raw
from brimful.vision.heads.selected import Selected

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CANVAS = 32, 32
BATCH = 4
ENGINE = PostprocessConfig(conf=0.5, iou=0.5, max_det=12)
OWN = [
    replace(ENGINE, conf=0.1),
    replace(ENGINE, conf=0.9),
    replace(ENGINE, max_det=1),
    replace(ENGINE, classes=(1,)),
]


class Network(SimpleNamespace):
    """Has the same output for all images."""

    spec: ModelSpec
    output: Any
    capturable = True

    def __call__(self, images: Any) -> list[Any]:
        return [self.output]


class ForwardSequencer:
    """Nobody else has one."""

    def __init__(self) -> None:
        self.pool = torch.cuda.MemPool() if DEVICE.type == "cuda" else None

    @contextmanager
    def next(self, stream: Any, finished: Any, begun: Any) -> Iterator[None]:
        yield
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()


def output_of(spec: ModelSpec) -> Any:
    """Return the output for a batch, the same boxes of 2 classes in each image."""
    rng = np.random.default_rng(4)
    centres, sizes = rng.uniform(8, 24, (12, 2)), rng.uniform(4, 16, (12, 2))
    if spec.head == "raw":
        image = np.concatenate((centres, sizes, rng.random((12, 2))), axis=1).T
    else:
        scores, label = -np.sort(-rng.random((12, 1)), axis=0), rng.integers(0, 2, (12, 1))
        image = np.concatenate((centres - sizes, centres + sizes, scores, label), axis=1)
    return np.ascontiguousarray(np.stack([image] * BATCH), np.float32)


def lane_with(
    spec: ModelSpec, output: Any, monkeypatch: pytest.MonkeyPatch, *, captures: bool
) -> tuple[Lane, Graph]:
    """Return a lane and its only graph; without a device it replays from Python."""
    if DEVICE.type == "cpu":

        def record(work: Any, pool: Any) -> tuple[Any, Any]:
            return SimpleNamespace(replay=work), work()

        monkeypatch.setattr(lane_module, "capture", record)
    network: Any = Network(spec=spec, output=torch.from_numpy(output).to(DEVICE))
    sequencer: Any = ForwardSequencer()
    lane = Lane.__new__(Lane)
    lane.stream = lane.begun = lane.finished = lane.fixed_batch = None  # type: ignore[assignment]
    lane._network, lane._captures, lane._sequencer = network, captures, sequencer
    pinned = {"pin_memory": DEVICE.type == "cuda"}
    lane.live_host = torch.full((1,), BATCH, dtype=torch.int32, **pinned)
    lane._live_count = lane.live_host.numpy()
    lane.live = torch.full((1,), BATCH, dtype=torch.int32, device=DEVICE)
    select = DeviceSelect(spec, ENGINE, BATCH, 12, DEVICE)
    select.launch(network.output, lane.live)  # compiles
    _, replay, keeps = lane._captured(torch.zeros(0), select, None, [network.output])
    images = torch.zeros(0)
    graph = Graph(CANVAS, BATCH, images, replay, select, None, [], (keeps,))
    monkeypatch.setattr(lane, "graph", lambda canvas, bucket: graph, raising=False)
    monkeypatch.setattr(lane, "capture", None, raising=False)  # none but this one
    return lane, graph


def fly(lane: Lane, count: int, params: Params) -> Rows:
    """Run a batch and return what was found."""
    lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    lanes.put(lane)
    loader: Any = SimpleNamespace(pieces=lambda slot, count, errors: iter(()))
    split: Any = SimpleNamespace(observe=lambda count, **spent: None)
    nowhere: Any = None
    feeder = Feeder(loader, lanes, split, ENGINE, launched=nowhere, failed=nowhere)
    job = LaneJob(CudaSlot(CANVAS, BATCH, 3), count, nowhere, params)
    feeder.launch(job, 0.0)
    found = job.collect()
    assert isinstance(found, Selected)
    return found.rows


@pytest.mark.parametrize("captures", [True, False])
@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_each_batch_takes_its_own_settings(
    head: Any, captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(task="detect", head=head, names=("a", "b"))
    output = output_of(spec)
    host = select_raw if head == "raw" else select_nms_free
    quiet = np.errstate(all="ignore") if DEVICE.type == "cpu" else nullcontext()
    with quiet:
        lane, graph = lane_with(spec, output, monkeypatch, captures=captures)
        assert graph.select is not None
        found = []
        runs: list[tuple[int, Params]] = [
            (4, None),
            (4, OWN),
            (3, [None, OWN[2], OWN[0]]),
            (4, None),
        ]
        for count, params in runs:
            rows = fly(lane, count, params)
            wanted = select_each(host, output, count, spec, ENGINE, params)
            assert np.array_equal(rows.image, wanted.image)
            assert np.array_equal(rows.boxes, wanted.boxes)
            assert np.array_equal(rows.confidence, wanted.confidence)
            assert np.array_equal(rows.class_id, wanted.class_id)
            found.append(np.bincount(rows.image, minlength=count).tolist())
    assert found[0] == found[3] == [found[0][0]] * 4  # the default again
    default = found[0][0]
    least, few, one, some = found[1]
    assert least > default > some > 0 and few < default and one == 1
    assert found[2] == [default, 1, least]
