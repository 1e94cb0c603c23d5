"""What a capture asks of the driver, in which order, and what it leaves; a GPU runs it for real."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brimful.cuda import graphs as capture_module
from brimful.cuda.captures import synchronize
from brimful.cuda.graphs import capture, new_pool
from brimful.errors import RuntimeFailedError

STREAM, GRAPH, LAUNCHABLE = 0x51, 0x61, 0x71
DONE = [
    "into the pool",
    "begin",
    "work",
    "end",
    "out of the pool",
    "instantiate",
    "destroy graph",
]


class Driver:
    """The driver's calls, with the handles that they must be given."""

    def __init__(self, said: list[str], failing: str = "") -> None:
        self._said, self._failing = said, failing
        self.graph: int | None = GRAPH
        self.broken = 0

    def _answer(self, call: str) -> int:
        self._said.append(call)
        return 900 if call == self._failing else 0

    def cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        assert (stream.value, mode) == (STREAM, 1)  # of this thread alone
        return self._answer("begin")

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        assert stream.value == STREAM
        if self.broken:
            self.broken -= 1
            self._said.append("end")
            return 901
        graph._obj.value = self.graph
        return self._answer("end")

    def cuGraphInstantiateWithFlags(self, launchable: Any, graph: Any, flags: Any) -> int:
        assert (graph.value, flags.value, ctypes.sizeof(flags)) == (GRAPH, 0, 8)
        launchable._obj.value = LAUNCHABLE
        return self._answer("instantiate")

    def cuGraphDestroy(self, graph: Any) -> int:
        assert graph.value == GRAPH
        return self._answer("destroy graph")

    def cuGraphLaunch(self, launchable: Any, stream: Any) -> int:
        assert (launchable.value, stream.value) == (LAUNCHABLE, STREAM)
        return self._answer("launch")

    def cuGraphExecDestroy(self, launchable: Any) -> int:
        assert launchable.value == LAUNCHABLE
        return self._answer("destroy launchable")


Start = Callable[..., tuple[Driver, list[str]]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Stand in for the driver and for PyTorch's stream and pools."""

    def prepare(failing: str = "") -> tuple[Driver, list[str]]:
        said: list[str] = []
        driver = Driver(said, failing)

        @contextlib.contextmanager
        def use(pool: Any, device: Any) -> Iterator[None]:
            assert (pool, device) == ("pool", "device")
            said.append("into the pool")
            try:
                yield
            finally:
                said.append("out of the pool")

        stream = SimpleNamespace(cuda_stream=STREAM, device="device")
        monkeypatch.setattr(capture_module, "load_driver", lambda **options: driver)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "use_mem_pool", use)
        return driver, said

    return prepare


def work_of(said: list[str]) -> Callable[[], str]:
    def work() -> str:
        said.append("work")
        return "result"

    return work


def test_a_graph_is_captured_launched_and_freed(start: Start) -> None:
    _, said = start()
    graph, result = capture(work_of(said), "pool")
    assert (result, said) == ("result", DONE)
    said.clear()
    graph.replay()
    graph.replay()
    assert said == ["launch", "launch"]
    del graph
    gc.collect()
    assert said == ["launch", "launch", "destroy launchable"]


def test_nobody_waits_for_the_device_meanwhile(start: Start) -> None:
    start()

    def work() -> str:
        with pytest.raises(RuntimeFailedError, match="must not wait"):
            synchronize("device")
        return "result"

    assert capture(work, "pool")[1] == "result"


@pytest.mark.parametrize("left", [GRAPH, None])
def test_work_that_fails_ends_the_capture(left: int | None, start: Start) -> None:
    driver, said = start()
    driver.graph = left  # what failed may have invalidated the capture

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        capture(fail, "pool")
    kept = ["destroy graph"] if left else []
    assert said == ["into the pool", "begin", "end", *kept, "out of the pool"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("broken", [1, 2])
def test_a_capture_that_somebody_broke_is_tried_again(
    broken: int, fails: bool, start: Start
) -> None:
    driver, said = start()
    driver.broken = broken

    def work() -> str:
        said.append("work")
        if fails and driver.broken:  # which is told at the next launch, or at the end
            raise RuntimeError("operation failed due to a previous error during capture")
        return f"result {said.count('work')}"

    _, result = capture(work, "pool")
    assert result == f"result {broken + 1}"
    assert said == [DONE[0], *(broken * DONE[1:4]), *DONE[1:]]


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_that_is_always_broken_is_told(fails: bool, start: Start) -> None:
    driver, said = start()
    driver.broken = 99

    def work() -> None:
        said.append("work")
        if fails:
            raise RuntimeError("as PyTorch says it")

    told = "as PyTorch says it" if fails else "ending a capture failed: CUDA error 901"
    with pytest.raises((RuntimeError, RuntimeFailedError), match=told):
        capture(work, "pool")
    assert said == [DONE[0], *(3 * DONE[1:4]), "out of the pool"]


def test_an_interruption_is_none_to_try_again(start: Start) -> None:
    driver, said = start()
    driver.broken = 99

    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(work, "pool")
    assert said.count("begin") == said.count("end") == 1


@pytest.mark.parametrize(
    ("failing", "told", "until"),
    [
        ("begin", "beginning a capture", ["into the pool", "begin", "out of the pool"]),
        ("end", "ending a capture", [*DONE[:5]]),
        ("instantiate", "finishing a capture", DONE),
    ],
)
def test_a_driver_that_refuses(failing: str, told: str, until: list[str], start: Start) -> None:
    _, said = start(failing)
    with pytest.raises(RuntimeFailedError, match=f"{told} failed: CUDA error 900"):
        capture(work_of(said), "pool")
    assert said == until


def test_a_launch_that_fails_is_told(start: Start) -> None:
    _, said = start("launch")
    graph, _ = capture(work_of(said), "pool")
    with pytest.raises(RuntimeFailedError, match="launch of a graph failed: CUDA error 900"):
        graph.replay()


@pytest.mark.gpu
def test_a_graph_computes_anew_and_its_memory_serves_the_next() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    source = torch.arange(4096.0, device=device)
    stream, pool = torch.cuda.Stream(), new_pool()
    torch.cuda.synchronize()

    def work() -> Any:
        return (source * 2.0 + 1.0).sum()

    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        first, total = capture(work, pool)
        before = torch.cuda.memory_reserved()
        second, other = capture(work, pool)
        assert torch.cuda.memory_reserved() == before
        for factor in (1.0, 3.0):
            source.copy_(factor * torch.arange(4096.0))
            first.replay()
            second.replay()
            stream.synchronize()
            wanted = 2.0 * factor * 4095 * 4096 / 2 + 4096
            assert (total.item(), other.item()) == pytest.approx((wanted, wanted), rel=1e-5)
    with torch.cuda.stream(stream):
        with pytest.raises(RuntimeError):
            capture(stream.synchronize, pool)  # what waits cannot be captured
        first.replay()  # and does no harm
        stream.synchronize()
    assert total.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.gpu
def test_somebody_who_waits_for_the_device_breaks_no_capture() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    source = torch.arange(4096.0, device=device)
    stream, pool = torch.cuda.Stream(), new_pool()
    torch.cuda.synchronize()
    attempts = 0

    def wait() -> None:
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(device)

    def work() -> Any:
        nonlocal attempts
        attempts += 1
        doubled = source * 2.0
        if attempts == 1:
            other = threading.Thread(target=wait)
            other.start()
            other.join()
        return (doubled + 1.0).sum()

    with torch.cuda.stream(stream):
        attempts = 1
        work()
        stream.synchronize()
        attempts = 0
        graph, total = capture(work, pool)
        graph.replay()
        stream.synchronize()
    assert attempts == 2
    assert total.item() == pytest.approx(4095 * 4096 + 4096, rel=1e-5)


@pytest.mark.gpu
def test_captures_while_others_wait_again_and_again() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    source = torch.ones(4096, device=device)
    stream, pool, done = torch.cuda.Stream(), new_pool(), threading.Event()
    torch.cuda.synchronize()
    waited = [0, 0]

    def wait(number: int) -> None:
        while not done.is_set():
            synchronize(device)
            waited[number] += 1

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    attempts = 0

    def work() -> Any:
        nonlocal attempts
        attempts += 1
        for _ in range(20):
            total = (source * 2.0).sum()
        return total

    try:
        with torch.cuda.stream(stream):
            for _ in range(20):
                graph, total = capture(work, pool)
                graph.replay()
            stream.synchronize()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert attempts == 20 and min(waited) > 20 and total.item() == 8192
