import numpy as np
import pytest

from brimful.errors import ModelError, UsageError
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.heads.obb import polygons
from brimful.vision.postprocess import Placed, PostprocessConfig, build_postprocess

NC = 4
ANCHORS = 300
IMAGES = [(375, 500), (480, 640), (333, 500), (500, 500), (90, 640)]
TASKS = ["detect", "segment", "pose", "obb"]
HEADS = ["nms_free", "raw", "yolov5"]


def spec(task="detect", head="raw", **facts):
    facts.setdefault("kpt_shape", (5, 3) if task == "pose" else None)
    facts.setdefault("mask_channels", 8 if task == "segment" else 0)
    return ModelSpec(task=task, head=head, names=tuple("abcd"), **facts)


def placed(images=IMAGES, mode="square"):
    policy = CanvasPolicy(mode=mode)
    return [Placed(f"{i}.jpg", i, None, None, policy.place(size)) for i, size in enumerate(images)]


def fake_outputs(model, batch, seed=0):
    """Outputs as a model of this layout has them, with clusters for NMS to work on."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(50, 590, (batch, ANCHORS // 10, 2)).repeat(10, axis=1)
    centres += rng.normal(0, 6, centres.shape)
    sizes = rng.uniform(30, 80, centres.shape)
    scores = rng.random((batch, ANCHORS, NC)) ** 6
    extra = rng.normal(0, 1, (batch, ANCHORS, model.extra))
    if model.task == "pose":
        extra = rng.uniform(0, 640, extra.shape)
    if model.head == "nms_free":
        corners = (
            (centres, sizes) if model.task == "obb" else (centres - sizes / 2, centres + sizes / 2)
        )
        best = scores.max(axis=2, keepdims=True)
        rows = np.concatenate((*corners, best, scores.argmax(axis=2)[..., None], extra), axis=2)
        order = np.argsort(-best[..., 0], axis=1)
        first = np.take_along_axis(rows, order[..., None], axis=1)
    elif model.head == "raw":
        first = np.concatenate((centres, sizes, scores, extra), axis=2).transpose(0, 2, 1)
    else:
        objectness = rng.random((batch, ANCHORS, 1)) ** 0.2
        first = np.concatenate((centres, sizes, objectness, scores, extra), axis=2)
    outputs = [np.ascontiguousarray(first, np.float32)]
    if model.task == "segment":
        outputs.append(rng.normal(0, 1, (batch, model.mask_channels, 160, 160)).astype(np.float32))
    return outputs


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for name in a.__slots__:
            one, other = getattr(a, name), getattr(b, name)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            else:
                assert one == other, name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_its_images_one_by_one(task, head):
    model = spec(task, head)
    run = build_postprocess(model, PostprocessConfig())
    outputs, images = fake_outputs(model, len(IMAGES)), placed()
    together = run(outputs, images)
    alone = [run([o[i : i + 1] for o in outputs], [p])[0] for i, p in enumerate(images)]
    assert_same(together, alone)
    assert min(len(d) for d in together) > 10
    order = [3, 0, 4, 1, 2]
    shuffled = run([o[order] for o in outputs], [images[i] for i in order])
    assert_same(shuffled, [together[i] for i in order])


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1.0])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_the_padded_tail_is_never_read(task, head, garbage):
    model = spec(task, head)
    run = build_postprocess(model, PostprocessConfig())
    outputs, images = fake_outputs(model, 3), placed(IMAGES[:3])
    padded = [np.concatenate((o, np.full_like(o, garbage))) for o in outputs]
    assert_same(run(padded, images), run(outputs, images))
    assert run(padded, []) == []


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_results_do_not_refer_to_the_outputs(task, head):
    model = spec(task, head)
    run = build_postprocess(model, PostprocessConfig())
    outputs = fake_outputs(model, 2)
    expected = run([o.copy() for o in outputs], placed(IMAGES[:2]))
    found = run(outputs, placed(IMAGES[:2]))
    for output in outputs:
        output[:] = np.nan
    assert_same(found, expected)


@pytest.mark.parametrize("head", HEADS)
def test_what_a_result_says(head):
    model = spec("detect", head)
    images = [Placed("a/b.mp4", 7, 3, 120.5, CanvasPolicy().place((375, 500)))]
    (found,) = build_postprocess(model, PostprocessConfig())(fake_outputs(model, 1), images)
    assert (found.image, found.index, found.frame, found.pts_ms) == ("a/b.mp4", 7, 3, 120.5)
    assert (found.width, found.height, found.canvas) == (500, 375, (480, 640))
    assert (found.task, found.names, found.error) == ("detect", tuple("abcd"), None)
    assert found.boxes.dtype == found.confidence.dtype == np.float32
    assert found.class_id.dtype == np.int32
    assert found.boxes.shape == (len(found), 4)
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.confidence > 0.25).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (500, 375, 500, 375)).all()
    assert found.masks is found.keypoints is found.obb is found.probs is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_nothing_found(task, head):
    model = spec(task, head)
    outputs = fake_outputs(model, 2)
    found = build_postprocess(model, PostprocessConfig(conf=1.0))(outputs, placed(IMAGES[:2]))
    assert [len(d) for d in found] == [0, 0]
    for d in found:
        assert d.boxes.shape == (0, 4)
        assert (d.masks is None) == (task != "segment")
        assert d.keypoints is None if task != "pose" else d.keypoints.shape == (0, 5, 3)
        assert d.obb is None if task != "obb" else d.obb.shape == (0, 5)


def config_of(**options):
    return build_postprocess(spec(), PostprocessConfig(**options))


def reference_nms(output, **options):
    """What Ultralytics' NMS makes of a raw output, (n, 6) per image in canvas pixels."""
    import torch
    import torchvision  # noqa: F401 (Ultralytics takes torchvision's NMS only if it is there)
    from ultralytics.utils.nms import non_max_suppression

    found = non_max_suppression(
        torch.from_numpy(output.copy()), options.pop("conf"), options.pop("iou"), **options
    )
    return [f.numpy() for f in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conf": 0.001},
        {"conf": 0.001, "multi_label": True},
        {"iou": 0.3},
        {"max_det": 5},
        {"max_nms": 50},
        {"max_nms": 50, "multi_label": True},
        {"classes": (1, 3)},
        {"classes": (0,), "multi_label": True},
        {"agnostic_nms": True},
        {"agnostic_nms": True, "multi_label": True, "conf": 0.01},
    ],
)
def test_options_are_those_of_ultralytics(options):
    images = placed([(640, 640)] * 4)  # canvas and image pixels are the same
    (output,) = fake_outputs(spec(), 4)
    found = config_of(**options)([output], images)
    theirs = {"conf": 0.25, "iou": 0.7, **options}
    theirs["agnostic"] = theirs.pop("agnostic_nms", False)
    expected = reference_nms(output, **theirs)
    for own, ref in zip(found, expected, strict=True):
        assert len(own) == len(ref) > 0
        np.testing.assert_array_equal(own.confidence, ref[:, 4])
        np.testing.assert_array_equal(own.class_id, ref[:, 5])
        np.testing.assert_allclose(own.boxes, ref[:, :4].clip(0, 640), atol=1e-3)
        assert own.truncated == ("max_nms" in options)


@pytest.mark.parametrize("classes", [None, (1, 2)])
def test_nms_free_options(classes):
    model = spec(head="nms_free")
    (output,) = fake_outputs(model, 3)
    config = PostprocessConfig(conf=0.1, max_det=20, classes=classes)
    found = build_postprocess(model, config)([output], placed([(640, 640)] * 3))
    for own, rows in zip(found, output, strict=True):
        rows = rows[rows[:, 4] > 0.1]
        if classes:
            rows = rows[(rows[:, 5] == 1) | (rows[:, 5] == 2)]
        assert len(rows) > 20
        np.testing.assert_array_equal(own.confidence, rows[:20, 4])
        np.testing.assert_array_equal(own.class_id, rows[:20, 5])
        np.testing.assert_allclose(own.boxes, rows[:20, :4].clip(0, 640), atol=1e-3)


def test_yolov5_is_its_published_arithmetic():
    import torch
    from torchvision.ops import batched_nms

    model = spec(head="yolov5")
    (output,) = fake_outputs(model, 3)
    found = build_postprocess(model, PostprocessConfig())([output], placed([(640, 640)] * 3))
    for own, rows in zip(found, torch.from_numpy(output), strict=True):
        confidence, label = (rows[:, 5:] * rows[:, 4:5]).max(dim=1)
        some = confidence > 0.25
        xy, half = rows[some, :2], rows[some, 2:4] / 2
        boxes = torch.cat((xy - half, xy + half), dim=1)
        kept = batched_nms(boxes, confidence[some], label[some], 0.7)
        assert 0 < len(kept) < int(some.sum())
        np.testing.assert_array_equal(own.confidence, confidence[some][kept].numpy())
        np.testing.assert_array_equal(own.class_id, label[some][kept].numpy())
        np.testing.assert_allclose(own.boxes, boxes[kept].clip(0, 640).numpy(), atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_values_that_are_not_numbers_are_no_detections(head):
    model = spec(head=head)
    (output,) = fake_outputs(model, 1)
    rows = output[0].T if head == "raw" else output[0]
    score = 5 if head == "yolov5" else 4
    best = rows[:, score:].max(axis=1) if head != "nms_free" else rows[:, 4]
    first, second, third = np.argsort(-best)[:3]
    rows[first, 0] = np.nan
    rows[second, score] = np.nan
    rows[third, 2] = np.inf
    (found,) = build_postprocess(model, PostprocessConfig())([output], placed(IMAGES[:1]))
    assert len(found) > 10
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.confidence).all()


def test_polygons_are_those_of_ultralytics():
    from ultralytics.utils.ops import xywhr2xyxyxyxy

    rng = np.random.default_rng(0)
    rotated = rng.uniform(-3, 200, (50, 5)).astype(np.float32)
    np.testing.assert_allclose(polygons(rotated), xywhr2xyxyxyxy(rotated), atol=1e-3)


def test_classify_copies_the_probabilities():
    model = spec("classify", "classify")
    output = np.random.default_rng(0).random((5, NC)).astype(np.float32)
    kept = output.copy()
    found = build_postprocess(model, PostprocessConfig())([output], placed(IMAGES[:3]))
    output[:] = 0
    for own, expected in zip(found, kept, strict=False):
        np.testing.assert_array_equal(own.probs, expected)
        assert (len(own), own.boxes.shape) == (0, (0, 4))


@pytest.mark.parametrize(
    "options",
    [{"conf": -0.1}, {"conf": 1.1}, {"conf": np.nan}, {"iou": 2}, {"max_det": 0}, {"max_nms": 0}],
)
def test_config_refusals(options):
    (name,) = options
    with pytest.raises(UsageError, match=rf"{name} is .*; expected"):
        PostprocessConfig(**options)


def test_class_refusals():
    with pytest.raises(UsageError, match="start at 0"):
        PostprocessConfig(classes=(0, -1))
    with pytest.raises(UsageError, match="the model has 4 classes, 0 to 3"):
        config_of(classes=(1, 4))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_an_output_that_does_not_fit(task, head):
    model = spec(task, head)
    run = build_postprocess(model, PostprocessConfig())
    outputs = fake_outputs(model, 2)
    images = placed(IMAGES[:2])
    first = outputs[0]
    narrower = first[:, :-1] if head == "raw" else first[..., :-1]
    for bad in ([], [first[0]], [first[:1]], [narrower, *outputs[1:]]):
        with pytest.raises(ModelError, match="expected"):
            run(bad, images)
    if task == "segment":
        for bad in ([first], [first, outputs[1][:, :-1]]):
            with pytest.raises(ModelError, match="prototypes"):
                run(bad, images)


def test_heads_and_tasks_that_do_not_go_together():
    for task, head in (("classify", "raw"), ("detect", "classify")):
        with pytest.raises(ModelError, match="cannot have"):
            build_postprocess(spec(task, head), PostprocessConfig())
    with pytest.raises(ModelError, match="expected probabilities"):
        build_postprocess(spec("classify", "classify"), PostprocessConfig())(
            [np.zeros((1, 7), np.float32)], placed(IMAGES[:1])
        )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("class_id", [NC, -1, 2**31, -(2**40)])
def test_a_class_without_a_name_is_an_error_of_its_image(task, class_id):
    """And its neighbours are what they were."""
    model = spec(task, "nms_free")
    process = build_postprocess(model, PostprocessConfig(conf=0.25))
    outputs = fake_outputs(model, len(IMAGES))
    clean = process(outputs, placed())
    outputs[0][1, 0, 5] = class_id
    found = process(outputs, placed())
    assert f"only the classes 0 to {NC - 1} have names" in found[1].error
    assert len(found[1]) == 0
    assert_same(found[:1] + found[2:], clean[:1] + clean[2:])
    outputs[0][1, 0, 4] = 0.2  # below the cut: the row is none
    assert process(outputs, placed())[1].error is None
