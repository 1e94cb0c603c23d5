"""Masks on the device against the host's, character for character."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brimful.errors import ModelError
from brimful.formats.rle import _runs
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda import masks as device_masks
from brimful.vision.cuda.mask_changes import GEOMETRY, TILE, WINDOW
from brimful.vision.cuda.masks import DeviceMasks, MaskBuffers, _described, _step
from brimful.vision.cuda.select import DeviceSelect
from brimful.vision.geometry import Geometry
from brimful.vision.heads.rows import Inverse, Rows
from brimful.vision.masks import _compress, _weights, axes
from brimful.vision.postprocess import PostprocessConfig, Selected, build_postprocess
from mask_oracle import assert_same_masks, host_masks, placed

SPEC = ModelSpec(task="segment", head="raw", names=("a", "b"), mask_channels=8)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch, device):
    """The interpreter runs them one after the other."""
    if device.type == "cpu":
        monkeypatch.setattr(device_masks, "PROGRAMS", 7)


def smooth(shape, seed):
    """Noise without steps from one prototype pixel to the next, as prototypes are."""
    import cv2

    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, shape).astype(np.float32)
    flat = noise.reshape(-1, *shape[-2:])
    return np.stack([cv2.GaussianBlur(plane, (7, 7), 2) for plane in flat]).reshape(shape)


def some_rows(geometries, counts, seed, *, channels=8):
    """Rows of canvas boxes: anywhere, the first as large as the canvas, the second thin."""
    rng = np.random.default_rng(seed)
    boxes = []
    for geometry, count in zip(geometries, counts, strict=True):
        high, wide = geometry.canvas
        corners = np.sort(rng.uniform(-0.1, 1.1, (count, 2, 2)), axis=1) * (wide, high)
        own = corners.reshape(count, 4)
        own[:1] = (-3, -3, wide + 3, high + 3)
        own[1:2] = (wide / 3, 5, wide / 3 + 0.3, high)
        boxes.append(own)
    n = sum(counts)
    return Rows(
        image=np.repeat(np.arange(len(counts)), counts),
        boxes=np.concatenate(boxes).astype(np.float32).reshape(n, 4),
        confidence=rng.random(n, np.float32),
        class_id=np.zeros(n, np.int32),
        extra=rng.normal(0, 1, (n, channels)).astype(np.float32),
        truncated=np.zeros(len(counts), np.bool_),
    )


def launch(
    rows, prototypes, geometries, device, *, images=None, limit=None, buffers=None, collect=None
):
    """Run the kernels as a lane would; return what the host gets, or what `collect` makes of it."""
    batch, channels, *grid = prototypes.shape
    counts = np.bincount(rows.image, minlength=batch).astype(np.int32)
    if buffers is None:
        limit = limit or max(1, int(counts.max()))
        buffers = MaskBuffers(images or batch, limit, 6 + channels, device)
    table = np.concatenate(
        (rows.boxes, rows.confidence[:, None], rows.class_id[:, None], rows.extra), axis=1
    )
    buffers.rows[: len(table)] = torch.from_numpy(table.astype(np.float32)).to(device)
    buffers.counts[0, :batch] = torch.from_numpy(counts).to(device)
    masks = DeviceMasks(buffers, batch, tuple(grid))
    masks.place(geometries)
    masks.launch(torch.as_tensor(prototypes).to(device))  # one that is there stays the same
    if device.type == "cuda":
        torch.cuda.synchronize()
    return collect(masks) if collect else masks.masks(counts[: len(geometries)])


def check(rows, prototypes, geometries, device, **options):
    """Compare with the host: all equal but pixels whose logit is nearly 0."""
    encoded = launch(rows, prototypes, geometries, device, **options)
    boxes = Inverse.of(rows, placed(geometries)).boxes(rows.boxes)
    found = encoded.masks(rows, boxes, placed(geometries))
    wanted = host_masks(rows, prototypes, boxes, geometries)
    different = assert_same_masks(found, wanted, rows, prototypes, geometries)
    assert different <= max(1, len(found) // 10)
    return encoded, found


# every remainder of the padding; larger and much smaller than the canvas; one row or column
IMAGES = [
    (96, 128), (75, 100), (67, 100), (38, 48), (100, 67), (25, 16), (217, 163), (5, 9), (1, 3),
    (8, 100), (65, 9),
]  # fmt: skip


def place_on(image, mode):
    return CanvasPolicy(mode=mode, imgsz=(96, 96)).place(image)


@pytest.mark.parametrize("image", IMAGES)
def test_the_same_masks_as_on_the_host(image, device):
    geometry = place_on(image, ("exact", "square")[IMAGES.index(image) % 2])
    grid = geometry.canvas[0] // 4, geometry.canvas[1] // 4
    rows = some_rows([geometry], [4], 3)
    encoded, found = check(rows, smooth((1, 8, *grid), 1), [geometry], device)
    assert not encoded.prototypes
    assert any(mask is not None for mask in found) or image == (1, 3)


def test_every_kind_of_padding_is_tried():
    factors = set()
    for i, image in enumerate(IMAGES):
        geometry = place_on(image, ("exact", "square")[i % 2])
        grid = geometry.canvas[0] // 4, geometry.canvas[1] // 4
        factors.add(axes(geometry, grid)[0].factor)
    assert factors == {1, 2, 4}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("level", [0.0, 1.5, 9.0, -9.0])
def test_every_bit_where_arithmetic_is_exact(level, channels_last, device, monkeypatch):
    """Small integers, and weights that are eighths: no sum is rounded, and a logit of 0 is no tie.

    Noise has many runs in a column; `level` fills most of it, so that runs go on from the bottom
    of a column at the top of the next one.
    """
    geometry = Geometry((64, 96), (64, 96), (64, 96), 0, 0)
    rng = np.random.default_rng(5)
    prototypes = rng.integers(-2, 3, (1, 8, 16, 24)).astype(np.float32)
    prototypes[:, 0] = 1
    rows = some_rows([geometry], [5], 4)
    rows.extra[:] = rng.integers(-2, 3, rows.extra.shape)
    rows.extra[:, 0] = np.round(level * 6)
    rows.boxes[2] = (10, 0, 96, 64)
    rows.boxes[3] = (0, 1, 90, 64)
    if channels_last:
        launched = torch.from_numpy

        def permuted(array):
            tensor = launched(array)
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            return tensor

        monkeypatch.setattr(torch, "from_numpy", permuted)
    found = launch(rows, prototypes, [geometry], device)
    boxes = Inverse.of(rows, placed([geometry])).boxes(rows.boxes)
    got = found.masks(rows, boxes, placed([geometry]))
    assert got == host_masks(rows, prototypes, boxes, [geometry])
    assert all(mask is None for mask in got) == (level < 0)


def test_batches_positions_and_neighbours_change_no_character(device):
    """An image's masks are the same alone, in the middle of a batch and before a padded tail."""
    policy = CanvasPolicy(mode="square", imgsz=(64, 64))
    geometries = [policy.place(size) for size in ((48, 64), (33, 50), (64, 64), (20, 30))]
    counts = [3, 0, 4, 2]
    rows = some_rows(geometries, counts, 7)
    prototypes = smooth((6, 8, 16, 16), 8)
    prototypes[4:] = np.nan  # the padded tail
    together = launch(rows, prototypes, geometries, device, limit=9, images=8)
    boxes = Inverse.of(rows, placed(geometries)).boxes(rows.boxes)
    found = together.masks(rows, boxes, placed(geometries))
    alone = []
    for image in (0, 2, 3):
        own = rows.where(rows.image == image)
        own.image[:] = 0
        single = launch(own, prototypes[image : image + 1], [geometries[image]], device)
        where = placed([geometries[image]])
        alone += single.masks(own, boxes[rows.image == image], where)
    assert found == alone
    assert sum(mask is not None for mask in found) >= 5


@pytest.mark.parametrize("room", ["COLUMN_ROOM", "CHANGE_ROOM", "TEXT_ROOM"])
def test_what_has_no_room_is_left_to_the_host(room, device, monkeypatch):
    """The first masks of an image that has too many come from the device, and none is lost."""
    geometry = Geometry((32, 64), (32, 64), (32, 64), 0, 0)
    rows = some_rows([geometry] * 3, [6, 2, 5], 9)
    rows.boxes[rows.image == 1] = (3, 4, 9, 9)
    rng = np.random.default_rng(1)
    prototypes = rng.integers(-1, 3, (3, 8, 8, 16)).astype(np.float32)
    rows.extra[:] = rng.integers(0, 3, rows.extra.shape)
    boxes = Inverse.of(rows, placed([geometry] * 3)).boxes(rows.boxes)
    wanted = host_masks(rows, prototypes, boxes, [geometry] * 3)
    whole = launch(rows, prototypes, [geometry] * 3, device)
    assert not whole.prototypes
    monkeypatch.setattr(device_masks, room, 90)
    found = launch(rows, prototypes, [geometry] * 3, device)
    assert sorted(found.prototypes) == [0, 2]
    assert (found.lengths == -1).sum() >= 4
    for image in range(3):
        own = found.lengths[rows.image == image]
        assert own[0] > 0 or image != 1
        assert list(own == -1) == sorted(own == -1)
    assert found.masks(rows, boxes, placed([geometry] * 3)) == wanted
    assert whole.masks(rows, boxes, placed([geometry] * 3)) == wanted
    # who falls out depends on the image alone
    last = rows.where(rows.image == 2)
    last.image[:] = 0
    alone = launch(last, prototypes[2:], [geometry], device)
    np.testing.assert_array_equal(alone.lengths, found.lengths[rows.image == 2])


def test_an_image_whose_place_nobody_said_is_left_to_the_host(device):
    geometry = Geometry((32, 64), (32, 64), (32, 64), 0, 0)
    rows = some_rows([geometry] * 2, [2, 2], 9)
    prototypes = smooth((2, 8, 8, 16), 3)
    found = launch(rows, prototypes, [None, geometry], device)
    assert list(found.lengths[:2]) == [-1, -1] and list(found.prototypes) == [0]
    np.testing.assert_array_equal(found.prototypes[0], prototypes[0])
    boxes = Inverse.of(rows, placed([geometry] * 2)).boxes(rows.boxes)
    wanted = host_masks(rows, prototypes, boxes, [geometry] * 2)
    assert found.masks(rows, boxes, placed([geometry] * 2)) == wanted


@pytest.mark.parametrize("missing", [True, False])
def test_prototypes_are_fetched_while_they_are_sure_to_be_there(missing, device):
    """Between a launch and the fetching, their memory may have served another batch."""
    geometry = Geometry((32, 64), (32, 64), (32, 64), 0, 0)
    rows = some_rows([geometry] * 2, [2, 2], 9)
    prototypes = smooth((2, 8, 8, 16), 3)
    given = torch.from_numpy(prototypes).to(device, copy=True)
    events = []

    @contextmanager
    def again():
        events.append("again")
        given.copy_(torch.from_numpy(prototypes))
        yield
        given.zero_()

    def spoilt(masks):
        given.zero_()
        return masks.masks(np.array([2, 2]), again)

    found = launch(rows, given, [None if missing else geometry, geometry], device, collect=spoilt)
    assert events == ["again"] * missing and list(found.prototypes) == [0] * missing
    for image, kept in found.prototypes.items():
        np.testing.assert_array_equal(kept, prototypes[image])


def test_an_image_too_large_to_number_its_pixels_is_left_to_the_host():
    geometry = CanvasPolicy(mode="square").place((50_000, 50_000))
    assert not _described(geometry, (160, 160)).any()


def test_buffers_are_used_again(device):
    """Nothing of an earlier batch shows, whatever its canvas and its number of rows."""
    buffers = MaskBuffers(2, 8, 14, device)
    for size, counts in (((64, 96), [8, 3]), ((32, 64), [1, 0]), ((64, 64), [0, 5])):
        geometry = Geometry(size, size, size, 0, 0)
        rows = some_rows([geometry] * 2, counts, 2)
        rows.extra[:] = np.round(rows.extra * 2)
        prototypes = np.round(smooth((2, 8, size[0] // 4, size[1] // 4), 4) * 8)
        boxes = Inverse.of(rows, placed([geometry] * 2)).boxes(rows.boxes)
        wanted = host_masks(rows, prototypes, boxes, [geometry] * 2)
        found = launch(rows, prototypes, [geometry] * 2, device, buffers=buffers)
        assert found.masks(rows, boxes, placed([geometry] * 2)) == wanted


@pytest.mark.parametrize("channels", [1, 5, 32])
def test_any_number_of_prototypes(channels, device):
    geometry = Geometry((40, 64), (32, 64), (32, 51), 0, 6)
    rows = some_rows([geometry], [2], 5, channels=channels)
    check(rows, smooth((1, channels, 8, 16), 6), [geometry], device)


def test_run_lengths_of_any_size(device):
    """Up to seven characters each, more of them than are looked at at a time, joined and not."""
    rng = np.random.default_rng(3)
    height, width = 30_000, 70_000
    cases = []
    for count, step in ((2, 10**9), (2600, 700_000), (1024, 40), (1026, 3), (6, 10**8)):
        changes = np.cumsum(rng.integers(1, step, count))
        changes = changes[changes < height * width][: count // 2 * 2]
        cases.append(changes[: len(changes) // 2 * 2])
    cases.append(np.array([], np.int64))
    cases.append(np.array([0, height * width]))
    cases.append(np.array([5, height * width]))
    joined = np.sort(np.concatenate((np.arange(1, 3000), np.arange(1, 3000)))) * height
    cases.append(np.concatenate(([height - 7], joined, [3001 * height])))
    pairs = joined.copy()
    pairs[1::200] += 1  # some columns do not go on at the top of the next one
    cases.append(np.concatenate(([height - 7], pairs[: len(pairs)], [3001 * height])))
    limit = len(cases)
    buffers = MaskBuffers(1, limit, 14, device)
    ends = np.cumsum([0, *map(len, cases)])
    buffers.changes[0, : ends[-1]] = torch.from_numpy(np.concatenate(cases).astype(np.int32))
    buffers.counts[0, 0] = limit
    buffers.columns[0] = torch.arange(limit + 1)
    buffers.offsets[0, : limit + 1] = torch.from_numpy(ends.astype(np.int32))
    buffers.geometry[0, 5:7] = torch.tensor([width, height])
    full = torch.tensor([0, 0, width, height], dtype=torch.int32)
    cut = torch.tensor([0, 1, width, height], dtype=torch.int32)
    buffers.boxes[0] = torch.stack([full if i >= limit - 2 else cut for i in range(limit)])
    DeviceMasks(buffers, 1, (4, 4))._encode()
    if device.type == "cuda":
        torch.cuda.synchronize()
    lengths = buffers.lengths[0].numpy()
    text = bytes(buffers.text[0, : lengths.sum()].numpy()).decode()
    for row, changes in enumerate(cases):
        own, text = text[: lengths[row]], text[lengths[row] :]
        if row >= limit - 2:
            twice = np.flatnonzero(changes[1:-1:2] == changes[2::2])
            changes = np.delete(changes, np.concatenate((2 * twice + 1, 2 * twice + 2)))
            assert 1 <= len(changes) < 500
        if not len(changes):
            assert own == ""
            continue
        runs = np.diff(changes, prepend=0)
        if changes[-1] < height * width:
            runs = np.append(runs, height * width - changes[-1])
        assert own == _compress(runs)
        assert _runs(own) == runs.tolist()
    assert {len(_compress(np.array([n]))) for n in (15, 2 * 10**9)} == {1, 7}


@pytest.mark.parametrize("head", ["raw", "nms_free"])
def test_from_the_networks_output_to_detections(head, device):
    """Selection and masks one after the other, as a graph has them, against the host's."""
    spec = replace(SPEC, head=head)
    config = PostprocessConfig(conf=0.3, max_det=6)
    rng = np.random.default_rng(8)
    policy = CanvasPolicy(mode="square", imgsz=(64, 64))
    geometries = [policy.place(size) for size in ((48, 64), (64, 40), (30, 30))]
    centre, size = rng.uniform(5, 60, (4, 20, 2)), rng.uniform(4, 40, (4, 20, 2))
    scores = rng.random((4, 20, 2))
    extra = rng.normal(0, 1, (4, 20, 8))
    if head == "raw":
        output = np.concatenate((centre, size, scores, extra), axis=2).transpose(0, 2, 1)
    else:
        label = rng.integers(0, 2, (4, 20, 1))
        columns = centre - size / 2, centre + size / 2, scores[..., :1], label, extra
        output = np.concatenate(columns, axis=2)
    output = np.ascontiguousarray(output, np.float32)
    prototypes = smooth((4, 8, 16, 16), 2)
    buffers = MaskBuffers(5, 8, 14, device)
    select = DeviceSelect(spec, config, 4, 20, device, copy=(buffers.rows, buffers.counts))
    masks = DeviceMasks(buffers, 4, (16, 16))
    live = torch.tensor([3], dtype=torch.int32, device=device)
    masks.place(geometries)
    select.launch(torch.from_numpy(output).to(device), live)
    masks.launch(torch.from_numpy(prototypes).to(device))
    if device.type == "cuda":
        torch.cuda.synchronize()
    run = build_postprocess(spec, config)
    rows = select.rows(3)
    selected = Selected(rows=rows, masks=masks.masks(select.found(3)), errors={1: "damaged"})
    found = run(selected, placed(geometries))
    wanted = run([output, prototypes], placed(geometries))
    assert found[1].error == "damaged" and found[1].masks is None
    for image in (0, 2):
        assert 1 < len(found[image]) <= 6
        for name in ("boxes", "confidence", "class_id", "masks"):
            own, ref = getattr(found[image], name), getattr(wanted[image], name)
            assert np.array_equal(own, ref), name


def test_other_prototypes_are_refused(device):
    masks = DeviceMasks(MaskBuffers(2, 8, 14, device), 2, (16, 16))
    for shape in ((2, 8, 16, 15), (1, 8, 16, 16), (2, 7, 16, 16)):
        with pytest.raises(ModelError, match="expected float32 prototypes"):
            masks.launch(torch.zeros(shape, device=device))
    with pytest.raises(ModelError, match="float16"):
        masks.launch(torch.zeros((2, 8, 16, 16), dtype=torch.float16, device=device))


@given(
    image=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    canvas=st.sampled_from([(640, 640), (384, 640), (64, 96)]),
    mode=st.sampled_from(["exact", "square"]),
)
def test_a_tile_never_draws_from_more_than_the_window(image, canvas, mode):
    geometry = CanvasPolicy(mode=mode, imgsz=canvas).place(image)
    grid = geometry.canvas[0] // 4, geometry.canvas[1] // 4
    for axis, weights in zip(axes(geometry, grid), _weights(geometry, grid), strict=True):
        step = _step(axis)
        assert 1 <= step <= TILE
        place = weights > 0
        first = place.argmax(axis=1)
        last = place.shape[1] - 1 - place[:, ::-1].argmax(axis=1)
        reach = np.minimum(np.arange(len(first)) + step - 1, len(first) - 1)
        # a weight may be 0 where the kernel loads: one more on either side
        assert (last[reach] - first).max() + 1 <= WINDOW
    row = _described(geometry, grid)
    assert len(row) == GEOMETRY and row[10] in (1, 2, 4, 8, 16, 32)
