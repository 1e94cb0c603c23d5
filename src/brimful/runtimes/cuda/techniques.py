"""Techniques: what makes the runtime fast, each with a switch, to measure what it is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Techniques:
    """Each is on unless said otherwise; `benchmarks/gpu_ablation.py` turns one off at a time.

    Attributes:
        decode: JPEGs are decoded on the GPU and letterboxed from there; off, both happen on CPU
            threads.
        graphs: Forwards are captured once and replayed; off, every kernel is launched from Python.
        fused: Convolution, bias, activation, residual and concatenation are one kernel; off,
            cuDNN convolves and PyTorch does the rest.
        host_frames: Frames of videos that the CPU decodes go to the GPU as FFmpeg's planes, and are
            converted and letterboxed there; off, both happen on CPU threads.
        video: Frames of videos are decoded by NVDEC and letterboxed from there, where they come out
            as on the CPU to the last bit; off, both happen on CPU threads. None decides by their
            number: NVDEC takes one of the chip's engines for a video, and more than a few CPUs
            are faster.
        select: Confidence cut, NMS and compaction run on the device; off, on the host.
        masks: Masks are computed and encoded on the device; off, or without `select`, prototypes
            are copied to the host, which does it.
    """

    decode: bool = True
    graphs: bool = True
    fused: bool = True
    host_frames: bool = True
    video: bool | None = None
    select: bool = True
    masks: bool = True


DEFAULT = Techniques()
