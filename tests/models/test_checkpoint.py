"""From a checkpoint to a network: head selection, fusion, and the ModelSpec."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from brimful.errors import MissingExtraError, ModelError
from brimful.models.export import export_onnx
from model_files import opened, saved
from shared_files import shared


def pixels(batch=2, height=96, width=160, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, height, width, generator=generator)


def forward(checkpoint, images):
    with torch.inference_mode():
        out = checkpoint.network(images)
    return out if isinstance(out, tuple | list) else (out,)


def reference(path, images, *, nms):
    """Run Ultralytics' own reading of a checkpoint, neither fused nor exported by us."""
    from ultralytics import YOLO

    model = YOLO(path).model.float().eval()
    head = model.model[-1]
    if hasattr(head, "end2end"):
        head.end2end = nms is not True and getattr(head, "one2one_cv2", None) is not None
    head.export = True
    with torch.inference_mode():
        out = model(images)
    return out if isinstance(out, tuple | list) else (out,)


@pytest.mark.parametrize(
    ("name", "nms", "head"),
    [
        ("yolo26n.yaml", None, "nms_free"),
        ("yolo26n.yaml", False, "nms_free"),
        ("yolo26n.yaml", True, "raw"),
        ("yolo26n-seg.yaml", None, "nms_free"),
        ("yolo26n-pose.yaml", True, "raw"),
        ("yolo26n-obb.yaml", None, "nms_free"),
        ("yolo26n-cls.yaml", None, "classify"),
        ("yolo11n-seg.yaml", None, "raw"),
        ("yolov8n.yaml", True, "raw"),
        ("yolov5n.yaml", None, "raw"),
        ("yolov10n.yaml", None, "nms_free"),
    ],
)
def test_heads(name, nms, head):
    path = saved(name)
    loaded = opened(path, nms=nms)
    assert loaded.spec.head == head
    images = pixels()
    ours, theirs = forward(loaded, images), reference(path, images, nms=nms)
    assert len(ours) == len(theirs) == (2 if loaded.spec.task == "segment" else 1)
    for own, ref in zip(ours, theirs, strict=True):
        assert own.shape == ref.shape
        if head == "nms_free" and own.ndim == 3:
            # a random head's ties may swap rows: compare what is found, not its order
            own, ref = (t[..., 4].sort(dim=1).values for t in (own, ref))
            assert torch.allclose(own, ref, atol=2e-3)
        else:
            # folding batch norm rounds anew, and a random network amplifies that: 0.06 px was seen
            assert torch.allclose(own, ref, atol=0.2, rtol=1e-3)


def test_what_the_file_says_arrives():
    spec = opened(saved("yolo26n-pose.yaml")).spec
    assert (spec.task, spec.kpt_shape, spec.stride, spec.imgsz) == ("pose", (17, 3), 32, (640, 640))
    spec = opened(saved("yolo26n-cls.yaml")).spec
    assert (spec.task, spec.classes, spec.extra) == ("classify", 5, 0)
    spec = opened(saved("yolov8n.yaml"), names=tuple("abcde")).spec
    assert spec.names == tuple("abcde")


@pytest.mark.parametrize("task", ["", "-seg", "-cls"])
def test_a_checkpoint_that_does_not_name_its_task(task, tmp_path):
    from ultralytics import YOLO

    model = YOLO(f"yolov8n{task}.yaml").model
    for attribute in ("task", "args"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    torch.save({"model": model}, tmp_path / "bare.pt")
    expected = {"": "detect", "-seg": "segment", "-cls": "classify"}[task]
    assert opened(tmp_path / "bare.pt").spec.task == expected


def test_the_smoothed_weights_are_taken(tmp_path):
    from ultralytics import YOLO

    raw, smoothed = YOLO("yolov8n.yaml").model, YOLO("yolov8n.yaml").model
    with torch.no_grad():
        smoothed.model[0].conv.weight.fill_(0.5)
    smoothed.args = {"task": "detect"}
    torch.save({"model": raw, "ema": smoothed}, tmp_path / "both.pt")
    from brimful.models.checkpoint import read_network

    network = read_network(tmp_path / "both.pt", trust=False)
    assert (network.model[0].conv.weight == 0.5).all()
    assert not network.training
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in network.parameters())


def test_a_head_that_is_not_there():
    with pytest.raises(ModelError, match="has no NMS-free head; leave out nms=False"):
        opened(saved("yolov8n.yaml"), nms=False)


def test_an_nms_free_head_alone(tmp_path):
    """Fused for deployment: the one-to-many branch is gone."""
    from ultralytics import YOLO

    yolo = YOLO(saved("yolo26n.yaml"))
    head = yolo.model.model[-1]
    head.cv2 = head.cv3 = None
    torch.save({"model": yolo.model}, tmp_path / "half.pt")
    assert opened(tmp_path / "half.pt").spec.head == "nms_free"
    with pytest.raises(ModelError, match="NMS-free head only; leave out nms=True"):
        opened(tmp_path / "half.pt", nms=True)


def test_more_rows_on_demand():
    from brimful.models.checkpoint import load_checkpoint
    from brimful.models.signature import SpecOverrides

    loaded = load_checkpoint(
        saved("yolo26n.yaml"), nms=None, overrides=SpecOverrides(), trust=False, max_det=400
    )
    assert loaded.spec.max_det == 400
    (rows,) = forward(loaded, pixels(height=320, width=320))
    assert rows.shape == (2, 400, 6)


@pytest.mark.parametrize("module", ["torch", "ultralytics", "onnx"])
def test_a_library_that_is_missing(module, monkeypatch, tmp_path):
    path = saved("yolov8n.yaml")
    monkeypatch.setattr("brimful.extras.installed", lambda name: name != module)
    with pytest.raises(MissingExtraError, match=r"pip install 'brimful\[ultralytics\]'"):
        export_onnx(path, tmp_path / "out.onnx")


RELEASE = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import numpy as np, torch, ultralytics
    from brimful.errors import ModelError
    from brimful.models.checkpoint import load_checkpoint
    from brimful.models.export import write_onnx
    from brimful.models.signature import SpecOverrides
    import onnxruntime

    out, found = Path(sys.argv[1]), {"version": ultralytics.__version__}
    for name in sys.argv[2:]:
        for nms in (None, False, True):
            key = f"{Path(name).stem} {nms}"
            try:
                loaded = load_checkpoint(
                    Path(name), nms=nms, overrides=SpecOverrides(), trust=False
                )
            except ModelError as error:
                found[key] = str(error)
                continue
            write_onnx(loaded, out / "m.onnx")
            session = onnxruntime.InferenceSession(
                out / "m.onnx", providers=["CPUExecutionProvider"]
            )
            images = np.load(out / "images.npy")
            with torch.inference_mode():
                direct = loaded.network(torch.from_numpy(images))
            direct = direct[0] if isinstance(direct, tuple) else direct
            traced = session.run(None, {"images": images})[0]
            np.save(out / f"{key}.npy", direct.numpy())
            np.save(out / f"{key} onnx.npy", traced)
            found[key] = loaded.spec.head
    print(json.dumps(found))
    """
)


def test_oldest_supported_ultralytics(tmp_path):
    """Head selection changed after 8.4.2; the same checkpoint must come out the same."""
    import cv2

    folder = os.environ.get("BRIMFUL_ULTRALYTICS_842")
    if not folder:
        pytest.skip("BRIMFUL_ULTRALYTICS_842 names no folder with ultralytics 8.4.2 in it")
    names = [shared("models", "yolo26n-coco.pt"), shared("models", "yolov8n-coco.pt")]
    photo = cv2.resize(cv2.imread(str(shared("photos", "dog.jpg"))), (320, 256))
    images = np.stack([photo, photo[:, ::-1]])[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)
    np.save(tmp_path / "images.npy", np.ascontiguousarray(images, np.float32))
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{source}",
        "YOLO_CONFIG_DIR": str(tmp_path),  # its settings are not those of the release in use
    }
    done = subprocess.run(
        [sys.executable, "-c", RELEASE, str(tmp_path), *map(str, names)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("version") == "8.4.2"
    assert "no NMS-free head" in found.pop("yolov8n-coco False")
    assert found == {
        "yolo26n-coco None": "nms_free",
        "yolo26n-coco False": "nms_free",
        "yolo26n-coco True": "raw",
        "yolov8n-coco None": "raw",
        "yolov8n-coco True": "raw",
    }
    for key in found:
        stem, nms = key.split()
        here = opened(shared("models", f"{stem}.pt"), nms={"None": None}.get(nms, nms == "True"))
        (expected,) = forward(here, torch.from_numpy(np.ascontiguousarray(images, np.float32)))
        for kind in ("", " onnx"):
            got = np.load(tmp_path / f"{key}{kind}.npy")
            assert got.shape == tuple(expected.shape)
            sure = expected[..., 4] > 0.05 if here.spec.head == "nms_free" else ...
            assert np.allclose(got[sure], expected.numpy()[sure], atol=5e-3), key + kind
