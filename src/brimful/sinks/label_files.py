"""LabelFiles: YOLO label files that are written while a job runs, where Ultralytics puts them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path, PurePosixPath

from brimful.detections import Detections
from brimful.formats.yolo_txt import to_yolo_txt
from brimful.sinks.label_names import components, make_folder
from brimful.sinks.to_yolo import check_replaceable


class LabelFiles:
    """A folder with a file for each image in which something was found.

    `x.jpg` has `x.txt`; the frames of `clip.mp4` that are taken have `clip_1.txt`, `clip_2.txt` and
    so on. An image in a folder of the source has its file in a folder of that name. Of images that
    differ in their suffix alone, the second one has `x-2.txt`.

    Attributes:
        count: Files that were written.
    """

    def __init__(
        self, folder: Path, *, confidence: bool, vid_stride: int, resume: bool, overwrite: bool
    ) -> None:
        """Make the folder.

        Args:
            folder: Where the files go.
            confidence: Write the confidence behind each line.
            vid_stride: Every how many-th frame of a video comes.
            resume: A job goes on: a file with the same content is its own.
            overwrite: Remove the label files that are there.

        Raises:
            UsageError: It holds something else than label files, and would be overwritten.
            OSError: It cannot be written.
        """
        self.count = 0
        self._folder = folder
        self._confidence = confidence
        self._stride = vid_stride
        self._resume = resume
        if overwrite and folder.exists():
            check_replaceable(folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, d: Detections) -> None:
        """Write the file of an image; there is none where nothing was found.

        Raises:
            OSError: It cannot be written.
        """
        text = to_yolo_txt(d, confidence=self._confidence)
        if not text:
            return
        *folders, name = components(d.image)
        folder = make_folder(self._folder, folders) if folders else self._folder
        stem = PurePosixPath(name).stem
        if d.frame is not None:
            stem += f"_{d.frame // self._stride + 1}"
        for number in itertools.count(1):
            path = folder / (f"{stem}.txt" if number == 1 else f"{stem}-{number}.txt")
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                if self._resume and path.read_text(encoding="utf-8") == text:
                    return
            else:
                self.count += 1
                return
