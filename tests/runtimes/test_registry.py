"""Which runtime is taken, and that nothing else is ever taken in silence."""

import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from brimful.cpus import available_cpus
from brimful.errors import MissingExtraError, ModelError, UsageError
from brimful.models.model import open_model
from brimful.runtimes import registry
from brimful.runtimes.registry import NAMES, RUNTIMES, load_runtime
from brimful.runtimes.runtime import RuntimeOptions
from loading import load
from model_files import exported, saved

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def path_of(kind):
    if kind == "torchscript":
        return Path("model.torchscript")
    return exported(saved("yolov8n.yaml")) if kind == "onnx" else saved("yolov8n.yaml")


def model_of(kind):
    from brimful.models.model import Model, ModelOptions

    if kind in ("torchscript", "openvino"):  # never opened by these tests
        return Model(Path(f"model.{kind}"), kind, ModelOptions())
    return open_model(path_of(kind))


def without(monkeypatch, *missing):
    """Pretend that modules are not installed."""
    from brimful.extras import installed

    def pretend(module):
        return module not in missing and installed(module)

    monkeypatch.setattr("brimful.extras.installed", pretend)
    monkeypatch.setattr(registry, "installed", pretend)


def test_unknown_runtime_lists_the_known():
    with pytest.raises(UsageError, match="'tensorflow' is unknown") as refusal:
        load_runtime("tensorflow", model_of("pt"), RuntimeOptions())
    assert all(name in str(refusal.value) for name in ("auto", *NAMES))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "debug"] + ["auto"])
def test_no_model(name):
    with pytest.raises(UsageError, match="--model"):
        load_runtime(name, None, RuntimeOptions())


def test_debug_needs_none():
    runtime = load_runtime("debug", None, RuntimeOptions())
    assert runtime.describe()["runtime"] == "debug"
    runtime.close()


@pytest.mark.parametrize(
    ("name", "kind", "takers"),
    [
        ("onnxruntime", "torchscript", ["torchscript"]),
        ("onnxruntime", "openvino", ["openvino"]),
        ("openvino", "torchscript", ["torchscript"]),
        ("torch", "onnx", ["openvino", "onnxruntime"]),
        ("torchscript", "pt", ["openvino", "onnxruntime", "torch"]),
    ],
)
def test_a_model_it_does_not_take(name, kind, takers):
    with pytest.raises(UsageError, match=f"the {name} runtime takes") as refusal:
        load_runtime(name, model_of(kind), RuntimeOptions())
    told = str(refusal.value).split("; use ")[1].split(" or ")
    assert told == [f"runtime={taker}" for taker in takers]


@pytest.mark.parametrize(
    ("kind", "missing", "expected"),
    [
        ("pt", (), "onnxruntime"),
        ("onnx", (), "onnxruntime"),
        ("pt", ("onnxruntime",), "openvino"),
        ("pt", ("openvino",), "onnxruntime"),
        ("onnx", ("openvino", "torch"), "onnxruntime"),
        ("pt", ("openvino", "onnxruntime"), "torch"),
    ],
)
def test_auto_takes_what_is_there_and_says_which(kind, missing, expected, monkeypatch):
    """For a single image; tests/runtimes/test_choice.py has longer jobs."""
    without(monkeypatch, *missing)
    with load(path_of(kind)) as engine:
        assert engine.describe()["runtime"] == expected


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("torchscript", {}, "torchscript"),
        ("openvino", {}, "openvino"),
        ("pt", {"device": "cuda"}, "torch"),
        ("pt", {"precision": "bf16"}, "openvino"),
        ("torchscript", {"device": "cuda:1"}, "torchscript"),
        ("onnx", {"device": "cuda:1"}, "onnxruntime"),
        ("onnx", {"device": "cuda", "precision": "fp16"}, "onnxruntime"),
        ("pt", {"device": "cuda", "precision": "fp16"}, "torch"),
    ],
)
def test_auto_by_format_device_and_precision(kind, options, expected):
    options = RuntimeOptions(**options)
    entry = registry._pick(model_of(kind), options)
    assert entry.name == expected
    assert options.device.partition(":")[0] in entry.devices


@pytest.mark.parametrize(
    ("kind", "device", "taken"),
    [
        ("onnx", "cpu", "cpu"),
        ("pt", "cpu", "cpu"),
        ("onnx", "cuda:3", "cuda"),
        ("pt", "cuda", "cuda"),
    ],
)
def test_a_runtime_by_name_is_that_of_the_device(kind, device, taken):
    entry = registry.named_entry("onnxruntime", model_of(kind), device)
    assert entry.devices == (taken,)


@pytest.mark.parametrize(("name", "kind"), [("auto", "onnx"), ("onnxruntime", "pt")])
@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_onnxruntime_on_cuda_needs_torch(name, kind, missing, monkeypatch):
    without(monkeypatch, missing)
    with pytest.raises(MissingExtraError, match="onnxruntime runtime on CUDA") as refusal:
        load_runtime(name, model_of(kind), RuntimeOptions(device="cuda"))
    assert repr(missing) in str(refusal.value)


@CPU_ONLY
@pytest.mark.parametrize(
    ("name", "kind", "keeps"),
    [
        ("auto", "onnx", True),
        ("onnxruntime", "pt", True),
        ("auto", "pt", True),
        ("auto", "torchscript", False),
    ],
)
def test_who_keeps_a_budget(name, kind, keeps):
    """Who does gets as far as looking for the device."""
    options = RuntimeOptions(device="cuda", memory=2**30)
    with pytest.raises(UsageError) as refusal:
        load_runtime(name, model_of(kind), options)
    assert ("gpu_mem is kept" in str(refusal.value)) != keeps


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("onnx", {"device": "cuda", "precision": "bf16"}),
        ("torchscript", {"precision": "bf16"}),
        ("pt", {"device": "tpu"}),
        ("openvino", {"device": "cuda"}),
    ],
)
def test_auto_with_nothing_that_fits(kind, options):
    with pytest.raises(UsageError, match="no runtime takes"):
        load_runtime("auto", model_of(kind), RuntimeOptions(**options))


@pytest.mark.parametrize("entry", RUNTIMES, ids=lambda entry: entry.extra)
def test_a_missing_library_gives_the_install_line(entry, monkeypatch):
    without(monkeypatch, entry.module)
    with pytest.raises(MissingExtraError) as refusal:
        options = RuntimeOptions(device=entry.devices[0])
        load_runtime(entry.name, model_of(entry.formats[0]), options)
    assert f"pip install 'brimful[{entry.extra}]'" in str(refusal.value)
    assert repr(entry.module) in str(refusal.value)


def test_auto_with_nothing_installed(monkeypatch):
    without(monkeypatch, *(entry.module for entry in RUNTIMES))
    with pytest.raises(MissingExtraError, match=r"pip install 'brimful\[openvino\]'"):
        load_runtime("auto", model_of("pt"), RuntimeOptions())


def test_every_install_line_exists():
    """pip only warns of an extra that a package does not have, and installs nothing."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for entry in RUNTIMES:
        assert entry.extra in extras
        listed = " ".join(extras[entry.extra])
        assert entry.module in listed


@CPU_ONLY
@pytest.mark.parametrize(
    ("name", "kind", "there"),
    [
        ("onnxruntime", "onnx", "CPUExecutionProvider"),
        ("auto", "onnx", "CPUExecutionProvider"),
        ("onnxruntime", "pt", "CPUExecutionProvider"),
        ("openvino", "onnx", "device=cpu"),
        ("torch", "pt", "finds no CUDA device"),
        ("auto", "pt", "finds no CUDA device"),
    ],
)
def test_cuda_is_never_replaced_by_the_cpu(name, kind, there):
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=there) as refusal:
            load(path_of(kind), runtime=name, device=device)
        assert repr(device) in str(refusal.value)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:99", "cuda:x", "cuda:", "cuda:-1"])
def test_a_cuda_device_that_is_not_there(device, monkeypatch):
    from brimful.runtimes.torch_eager import cuda_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(cuda_device(torch, "cuda:1")) == "cuda:1"
    with pytest.raises(UsageError, match=f"device {device!r}"):
        cuda_device(torch, device)


@pytest.mark.parametrize("device", ["gpu", "mps", "cudax", ""])
def test_unknown_devices(device):
    for name in ("onnxruntime", "openvino", "torch", "auto"):
        with pytest.raises(UsageError):
            load(saved("yolov8n.yaml"), runtime=name, device=device)


@pytest.mark.parametrize(
    ("name", "precision", "there"),
    [
        ("onnxruntime", "bf16", "use fp32"),
        ("onnxruntime", "fp16", "use fp32"),
        ("torch", "fp16", "use bf16"),
        ("debug", "bf16", "only fp32"),
    ],
)
def test_a_precision_it_does_not_have(name, precision, there):
    with pytest.raises(UsageError, match=there) as refusal:
        load(saved("yolov8n.yaml"), runtime=name, precision=precision)
    assert repr(precision) in str(refusal.value)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_this_cpu_does_not_have(precision, monkeypatch):
    from brimful.runtimes import openvino

    options = RuntimeOptions(precision=precision)
    openvino._check(options, ["FP32", precision.upper()])
    with pytest.raises(UsageError, match="it has FP32, INT8"):
        openvino._check(options, ["FP32", "INT8"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp64"}, "expected one of fp32, bf16, fp16"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"max_batch": 0}, "batch must be at least 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        RuntimeOptions(**options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not json", "no JSON"),
        ("[1, 2]", "keys and values"),
        ('{"task": "detect"}', "--names"),
        ('{"task": 5}', "'task'"),
    ],
)
def test_torchscript_metadata_is_checked(config, message, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(torch.nn.Identity())
        torch.jit.save(script, str(tmp_path / "m.torchscript"), _extra_files={"config.txt": config})
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "m.torchscript")


def test_torchscript_that_is_none(tmp_path):
    (tmp_path / "m.torchscript").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="cannot be read as TorchScript"):
        load(tmp_path / "m.torchscript")


def test_cpus():
    assert available_cpus() >= 1
