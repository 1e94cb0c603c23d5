"""DeviceSelect: from a head's output on the GPU to Rows on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton

from brimful.cuda.memory import clear, zeros
from brimful.detections import IntArray
from brimful.errors import ModelError
from brimful.spec import ModelSpec
from brimful.vision.cuda.candidates import KEY_BITS, find_candidates, keep_best
from brimful.vision.cuda.nms import suppress_greedily, suppress_rotated
from brimful.vision.cuda.rows import pick_rows, write_rows
from brimful.vision.cuda.settings import Settings
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.rows import Rows
from brimful.vision.heads.select import class_ids

TILES = {"raw": (256, 8, 2), "yolov5": (64, 32, 4)}
"""Anchors, classes and warps of a program: long along what is contiguous in memory, and for `raw`
so that a thread has all classes of its anchors."""

CHUNK = 1024
"""Rows, keys or values that the other kernels look at at a time."""

BLOCK = 256
BLOCK_WARPS = 4
"""Candidates that NMS holds in registers at a time, and the warps that hold them."""

ROTATED_BLOCK = 32
"""Candidates that rotated NMS compares with as many others at a time."""


class DeviceSelect:
    """Finds the detections of a batch where the network left them; only these go to the host.

    The results are those of `brimful.vision.heads.select`, value for value; only the overlap of
    rotated boxes differs in the last bits, because sine, logarithm and exponential do.

    The buffers are made once. One launch must have been waited for, and its rows taken, before
    the next one starts.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: PostprocessConfig,
        batch: int,
        candidates: int,
        device: Any,
        *,
        copy: tuple[Any, Any] | None = None,
    ) -> None:
        """Allocate the buffers for outputs of one shape.

        Args:
            spec: The model.
            config: What to keep in images that have no setting of their own.
            batch: Images of an output.
            candidates: Anchors per image, or rows of an NMS-free head.
            device: Where the outputs are, a torch device or its name.
            copy: Memory on the device that gets the rows as well, for who goes on with them there:
                float32 (at least batch * rows of an image, 6 + spec.extra), the rows of all images
                without gaps, and int32 (2, at least batch), first how many rows each image has.

        Raises:
            ValueError: The model or the config is one that `supports` gives a reason against, or
                the output would be too large.
        """
        reason = self.supports(spec, config)
        label_bits = (spec.classes - 1).bit_length()
        if reason is None and candidates << label_bits > 1 << KEY_BITS:
            reason = f"{candidates} anchors of {spec.classes} classes do not fit a key"
        if reason is not None:
            raise ValueError(f"no selection on the device: {reason}")
        self._spec, self._config = spec, config
        self._batch, self._candidates = batch, candidates
        self._label_bits = label_bits
        self._limit = min(config.max_det, candidates)
        device = torch.device(device)
        heads = {
            "nms_free": (candidates, 6 + spec.extra),
            "raw": (4 + spec.classes + spec.extra, candidates),
            "yolov5": (candidates, 5 + spec.classes + spec.extra),
        }
        self._shape = (batch, *heads[spec.head])
        self._settings = Settings(spec, config, batch, self._limit, device)
        self._found = zeros((batch,), torch.int32, device)
        self._kept = zeros((batch, self._limit), torch.int64, device)
        self._kept_count = zeros((batch,), torch.int32, device)
        lists = {"nms_free": 0}.get(spec.head, 2 if spec.task == "obb" else 1)
        self._keys = zeros((lists, batch, candidates), torch.int64, device)
        self._block = zeros((batch, BLOCK), torch.int64, device)
        # Kernels write straight into pinned memory: what is not a detection never travels.
        pinned = {"pin_memory": device.type == "cuda"}
        width = 6 + spec.extra
        self._rows = torch.zeros((batch * self._limit, width), dtype=torch.float32, **pinned)
        self._counts = torch.zeros((2, batch), dtype=torch.int32, **pinned)
        self._targets = [(self._rows, self._counts)]
        if copy is not None:
            self._targets.append(copy)

    @staticmethod
    def supports(spec: ModelSpec, config: PostprocessConfig) -> str | None:
        """Return why the host must select instead, or None if the device can."""
        if spec.head == "classify":
            return "a classifier has nothing to select"
        if config.multi_label and spec.classes > 1 and spec.head != "nms_free":
            return "multi_label makes a candidate of every class of every anchor"
        return None

    def configure(self, params: Sequence[PostprocessConfig | None] | None) -> None:
        """Say what becomes a detection in each image of the launches from here on.

        This queues a copy on the current stream, or nothing if `params` is None and was before.
        A graph that has captured `launch` follows it. The launch before must have been waited for.

        Args:
            params: Of each image; None for the setting that the buffers were made for, as for an
                image of None. Only conf, iou, max_det and classes may be others.

        Raises:
            ValueError: A max_det is above the one that the buffers were made for, or the model
                has not such a class. The setting before stays.
        """
        self._settings.write(params)

    def launch(self, output: Any, live: Any) -> None:
        """Launch the kernels on the current stream of the output's device, the current one.

        Nothing is allocated, nothing waits and nothing depends on values on the host, so a CUDA
        graph can capture it after a first launch outside, which compiles.

        Args:
            output: float32, contiguous, the head's first output as `ModelSpec.head` lays it out.
            live: int32 (1,) on the device: the images from here on are padding, and empty.

        Raises:
            ModelError: The output has another shape or type than the buffers were made for.
        """
        if tuple(output.shape) != self._shape or output.dtype != torch.float32:
            spec = self._spec
            raise ModelError(
                f"expected a float32 output of {self._shape} for a {spec.head} {spec.task} head of "
                f"{spec.classes} classes and {spec.extra} extra values, got {output.dtype} "
                f"{tuple(output.shape)}; are the class names and the task right?"
            )
        if not output.is_contiguous():
            raise ModelError(f"expected a contiguous output, got strides {output.stride()}")
        if self._spec.head == "nms_free":
            self._launch_nms_free(output, live)
        else:
            self._launch_nms(output, live)

    @property
    def limit(self) -> int:
        """Rows of an image at most."""
        return self._limit

    def found(self, count: int) -> IntArray:
        """Return how many rows each of the first `count` images has, as `rows` does."""
        return self._counts.numpy()[0, :count]

    def rows(self, count: int) -> Rows:
        """Return what the last launch found, once its stream was waited for.

        Args:
            count: Images to return, at most those that were live.
        """
        counts = self._counts.numpy()
        found = counts[0, :count]
        rows = self._rows.numpy()[: int(found.sum())].copy()  # the next launch overwrites them
        return Rows(
            image=np.repeat(np.arange(count), found),
            boxes=rows[:, :4],
            confidence=rows[:, 4].copy(),  # results keep it, and not the rest of the row
            class_id=class_ids(rows[:, 5]),
            extra=rows[:, 6:],
            truncated=counts[1, :count] != 0,
        )

    def _launch_nms_free(self, output: Any, live: Any) -> None:
        _, candidates, columns = self._shape
        pick_rows[(self._batch,)](
            output,
            live,
            self._kept,
            self._kept_count,
            self._settings.table,
            self._settings.width,
            candidates,
            columns,
            self._settings.classes,
            self._limit,
            CHUNK=min(CHUNK, triton.next_power_of_2(candidates)),
            enable_fp_fusion=False,
        )
        self._write(output, (candidates * columns, columns, 1), first_extra=6)

    def _launch_nms(self, output: Any, live: Any) -> None:
        spec, config = self._spec, self._config
        batch, anchors = self._batch, self._candidates
        objectness = spec.head == "yolov5"
        first_extra = 4 + objectness + spec.classes
        image_stride = self._shape[1] * self._shape[2]
        strides = (
            (image_stride, first_extra + spec.extra, 1)
            if objectness
            else (image_stride, 1, anchors)
        )
        block, classes, warps = TILES[spec.head]
        keys = self._keys[0]
        clear(self._found)
        find_candidates[(triton.cdiv(anchors, block), batch)](
            output,
            live,
            keys,
            self._found,
            self._settings.table,
            self._settings.width,
            anchors,
            spec.classes,
            *strides,
            OBJECTNESS=objectness,
            LABEL_BITS=self._label_bits,
            ANCHORS=block,
            CLASSES=classes,
            num_warps=warps,
            enable_fp_fusion=False,
        )
        if anchors > config.max_nms:
            keep_best[(batch,)](
                keys,
                self._found,
                anchors,
                config.max_nms,
                CHUNK=CHUNK,
                enable_fp_fusion=False,
            )
        by_class = not config.agnostic_nms and spec.classes > 1
        rotated = spec.task == "obb"
        if rotated:
            survivors = self._keys[1]
            suppress_rotated[(triton.cdiv(anchors, ROTATED_BLOCK), batch)](
                output,
                keys,
                survivors,
                self._found,
                self._settings.table,
                self._settings.width,
                anchors,
                first_extra,
                *strides,
                BY_CLASS=by_class,
                LABEL_BITS=self._label_bits,
                BLOCK=ROTATED_BLOCK,
                enable_fp_fusion=False,
            )
            keys = survivors
        suppress_greedily[(batch,)](
            output,
            keys,
            self._found,
            self._block,
            self._kept,
            self._kept_count,
            self._settings.table,
            self._settings.width,
            anchors,
            self._limit,
            *strides,
            OVERLAPS=not rotated,
            BY_CLASS=by_class,
            LABEL_BITS=self._label_bits,
            BLOCK=BLOCK,
            num_warps=BLOCK_WARPS,
            enable_fp_fusion=False,
        )
        self._write(output, strides, first_extra=first_extra)

    def _write(self, output: Any, strides: tuple[int, int, int], *, first_extra: int) -> None:
        spec = self._spec
        for rows, counts in self._targets:
            write_rows[(self._batch,)](
                output,
                self._found,
                self._kept,
                self._kept_count,
                rows,
                counts[0],
                counts[1],
                self._limit,
                self._config.max_nms,
                6 + spec.extra,
                first_extra,
                *strides,
                KEYS=spec.head != "nms_free",
                CORNERS=spec.head != "nms_free" and spec.task != "obb",
                LABEL_BITS=self._label_bits,
                IMAGES=triton.next_power_of_2(self._batch),
                CHUNK=CHUNK,
                enable_fp_fusion=False,
            )
