"""The order of forwards, on streams and events that tell what they were asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from brimful.runtimes.cuda import sequencer as module
from brimful.runtimes.cuda.sequencer import ForwardSequencer

PATIENCE_S = 120  # ends a test that hangs, on the slowest machine


class Stream:
    def __init__(self, name: str, said: list[Any]) -> None:
        self.name, self.said = name, said


class Event:
    def __init__(self, name: str, said: list[Any]) -> None:
        self.name, self.said = name, said

    def record(self, stream: Stream) -> None:
        self.said.append((stream.name, "records", self.name))

    def wait(self, stream: Stream) -> None:
        self.said.append((stream.name, "waits for", self.name))


@pytest.fixture
def sequencer(monkeypatch: pytest.MonkeyPatch) -> ForwardSequencer:
    monkeypatch.setattr(module, "take_stream", lambda device: Stream("capture", []))
    monkeypatch.setattr(module, "new_pool", lambda: "pool")
    return ForwardSequencer(torch.device("cuda", 0))


def test_each_waits_for_the_one_before_and_for_no_other(sequencer: ForwardSequencer) -> None:
    said: list[Any] = []
    lanes = [(Stream(name, said), Event(f"end of {name}", said)) for name in "abc"]
    for stream, finished in (*lanes, lanes[1]):
        with sequencer.next(stream, finished):
            said.append((stream.name, "runs"))
    assert said == [
        *(("a", "runs"), ("a", "records", "end of a")),
        *(("b", "waits for", "end of a"), ("b", "runs"), ("b", "records", "end of b")),
        *(("c", "waits for", "end of b"), ("c", "runs"), ("c", "records", "end of c")),
        *(("b", "waits for", "end of c"), ("b", "runs"), ("b", "records", "end of b")),
    ]


def test_a_turn_begins_behind_those_before_it(sequencer: ForwardSequencer) -> None:
    said: list[Any] = []
    for name in "ab":
        stream, begun = Stream(name, said), Event(f"begin of {name}", said)
        with sequencer.next(stream, Event(f"end of {name}", said), begun):
            said.append((name, "runs"))
    assert said == [
        *(("a", "records", "begin of a"), ("a", "runs"), ("a", "records", "end of a")),
        *(("b", "waits for", "end of a"), ("b", "records", "begin of b"), ("b", "runs")),
        ("b", "records", "end of b"),
    ]


def test_what_fails_on_its_way_is_waited_for_too(sequencer: ForwardSequencer) -> None:
    """What it had queued by then writes the memory that they share."""
    said: list[Any] = []
    with (
        pytest.raises(RuntimeError, match="refused"),
        sequencer.next(Stream("a", said), Event("x", said)),
    ):
        raise RuntimeError("refused")
    with sequencer.next(Stream("b", said), Event("y", said)):
        pass
    assert said == [("a", "records", "x"), ("b", "waits for", "x"), ("b", "records", "y")]


def test_two_threads_do_not_queue_at_the_same_time(sequencer: ForwardSequencer) -> None:
    said: list[Any] = []
    inside, other_tries = threading.Event(), threading.Event()

    def second() -> None:
        assert inside.wait(PATIENCE_S)
        other_tries.set()
        with sequencer.next(Stream("b", said), Event("y", said)):
            said.append("b runs")

    thread = threading.Thread(target=second)
    thread.start()
    with sequencer.next(Stream("a", said), Event("x", said)):
        inside.set()
        assert other_tries.wait(PATIENCE_S)
        thread.join(0.05)  # it would be through by now, were it not kept out
        said.append("a runs")
    thread.join(PATIENCE_S)
    assert said[:2] == ["a runs", ("a", "records", "x")]
    assert said[2:] == [("b", "waits for", "x"), "b runs", ("b", "records", "y")]
