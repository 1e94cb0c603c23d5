"""From named files to source images: what all sources of files share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Container, Generator, Iterable, Iterator
from dataclasses import dataclass

from brimful.errors import ImageError, MissingExtraError, UsageError
from brimful.runtimes.video import VideoDevice
from brimful.sources.adaptive_chunks import gather
from brimful.sources.address import Address
from brimful.sources.content import kind_of_content
from brimful.sources.frames import read_frames
from brimful.sources.image import SourceImage
from brimful.sources.key import join, printable
from brimful.sources.skipped import Skipped
from brimful.sources.suffixes import Kind, is_media, kind_of, kinds_of
from brimful.sources.walk import CHUNK, AllMedia, Entry, walk
from brimful.vision.decode import MAX_BYTES

NO_SECOND_READING = (
    "a video of the network or of a camera is not drawn, as that needs a second reading. Record it "
    "and give the file: ffmpeg -i ADDRESS -c copy clip.mkv"
)

Done = Container[tuple[str, int | None]]
"""(key, frame) pairs that need no second result; a sink to resume has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How files become images.

    Attributes:
        vid_stride: Every how many-th frame of a video is taken.
        max_bytes: Largest image that is fetched over HTTP.
        keeps_fetched: Images that are fetched stay with their results, to be drawn on. Videos that
            come over the network, and cameras, are errors then: they cannot be read a second time.
        done: Images and frames to leave out. Their indexes stay reserved, so that what is
            left carries the index it has in a run that leaves out nothing.
    """

    vid_stride: int = 1
    max_bytes: int = MAX_BYTES
    keeps_fetched: bool = False
    done: Done = ()

    def __post_init__(self) -> None:
        """Refuse a stride that would stand still."""
        if self.vid_stride < 1:
            raise UsageError(f"vid_stride is {self.vid_stride}; expected 1 or more")


class EntriesSource(ABC):
    """A source made of named files; a subclass lists them.

    See `brimful.sources.source.Source` for what the methods promise.
    """

    def __init__(self, options: FileOptions) -> None:
        """Keep the options; nothing is listed yet."""
        self._options = options
        self.skipped = Skipped()
        """What was left out so far, by the iteration that was begun last."""
        self._closed = False
        self._length: int | None = None

    @abstractmethod
    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files in order, in lists of what is known at the same time."""

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images and frames in order."""
        for images in self.chunks():
            for image in images:
                if self._closed:
                    return
                yield image

    def chunks(self) -> Iterator[list[SourceImage]]:
        """Yield the images in lists, and the frames of a video as quickly as they come."""
        return self._chunks(None)

    def chunks_with(self, video: VideoDevice) -> Iterator[list[SourceImage]]:
        """Yield the same, with the frames that a device decodes as surfaces."""
        return self._chunks(video)

    def __len__(self) -> int:
        """Return the number of images, those left out included.

        The files are listed for it, once; a video among them makes the number unknowable.
        """
        if self._length is None:
            self._length = sum(_length_of(entries) for entries in self.entries())
        return self._length

    def close(self) -> None:
        """End a running iteration before its next image."""
        self._closed = True

    def _chunks(self, video: VideoDevice | None) -> Iterator[list[SourceImage]]:
        for images in images_of(self.entries(), self._options, video):
            if self._closed:
                return
            yield images


def images_of(
    chunks: Iterable[list[Entry]],
    options: FileOptions,
    video: VideoDevice | None = None,
    first: int = 0,
) -> Generator[list[SourceImage], None, int]:
    """Yield a SourceImage per image and one per frame of a video, in lists.

    Args:
        chunks: The files.
        options: How they become images.
        video: What decodes videos, if anything does.
        first: Index of the first one.

    Returns:
        The index of what follows.
    """
    index = first
    done = options.done or ()  # of a new job it is empty: then nobody is asked an image
    for entries in chunks:
        images: list[SourceImage] = []
        kinds = kinds_of([entry.path for entry in entries])
        for entry, kind in zip(entries, kinds, strict=True):
            fetched: bytes | ImageError | None = None
            if isinstance(entry, Address):
                kind, fetched = _fetched(entry, options)
            elif kind is None and entry.error is None:  # somebody named it
                kind = kind_of_content(entry.path)
            if kind == "video" and entry.error is None:
                if images:
                    yield images
                    images = []
                frames = _frames(entry, options, None if isinstance(entry, Address) else video)
                # A device has room for few frames of its own: they are not kept waiting.
                lists = gather(frames) if video is None else ([frame] for frame in frames)
                for gathered in lists:
                    for image in gathered:
                        if image is not None:
                            image.index = index
                            images.append(image)
                        index += 1
                    if images:
                        yield images
                        images = []
                continue
            key = entry.key
            if not done or (key, None) not in done:
                payload = fetched or entry.error or entry.path
                kept = options.keeps_fetched and isinstance(payload, bytes)
                images.append(SourceImage(index=index, key=key, payload=payload, kept=kept))
            index += 1
        if images:
            yield images
    return index


def named(names: Iterable[tuple[str, str]], skipped: Skipped) -> Iterator[list[Entry]]:
    """Yield what named paths stand for: themselves, or the media below a folder.

    Whether a file exists is for its reader to find out: no file with a known suffix is stat'ed
    here.

    Args:
        names: Paths that somebody named, and their keys. None of them has to be waited for.
        skipped: Told of the files below folders that are no images or videos.
    """
    files: list[Entry] = []
    for path, name in names:
        key = printable(name)
        is_folder = not is_media(path) and os.path.isdir(path)  # noqa: PTH112 - Path may raise
        if not is_folder:
            files.append(Entry(path, key))
        if files and (is_folder or len(files) == CHUNK):
            yield files
            files = []
        if is_folder:
            folder = key.rstrip("/")
            for entries in walk(path, AllMedia(), skipped):
                yield [Entry(e.path, join(folder, e.key), e.error) for e in entries]
    if files:
        yield files


def _frames(
    entry: Entry, options: FileOptions, video: VideoDevice | None
) -> Iterator[SourceImage | None]:
    """Yield the frames of a video with index 0, None for each one left out."""
    key, done = entry.key, options.done
    if (key, None) in done:  # it could not be opened then
        yield None
        return
    try:
        for frame in read_frames(
            entry.path,
            stride=options.vid_stride,
            leave_out=lambda number: (key, number) in done,
            device=video,
            address=isinstance(entry, Address),
        ):
            payload = frame.payload
            if payload is None or (isinstance(payload, ImageError) and (key, frame.number) in done):
                yield None
            else:
                yield SourceImage(
                    index=0,
                    key=key,
                    payload=payload,
                    frame=frame.number,
                    pts_ms=frame.pts_ms,
                    video=None if isinstance(entry, Address) else entry.path,
                )
    except ImageError as error:
        yield SourceImage(index=0, key=key, payload=error)
    except MissingExtraError as error:  # a video among photographs hurts only itself
        yield SourceImage(index=0, key=key, payload=ImageError(str(error)))


def _fetched(entry: Address, options: FileOptions) -> tuple[Kind, bytes | ImageError | None]:
    """Return what is behind an address, with the bytes of an image or why there are none."""
    kind = entry.kind
    if kind == "image" and (entry.key, None) in options.done:
        return "image", None
    data: bytes | ImageError | None = None
    if kind != "video":
        from brimful.sources.download import download  # it brings ssl and http

        try:
            data = download(entry.path, options.max_bytes)
        except ImageError as error:
            data = error
        kind = "video" if data is None else "image"
    if kind == "video" and options.keeps_fetched:
        return "image", ImageError(NO_SECOND_READING)
    return kind, data


def _kind(entry: Entry) -> Kind | None:
    """Return what an entry is, as far as that is known without asking a server."""
    if isinstance(entry, Address):
        return entry.kind
    return kind_of(entry.path) or kind_of_content(entry.path)


def _length_of(entries: list[Entry]) -> int:
    named_by_content = (_kind(entry) for entry in entries if not entry.error)
    if "video" in named_by_content:
        raise TypeError("the number of frames is not known before the videos are read")
    return len(entries)
