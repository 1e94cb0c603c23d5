"""What a lane captures of a network that launches itself; the device's part is the gpu tests'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brimful.runtimes.cuda import lane as lane_module
from brimful.runtimes.cuda.driver import buckets
from brimful.runtimes.cuda.lane import Lane


def lane_with(network: Any, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Lane:
    """Return a lane without a device, whose graphs tell what happens to them."""

    def record(work: Any, pool: Any) -> tuple[Any, Any]:
        assert pool == "pool"
        said.append("begin")
        result = work()
        said.append("end")
        return SimpleNamespace(replay=lambda: said.append("replay")), result

    monkeypatch.setattr(lane_module, "capture", record)
    lane = Lane.__new__(Lane)
    turns = SimpleNamespace(pool="pool")
    lane._network, lane._captures, lane._turns = network, True, turns
    lane.live, lane.live_host = torch.zeros(1), torch.tensor([3.0])
    return lane


def network_saying(said: list[str], *, capturable: bool) -> Any:
    class Network(SimpleNamespace):
        def __call__(self, images: Any) -> list[Any]:
            said.append("network")
            return self.outputs

    return Network(capturable=capturable, outputs=[torch.zeros(1, 3, 6), torch.zeros(1)])


@pytest.mark.parametrize(
    ("capturable", "captured", "replayed"),
    [
        (True, ["begin", "network", "select of 3", "masks", "end"], ["replay"]),
        (False, ["begin", "select of 3", "masks", "end"], ["network", "replay"]),
    ],
)
def test_what_is_captured(
    capturable: bool, captured: list[str], replayed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    network = network_saying(said, capturable=capturable)
    lane = lane_with(network, monkeypatch, said)
    select: Any = SimpleNamespace(
        launch=lambda output, live: said.append(f"select of {live.item():.0f}")
    )
    masks: Any = SimpleNamespace(launch=lambda prototypes: said.append("masks"))
    images = torch.zeros(1, 3, 8, 8)
    outputs, replay, _ = lane._captured(images, select, masks, network.outputs)
    assert said == captured
    assert outputs is network.outputs or outputs == network.outputs
    said.clear()
    replay()
    assert said == replayed


def test_batches_that_have_a_graph() -> None:
    assert buckets(64) == [1, 4, 16, 32, 64]
    assert buckets(1) == [1]
    assert buckets(4, 4) == [4]  # a model with a fixed batch runs no other


def test_nothing_to_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a selection a network that launches itself is all there is."""
    said: list[str] = []
    network = network_saying(said, capturable=False)
    lane = lane_with(network, monkeypatch, said)
    _, replay, _ = lane._captured(torch.zeros(1, 3, 8, 8), None, None, network.outputs)
    assert said == []
    replay()
    assert said == ["network"]


def test_what_a_forward_left_is_there_again_while_its_turn_is_held() -> None:
    said: list[str] = []
    lane = Lane.__new__(Lane)
    stream: Any = SimpleNamespace(synchronize=lambda: said.append("wait"))
    lane.stream, lane.finished = stream, "finished"

    @contextmanager
    def next_turn(stream: Any, finished: Any) -> Iterator[None]:
        assert stream is lane.stream and finished == "finished"
        said.append("turn")
        yield
        said.append("turn is over")

    turns: Any = SimpleNamespace(next=next_turn)
    lane._turns = turns
    graph: Any = SimpleNamespace(replay=lambda: said.append("replay"))
    with lane.again(graph):
        said.append("fetch")
    assert said == ["turn", "replay", "wait", "fetch", "turn is over"]
