"""What `auto` means for runtime and precision, on CPUs that are pretended."""

from pathlib import Path

import pytest

from brimful.errors import ExportError, MissingExtraError, UsageError
from brimful.models.model import Model, ModelOptions
from brimful.runtimes import choice
from brimful.runtimes.choice import (
    NEARLY,
    WORTH_S,
    Choice,
    best_precision,
    candidates,
    costs_of,
    first_done,
)
from brimful.runtimes.cost import Cost, JobSize, assumed_cost
from brimful.runtimes.registry import named_entry
from onnx_models import onnx_file

AMX = frozenset({"avx2", "avx512f", "amx_bf16"})
PLAIN = frozenset({"avx2", "avx512f"})


def model_of(kind):
    return Model(Path(f"m.{kind}"), kind, ModelOptions())


def choose(runtime, precision, model, device, *, flags=PLAIN, job=None):
    return choice.choose(runtime, precision, model, device, job or JobSize(images=1), flags=flags)


class Pretended:
    """A measurement whose figures are known."""

    def __init__(self, kept=None, taken=None):
        self._kept, self._taken = kept, taken
        self.took = 0

    def kept(self):
        return self._kept

    def take(self):
        self.took += 1
        return self._taken


SOON = Cost(load_s=0.2, canvas_s=0.0, image_s=0.05)
LATE = Cost(load_s=0.4, canvas_s=0.5, image_s=0.02)


@pytest.mark.parametrize(
    ("runtime", "kind", "flags", "precision"),
    [
        ("openvino", "pt", AMX, "bf16"),
        ("openvino", "pt", frozenset({"avx512_bf16"}), "bf16"),
        ("openvino", "pt", PLAIN, "fp32"),
        ("openvino", "pt", frozenset(), "fp32"),
        ("torch", "pt", AMX, "bf16"),
        ("onnxruntime", "pt", AMX, "fp32"),
        ("torchscript", "torchscript", AMX, "fp32"),
    ],
)
def test_precision_on_a_cpu(runtime, kind, flags, precision):
    model = model_of(kind)
    assert choose(runtime, "auto", model, "cpu", flags=flags) == Choice(runtime, precision)


@pytest.mark.parametrize(
    ("runtime", "kind", "precision"),
    [("torch", "pt", "fp16"), ("torchscript", "torchscript", "fp32")],
)
def test_precision_on_a_gpu(runtime, kind, precision):
    model = model_of(kind)
    assert choose(runtime, "auto", model, "cuda:0", flags=AMX) == Choice(runtime, precision)


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_an_onnx_file_on_a_gpu(stored):
    path = onnx_file("yolov8n.yaml", stored)
    model = Model(path, "onnx", ModelOptions())
    entry = named_entry("onnxruntime", model, "cuda")
    assert best_precision(entry, model, "cuda:0", frozenset()) == "fp16"


@pytest.mark.parametrize(
    "error", [ExportError("a weight is too large"), MissingExtraError("f", "x", module="onnx")]
)
def test_a_file_that_cannot_be_converted_stays_fp32_on_a_gpu(error, monkeypatch):
    def refuse(path):
        raise error

    monkeypatch.setattr("brimful.runtimes.choice.to_fp16", refuse)
    found = {}
    for stored in ("fp32", "fp16"):
        model = Model(onnx_file("yolov8n.yaml", stored), "onnx", ModelOptions())
        entry = named_entry("onnxruntime", model, "cuda")
        found[stored] = best_precision(entry, model, "cuda:0", frozenset())
    assert found == {"fp32": "fp32", "fp16": "fp16"}


def test_a_precision_by_name_is_that_precision():
    assert choose("openvino", "fp32", model_of("pt"), "cpu", flags=AMX).precision == "fp32"
    # Its runtime refuses it, with a word on what there is.
    assert choose("onnxruntime", "bf16", model_of("pt"), "cpu", flags=AMX).precision == "bf16"
    assert choose("auto", "bf16", model_of("pt"), "cpu", flags=AMX) == Choice("openvino", "bf16")


def test_debug_takes_fp32():
    assert choose("debug", "auto", None, "cpu", flags=AMX) == Choice("debug", "fp32")


def test_a_job_costs_what_its_parts_cost():
    job = JobSize(images=100, canvases=1, threads=2)
    assert SOON.of(job) == pytest.approx(0.2 + 5.0)
    assert LATE.of(job) == pytest.approx(0.4 + 0.5 + 2.0)
    # The first canvas is waited for, the others are compiled two at a time.
    assert LATE.of(JobSize(images=100, canvases=7, threads=2)) == pytest.approx(0.4 + 0.5 + 1.5 + 2)
    assert LATE.of(JobSize(images=2, canvases=7, threads=1)) == pytest.approx(
        0.4 + 0.5 + 0.5 + 0.04
    )
    assert LATE.of(JobSize(images=0, canvases=7)) == pytest.approx(0.4)
    assert LATE.of(JobSize(canvases=1)) > LATE.of(JobSize(images=9_000, canvases=1))


@pytest.fixture
def two(monkeypatch):
    """Two runtimes, whatever is installed."""
    monkeypatch.setattr("brimful.runtimes.registry.installed", lambda module: module != "torch")
    model = Model(onnx_file("yolov8n.yaml"), "onnx", ModelOptions())
    found = candidates("auto", model, "cpu", PLAIN)
    assert [entry.name for entry, _ in found] == ["openvino", "onnxruntime"]
    return model, found


def test_what_was_measured_decides(two):
    model, found = two
    for images, names in ((20, "onnxruntime"), (2_000, "openvino")):
        job = JobSize(images=images, canvases=3, threads=2)
        measured = Pretended(kept=[LATE, SOON])
        costs = costs_of(found, model, job, PLAIN, measurement=measured)
        assert first_done(list(zip(found, costs, strict=True)), job)[0].name == names
        assert measured.took == 0


@pytest.mark.parametrize(("slower", "name"), [(0.99, "onnxruntime"), (1.01, "openvino")])
def test_of_two_that_end_together_the_one_that_starts_first(two, slower, name):
    _, found = two
    job = JobSize(images=10_000, canvases=1)
    soon = Cost(load_s=0.0, canvas_s=0.0, image_s=LATE.of(job) * NEARLY * slower / 10_000)
    assert first_done(list(zip(found, [LATE, soon], strict=True)), job)[0].name == name


def test_a_long_job_is_measured_and_a_short_one_is_not(two):
    model, found = two
    cost = assumed_cost(*found[1], model, 2, PLAIN)
    for images, took in ((int(0.5 * WORTH_S / cost.image_s), 0), (None, 1)):
        measured = Pretended(taken=[LATE, SOON])
        job = JobSize(images=images, canvases=1, threads=2)
        costs = costs_of(found, model, job, PLAIN, measurement=measured)
        assert measured.took == took
        assert (costs == [LATE, SOON]) == bool(took)


def test_what_cannot_be_measured_is_assumed(two):
    model, found = two
    job = JobSize(canvases=7, threads=2)
    costs = costs_of(found, model, job, PLAIN, measurement=Pretended())
    assert costs == [assumed_cost(*one, model, 2, PLAIN) for one in found]


def test_assumptions_know_what_the_cpu_can_do(two):
    model, _ = two

    def name(images, flags):
        job = JobSize(images=images, canvases=7, threads=2)
        both = candidates("auto", model, "cpu", flags)
        costs = [assumed_cost(*one, model, 2, flags) for one in both]
        return first_done(list(zip(both, costs, strict=True)), job)[0].name

    assert name(10, AMX) == "onnxruntime", "compiling takes longer than all of it"
    assert name(5_000, AMX) == "openvino"
    assert name(5_000, PLAIN) == "onnxruntime", "as fast, and in less memory"


def test_pytorch_is_a_choice_only_where_there_is_no_other(monkeypatch):
    model = model_of("pt")
    names = [entry.name for entry, _ in candidates("auto", model, "cpu", PLAIN)]
    assert "torch" not in names and names
    monkeypatch.setattr("brimful.runtimes.registry.installed", lambda module: module == "torch")
    assert [entry.name for entry, _ in candidates("auto", model, "cpu", PLAIN)] == ["torch"]


def test_an_unknown_runtime():
    with pytest.raises(UsageError, match="'tensorflow' is unknown"):
        choose("tensorflow", "auto", model_of("pt"), "cpu")
