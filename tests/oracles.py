"""The reference: Ultralytics run on the same pixels, and a judge of how well results agree.

Nothing here uses brimful's own vision code, so that a bug there cannot hide itself.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brimful.detections import Detections
from brimful.spec import ModelSpec
from shared_files import shared as shared

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported


def asset(name: str) -> Path:
    """Return one of the photographs in Ultralytics' package: bus.jpg, zidane.jpg."""
    ultralytics = pytest.importorskip("ultralytics")
    return Path(ultralytics.__file__).parent / "assets" / name


def random_model(yaml_name: str, seed: int, nc: int = 5, passing: float = 0.01) -> Any:
    """Build an Ultralytics model with seeded random weights that detects something.

    Batch norm gets the statistics of two photographs, so that activations stay alive through
    the depth. Then the class scores are spread and shifted so that at least about `passing` of
    all of them are above 0.25 and few of them tie near 1.

    Args:
        yaml_name: One of Ultralytics' configurations, such as `yolo26n-seg.yaml`.
        seed: Seed of the weights.
        nc: Number of classes.
        passing: Fraction of the scores (anchors x classes) above 0.25.

    Returns:
        An `ultralytics.YOLO`, which the caller may change.
    """
    return copy.deepcopy(_random_model(yaml_name, seed, nc, passing))


@functools.cache
def _random_model(yaml_name: str, seed: int, nc: int, passing: float) -> Any:
    """Build the model of `random_model`, which takes seconds, once a process."""
    import cv2
    import torch
    from torch import nn
    from ultralytics import YOLO
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.tasks import yaml_model_load

    torch.manual_seed(seed)
    yolo = YOLO(yaml_name)
    built = yolo.model
    torch.manual_seed(seed)
    yolo.model = type(built)({**yaml_model_load(yaml_name), "nc": nc}, nc=nc, verbose=False)
    yolo.model.args, yolo.model.task = built.args, built.task
    photos = [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]

    def pixels(auto: bool) -> list[torch.Tensor]:
        canvases = [LetterBox((640, 640), auto=auto)(image=photo) for photo in photos]
        return [
            torch.from_numpy(c[None, ..., ::-1].copy()).permute(0, 3, 1, 2) / 255 for c in canvases
        ]

    norms = [m for m in yolo.model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean of what was seen
        norm.reset_running_stats()
    with torch.no_grad():
        yolo.model.train()(torch.cat(pixels(auto=False)))
        yolo.model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        head = yolo.model.model[-1]
        if built.task == "classify":
            logits = torch.cat([yolo.model(p)[1] for p in pixels(auto=False)])
            head.linear.weight *= 2 / logits.std()
            return yolo
        branches = {"one2many": head.cv3, "one2one": getattr(head, "one2one_cv3", None)}
        for name, layers in branches.items():
            if layers is None:
                continue
            # every layer starts from the same bias, so that one shift serves all of them
            for layer in layers:
                layer[-1].bias[:] = 0
            raw = [yolo.model(p)[1] for p in pixels(auto=True)]
            scores = [r.get(name, r)["scores"].numpy() for r in raw]
            # the quieter photograph sets the cut, the loudest score goes to about 0.95
            cut = float(min(np.quantile(s, 1 - passing) for s in scores))
            spread = 4 / (float(max(s.max() for s in scores)) - cut)
            for layer in layers:
                layer[-1].weight *= spread
                layer[-1].bias[:] = -1.0986 - cut * spread  # logit of 0.25
    return yolo


def reference_predict(
    model: Any,
    images: Sequence[np.ndarray],
    *,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    imgsz: int | tuple[int, int] = 640,
    rect: bool = True,
    nms: bool | None = None,
    classes: Sequence[int] | None = None,
    agnostic_nms: bool = False,
) -> list[Detections]:
    """Run Ultralytics' own predict, one image at a time, with masks at full resolution.

    Args:
        model: A file Ultralytics can load, or a `YOLO`.
        images: uint8 (height, width, 3) in BGR.
        conf: Confidence that a detection must be above.
        iou: Largest overlap of two boxes that both stay.
        max_det: Most detections per image.
        imgsz: Side, or (height, width), of the largest canvas.
        rect: The minimum rectangle (`--canvas exact`) instead of the whole `imgsz`.
        nms: False for the NMS-free head of YOLO26; None and True use the head with NMS.
        classes: Class ids to report, None for all.
        agnostic_nms: Boxes suppress each other across classes.
    """
    from ultralytics import YOLO

    yolo = YOLO(model) if isinstance(model, (str, Path)) else model
    found = []
    for index, image in enumerate(images):
        (result,) = yolo.predict(
            image,
            conf=conf,
            iou=iou,
            max_det=max_det,
            imgsz=imgsz,
            rect=rect,
            nms=nms,
            classes=None if classes is None else list(classes),
            agnostic_nms=agnostic_nms,
            retina_masks=True,
            verbose=False,
            device="cpu",
        )
        found.append(_as_detections(result, index, yolo.task))
    return found


def exported_outputs(yolo: Any, batch: np.ndarray) -> list[np.ndarray]:
    """Run the very module that the last `reference_predict` of a `YOLO` ran, as exports do.

    Args:
        yolo: A `YOLO` that has predicted before (the head and the fusion are those of then).
        batch: float32 (n, channels, height, width) in RGB, 0 to 1.

    Returns:
        The outputs an exported file would have, as float32 arrays.
    """
    import torch

    module = copy.deepcopy(yolo.predictor.model.model).eval()
    module.model[-1].export = True
    with torch.inference_mode():
        outputs = module(torch.from_numpy(np.ascontiguousarray(batch)))
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return [o.float().numpy() for o in outputs]


def spec_of(yolo: Any) -> ModelSpec:
    """Read the facts of a `YOLO` that has predicted before."""
    module = yolo.predictor.model.model
    head = module.model[-1]
    task = yolo.task
    layout = "classify" if task == "classify" else "nms_free" if head.end2end else "raw"
    return ModelSpec(
        task=task,
        head=layout,
        names=tuple(module.names.values()),
        kpt_shape=tuple(head.kpt_shape) if task == "pose" else None,
        mask_channels=head.nm if task == "segment" else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingReport:
    """How well two runs over the same images agree.

    Attributes:
        reference: Detections of the reference (classify: images).
        ours: Detections of ours.
        paired: Reference detections with a partner of ours that agrees in everything.
        extra_above: Detections of ours without any partner and a confidence above the limit.
        worst_iou: Lowest box IoU (obb: or probiou) among partners.
        worst_score: Largest difference of confidence (classify: of a probability).
        worst_mask_iou: Lowest mask IoU among partners.
        worst_keypoint_px: Largest distance of a keypoint among partners, in pixels.
        complaints: The first few detections without a partner, for the message of a failure.
    """

    reference: int
    ours: int
    paired: int
    extra_above: int
    worst_iou: float = 1.0
    worst_score: float = 0.0
    worst_mask_iou: float = 1.0
    worst_keypoint_px: float = 0.0
    complaints: tuple[str, ...] = field(default=())

    @property
    def paired_fraction(self) -> float:
        """Fraction of the reference's detections that are paired; 1 when it has none."""
        return self.paired / self.reference if self.reference else 1.0

    @property
    def ok(self) -> bool:
        """Whether 99.5 % are paired and nothing was made up."""
        return self.paired_fraction >= 0.995 and self.extra_above == 0


def pair_detections(
    ours: Sequence[Detections],
    reference: Sequence[Detections],
    *,
    iou: float = 0.99,
    score: float = 0.005,
    mask_iou: float = 0.98,
    keypoint_px: float = 0.5,
    extra_score: float = 0.3,
) -> PairingReport:
    """Pair the detections of two runs over the same images, one to one within a class.

    Args:
        ours: Results to judge.
        reference: Results to judge by, of the same images in the same order.
        iou: Least box IoU (obb: and probiou) of a pair.
        score: Largest difference of confidence of a pair.
        mask_iou: Least mask IoU of a pair.
        keypoint_px: Largest distance of two keypoints of a pair, in pixels.
        extra_score: Confidence above which a detection of ours needs a partner.
    """
    assert len(ours) == len(reference)
    paired = extra = 0
    worst_iou, worst_score, worst_mask, worst_keypoint = 1.0, 0.0, 1.0, 0.0
    complaints: list[str] = []
    for own, ref in zip(ours, reference, strict=True):
        assert own.error is None, own.error
        assert (own.width, own.height) == (ref.width, ref.height)
        if ref.probs is not None:
            assert own.probs is not None
            difference = float(np.abs(own.probs - ref.probs).max())
            worst_score = max(worst_score, difference)
            same_top = own.probs.argmax() == ref.probs.argmax()
            paired += int(difference <= score and same_top)
            continue
        free = np.ones(len(own), bool)
        overlap = _similarity(ref, own)
        overlap[ref.class_id[:, None] != own.class_id[None]] = 0
        gap = np.abs(ref.confidence[:, None] - own.confidence[None])
        for row in range(len(ref)):
            # two boxes of one anchor differ in nothing but class and score
            rank = np.where(free, overlap[row] - gap[row], -np.inf)
            best = int(rank.argmax()) if len(own) else -1
            if best < 0 or not free[best] or overlap[row, best] < iou or gap[row, best] > score:
                near = f"{overlap[row, best]:.4f}, {gap[row, best]:.4f}" if best >= 0 else "none"
                complaints.append(f"image {ref.index} {_tell(ref, row)}: nearest {near}")
                continue
            free[best] = False
            worst_iou = min(worst_iou, float(overlap[row, best]))
            worst_score = max(worst_score, float(gap[row, best]))
            mask = _mask_iou(ref, row, own, best)
            keypoint = _keypoint_distance(ref, row, own, best)
            worst_mask, worst_keypoint = min(worst_mask, mask), max(worst_keypoint, keypoint)
            if mask < mask_iou or keypoint > keypoint_px:
                complaints.append(f"image {ref.index} {_tell(ref, row)}: {mask=} {keypoint=}")
                continue
            paired += 1
        extra += int((free & (own.confidence > extra_score)).sum())
    classified = any(r.probs is not None for r in reference)
    return PairingReport(
        reference=len(reference) if classified else sum(map(len, reference)),
        ours=len(ours) if classified else sum(map(len, ours)),
        paired=paired,
        extra_above=extra,
        worst_iou=worst_iou,
        worst_score=worst_score,
        worst_mask_iou=worst_mask,
        worst_keypoint_px=worst_keypoint,
        complaints=tuple(complaints[:8]),
    )


def _as_detections(result: Any, index: int, task: str) -> Detections:
    """Convert Ultralytics' Results."""
    from pycocotools import mask as coco

    height, width = result.orig_shape
    facts: dict[str, Any] = {
        "image": str(result.path),
        "index": index,
        "width": width,
        "height": height,
        "task": task,
        "names": tuple(result.names.values()),
    }
    if result.probs is not None:
        return Detections(**facts, probs=result.probs.data.numpy())
    rows = result.obb if result.obb is not None else result.boxes
    masks = None
    if task == "segment":
        planes = [] if result.masks is None else result.masks.data.numpy().astype(np.uint8)
        codes = [coco.encode(np.asfortranarray(plane)) for plane in planes]
        masks = tuple({"size": c["size"], "counts": c["counts"].decode()} for c in codes)
    return Detections(
        **facts,
        boxes=rows.xyxy.numpy(),
        confidence=rows.conf.numpy(),
        class_id=rows.cls.numpy().astype(np.int32),
        masks=masks,
        keypoints=None if result.keypoints is None else result.keypoints.data.numpy(),
        obb=None if result.obb is None else result.obb.xywhr.numpy(),
    )


def _similarity(left: Detections, right: Detections) -> np.ndarray:
    """Return the box IoU of all pairs (obb: the lower of that of the bounds and probiou)."""
    import torch
    from torchvision.ops import box_iou
    from ultralytics.utils.metrics import batch_probiou

    # a box of no area, clipped away at the border, is the same as itself
    same = np.abs(left.boxes[:, None] - right.boxes[None]).max(axis=-1) < 0.01
    found = box_iou(torch.tensor(left.boxes), torch.tensor(right.boxes)).numpy()
    found = np.where(same, 1.0, found)
    if left.obb is not None and right.obb is not None:
        found = np.minimum(found, batch_probiou(left.obb, right.obb).numpy())
    return found


def _mask_iou(left: Detections, i: int, right: Detections, j: int) -> float:
    if left.masks is None or right.masks is None:
        assert left.masks is None and right.masks is None
        return 1.0
    from pycocotools import mask as coco

    return float(coco.iou([left.masks[i]], [right.masks[j]], [0])[0, 0])


def _keypoint_distance(left: Detections, i: int, right: Detections, j: int) -> float:
    if left.keypoints is None or right.keypoints is None:
        assert left.keypoints is None and right.keypoints is None
        return 0.0
    a, b = left.keypoints[i], right.keypoints[j]
    assert np.abs(a[:, 2:] - b[:, 2:]).max(initial=0) < 0.005  # visibility
    return float(np.hypot(*(a[:, :2] - b[:, :2]).T).max())


def _tell(found: Detections, row: int) -> str:
    box = ", ".join(f"{v:.1f}" for v in found.boxes[row])
    return f"class {found.class_id[row]} at {found.confidence[row]:.3f} [{box}]"
