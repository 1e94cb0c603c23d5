"""Selected: the outputs of a forward whose detections were selected on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from brimful.detections import FloatArray
from brimful.vision.heads.encoded_masks import EncodedMasks
from brimful.vision.heads.rows import Rows


@dataclass(slots=True, kw_only=True)
class Selected:
    """What a runtime that selects on its device returns, instead of the head's own output.

    Results refer to the memory of `rows` and never to that of `arrays`: a runtime that reuses its
    buffers copies the rows out of them.

    Attributes:
        rows: What passed the confidence cut and NMS, in canvas pixels; `rows.truncated` has an
            entry for each image of the batch and none for a padded tail.
        arrays: The further outputs that the task needs, the batch first: the prototypes of a
            segment model, (batch, channels, height, width). Empty for the other tasks.
        masks: Of a segment model whose masks were computed on the device, too; `arrays` is empty
            then.
        errors: Why an image of the batch has no result, by its position: the device could not
            decode it. Rows of such an image are ignored.
    """

    rows: Rows
    arrays: Sequence[FloatArray] = ()
    masks: EncodedMasks | None = None
    errors: dict[int, str] = field(default_factory=dict)
