"""PictureSink: where detections go to be drawn, behind the engine and beside its threads.

Still images are tasks of their own: a worker reads the file again, draws, and writes the picture
under a temporary name that is then exchanged for its own. A video has a thread that keeps the
order. All waiting is bounded: `write` waits when the workers do not keep up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from brimful.cpus import available_cpus
from brimful.detections import Detections
from brimful.errors import BrimfulError, UsageError
from brimful.pictures.draw import draw_onto
from brimful.pictures.encode import write_image
from brimful.pictures.folder import lies_in
from brimful.pictures.names import crop_name, image_name, video_name
from brimful.pictures.original import original_of
from brimful.pictures.style import DEFAULT, Style
from brimful.pictures.video_drawer import VideoDrawer
from brimful.sinks.label_files import LabelFiles
from brimful.vision.pixels import Pixels

_log = logging.getLogger("brimful")

_TOLD = 5  # faults that are told one by one
_PER_WORKER = 8  # images that wait for a worker, at most
_MOST_WORKERS = 8

MOST_WAITING = _PER_WORKER * _MOST_WORKERS
"""Images at most whose results were taken on, and whose pictures are not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOptions:
    """What is made of a job's images.

    Attributes:
        folder: Where pictures go, with links resolved.
        save: Images and videos with their detections drawn in.
        crops: Crops of the boxes.
        style: What is drawn.
        vid_stride: Every how many-th frame of a video comes.
        labels: Where label files go, if any are wanted.
    """

    folder: Path
    save: bool = True
    crops: bool = False
    style: Style = DEFAULT
    vid_stride: int = 1
    labels: LabelFiles | None = None


class PictureSink:
    """Makes the pictures and label files of a job, on one thread's word, in the source's order.

    Attributes:
        images: Pictures of images that are written.
        videos: Videos that are written.
        frames: Frames in them.
        crops: Crops that are written.
        failed: Results with an error, of which there is no picture.
        lost: Pictures that could not be made.
    """

    def __init__(self, options: PictureOptions, workers: int | None = None) -> None:
        """Start the workers.

        Args:
            options: What is made.
            workers: Threads that draw, at most eight; by default one for each CPU.
        """
        self._options = options
        workers = min(_MOST_WORKERS, workers or available_cpus())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="brimful-draw")
        self._room = workers * _PER_WORKER
        self._ahead = workers + 1
        self._waiting: deque[Future[None]] = deque()
        self._video: VideoDrawer | None = None
        self._ending: deque[VideoDrawer] = deque()
        self._lock = threading.Lock()  # of the counts
        self.images = self.videos = self.frames = self.crops = self.failed = self.lost = 0

    @property
    def labels(self) -> int:
        """Label files that are written."""
        return 0 if self._options.labels is None else self._options.labels.count

    @property
    def folder(self) -> Path:
        """Where pictures go."""
        return self._options.folder

    def write(self, batch: Sequence[Detections]) -> None:
        """Take results on; wait while too many are on their way.

        Raises:
            BrimfulError: Pictures cannot be written: the disk is full, or the like.
            UsageError: An image lies in the folder of pictures.
        """
        options = self._options
        for detections in batch:
            if detections.error is not None:
                self.failed += 1
                continue
            if options.labels is not None:
                self._write_labels(options.labels, detections)
            if not (options.save or options.crops):
                continue
            if detections.frame is not None:
                self._add_frame(detections)
            else:
                self._end_video()
                while len(self._waiting) >= self._room:
                    self._settle(self._waiting.popleft())
                self._waiting.append(self._pool.submit(self._draw_image, detections))

    def finish(self) -> None:
        """Wait for all pictures.

        Raises:
            BrimfulError: As `write`.
        """
        self._end_video()
        while self._waiting:
            self._settle(self._waiting.popleft())
        self._close_videos()
        self._pool.shutdown()

    def abandon(self) -> None:
        """Stop. Pictures that are begun do not appear; does nothing after `finish`."""
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._end_video()
        while self._ending:
            self._ending.popleft().abandon()
        self._pool.shutdown(cancel_futures=True)

    def _write_labels(self, labels: LabelFiles, d: Detections) -> None:
        try:
            labels.write(d)
        except OSError as error:
            raise self._cannot_write(error) from error

    # Images -----------------------------------------------------------------------------------

    def _draw_image(self, d: Detections) -> None:
        options = self._options
        self._check_outside(d)
        try:
            pixels = original_of(d)
        except BrimfulError as error:
            self._lose(d.image, error)
            return
        if options.crops:
            self._write_crops(pixels, d)
        if options.save:
            # What a decoder gives away may be read-only, and may belong to the caller.
            pixels = pixels if pixels.flags.writeable else np.array(pixels)
            try:
                draw_onto(pixels, d, options.style)
                self._put(image_name(d.image, crops=options.crops), pixels)
            except UsageError as error:  # it has another size by now, or one that no format holds
                self._lose(d.image, error)
                return
            with self._lock:
                self.images += 1

    def _write_crops(self, pixels: Pixels, d: Detections) -> None:
        """Write the boxes of an image; those without a pixel have no crop."""
        if d.probs is not None or (d.height, d.width) != pixels.shape[:2]:
            return
        made = 0
        for number, (class_id, box) in enumerate(zip(d.class_id.tolist(), d.boxes, strict=True)):
            crop = crop_of(pixels, box)
            if crop.size:
                name = crop_name(d.image, d.frame, number, d.names[class_id], class_id)
                self._put(name, crop)
                made += 1
        with self._lock:
            self.crops += made

    def _put(self, name: PurePosixPath, pixels: Pixels) -> None:
        path = self._options.folder / name
        try:
            write_image(path, pixels)
        except FileNotFoundError:  # the first one of its folder
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels)

    def _settle(self, future: Future[None]) -> None:
        try:
            future.result()
        except OSError as error:
            raise self._cannot_write(error) from error

    # Videos -----------------------------------------------------------------------------------

    def _add_frame(self, d: Detections) -> None:
        source = str(d.original)
        if self._video is None or self._video.source != source:
            self._end_video()
            self._close_videos()  # at most one is not complete: see `replay`
            self._video = self._open_video(source, d)
        self._video.add(d)

    def _open_video(self, source: str, d: Detections) -> VideoDrawer:
        options = self._options
        self._check_outside(d)
        target = None
        if options.save:
            target = options.folder / video_name(d.image, crops=options.crops)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._cannot_write(error) from error
        return VideoDrawer(
            source,
            target,
            self._pool,
            style=options.style,
            stride=options.vid_stride,
            ahead=self._ahead,
            on_frame=self._write_crops if options.crops else None,
        )

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.end()
            self._ending.append(self._video)
            self._video = None

    def _close_videos(self) -> None:
        while self._ending:
            self._close_video(self._ending.popleft())

    def _close_video(self, video: VideoDrawer) -> None:
        video.close()
        error = video.error
        if error is None:
            self.frames += video.frames
            self.videos += self._options.save
        elif isinstance(error, BrimfulError):
            self._lose(video.source, error)
        elif isinstance(error, OSError):
            raise self._cannot_write(error) from error
        else:
            raise error

    # All --------------------------------------------------------------------------------------

    def _check_outside(self, d: Detections) -> None:
        if isinstance(d.original, str) and lies_in(self._options.folder, d.original):
            raise UsageError(
                f"{d.original} lies in {self._options.folder}, where its picture would go; "
                "give a --save-dir outside of the source"
            )

    def _lose(self, what: str, error: BrimfulError) -> None:
        with self._lock:
            self.lost += 1
            lost = self.lost
        if lost <= _TOLD:
            more = " (no more are told)" if lost == _TOLD else ""
            _log.warning("no picture of %s: %s%s", what, error, more)

    def _cannot_write(self, error: OSError) -> BrimfulError:
        return BrimfulError(
            f"pictures cannot be written to {self._options.folder}: {error.strerror or error}"
        )


def crop_of(pixels: Pixels, box: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Pixels:
    """Return the part of an image that a box covers, to the nearest whole pixels, as a view.

    Args:
        pixels: uint8 (height, width, 3).
        box: `x1 y1 x2 y2` in pixels.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = np.round(np.nan_to_num(box)).clip(0, max(height, width)).astype(int).tolist()
    return pixels[y1 : min(y2, height), x1 : min(x2, width)]
