"""Options of pictures: --save, --save-crop and how they look."""

from __future__ import annotations

from pathlib import Path

from brimful.errors import UsageError
from brimful.pictures.folder import open_folder
from brimful.pictures.picture_sink import PictureOptions, PictureSink
from brimful.pictures.replay import unfinished
from brimful.pictures.style import Style
from brimful.sinks.sink import Sink
from brimful.sources.entries import EntriesSource
from brimful.sources.open_source import open_source
from brimful.spec import Task


def open_pictures(
    *,
    save: bool,
    save_crop: bool,
    save_dir: Path | None,
    style: Style,
    source: str,
    task: Task,
    vid_stride: int,
    earlier: Sink,
    overwrite: bool,
) -> PictureSink | None:
    """Open where pictures go, None where none are wanted. Those of a resumed job are completed.

    Args:
        save: Write images and videos with their detections.
        save_crop: Write crops of the boxes.
        save_dir: The folder, None for a new one.
        style: What is drawn.
        source: Where images come from.
        task: What the model predicts.
        vid_stride: Every how many-th frame of a video comes.
        earlier: Where the results of a resumed job are.
        overwrite: Replace pictures of the same names.

    Raises:
        UsageError: The options make no sense together, or the folder cannot be used.
    """
    if not save and not save_crop:
        if save_dir is not None:
            raise UsageError("--save-dir says where pictures go; add --save or --save-crop")
        return None
    resume = bool(len(earlier.done))
    if resume and save_dir is None:
        raise UsageError(
            "--resume needs the folder that the pictures are in: give it with --save-dir"
        )
    folder = open_folder(save_dir, task, source=source, resume=resume, overwrite=overwrite)
    options = PictureOptions(
        folder=folder, save=save, crops=save_crop, style=style, vid_stride=vid_stride
    )
    pictures = PictureSink(options)
    if resume:
        listed = None if source == "-" else open_source(source)
        try:
            for detections in unfinished(
                earlier.earlier, listed if isinstance(listed, EntriesSource) else None
            ):
                pictures.write([detections])
        except BaseException:
            pictures.abandon()
            raise
    return pictures
