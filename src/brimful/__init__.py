"""brimful keeps the accelerator filled to the brim: YOLO models, images in, detections out.

Example:
    >>> import brimful
    >>> with brimful.load("yolo26n.pt") as engine:
    ...     for detections in engine.predict("photos/"):
    ...         print(detections.image, detections.boxes, detections.confidence)
"""

from brimful.detections import Detections
from brimful.engine.engine import Engine
from brimful.load import load
from brimful.spec import ModelSpec

__all__ = ["Detections", "Engine", "ModelSpec", "load"]
