"""What a lane's forward leaves where; the device's part is the gpu tests'."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brimful.runtimes.cuda import lane as lane_module
from brimful.runtimes.cuda.feeder import buckets
from brimful.runtimes.cuda.lane import Lane


class Network:
    """Adds up an image's values, and notes whether a graph called it.

    A network that launches itself always writes to the same memory, and cannot be captured.
    """

    def __init__(self, *, capturable: bool) -> None:
        self.capturable = capturable
        self.outputs = [torch.zeros(2), torch.zeros(2)]
        self.in_a_graph = False
        self.calls: list[bool] = []

    def __call__(self, images: Any) -> list[Any]:
        self.calls.append(self.in_a_graph)
        assert self.capturable or not self.in_a_graph, "it cannot be captured"
        sums = images.sum((1, 2, 3))
        if self.capturable:
            return [sums, -sums]
        self.outputs[0].copy_(sums)
        self.outputs[1].copy_(-sums)
        return self.outputs


class Selection:
    """Keeps what a launch read: the device's selection, or its masks."""

    def __init__(self) -> None:
        self.read: list[list[float]] = []

    def launch(self, *tensors: Any) -> None:
        self.read = [tensor.tolist() for tensor in tensors]


def lane_with(
    network: Network, monkeypatch: pytest.MonkeyPatch, *, captures: bool = True
) -> tuple[Lane, list[Any]]:
    """Return a lane without a device, and the graphs that it captures.

    Replaying one does the same work again and leaves its results in the memory of the capture.
    """
    graphs: list[Any] = []

    def in_a_graph(work: Callable[[], Any]) -> Any:
        network.in_a_graph = True
        result = work()
        network.in_a_graph = False
        return result

    def capture(work: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
        assert pool == "pool"
        kept = in_a_graph(work)

        def replay() -> None:
            for old, new in zip(kept or [], in_a_graph(work) or [], strict=True):
                old.copy_(new)

        graphs.append(SimpleNamespace(replay=replay))
        return graphs[-1], kept

    monkeypatch.setattr(lane_module, "capture", capture)
    lane = Lane.__new__(Lane)
    network_of_lane: Any = network
    sequencer: Any = SimpleNamespace(pool="pool")
    lane._network, lane._captures, lane._sequencer = network_of_lane, captures, sequencer
    lane.live, lane.live_host = torch.zeros(1), torch.tensor([2.0])
    return lane, graphs


@pytest.mark.parametrize(
    ("capturable", "captures"), [(True, True), (False, True), (True, False), (False, False)]
)
def test_a_replay_computes_what_the_input_holds(
    capturable: bool, captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(capturable=capturable)
    lane, graphs = lane_with(network, monkeypatch, captures=captures)
    images = torch.zeros(2, 3, 4, 4)
    select, masks = Selection(), Selection()
    parts: tuple[Any, Any] = select, masks
    outputs, replay, _ = lane._captured(images, *parts, network(images))
    assert len(graphs) == captures
    for value, live in ((1.0, 2.0), (3.0, 1.0)):
        images[1] = value
        lane.live_host[0] = live
        network.calls.clear()
        replay()
        assert outputs[0].tolist() == [0, 48 * value]
        assert outputs[1].tolist() == [0, -48 * value]
        assert select.read == [outputs[0].tolist(), [live]]
        assert masks.read == [outputs[1].tolist()]
        assert network.calls == [captures and capturable]


def test_batches_that_have_a_graph() -> None:
    assert buckets(64) == [1, 4, 16, 32, 64]
    assert buckets(1) == [1]
    assert buckets(4, 4) == [4]  # a model with a fixed batch runs no other


def test_nothing_to_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a selection a network that launches itself is all there is."""
    network = Network(capturable=False)
    lane, graphs = lane_with(network, monkeypatch)
    images = torch.zeros(2, 3, 4, 4)
    outputs, replay, _ = lane._captured(images, None, None, network(images))
    assert graphs == []
    images.fill_(1)
    replay()
    assert outputs[0].tolist() == [48, 48]


def test_what_a_forward_left_is_there_again_while_its_turn_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device does what it was told when it is waited for, and not before."""
    shared = ["another lane's"]
    queued: list[Callable[[], None]] = []
    held: list[Any] = []

    def synchronize() -> None:
        while queued:
            queued.pop(0)()

    @contextmanager
    def next_turn(stream: Any, finished: Any) -> Iterator[None]:
        assert stream is lane.stream and finished == "finished"
        held.append(stream)
        yield
        held.remove(stream)

    def replay() -> None:
        assert held, "the shared memory may be another lane's at the time"
        queued.append(lambda: shared.__setitem__(0, "this lane's"))

    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    lane = Lane.__new__(Lane)
    stream: Any = SimpleNamespace(synchronize=synchronize)
    sequencer: Any = SimpleNamespace(next=next_turn)
    graph: Any = SimpleNamespace(replay=replay)
    lane.stream, lane.finished, lane._sequencer = stream, "finished", sequencer
    with lane.again(graph):
        assert shared == ["this lane's"]
        assert held == [stream]
    assert held == []


def test_what_is_left_over_makes_do_with_a_larger_graph_once() -> None:
    captured: list[tuple[Any, int]] = []

    class Counting(Lane):
        def capture(self, canvas: Any, bucket: int, config: Any) -> Any:
            captured.append((canvas, bucket))
            self._graphs[canvas, bucket] = made = SimpleNamespace(canvas=canvas, bucket=bucket)  # type: ignore[assignment]
            return made

    lane = Counting.__new__(Counting)
    lane._graphs, lane._wanted = OrderedDict(), set()
    here, there = (480, 640), (640, 480)
    sizes = [1, 4, 16, 64, 128]
    asked = [(here, 100), (here, 128), (here, 3), (there, 3), (here, 2), (there, 60), (here, 60)]
    buckets = [lane.graph_for(canvas, count, sizes, None).bucket for canvas, count in asked]
    assert buckets == [128, 128, 128, 4, 4, 64, 128]
    assert captured == [(here, 128), (there, 4), (here, 4), (there, 64)]
    assert lane.graph_for(there, 1, [4], None).bucket == 4, "the only size of a fixed batch"
