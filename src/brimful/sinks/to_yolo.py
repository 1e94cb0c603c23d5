"""Journal to a folder of YOLO label files."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath

import orjson

from brimful.errors import UsageError
from brimful.formats.yolo_txt import to_yolo_txt
from brimful.sinks.atomic import sync_folder, unused, whole_file
from brimful.sinks.label_names import components, make_folder
from brimful.sinks.rows import Rows


def write_yolo(rows: Rows, output: Path, errors: Path) -> None:
    """Write a label file an image, below a folder that mirrors the keys of the images.

    `a/b.jpg` has `a/b.txt`; frame 7 of `a/b.mp4` has `a/b_7.txt`. Where that name is taken
    (`a/b.png` beside `a/b.jpg`), the later image has its whole name, `a/b.png.txt`, and after
    that a number. An image without detections has an empty file; one that could not be read has
    none, and a line in `<folder>.errors.jsonl`, which exists only when there are any.
    """
    building = unused(output)
    building.mkdir()
    failed = []
    try:
        for d in rows:
            if d.error is not None:
                failed.append(
                    {"image": d.image, "frame": d.frame, "error": d.error, "failure": d.failure}
                )
                continue
            try:
                text = to_yolo_txt(d)
            except ValueError as error:  # an edited mask, as far as its text goes
                raise UsageError(
                    f"a row of {rows.journal} is no result of this job ({d.image}: {error}); was "
                    "the file edited? Use --overwrite to start the job anew"
                ) from None
            _create(building, d.image, d.frame, text)
        _replace_folder(building, output)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if failed:
        with whole_file(errors) as file:
            file.writelines(orjson.dumps(row) + b"\n" for row in failed)
    else:
        with suppress(FileNotFoundError):
            errors.unlink()
    sync_folder(output.parent)


def check_replaceable(output: Path) -> None:
    """Refuse to overwrite a folder that holds anything but label files.

    Raises:
        UsageError: It does; the message names a file.
    """
    if not output.is_dir():
        raise UsageError(f"{output} is a file; yolo writes a folder: give another output")
    for folder, below, names in os.walk(output):
        links = [name for name in below if (Path(folder) / name).is_symlink()]
        for name in [*links, *names]:
            if name in links or not name.endswith(".txt"):
                raise UsageError(
                    f"{output} holds {Path(folder) / name}, which is no label file; "
                    "it is not overwritten: give another folder"
                )


def _replace_folder(building: Path, output: Path) -> None:
    old = unused(output)
    if output.exists():
        check_replaceable(output)  # a job takes hours, and the folder is the user's meanwhile
        output.rename(old)
    building.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _create(root: Path, key: str, frame: int | None, text: str) -> None:
    *folders, name = components(key)
    folder = make_folder(root, folders)
    ending = "" if frame is None else f"_{frame}"
    stem = PurePosixPath(name).stem
    candidate, number = f"{stem}{ending}.txt", 1
    while True:
        try:
            # Exclusive creation makes the file system the set of names taken.
            with (folder / candidate).open("x", encoding="utf-8") as file:
                file.write(text)
            return
        except FileExistsError:
            candidate = f"{name}{ending}.txt" if number == 1 else f"{name}{ending}-{number}.txt"
            number += 1
