"""Model files of every kind against the checkpoint they came from, and ours against Ultralytics."""

import copy

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from brimful.errors import ModelError
from brimful.models.export import write_onnx
from brimful.models.model import ModelOptions, open_model
from brimful.models.signature import SpecOverrides
from brimful.runtimes.registry import load_runtime
from brimful.runtimes.runtime import RuntimeOptions
from loading import load
from model_files import exported, opened, outputs_of, saved, scratch, ultralytics_export
from oracles import asset, pair_detections, reference_predict, shared

SIDE = 320


def photos():
    bus, zidane = (cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg"))
    return [bus, zidane, bus[100:433, 200:701]]


def detect(path, images, **options):
    with load(path, **options) as engine:
        return list(engine.predict(images)), engine.spec


def judge(ours, reference, least=8):
    report = pair_detections(ours, reference)
    assert report.reference >= least
    assert report.ok, report


# Ultralytics' own exports, read by us ------------------------------------------------------------

ONNX = ("onnxruntime", "openvino")
EXPORTS = [
    # checkpoint, tag, export options, how the checkpoint itself predicts, runtimes
    ("yolov8n-coco", "dynamic", {"format": "onnx", "dynamic": True}, None, ONNX),
    ("yolov8n-coco", "static", {"format": "onnx"}, None, ONNX),
    ("yolov8n-coco", "batch4", {"format": "onnx", "batch": 4}, None, ONNX),
    ("yolov8n-coco", "nms", {"format": "onnx", "nms": True}, None, ONNX),
    ("yolov8n-coco", "openvino", {"format": "openvino"}, None, ("openvino",)),
    ("yolov8n-coco", "torchscript", {"format": "torchscript"}, None, ("torchscript",)),
    ("yolo26n-coco", "dynamic", {"format": "onnx", "dynamic": True, "nms": False}, False, ONNX),
    (
        "yolo26n-coco",
        "openvino",
        {"format": "openvino", "nms": False, "dynamic": True},
        False,
        ("openvino",),
    ),
    ("yolo26n-coco", "script", {"format": "torchscript", "nms": False}, False, ("torchscript",)),
]


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize(
    ("name", "tag", "options", "nms", "runtimes"), EXPORTS, ids=lambda value: str(value)[:24]
)
def test_exports_of_ultralytics(name, tag, options, nms, runtimes):
    checkpoint = shared("models", f"{name}.pt")
    path = ultralytics_export(checkpoint, tag, imgsz=SIDE, **options)
    dynamic = options.get("dynamic", False)
    images = photos()
    reference = reference_predict(str(checkpoint), images, imgsz=SIDE, rect=dynamic, nms=nms)
    for runtime in runtimes:
        canvas = "exact" if dynamic else "auto"
        ours, spec = detect(path, images, runtime=runtime, canvas=canvas)
        judge(ours, reference)
        assert spec.fixed_size == (None if dynamic else (SIDE, SIDE))
        assert spec.imgsz == (SIDE, SIDE)
        assert all(d.canvas == (SIDE, SIDE) for d in ours) != dynamic


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options", "nms"),
    [
        ("yolo11n-seg.yaml", {"nms": True}, None),
        ("yolo11n-obb.yaml", {"nms": True}, None),
        ("yolo26n-pose.yaml", {"nms": False}, False),
        ("yolov8n-cls.yaml", {}, None),
    ],
)
def test_exports_of_other_tasks(name, options, nms):
    side = 224 if "cls" in name else SIDE
    checkpoint = saved(name)
    path = ultralytics_export(checkpoint, "static", imgsz=side, format="onnx", **options)
    images = photos()
    reference = reference_predict(
        str(checkpoint), images, imgsz=side, rect=False, nms=nms, max_det=40
    )
    for runtime in ONNX:
        ours, _ = detect(path, images, runtime=runtime, max_det=40)
        judge(ours, reference, least=3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "batch", "runtimes"),
    [("onnx", 1, ONNX), ("onnx", 2, ONNX), ("openvino", 1, ("openvino",))],
)
def test_nms_inside_serves_every_image_of_a_batch(kind, batch, runtimes):
    """Its batch axis takes any number, and only as many images as at the export get NMS."""
    checkpoint = shared("models", "yolov8n-coco.pt")
    options = {"format": kind, "dynamic": True, "nms": True, "batch": batch}
    path = ultralytics_export(checkpoint, f"dynamic-nms-{batch}", imgsz=SIDE, **options)
    bus = photos()[0]
    for runtime in runtimes:
        ours, spec = detect(path, [bus] * 5, runtime=runtime, batch=5)
        assert len(ours[0]) >= 3
        assert [len(d) for d in ours] == [len(ours[0])] * 5
        assert spec.fixed_batch == batch


@pytest.mark.parametrize("runtime", ONNX)
def test_a_half_precision_input(runtime, tmp_path):
    """A pixel's level rounds to 11 bits: far less than the 8 bits it has."""
    path = exported(shared("models", "yolov8n-coco.pt"))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.node.insert(
        0, onnx.helper.make_node("Cast", ["images"], ["pixels"], to=onnx.TensorProto.FLOAT)
    )
    for node in list(model.graph.node)[1:]:
        for i, name in enumerate(node.input):
            if name == "images":
                node.input[i] = "pixels"
    onnx.save(model, tmp_path / "half.onnx")
    full, _ = detect(path, photos(), runtime=runtime, imgsz=SIDE)
    half, _ = detect(tmp_path / "half.onnx", photos(), runtime=runtime, imgsz=SIDE)
    judge(half, full)


# Our own export ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nms"), [("yolo26n-coco", None), ("yolo26n-coco", True), ("yolov8n-coco", None)]
)
def test_ultralytics_reads_ours(name, nms):
    checkpoint = shared("models", f"{name}.pt")
    path = exported(checkpoint, nms=nms)
    images = photos()
    theirs = reference_predict(
        str(path), images, imgsz=SIDE, rect=False, nms=False if not nms else None
    )
    ours, _ = detect(path, images, runtime="onnxruntime", imgsz=SIDE, canvas="square")
    judge(ours, theirs)
    assert ours[0].names == theirs[0].names


@pytest.mark.parametrize("name", ["yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolov8n-cls"])
def test_export_keeps_the_model(name):
    """The specification survives the file, and the outputs of every size and batch agree."""
    import torch

    loaded = opened(saved(f"{name}.yaml"))
    path = exported(saved(f"{name}.yaml"))
    model = open_model(path)
    for runtime in ONNX:
        found = load_runtime(runtime, model, RuntimeOptions())
        assert found.spec == loaded.spec
        found.close()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(3)
    for shape in ((1, 3, 224, 224), (3, 3, 160, 320)):
        images = torch.rand(shape, generator=generator)
        if loaded.spec.task == "classify" and shape[2:] != (224, 224):
            continue
        with torch.inference_mode():
            direct = loaded.network(images)
        direct = direct if isinstance(direct, tuple | list) else (direct,)
        outputs = session.run(None, {"images": images.numpy()})
        for own, ref in zip(outputs, direct, strict=True):
            assert own.shape == tuple(ref.shape)
            if own.ndim == 3:
                own, ref = own[:, :, None], ref[:, None]  # near ties may have swapped rows
            # other kernels round otherwise, and a random network amplifies that: 0.05 px was seen
            far = np.abs(own - ref.numpy()) > 0.2 + 1e-3 * np.abs(own)
            if own.ndim == 4 and own.shape[2] == 1:
                far = far.any(axis=-1).all(axis=2)
            # 1.7 % of rows were seen beyond that; a graph that is wrong leaves hardly any within
            assert far.mean() < 0.05


@pytest.mark.parametrize("size", [(32, 320), (64, 64), (32, 32)], ids=str)
def test_fewer_anchors_than_rows(size):
    """A canvas of fewer anchors than the head returns rows: as many rows as anchors."""
    import torch

    path = saved("yolo26n.yaml")
    session = onnxruntime.InferenceSession(exported(path), providers=["CPUExecutionProvider"])
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    (rows,) = session.run(None, {"images": images.numpy()})
    swapped = session.run(None, {"images": images.numpy()[:, ::-1]})[0]
    anchors = sum(size[0] // s * (size[1] // s) for s in (8, 16, 32))
    assert rows.shape == (2, anchors, 6)
    loaded = opened(path)
    with torch.inference_mode():
        exact = copy.deepcopy(loaded.network).double()(images.double()).numpy()
    # float32's rounding, amplified by a random network, moved scores by up to 1e-4; swapped
    # channels move them by 0.05 or more
    assert np.abs(rows[..., 4] - exact[..., 4]).max() < 2e-3
    assert np.abs(swapped[..., 4] - exact[..., 4]).max() > 2e-2
    for runtime in ("openvino", "torch"):
        image = (images[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8)
        (ours,), _ = detect(
            path, [image], runtime=runtime, imgsz=size, canvas=f"{size[0]}x{size[1]}", conf=0.0
        )
        assert ours.error is None
        assert len(ours) == anchors


def test_half_weights(tmp_path):
    """Weights rounded to 11 bits: 2^-12 relative each, which moves boxes by hundredths of a pixel.

    The bound is ten times what rounding moved when it was measured, and a fiftieth of the smallest
    box side that is told apart.
    """
    checkpoint = opened(shared("models", "yolov8n-coco.pt"))
    full = exported(shared("models", "yolov8n-coco.pt"))
    small = tmp_path / "half.onnx"
    write_onnx(checkpoint, small, half_weights=True)
    assert 0.48 < small.stat().st_size / full.stat().st_size < 0.56
    photo = cv2.resize(cv2.imread(str(asset("bus.jpg"))), (256, 320))
    images = photo[None, ..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)
    outputs = []
    for path in (full, small):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {"images": np.ascontiguousarray(images)})
        outputs.append(out[0])
    sure = outputs[0][4:].max(axis=0) > 0.25
    assert sure.sum() >= 10
    gap = np.abs(outputs[0] - outputs[1])[:, sure]
    print(f"boxes {gap[:4].max():.4f} px, scores {gap[4:].max():.5f}")
    assert gap[:4].max() < 0.5
    assert gap[4:].max() < 0.01
    assert gap.max() > 0  # the weights are not those of the full file
    ours, spec = detect(small, photos(), runtime="openvino", imgsz=SIDE)
    assert spec.classes == 80
    assert sum(map(len, ours)) >= 8


# Files that say little, or can do little ----------------------------------------------------------


@pytest.fixture(scope="module")
def bare():
    """Return our export without any metadata."""
    path = scratch() / "bare.onnx"
    model = onnx.load(exported(saved("yolo26n.yaml")))
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", ONNX)
def test_a_file_without_metadata(bare, runtime):
    with pytest.raises(ModelError, match="--task and --names") as refusal:
        load(bare, runtime=runtime)
    assert "bare.onnx" in str(refusal.value)
    images = photos()[:1]
    told, spec = detect(bare, images, runtime=runtime, task="detect", names=list("abcde"))
    assert (spec.head, spec.imgsz) == ("nms_free", (640, 640))
    known, _ = detect(exported(saved("yolo26n.yaml")), images, runtime=runtime)
    assert np.array_equal(told[0].boxes, known[0].boxes)
    assert told[0].names == tuple("abcde")
    with pytest.raises(ModelError, match="number of --names"):
        load(exported(saved("yolov8n.yaml")), runtime=runtime, names=["one", "two"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", ONNX)
def test_a_static_batch(runtime):
    """Batch 4 runs as 4, whatever is left in the tail, and 5 images come out as 5."""
    checkpoint = shared("models", "yolov8n-coco.pt")
    path = ultralytics_export(checkpoint, "batch4", imgsz=SIDE, format="onnx", batch=4)
    images = [*photos(), photos()[1][:, ::-1], photos()[0][::2, ::2]]
    ours, spec = detect(path, images, runtime=runtime)
    assert spec.fixed_batch == 4
    reference = reference_predict(str(checkpoint), images, imgsz=SIDE, rect=False)
    judge(ours, reference)
    one, _ = detect(path, images[:1], runtime=runtime)
    assert pair_detections(one, ours[:1], iou=0.9999, score=1e-5).ok

    loaded = load_runtime(runtime, open_model(path), RuntimeOptions(max_batch=16))
    assert loaded.max_batch == 4
    slot = loaded.allocate((SIDE, SIDE), capacity=9)
    assert slot.capacity == 4
    rng = np.random.default_rng(0)
    high = 256 if slot.inputs.dtype == np.uint8 else 2
    slot.inputs[0] = rng.integers(0, high, slot.inputs[0].shape)
    clean = outputs_of(loaded, slot, 1)[0][0].copy()
    slot.inputs[1:] = np.nan if slot.inputs.dtype == np.float32 else 255
    poisoned = outputs_of(loaded, slot, 1)[0]
    assert np.array_equal(clean, poisoned[0])
    loaded.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", ONNX)
def test_a_static_size(runtime):
    checkpoint = shared("models", "yolov8n-coco.pt")
    path = ultralytics_export(checkpoint, "oblong", imgsz=(192, 320), format="onnx")
    images = photos()
    ours, spec = detect(path, images, runtime=runtime)
    assert spec.fixed_size == (192, 320)
    assert {d.canvas for d in ours} == {(192, 320)}
    judge(ours, reference_predict(str(checkpoint), images, imgsz=(192, 320), rect=False), least=4)


def test_a_named_openvino_file(tmp_path):
    """Of several networks in a folder the one that was named is taken."""
    import openvino

    for name in ("a", "b"):
        model = openvino.convert_model(
            exported(saved(f"yolov8n{'-cls' if name == 'a' else ''}.yaml"))
        )
        openvino.save_model(model, tmp_path / f"{name}.xml", compress_to_fp16=False)
    names = SpecOverrides(task="detect", names=tuple("abcde"))
    runtime = load_runtime(
        "openvino", open_model(tmp_path / "b.xml", ModelOptions(overrides=names)), RuntimeOptions()
    )
    assert runtime.spec.head == "raw"
    runtime.close()


@pytest.mark.parametrize("runtime", ONNX)
def test_a_broken_file(runtime, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be"):
        load(tmp_path / "broken.onnx", runtime=runtime)


def test_an_input_that_is_not_pixels(tmp_path):
    port = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [1, 3, 32, 32])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1, 84, 21])
    value = onnx.numpy_helper.from_array(np.zeros((1, 84, 21), np.int64))
    nodes = [
        onnx.helper.make_node("Constant", [], ["y"], value=value),
        onnx.helper.make_node("Identity", ["x"], ["z"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [port], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "ids.onnx")
    with pytest.raises(ModelError, match="float32 or float16 pixels"):
        load(
            tmp_path / "ids.onnx",
            runtime="onnxruntime",
            task="detect",
            names=[str(i) for i in range(80)],
        )
