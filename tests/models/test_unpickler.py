"""The restricted unpickler: every real checkpoint is read, and nothing in a file is ever run.

Each attack below is first shown to be live: the ordinary pure-Python unpickler runs it.
"""

import io
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from brimful.errors import ModelError
from brimful.models.checkpoint import load_checkpoint, read_network
from brimful.models.signature import SpecOverrides
from model_files import scratch
from shared_files import shared

YAMLS = [
    "yolo26n.yaml",
    "yolo26n-seg.yaml",
    "yolo26n-pose.yaml",
    "yolo26n-obb.yaml",
    "yolo26n-cls.yaml",
    "yolo11n.yaml",
    "yolo11n-seg.yaml",
    "yolov8n.yaml",
    "yolov8n-pose.yaml",
    "yolov5n.yaml",
]


def same_weights(ours, reference):
    expected = reference.float().state_dict()
    found = ours.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", YAMLS)
def test_fresh_checkpoints(name, tmp_path):
    from ultralytics import YOLO

    yolo = YOLO(name)
    yolo.save(tmp_path / "model.pt")
    same_weights(read_network(tmp_path / "model.pt", trust=False), yolo.model.half())


@pytest.mark.parametrize("name", ["yolo26n-coco.pt", "yolov8n-coco.pt"])
def test_real_checkpoints(name):
    from ultralytics import YOLO

    path = shared("models", name)
    same_weights(read_network(path, trust=False), YOLO(path).model)


def test_interrupted_training(tmp_path):
    """Only the end of a training strips loss and settings; before that both are in the file."""
    from ultralytics import YOLO
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8DetectionLoss

    network = YOLO("yolov8n.yaml").model
    network.args = IterableSimpleNamespace(
        box=7.5, cls=0.5, dfl=1.5, task="detect", imgsz=320, project=Path("runs/a"), single_cls=None
    )
    network.criterion = v8DetectionLoss(network)
    network.class_weights = {0, 1}
    checkpoint = {
        "epoch": 1,
        "best_fitness": np.float64(0.25),
        "model": None,
        "ema": network.half(),
        "updates": 3,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "train_args": {"save_dir": Path("/data/runs/a")},
        "train_metrics": {"mAP": np.float32(1)},
    }
    torch.save(checkpoint, tmp_path / "epoch1.pt")
    loaded = load_checkpoint(
        tmp_path / "epoch1.pt", nms=None, overrides=SpecOverrides(), trust=False
    )
    assert loaded.spec.task == "detect"
    assert loaded.spec.imgsz == (320, 320)


# How a pickle is written by hand ----------------------------------------------------------------


def text(value):
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def name(module, attribute):
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + pickle.STACK_GLOBAL


def call(function, *arguments):
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def argument(value):
    return pickle.MARK + value + pickle.TUPLE


def dictionary(**items):
    return pickle.EMPTY_DICT + b"".join(text(k) + v + pickle.SETITEM for k, v in items.items())


def build(target, **state):
    return target + dictionary(**state) + pickle.BUILD


def program(*parts):
    return pickle.PROTO + b"\x02" + b"".join(parts) + pickle.STOP


def infected(payload, path):
    """Write a checkpoint with another pickle in it, all else as torch.save wrote it."""
    donor = scratch() / "donor.pt"
    if not donor.exists():
        torch.save({"model": torch.zeros(4)}, donor)
    with zipfile.ZipFile(donor) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            body = payload if item.filename.endswith("/data.pkl") else source.read(item)
            target.writestr(item.filename, body)
    return path


EVIL = "ultralytics.nn.tasks", "DetectionModel"
CLASS = name(*EVIL)
LAYER = name("torch.nn.modules.linear", "Identity")
SPACE = name("types", "SimpleNamespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
ORDERED = call(name("collections", "OrderedDict"))
# what the constructor of a network would evaluate, in some releases of Ultralytics
CONFIG = dictionary(activation=text("print('evaluated')"), nc=pickle.BININT1 + b"\x01")


def attacks(flag):
    """Return what each attack's refusal must name, and its pickle.

    All of them make the file `flag`, or call the constructor of DetectionModel, if they can.
    """
    touch = text(f"touch '{flag}'")
    code = text(f"open({str(flag)!r}, 'w').close()")
    constructor = "DetectionModel"
    items = pickle.MARK + CONFIG
    return {
        "system": ("os.system", call(name("os", "system"), touch)),
        "posix": ("posix.system", call(name("posix", "system"), touch)),
        "eval": ("builtins.eval", call(name("builtins", "eval"), code)),
        "exec": ("builtins.exec", call(name("builtins", "exec"), code)),
        "python 2": ("builtins.eval", call(name("__builtin__", "eval"), code)),
        "dotted": (
            "torch.serialization.os.system",
            pickle.PROTO + b"\x04" + call(stack_name("torch.serialization", "os.system"), touch),
        ),
        "dotted from an allowed module": (
            "torch.nn.modules.module.inspect.os.system",
            pickle.PROTO
            + b"\x04"
            + call(stack_name("torch.nn.modules.module", "inspect.os.system"), touch),
        ),
        "a name with Storage in it": (
            "systemStorage",
            call(name("os", "systemStorage"), touch) + call(name("os", "system"), touch),
        ),
        "constructor": (constructor, call(CLASS, CONFIG)),
        "constructor, protocol 4": (
            constructor,
            pickle.PROTO + b"\x04" + call(stack_name(*EVIL), CONFIG),
        ),
        "constructor without arguments": (constructor, call(CLASS)),
        "reconstructor": (
            "_reconstructor",
            call(name("copyreg", "_reconstructor"), CLASS, CLASS, CONFIG),
        ),
        "INST": (
            constructor,
            pickle.MARK + CONFIG + pickle.INST + "\n".join(EVIL).encode() + b"\n",
        ),
        "OBJ": (constructor, pickle.MARK + CLASS + CONFIG + pickle.OBJ),
        "planted __setstate__": (
            "__setstate__",
            build(SPACE, __setstate__=CLASS) + CONFIG + pickle.BUILD,
        ),
        "planted __setstate__ of a layer": (
            "__setstate__",
            build(LAYER + pickle.EMPTY_TUPLE + pickle.NEWOBJ, __setstate__=CLASS)
            + CONFIG
            + pickle.BUILD,
        ),
        "planted __new__": (
            "__new__",
            build(ORDERED, __new__=CLASS) + pickle.EMPTY_TUPLE + pickle.NEWOBJ,
        ),
        "planted __new__ with arguments": (
            "__new__",
            build(SPACE, __new__=CLASS) + argument(CONFIG) + pickle.NEWOBJ,
        ),
        "NEWOBJ_EX": (
            "__new__",
            build(ORDERED, __new__=CLASS)
            + pickle.EMPTY_TUPLE
            + pickle.EMPTY_DICT
            + pickle.NEWOBJ_EX,
        ),
        "planted append": ("SimpleNamespace", build(SPACE, append=CLASS) + CONFIG + pickle.APPEND),
        "planted extend": ("SimpleNamespace", build(SPACE, extend=CLASS) + items + pickle.APPENDS),
        "planted add": ("SimpleNamespace", build(SPACE, add=CLASS) + items + pickle.ADDITEMS),
    }


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Return (flag, sprung): a path to be made, and whether it or the constructor was reached."""
    from ultralytics.nn import tasks

    calls = []
    monkeypatch.setattr(tasks.DetectionModel, "__init__", lambda self, *_: calls.append(self))
    flag = tmp_path / "flag"

    def sprung():
        found = flag.exists() or bool(calls)
        flag.unlink(missing_ok=True)
        calls.clear()
        return found

    return flag, sprung


@pytest.mark.parametrize("attack", sorted(attacks("flag")))
def test_attacks_are_refused(attack, trap, tmp_path):
    flag, sprung = trap
    named, payload = attacks(flag)[attack]
    payload = program(payload)
    if attack != "a name with Storage in it":  # names what does not exist
        with suppress(Exception):
            pickle._Unpickler(io.BytesIO(payload)).load()
        assert sprung(), "the attack is a dud"
    with pytest.raises(ModelError, match="--trust-model") as refusal:
        read_network(infected(payload, tmp_path / "evil.pt"), trust=False)
    assert named in str(refusal.value)
    assert not sprung()


def test_trust_reads_anything(trap, tmp_path):
    flag, sprung = trap
    payload = program(attacks(flag)["system"][1])
    path = infected(payload, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"os\.system"):
        read_network(path, trust=False)
    assert not sprung()
    with pytest.raises(ModelError, match="holds no YOLO network"):
        read_network(path, trust=True)
    assert sprung()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (pickle.EXT1 + b"\x01", "extension 1"),
        (pickle.PERSID + b"0\n", "PERSID"),
        (ORDERED + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.NEWOBJ_EX, "NEWOBJ_EX"),
        (ORDERED + pickle.EMPTY_TUPLE + pickle.NEWOBJ, "OrderedDict (instantiated)"),
        (CLASS + argument(CONFIG) + pickle.NEWOBJ, "DetectionModel (made with arguments"),
        (text("0") + pickle.BINPERSID, "persistent id"),
        (pickle.MARK + text("module") + CLASS + pickle.TUPLE + pickle.BINPERSID, "persistent id"),
        (build(CLASS, label=text("x")), "attributes on a ultralytics.nn.tasks.DetectionModel"),
        (LAYER + pickle.MARK + text("x") + pickle.TUPLE + pickle.NEWOBJ, "Identity"),
        (SPACE + pickle.NONE + dictionary(x=CLASS) + pickle.TUPLE2 + pickle.BUILD, "no mapping"),
        (SPACE + text("key") + text("value") + pickle.SETITEM, "items in a SimpleNamespace"),
        (name("torch.hub", "load"), "torch.hub.load"),
        (name("torch", "load"), "torch.load"),
        (name("torch", "Tensor"), "torch.Tensor"),
        (name("builtins", "getattr"), "builtins.getattr"),
        (name("torch.nn.modules.module", "register_module_forward_hook"), "forward_hook"),
        (name("ultralytics.nn.tasks", "parse_model"), "parse_model"),
        (name("ultralytics.nn.tasks", "torch_safe_load"), "torch_safe_load"),
        (name("torch.utils.data", "DataLoader"), "DataLoader"),
    ],
    ids=str,
)
def test_what_no_checkpoint_has(payload, named, tmp_path):
    path = infected(program(payload), tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="--trust-model") as refusal:
        read_network(path, trust=False)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        # a dtype whose state says that pointers are plain bytes makes NumPy follow them
        (call(name("numpy", "dtype"), text("O")), "'O'"),
        (call(name("numpy", "dtype"), text("i4,O")), "'i4,O'"),
        (call(name("_codecs", "encode"), text("x"), text("zlib")), "'zlib'"),
        (call(name("torch", "device"), CONFIG), "torch.device"),
        (call(name("builtins", "set"), SPACE), "SimpleNamespace"),
        (
            call(
                name("torch._utils", "_rebuild_tensor_v2"),
                build(SPACE, dtype=name("torch", "float32"), _untyped_storage=CLASS),
                *[pickle.BININT1 + b"\0", pickle.EMPTY_TUPLE, pickle.EMPTY_TUPLE],
            ),
            "SimpleNamespace",
        ),
        (
            call(name("torch._utils", "_rebuild_parameter"), build(SPACE, detach=CLASS)),
            "SimpleNamespace",
        ),
    ],
    ids=str,
)
def test_calls_check_their_arguments(payload, named, tmp_path):
    path = infected(program(payload), tmp_path / "evil.pt")
    with pytest.raises(ModelError) as refusal:
        read_network(path, trust=False)
    assert named in str(refusal.value)


def test_nothing_of_the_files_choosing_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("payload", "torch_nn", "ultralytics_extra"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'flag')!r}, 'w')")
    for module in ("payload", "torch_nn", "ultralytics_extra"):
        path = infected(program(name(module, "Thing")), tmp_path / "evil.pt")
        with pytest.raises(ModelError, match=f"{module}.Thing"):
            read_network(path, trust=False)
    assert not (tmp_path / "flag").exists()


def test_a_storage_larger_than_its_record(tmp_path):
    """The pickle's word on a length must not make torch read past the record's end."""
    torch.save({"model": torch.zeros(4)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        honest = archive.read("model/data.pkl")
    four, many = pickle.BININT1 + b"\x04", pickle.BININT + struct.pack("<i", 1 << 20)
    payload = honest.replace(four, many)
    assert payload.count(many) == 2
    with pytest.raises(ModelError, match=r"is damaged: its storage '0' has 1048576 numbers .* 16 "):
        read_network(infected(payload, tmp_path / "evil.pt"), trust=False)
    # torch 2.6 reads memory that is not the file's here
    with pytest.raises(ModelError, match=r"is damaged: its storage .* and its record has"):
        read_network(shared("hostile", "storage-larger-than-record.pt"), trust=False)
