"""Predictor: what a model on one device and a model on several have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from brimful.detections import Detections
from brimful.engine.encoded import EncodedResults
from brimful.engine.lifecycle import EngineReport
from brimful.engine.request import LinePolicy
from brimful.spec import Classes, ModelSpec, Size


class Predictor(ABC):
    """Turns images into detections: an `Engine`, or an `EnginePool` of several processes.

    Every method may be called from any thread. It is a context manager that closes itself. What the
    two do alike is written here once.
    """

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """What the model is."""

    @property
    @abstractmethod
    def health(self) -> str:
        """`ok`, or what is broken and why."""

    @property
    def names(self) -> dict[int, str]:
        """Class names by class id, as Ultralytics' models have them; a new dictionary each time."""
        return dict(enumerate(self.spec.names))

    def __call__(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        imgsz: int | tuple[int, int] | None = None,
        keep_images: bool = False,
    ) -> Iterator[Detections]:
        """Do what `predict` does."""
        return self.predict(
            source,
            conf=conf,
            iou=iou,
            max_det=max_det,
            classes=classes,
            imgsz=imgsz,
            keep_images=keep_images,
        )

    def predict(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        imgsz: int | tuple[int, int] | None = None,
        keep_images: bool = False,
    ) -> Iterator[Detections]:
        """Run every image of a source.

        Args:
            source: Whatever `open_source` takes, or a Source; closed at the end.
            conf: Confidence that detections must be above, in this source; by default the engine's.
            iou: Largest overlap of two boxes of a class that both stay, likewise.
            max_det: Most detections of an image, at most the engine's.
            classes: Ids and names of the classes to report; by default the engine's.
            imgsz: Only what the engine was loaded with: another size needs another engine.
            keep_images: Keep images that are in memory, and frames of videos, with their
                detections, to be drawn.

        Returns:
            The detections of each image, in the source's order; a bad image has `error` set.

        Raises:
            UsageError: There is no such source, or nothing in it, or an option makes no sense.
            EngineStoppedError: It was closed, or stopped; also while results are asked for.
        """
        streamed = self.stream(
            source,
            conf=conf,
            iou=iou,
            max_det=max_det,
            classes=classes,
            imgsz=imgsz,
            keep_images=keep_images,
        )
        return (result for results in streamed for result in results)

    @abstractmethod
    def stream(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        imgsz: int | tuple[int, int] | None = None,
        keep_images: bool = False,
    ) -> Iterator[list[Detections]]:
        """Run every image of a source; as `predict`, in lists of whatever is ready at a time."""

    @abstractmethod
    def stream_encoded(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
    ) -> Iterator[EncodedResults]:
        """Run every image of a source; as `stream`, with results that are JSON lines already.

        Where the engine is another process, that one encodes.
        """

    @abstractmethod
    def submit(
        self,
        image: object,
        *,
        key: str = "image",
        client: Hashable = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        priority: int = 0,
        deadline_ms: float | None = None,
        line: LinePolicy = "fifo",
        copy: bool = True,
        wait: bool = True,
    ) -> Future[Detections]:
        """Run one image; see `Engine.submit` for arguments and errors."""

    @abstractmethod
    def warm_up(self, canvases: Iterable[Size] | None = None) -> list[Size]:
        """Run every canvas once; see `Engine.warm_up`."""

    @abstractmethod
    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing more and finish what was taken; return whether all of it is finished.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.
        """

    @abstractmethod
    def reset_stats(self) -> None:
        """Start measuring anew."""

    @abstractmethod
    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset."""

    @abstractmethod
    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results, for reports."""

    @abstractmethod
    def close(self) -> None:
        """Stop, and give all memory back; what is in flight fails."""
