"""Classify: class probabilities of the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brimful.detections import Detections, FloatArray
from brimful.errors import ModelError
from brimful.spec import ModelSpec
from brimful.vision.heads.placed import Placed


def classify(
    outputs: Sequence[FloatArray], placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Return the probabilities of each image, as the model gives them.

    Args:
        outputs: First float32 (at least len(placed), classes), after the softmax.
        placed: The images of the batch.
        spec: The model.
    """
    output = outputs[0]
    if output.ndim != 2 or output.shape[1] != spec.classes:
        raise ModelError(
            f"expected probabilities (batch, {spec.classes}) for {spec.classes} class names, "
            f"got {output.shape}"
        )
    # a copy: the runtime will reuse its buffer, the result stays
    probs = np.array(output[: len(placed)], np.float32)
    return [
        Detections(
            image=p.key,
            index=p.index,
            frame=p.frame,
            pts_ms=p.pts_ms,
            width=p.geometry.image[1],
            height=p.geometry.image[0],
            canvas=p.geometry.canvas,
            task=spec.task,
            names=spec.names,
            probs=own,
        )
        for p, own in zip(placed, probs, strict=True)
    ]
