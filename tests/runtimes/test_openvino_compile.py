"""Networks of several canvases: compiled side by side, each once, and again after a failure."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from brimful.errors import ModelError
from brimful.models.model import Model, ModelOptions
from brimful.runtimes.openvino import OpenVinoRuntime
from brimful.runtimes.runtime import RuntimeOptions
from onnx_models import onnx_file

PATIENCE_S = 60.0


@pytest.fixture
def runtime():
    loaded = OpenVinoRuntime(
        Model(onnx_file("yolov8n.yaml"), "onnx", ModelOptions()), RuntimeOptions(threads=1)
    )
    yield loaded
    loaded.close()


def at_once(runtime, canvases):
    with ThreadPoolExecutor(len(canvases)) as threads:
        return list(threads.map(runtime.allocate, canvases))


def test_two_canvases_are_compiled_at_the_same_time(runtime, monkeypatch):
    both = threading.Barrier(2, timeout=PATIENCE_S)
    build = runtime._build

    def meet(canvas, capacity):
        both.wait()  # breaks if one is compiled after the other
        return build(canvas, capacity)

    monkeypatch.setattr(runtime, "_build", meet)
    slots = at_once(runtime, [(64, 64), (64, 96)])
    assert [slot.canvas for slot in slots] == [(64, 64), (64, 96)]


def test_a_canvas_is_compiled_once(runtime, monkeypatch):
    build, built = runtime._build, []

    def count(canvas, capacity):
        built.append(canvas)
        return build(canvas, capacity)

    monkeypatch.setattr(runtime, "_build", count)
    slots = at_once(runtime, [(64, 64)] * 4)
    assert built == [(64, 64)]
    assert len({id(slot.compiled) for slot in slots}) == 1
    assert len({id(slot.request) for slot in slots}) == 4


def test_who_asks_again_after_a_failure_compiles_again(runtime, monkeypatch):
    build = runtime._build

    def fail(canvas, capacity):
        raise ModelError("no memory for it")

    monkeypatch.setattr(runtime, "_build", fail)
    for _ in range(2):
        with pytest.raises(ModelError, match="no memory for it"):
            runtime.allocate((64, 64))
    monkeypatch.setattr(runtime, "_build", build)
    assert runtime.allocate((64, 64)).canvas == (64, 64)
