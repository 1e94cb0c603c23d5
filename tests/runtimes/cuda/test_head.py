"""The NMS-free head's kernels: which pairs are chosen, in which order, and how they are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STRIDES = [8.0, 16.0, 32.0]


class Given(nn.Module):
    """The last convolution of a branch, with its result given."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result, self.channels_out = result, result.shape[1]

    def forward(self, x: Any, out: Any) -> Any:
        return out.copy_(self.result)


def head_of(boxes: list[Any], scores: list[Any], max_det: int) -> Any:
    """Return a head whose branches give these maps (batch, channels, height, width)."""
    from brimful.runtimes.cuda.network.fuse import Launcher
    from brimful.runtimes.cuda.network.head import NmsFreeHead

    def branches(maps: list[Any]) -> list[nn.Module]:
        return [nn.Sequential(Given(one.to(DEVICE))) for one in maps]

    strides = STRIDES[: len(boxes)]
    return NmsFreeHead(branches(boxes), branches(scores), strides, max_det, Launcher())


def run(boxes: list[Any], scores: list[Any], max_det: int) -> NDArray[np.float32]:
    levels = [torch.zeros(len(box), 8, *box.shape[2:], device=DEVICE) for box in boxes]
    with np.errstate(all="ignore"):
        found = head_of(boxes, scores, max_det)(levels)
    assert found.dtype == torch.float32
    array: NDArray[np.float32] = found.cpu().numpy()
    return array


def wanted(boxes: list[Any], scores: list[Any], max_det: int) -> NDArray[np.float64]:
    """Choose and decode with sorts of everything, an image at a time."""
    rows = []
    for image in range(len(boxes[0])):
        cells, logits = [], []
        for box, score, stride in zip(boxes, scores, STRIDES, strict=False):
            for y in range(box.shape[2]):
                for x in range(box.shape[3]):
                    left, top, right, bottom = box[image, :, y, x].double().tolist()
                    corners = (x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom)
                    cells.append([side * stride for side in corners])
                    logits.append(score[image, :, y, x].double().tolist())
        keys = np.nan_to_num(np.array(logits), nan=-np.inf, posinf=np.inf, neginf=-1e300)
        count = min(max_det, len(cells))
        # Python's sort is stable: of equal values the lower anchor, then the lower class
        best = sorted(range(len(cells)), key=lambda a: -keys[a].max())[:count]
        pairs = [(a, c) for a in sorted(best) for c in range(keys.shape[1])]
        pairs = sorted(pairs, key=lambda pair: -keys[pair])[:count]
        with np.errstate(all="ignore"):
            rows.append([[*cells[a], 1 / (1 + np.exp(-logits[a][c])), c] for a, c in pairs])
    return np.array(rows)


def maps_of(
    sizes: tuple[tuple[int, int], ...], batch: int, classes: int, seed: int
) -> tuple[list[Any], list[Any]]:
    generator = torch.Generator().manual_seed(seed)

    def maps(channels: int) -> list[Any]:
        return [torch.randn(batch, channels, *size, generator=generator) for size in sizes]

    return [3 * box.abs() for box in maps(4)], [2 * score for score in maps(classes)]


def compare(boxes: list[Any], scores: list[Any], max_det: int) -> NDArray[np.float32]:
    found, expected = run(boxes, scores, max_det), wanted(boxes, scores, max_det)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-5)
    return found


THREE = ((8, 12), (4, 6), (2, 3))


@pytest.mark.parametrize(
    ("sizes", "classes", "max_det"),
    [
        (THREE, 5, 50),
        (THREE, 80, 20),
        (THREE, 1, 30),
        (THREE, 17, 300),  # fewer cells than rows
        (((5, 7),), 3, 1),
        (((9, 16), (5, 8)), 33, 129),
    ],
)
@pytest.mark.parametrize("mean", [0.0, -9.0])
def test_the_best_pairs_are_chosen_and_decoded(
    sizes: tuple[tuple[int, int], ...], classes: int, max_det: int, mean: float
) -> None:
    boxes, scores = maps_of(sizes, 3, classes, seed=classes)
    compare(boxes, [score + mean for score in scores], max_det)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_bit_decides(sign: int) -> None:
    boxes, scores = maps_of(THREE, 2, 3, seed=8)
    bits = int(np.float32(1.0).view(np.int32))
    close = [
        sign * (bits + score.mul(20).int()).numpy().view(np.float32).copy() for score in scores
    ]
    found = compare(boxes, [torch.from_numpy(score) for score in close], 45)
    assert len(np.unique(found[..., 4])) > 1


def test_more_anchors_and_rows_than_are_looked_at_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from brimful.runtimes.cuda.network import topk as pairs

    monkeypatch.setattr(pairs, "CHUNK", 64)
    monkeypatch.setattr(pairs, "ROWS", 16)
    monkeypatch.setattr(pairs, "ANCHORS", 32)
    boxes, scores = maps_of(((16, 24), (8, 12)), 2, 6, seed=1)
    compare(boxes, [score.round() for score in scores], 100)


def test_as_pytorch_chooses() -> None:
    """Against the operations that the kernels stand for; all values differ."""
    boxes, scores = maps_of(THREE, 4, 12, seed=9)
    logits = torch.cat([score.flatten(2) for score in scores], 2).mT
    assert len(logits.unique()) == logits.numel()
    anchor = logits.amax(2).topk(40, 1).indices
    chosen = logits.gather(1, anchor[:, :, None].expand(-1, -1, 12)).flatten(1)
    best, pair = chosen.topk(40, 1)
    found = run(boxes, scores, 40)
    np.testing.assert_allclose(found[..., 4], best.sigmoid(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[..., 5], pair % 12)


@pytest.mark.parametrize("max_det", [1, 7, 40, 126])
def test_of_equal_scores_the_first_anchor_and_class(max_det: int) -> None:
    boxes, scores = maps_of(THREE, 2, 4, seed=2)
    coarse = [(score / 2).round() for score in scores]
    assert len(np.unique(np.concatenate([c.flatten() for c in coarse]))) < 12
    compare(boxes, coarse, max_det)


def test_all_scores_equal() -> None:
    boxes, scores = maps_of(THREE, 1, 3, seed=3)
    zeros = [torch.copysign(torch.zeros(1), score) for score in scores]
    assert 0 < sum(int(zero.signbit().sum()) for zero in zeros) < sum(map(torch.numel, zeros))
    found = compare(boxes, zeros, 10)
    np.testing.assert_array_equal(found[0, :, 5], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


def test_scores_that_are_not_numbers_come_last() -> None:
    boxes, scores = maps_of(THREE, 3, 4, seed=4)
    for score in scores:
        score[0] = torch.nan
        score[1, :, ::2] = torch.nan
        score[1, 2] = torch.nan
        score[2, 1] = torch.inf
        score[2, 0] = -torch.inf
    found = compare(boxes, scores, 60)
    assert np.isnan(found[0, :, 4]).all()
    counts = np.isnan(found[1, :, 4])
    assert not counts[:48].any()
    np.testing.assert_array_equal(found[2, :60, 5], 1)


def test_neighbours_change_no_bit() -> None:
    boxes, scores = maps_of(THREE, 5, 20, seed=5)
    together = run(boxes, scores, 35)
    for image in (0, 3, 4):
        alone = run(
            [box[image : image + 1] for box in boxes],
            [score[image : image + 1] for score in scores],
            35,
        )
        assert alone.tobytes() == together[image : image + 1].tobytes()


def test_every_image_works_in_memory_of_its_own() -> None:
    """Programs run at the same time on a device, and one after the other in the interpreter."""
    from brimful.runtimes.cuda.network.topk import best_pairs, best_scores

    logits = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(10)).to(DEVICE)
    best = torch.zeros(3, 40, dtype=torch.int32, device=DEVICE)
    sizes = (10, 60, 60)
    work = tuple(torch.full((3, size), -7, dtype=torch.int32, device=DEVICE) for size in sizes)
    distances, out = torch.zeros(3, 40, 4, device=DEVICE), torch.zeros(3, 10, 6, device=DEVICE)
    table = torch.tensor([[0.0, 8.0, 8.0]], device=DEVICE)
    best_scores(logits, best).run()
    best_pairs(best, logits, distances, table, (work[0], work[1], work[2]), out).run()
    assert not (work[0] == -7).any()
    for part in work[1:]:  # at least as many pairs reach the bound as there are rows
        assert not (part[:, :10] == -7).any()


def test_a_head_serves_many_sizes_and_many_batches() -> None:
    first, second = maps_of(THREE, 2, 5, seed=6), maps_of(((4, 4), (2, 2), (1, 1)), 3, 5, seed=7)
    head = head_of(*first, 20)
    for boxes, scores in (first, second, first):
        for given, one in zip([*head.boxes, *head.scores], [*boxes, *scores], strict=True):
            given[-1].result = one.to(DEVICE)
        levels = [torch.zeros(len(box), 8, *box.shape[2:], device=DEVICE) for box in boxes]
        found = head(levels).cpu().numpy()
        np.testing.assert_allclose(found, wanted(boxes, scores, 20), rtol=2e-6, atol=1e-5)
