"""Options of pictures and label files: what is saved, where, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brimful.errors import UsageError
from brimful.pictures.folder import open_folder
from brimful.pictures.picture_sink import PictureOptions, PictureSink
from brimful.pictures.replay import unfinished
from brimful.pictures.style import Style
from brimful.sinks.label_files import LabelFiles
from brimful.sinks.sink import Sink
from brimful.sources.entries import EntriesSource
from brimful.sources.open_source import open_source
from brimful.spec import Task

LABELS = "labels"
"""The folder of label files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOptions:
    """What is saved beside the detections.

    Attributes:
        save: Images and videos with their detections.
        save_crop: Crops of the boxes.
        save_txt: Label files.
        save_conf: The confidence in label files.
        save_dir: The folder, None for a new one.
        project: Folder of new folders; None is `runs/<task>`.
        name: What a new folder is called; None is `predict`.
        exist_ok: Use that very folder where it exists, and replace files of the same names.
    """

    save: bool
    save_crop: bool
    save_txt: bool
    save_conf: bool
    save_dir: Path | None
    project: Path | None
    name: str | None
    exist_ok: bool

    def __post_init__(self) -> None:
        """Refuse options that make no sense together."""
        if self.save_conf and not self.save_txt:
            raise UsageError("--save-conf adds to the files of --save-txt; give both")
        if self.save_dir is not None and (self.project is not None or self.name is not None):
            raise UsageError("--save-dir is the folder itself, and --project and --name make one")
        if self.name is not None and (not self.name or "/" in self.name or self.name[0] == "."):
            raise UsageError(f"--name {self.name!r}: expected a folder's name, as in --name run")
        folder = {"save-dir": self.save_dir, "project": self.project, "name": self.name}
        given = [name for name, value in folder.items() if value is not None]
        if self.exist_ok and not self.any:
            given.append("exist-ok")
        if given and not self.any:
            raise UsageError(
                f"--{given[0]} says where pictures go; add --save, --save-crop or --save-txt"
            )

    @property
    def any(self) -> bool:
        """Whether anything is saved."""
        return self.save or self.save_crop or self.save_txt

    @property
    def draws(self) -> bool:
        """Whether images are read once more."""
        return self.save or self.save_crop

    def facts(self) -> dict[str, bool]:
        """Return what makes it the same job when it is resumed."""
        facts = {"save": self.save, "save_crop": self.save_crop} if self.draws else {}
        return facts | ({"save_txt": True, "save_conf": self.save_conf} if self.save_txt else {})


def open_pictures(
    options: SaveOptions,
    *,
    style: Style,
    source: str,
    task: Task,
    vid_stride: int,
    earlier: Sink,
    overwrite: bool,
) -> PictureSink | None:
    """Open where pictures go, None where none are wanted. Those of a resumed job are completed.

    Args:
        options: What is saved.
        style: What is drawn.
        source: Where images come from.
        task: What the model predicts.
        vid_stride: Every how many-th frame of a video comes.
        earlier: Where the results of a resumed job are.
        overwrite: Replace pictures of the same names.

    Raises:
        UsageError: The folder cannot be used.
    """
    if not options.any:
        return None
    root = options.project or Path("runs") / task
    name = options.name or "predict"
    folder = root / name if options.exist_ok and options.save_dir is None else options.save_dir
    overwrite = overwrite or options.exist_ok
    resume = bool(len(earlier.done))
    if resume and folder is None:
        raise UsageError(
            "--resume needs the folder that the pictures are in: give it with --save-dir"
        )
    folder = open_folder(folder, root, name, source=source, resume=resume, overwrite=overwrite)
    pictures = PictureSink(
        PictureOptions(
            folder=folder,
            save=options.save,
            crops=options.save_crop,
            style=style,
            vid_stride=vid_stride,
            labels=_open_labels(
                options, folder, vid_stride=vid_stride, resume=resume, overwrite=overwrite
            ),
        )
    )
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


def _open_labels(
    options: SaveOptions, folder: Path, *, vid_stride: int, resume: bool, overwrite: bool
) -> LabelFiles | None:
    if not options.save_txt:
        return None
    try:
        return LabelFiles(
            folder / LABELS,
            confidence=options.save_conf,
            vid_stride=vid_stride,
            resume=resume,
            overwrite=overwrite and not resume,
        )
    except OSError as error:
        raise UsageError(
            f"the folder {folder / LABELS} cannot be written: {error.strerror}"
        ) from None
