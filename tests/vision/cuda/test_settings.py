"""Images of a batch with settings of their own: selection on the device against the host's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from brimful.spec import ModelSpec
from brimful.vision.cuda.select import DeviceSelect
from brimful.vision.cuda.settings import Settings
from brimful.vision.heads import select as host
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.rows import Rows

Setting = PostprocessConfig | None

ENGINE = PostprocessConfig(conf=0.3, iou=0.6, max_det=60)
OWN: list[Setting] = [
    None,
    replace(ENGINE, conf=0.05),
    replace(ENGINE, conf=0.8),
    replace(ENGINE, iou=0.1),
    replace(ENGINE, iou=0.95),
    replace(ENGINE, max_det=2),
    replace(ENGINE, classes=(1,)),
    replace(ENGINE, classes=()),
    replace(ENGINE, conf=0.1, iou=0.4, max_det=5, classes=(0, 2)),
    None,
]
HEADS = [
    ("raw", "detect"),
    ("raw", "obb"),
    ("raw", "segment"),
    ("yolov5", "detect"),
    ("yolov5", "obb"),
    ("nms_free", "detect"),
    ("nms_free", "pose"),
    ("nms_free", "obb"),
]


def spec_of(head: Any, task: Any, classes: int = 3) -> ModelSpec:
    return ModelSpec(
        task=task,
        head=head,
        names=tuple(f"class {n}" for n in range(classes)),
        kpt_shape=(3, 3) if task == "pose" else None,
        mask_channels=4 if task == "segment" else 0,
    )


def crowd(spec: ModelSpec, batch: int, n: int, levels: int = 20) -> Any:
    """Return the same crowd of boxes in each image of a batch: only its setting tells it apart."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(40, 600, (8, 2))[rng.integers(0, 8, n)] + rng.normal(0, 7, (n, 2))
    sizes = rng.uniform(20, 90, (n, 2))
    scores = rng.integers(1, levels, (n, spec.classes)) / levels * rng.integers(1, 5, (n, 1)) / 4
    extra = rng.normal(0, 1, (n, spec.extra))
    if spec.head == "nms_free":
        boxes = (centres, sizes) if spec.task == "obb" else (centres - sizes, centres + sizes)
        best = -np.sort(-rng.random((n, 1)), axis=0)
        columns = (*boxes, best, rng.integers(0, spec.classes, (n, 1)), extra)
    elif spec.head == "yolov5":
        columns = (centres, sizes, rng.integers(4, 9, (n, 1)) / 8, scores, extra)
    else:
        columns = (centres, sizes, scores, extra)
    image = np.concatenate(columns, axis=1)
    image = image.T if spec.head == "raw" else image
    return np.ascontiguousarray(np.stack([image] * batch), np.float32)


def selector(
    spec: ModelSpec, output: Any, device: Any, config: PostprocessConfig = ENGINE
) -> DeviceSelect:
    batch, candidates = len(output), output.shape[2 if spec.head == "raw" else 1]
    return DeviceSelect(spec, config, batch, candidates, device)


def launch(
    select: DeviceSelect, output: Any, live: int, device: Any, params: list[Setting] | None
) -> Rows:
    select.configure(params)
    count = torch.tensor([live], dtype=torch.int32, device=device)
    select.launch(torch.from_numpy(output).to(device), count)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return select.rows(live)


def on_the_host(
    spec: ModelSpec,
    output: Any,
    live: int,
    params: list[Setting] | None,
    config: PostprocessConfig = ENGINE,
) -> Rows:
    function = getattr(host, f"select_{spec.head}")
    return host.select_each(function, output, live, spec, config, params)


def assert_same(got: Rows, want: Rows) -> None:
    for field in fields(Rows):
        left, right = getattr(got, field.name), getattr(want, field.name)
        assert left.dtype == right.dtype, field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


@pytest.mark.parametrize(("head", "task"), HEADS)
def test_each_image_takes_its_own(head: str, task: str, device: Any) -> None:
    spec = spec_of(head, task)
    output = crowd(spec, len(OWN) + 1, 70)
    output[-1] = np.nan  # the padded tail is never looked at
    rows = launch(selector(spec, output, device), output, len(OWN), device, OWN)
    assert_same(rows, on_the_host(spec, output, len(OWN), OWN))
    each = [rows.boxes[rows.image == image].tobytes() for image in range(len(OWN))]
    nms = head != "nms_free"  # no overlap matters to the other one
    same = [image for image in range(1, len(OWN)) if each[image] == each[0]]
    assert same == ([9] if nms else [3, 4, 9]), "each setting shall make a difference"


@pytest.mark.parametrize(("head", "task"), [("raw", "detect"), ("nms_free", "pose")])
def test_classes_of_every_word(head: str, task: str, device: Any) -> None:
    """Rows of more than one word, and the bits at both ends of each, among them the sign."""
    spec = spec_of(head, task, classes=70)
    config = PostprocessConfig(conf=0.01, iou=1.0, max_det=1000)
    wanted = [(0,), (31,), (32,), (63,), (64, 69), (1, 30, 33, 62, 65), tuple(range(70))]
    params: list[Setting] = [replace(config, classes=classes) for classes in wanted]
    output = crowd(spec, len(params), 600, levels=10**6)
    rows = launch(selector(spec, output, device, config), output, len(params), device, params)
    assert_same(rows, on_the_host(spec, output, len(params), params, config))
    for image, classes in enumerate(wanted):
        assert set(rows.class_id[rows.image == image]) == set(classes)


def test_classes_of_the_buffers_are_the_default_only(device: Any) -> None:
    spec = spec_of("raw", "detect")
    config = replace(ENGINE, classes=(0,))
    params: list[Setting] = [None, replace(config, classes=None), replace(config, classes=(1, 2))]
    output = crowd(spec, 3, 70)
    select = selector(spec, output, device, config)
    rows = launch(select, output, 3, device, params)
    assert_same(rows, on_the_host(spec, output, 3, params, config))
    found = [set(rows.class_id[rows.image == image]) for image in range(3)]
    assert found == [{0}, {0, 1, 2}, {1, 2}]


def test_an_overlap_of_just_an_images_threshold_stays(device: Any) -> None:
    spec = spec_of("raw", "detect", classes=1)
    heights = np.arange(1, 61, dtype=np.float32)
    columns = np.full(60, 30), heights / 2, np.full(60, 60), heights, np.linspace(1, 0.5, 60)
    params: list[Setting] = [
        replace(ENGINE, iou=iou) for iou in (0.1, 0.2, 0.3, 0.45, 0.7, 1 / 3, 0.0, 1.0)
    ]
    output = np.stack([np.stack(columns).astype(np.float32)] * len(params))
    rows = launch(selector(spec, output, device), output, len(params), device, params)
    assert_same(rows, on_the_host(spec, output, len(params), params))


@pytest.mark.parametrize(("head", "task"), HEADS)
def test_a_launch_takes_no_setting_of_the_one_before(head: str, task: str, device: Any) -> None:
    spec = spec_of(head, task)
    output = crowd(spec, 4, 60)
    select = selector(spec, output, device)
    runs: list[tuple[int, list[Setting] | None]] = [
        (4, OWN[1:5]),
        (4, None),
        (2, OWN[5:7]),
        (3, [None, OWN[2], None]),
        (4, None),
        (4, [None] * 4),
    ]
    for live, params in runs:
        rows = launch(select, output, live, device, params)
        assert_same(rows, on_the_host(spec, output, live, params))


def test_nothing_is_queued_where_no_image_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("raw", "detect")
    settings = Settings(spec, ENGINE, 2, 60, torch.device("cpu"))
    copies: list[Any] = []
    copy = torch.Tensor.copy_

    def spied(target: Any, *source: Any, **how: Any) -> Any:
        copies.append(target)
        return copy(target, *source, **how)

    monkeypatch.setattr(torch.Tensor, "copy_", spied)
    counts = []
    for params in (None, None, OWN[1:3], OWN[2:4], None, None):
        settings.write(params)
        counts.append(len(copies))
    assert counts == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("own", "complaint"),
    [({"max_det": 61}, "max_det is 61; there is room for 60"), ({"classes": (99,)}, "has 99")],
)
def test_what_there_is_no_room_for_is_refused(
    own: dict[str, Any], complaint: str, device: Any
) -> None:
    spec = spec_of("nms_free", "detect")
    output = crowd(spec, 2, 60)
    select = selector(spec, output, device)
    before = [None, OWN[5]]
    launch(select, output, 2, device, before)
    with pytest.raises(ValueError, match=complaint):
        select.configure([OWN[2], replace(ENGINE, **own)])
    launched = torch.tensor([2], dtype=torch.int32, device=device)
    select.launch(torch.from_numpy(output).to(device), launched)
    if device.type == "cuda":
        torch.cuda.synchronize()
    assert_same(select.rows(2), on_the_host(spec, output, 2, before))
    assert_same(launch(select, output, 2, device, None), on_the_host(spec, output, 2, None))


def test_more_than_there_are_candidates_is_no_more_than_these(device: Any) -> None:
    spec = spec_of("nms_free", "detect")
    output = crowd(spec, 1, 30)
    params: list[Setting] = [replace(ENGINE, conf=0.0, max_det=35)]
    rows = launch(selector(spec, output, device), output, 1, device, params)
    assert_same(rows, on_the_host(spec, output, 1, params))
    assert len(rows.image) == 30


@pytest.mark.gpu
@pytest.mark.parametrize(("head", "task"), HEADS)
def test_a_captured_launch_follows(head: str, task: str, device: Any) -> None:
    spec = spec_of(head, task)
    output = crowd(spec, len(OWN), 2000)
    static = torch.from_numpy(output).to(device)
    live = torch.tensor([len(OWN)], dtype=torch.int32, device=device)
    select = selector(spec, output, device)
    select.launch(static, live)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        select.launch(static, live)
    for params in (None, OWN, OWN[::-1], None):
        select.configure(params)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(select.rows(len(OWN)), on_the_host(spec, output, len(OWN), params))
