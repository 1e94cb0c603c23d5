"""PredictorBase: what an engine and a pool of engines do in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from brimful.detections import Detections
from brimful.spec import Classes, ModelSpec


class PredictorBase(ABC):
    """A context manager that closes itself, and calls that come down to `stream`."""

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """What the model is."""

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
        """Run every image of a source, handing out whatever is ready at a time."""

    @abstractmethod
    def close(self) -> None:
        """Stop, and give the memory back."""

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
    def names(self) -> dict[int, str]:
        """Class names by class id, as Ultralytics' models have them; a new dictionary each time."""
        return dict(enumerate(self.spec.names))

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
        """Run every image of a source; see `stream` for the arguments.

        Returns:
            The detections of each image, in the source's order; a bad image has `error` set.
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
