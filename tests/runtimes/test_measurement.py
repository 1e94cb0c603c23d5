"""What runtimes take, measured for real and kept as the artifact cache keeps things."""

import json
from pathlib import Path

import pytest

from brimful.models.model import Model, ModelOptions
from brimful.runtimes.choice import candidates
from brimful.runtimes.measurement import KIND, Measurement, kept_measurements, measure_in_child
from onnx_models import onnx_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_of():
    return Model(onnx_file("yolov8n.yaml"), "onnx", ModelOptions())


def answer(request):
    return [
        {"load_s": 0.1, "canvas_s": 0.2, "image_s": 0.01 * (i + 1), "canvas_mib": 50}
        for i, _ in enumerate(request["candidates"])
    ]


def measurement(run=answer, threads=2, flags=frozenset()):
    model = model_of()
    return Measurement(model, candidates("auto", model, "cpu", flags), threads, run=run)


def test_a_real_one():
    model = model_of()
    found = candidates("auto", model, "cpu", frozenset())
    request = {
        "model": str(model.path),
        "task": None,
        "names": None,
        "threads": 2,
        "candidates": [(entry.name, how) for entry, how in found],
    }
    costs = measure_in_child(request)
    assert len(costs) == len(found)
    for cost in costs:
        assert cost["load_s"] > 0 and cost["image_s"] > 0 and cost["canvas_s"] >= 0


def test_it_is_made_once_and_kept(cache):
    assert measurement().kept() is None
    assert not cache.exists(), "asking leaves nothing behind"
    taken = measurement().take()
    assert [cost.image_s for cost in taken] == [0.01, 0.02]

    def never(request):
        raise AssertionError("it was measured already")

    assert measurement(never).kept() == measurement(never).take() == taken


@pytest.mark.parametrize("other", [{"threads": 3}, {"flags": frozenset({"amx_bf16"})}])
def test_other_threads_or_another_precision_are_another_measurement(other):
    measurement().take()
    assert measurement(**other).kept() is None


def test_another_cpu_is_another_measurement(monkeypatch):
    measurement().take()
    monkeypatch.setattr("brimful.runtimes.measurement.cpu_model", lambda: "another one")
    assert measurement().kept() is None


def test_what_fails_is_no_measurement(cache):
    def fails(request):
        raise ValueError("the child crashed")

    assert measurement(fails).take() is None
    assert measurement(lambda request: answer(request)[:1]).take() is None
    assert list(cache.glob(f"{KIND}-*")) == []


def test_a_child_that_dies_has_no_answer(tmp_path):
    request = {
        "model": str(tmp_path / "missing.onnx"),
        "task": None,
        "names": None,
        "threads": 1,
        "candidates": [("onnxruntime", "fp32")],
    }
    with pytest.raises(ValueError, match=r"there is no model file"):
        measure_in_child(request)


def test_a_cache_that_others_may_write_to_is_not_believed(cache):
    taken = measurement().take()
    assert taken is not None
    cache.chmod(0o777)
    assert measurement().kept() is None
    assert measurement().take() is None


@pytest.mark.parametrize("text", ["", "{}", '{"costs": [{"image_s": 1}]}'])
def test_a_damaged_one_is_none(cache, text):
    measurement().take()
    (file,) = cache.glob(f"{KIND}-*/costs.json")
    file.write_text(text)
    assert measurement().kept() is None
    assert list(kept_measurements()) == []


def test_what_is_kept_can_be_shown():
    taken = measurement().take()
    ((name, facts, costs),) = kept_measurements()
    assert name == Path(model_of().path).name
    assert facts["threads"] == 2 and costs == taken
    assert [runtime[0] for runtime in facts["runtimes"]] == ["openvino", "onnxruntime"]
    json.dumps(facts)
