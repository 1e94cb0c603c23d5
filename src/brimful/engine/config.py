"""EngineConfig: how an engine is put together, whatever the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from brimful.errors import UsageError
from brimful.vision.decode import DecodeLimits
from brimful.vision.postprocess import PostprocessConfig

OnStageDeath = Literal["stop", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of the engine around a runtime.

    Attributes:
        postprocess: Confidence, NMS, classes.
        canvas: `auto`, `square`, `exact` or `HxW`.
        imgsz: (height, width) of the full canvas; None is the model's own.
        limits: How large an image may be.
        workers: Decode threads; None takes one per CPU, at most 8.
        max_delay_ms: A batch is overdue this long after its first image. It matters only while
            the device is busy: an image on an idle device goes at once.
        max_batch_pixels: Canvas pixels in a batch at most, or None.
        queue: Images that may wait for decode, of all sources together.
        queue_bytes: Bytes of images handed over in memory that may be in the engine, of all sources
            together. A single image may be larger.
        stall_s: A forward that takes longer than this counts as hung.
        on_stage_death: What follows when a stage dies: `stop` the engine, or `restart` its stages
            (what was in flight fails either way).
    """

    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    canvas: str = "auto"
    imgsz: int | tuple[int, int] | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    workers: int | None = None
    max_delay_ms: float = 300.0
    max_batch_pixels: int | None = None
    queue: int = 160
    queue_bytes: int = 256 * 2**20
    stall_s: float = 120.0
    on_stage_death: OnStageDeath = "stop"

    def __post_init__(self) -> None:
        """Refuse settings under which the engine could not run."""
        for name in ("workers", "queue", "queue_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.stall_s <= 0:
            raise UsageError(f"stall_s must be positive, not {self.stall_s}")
        if self.on_stage_death not in ("stop", "restart"):
            raise UsageError(
                f"on_stage_death {self.on_stage_death!r} is unknown; expected stop or restart"
            )
