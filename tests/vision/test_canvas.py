import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brimful.errors import UsageError
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy, parse_canvas
from brimful.vision.geometry import Geometry, resized_to

sides = st.integers(1, 20000)
policies = st.builds(
    CanvasPolicy,
    mode=st.sampled_from(["auto", "square", "exact", "fixed"]),
    imgsz=st.tuples(*[st.sampled_from([32, 320, 640, 1280])] * 2),
)


def spec(**facts):
    return ModelSpec(**{"task": "detect", "head": "raw", "names": ("a",), **facts})


@given(policies, sides, sides, st.lists(st.floats(0, 1), min_size=4, max_size=4))
@example(CanvasPolicy(), 1, 20000, [0.0, 0.0, 1.0, 1.0])
def test_a_box_comes_back_from_the_canvas(policy, height, width, corners):
    geometry = policy.place((height, width))
    box = np.array([corners]) * (width, height, width, height)
    on_canvas = geometry.to_canvas(box)
    canvas = np.array([geometry.canvas[::-1] * 2])
    assert (on_canvas > -1e-3).all() and (on_canvas < canvas + 1e-3).all()
    np.testing.assert_allclose(geometry.to_image(on_canvas), box, atol=0.01, rtol=0)


@given(policies, sides, sides)
def test_every_canvas_keeps_the_scale_of_the_full_one(policy, height, width):
    geometry = policy.place((height, width))
    scale = min(policy.imgsz[0] / height, policy.imgsz[1] / width)
    assert geometry.resized == resized_to((height, width), scale)
    for canvas, resized, start in zip(
        geometry.canvas, geometry.resized, (geometry.top, geometry.left), strict=True
    ):
        assert canvas % policy.stride == 0
        padding = canvas - resized
        assert padding >= 0
        assert start == padding // 2
    assert policy.choose((height, width)) == geometry.canvas


@given(sides, sides)
def test_auto_takes_the_smallest_canvas_that_fits(height, width):
    policy = CanvasPolicy()
    geometry = policy.place((height, width))
    assert geometry.canvas in policy.canvases()
    for other in policy.canvases():
        if math.prod(other) < math.prod(geometry.canvas):
            assert other[0] < geometry.resized[0] or other[1] < geometry.resized[1]


def test_the_geometry_of_an_exact_canvas_differs_from_a_fit_where_a_side_was_rounded_down():
    # 1081 rows become 480.44, so 480: fitting 480x640 again would lose a column
    geometry = CanvasPolicy(mode="exact").place((1081, 1440))
    assert geometry.canvas == geometry.resized == (480, 640)
    assert Geometry.fit((1081, 1440), (480, 640)).resized == (480, 639)


@pytest.mark.parametrize(
    ("imgsz", "canvases"),
    [
        ((640, 640), {(640, 640), (480, 640), (448, 640), (384, 640)}),
        ((320, 320), {(320, 320), (256, 320), (224, 320), (192, 320)}),
        ((1280, 1280), {(1280, 1280), (960, 1280), (864, 1280), (768, 1280)}),
        ((384, 640), {(384, 640), (288, 640), (256, 640), (384, 480), (384, 448), (384, 384)}),
        ((32, 32), {(32, 32)}),
    ],
)
def test_auto_canvases(imgsz, canvases):
    found = CanvasPolicy(imgsz=imgsz).canvases()
    if imgsz[0] == imgsz[1]:  # the same canvases stand upright
        canvases = canvases | {(width, height) for height, width in canvases}
    assert set(found) == canvases
    assert len(found) == len(canvases)
    assert found[0] == imgsz


def test_canvases_of_the_other_modes():
    assert CanvasPolicy(mode="square").canvases() == ((640, 640),)
    assert CanvasPolicy(mode="exact").canvases() is None
    assert CanvasPolicy(mode="fixed", imgsz=(480, 640)).canvases() == ((480, 640),)


@pytest.mark.parametrize(
    ("image", "canvas"),
    [
        ((375, 500), (480, 640)),
        ((500, 375), (640, 480)),
        ((333, 500), (448, 640)),
        ((4000, 6000), (448, 640)),
        ((6000, 4000), (640, 448)),
        ((1080, 1920), (384, 640)),
        ((1920, 1080), (640, 384)),
        ((500, 500), (640, 640)),
        ((500, 400), (640, 640)),
        ((10, 2000), (384, 640)),
    ],
)
def test_auto_choices(image, canvas):
    assert CanvasPolicy().choose(image) == canvas


def test_texts():
    assert parse_canvas("auto") == ("auto", None)
    assert parse_canvas(" Square ") == ("square", None)
    assert parse_canvas("exact") == ("exact", None)
    assert parse_canvas("480x640") == ("fixed", (480, 640))
    for text in ("", "rect", "480", "480x", "0x640", "480x640x3", "-480x640"):
        with pytest.raises(UsageError, match="auto, square, exact or HxW"):
            parse_canvas(text)


def test_a_policy_for_a_model():
    assert CanvasPolicy.for_model(spec()) == CanvasPolicy()
    assert CanvasPolicy.for_model(spec(), "square", 320).canvases() == ((320, 320),)
    assert CanvasPolicy.for_model(spec(), "auto", (384, 640)).imgsz == (384, 640)
    assert CanvasPolicy.for_model(spec(), "480x640").canvases() == ((480, 640),)
    assert CanvasPolicy.for_model(spec(imgsz=(320, 320))).imgsz == (320, 320)
    classifier = spec(task="classify", head="classify", imgsz=(224, 224))
    assert CanvasPolicy.for_model(classifier).canvases() == ((224, 224),)


def test_a_policy_for_a_model_of_one_size():
    fixed = spec(fixed_size=(480, 640))
    for policy in (
        CanvasPolicy.for_model(fixed),
        CanvasPolicy.for_model(fixed, "square"),
        CanvasPolicy.for_model(fixed, "480x640"),
        CanvasPolicy.for_model(fixed, "auto", (480, 640)),
    ):
        assert policy.canvases() == ((480, 640),)
    for canvas, imgsz in (("exact", None), ("640x640", None), ("auto", 320)):
        with pytest.raises(UsageError, match="480x640 only"):
            CanvasPolicy.for_model(fixed, canvas, imgsz)


def test_a_size_off_the_stride_is_rounded_up():
    for asked, canvas in [(650, (672, 672)), (1, (32, 32)), ((481, 640), (512, 640))]:
        policy = CanvasPolicy.for_model(spec(), "square", asked)
        assert policy.imgsz == canvas
        # Ultralytics rounds so: math.ceil(side / stride) * stride
        sides = asked if isinstance(asked, tuple) else (asked, asked)
        assert canvas == tuple(math.ceil(side / 32) * 32 for side in sides)


def test_refusals():
    with pytest.raises(UsageError, match="use 640 or 672"):
        CanvasPolicy.for_model(spec(), "650x640")
    with pytest.raises(UsageError, match="use 640 or 672"):
        CanvasPolicy(imgsz=(650, 640))
    with pytest.raises(UsageError, match="use 32 or 64"):
        CanvasPolicy(imgsz=(16, 640))
    with pytest.raises(UsageError, match="auto, square, exact"):
        CanvasPolicy(mode="rect")
