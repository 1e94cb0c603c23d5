"""Where images come from."""

from brimful.sources.image import Pixels, SourceImage
from brimful.sources.open_source import open_source
from brimful.sources.source import Source

__all__ = ["Pixels", "Source", "SourceImage", "open_source"]
