"""Where images come from."""

from brimful.sources.image import SourceImage
from brimful.sources.open_source import open_source
from brimful.sources.source import Source
from brimful.vision.pixels import Pixels

__all__ = ["Pixels", "Source", "SourceImage", "open_source"]
