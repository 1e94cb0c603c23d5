"""Datasets of the factory line: JPEG files with annotations in COCO or YOLO format."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from brimful.child_python import safe_path
from brimful.demo.line import FactoryLine
from brimful.demo.scene import CLASSES
from brimful.errors import UsageError
from brimful.spec import Size

Layout = Literal["coco", "yolo"]
"""What describes the objects: `annotations.json` alone, or YOLO's text files beside it."""

ANNOTATIONS = "annotations.json"

_SHARDS = ".shards"
_CHUNK = 64  # images that one task draws: a second or so of work
_GENERATOR = "brimful factory line 1"  # a later generator must not complete an earlier one's set


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """Everything the bytes of a dataset depend on."""

    images: int
    seed: int
    size: Size
    quality: tuple[int, int]
    parts: tuple[int, int]

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError(f"images must be 1 or more, got {self.images}")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise UsageError(f"quality must be (lowest, highest) from 1 to 100, got {self.quality}")
        self.line()

    def line(self) -> FactoryLine:
        return FactoryLine(self.seed, self.size, self.parts)

    def info(self) -> dict[str, Any]:
        return {
            "description": "Generated pictures of parts on a belt",
            "generator": _GENERATOR,
            "images": self.images,
            "seed": self.seed,
            "size": list(self.size),
            "quality": list(self.quality),
            "parts": list(self.parts),
        }


def write_dataset(
    out: Path,
    images: int,
    *,
    seed: int = 0,
    size: Size = (480, 640),
    parts: tuple[int, int] = (4, 11),
    quality: tuple[int, int] = (72, 95),
    workers: int = 1,
    layout: Layout = "coco",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write `images/000000.jpg ...` and `annotations.json` (COCO; category ids are class ids).

    A run that was interrupted is completed by the same call: what is there is not drawn again,
    and `annotations.json` appears when all images do. Memory does not grow with the number of
    images. With several workers the caller must be importable (`if __name__ == "__main__"`),
    because they are started with spawn.

    Args:
        out: Folder to write to: absent, empty, or begun with the same arguments.
        images: How many.
        seed: Seed of the factory line.
        size: (height, width) of the images in pixels.
        parts: Fewest and most parts on a picture, see FactoryLine.
        quality: Lowest and highest JPEG quality, 1 to 100; each image has its own in between.
        workers: Processes that draw; 1 draws in this one.
        layout: `coco`, or `yolo` to write `labels/*.txt` and `data.yaml` as well.
        progress: Called with the number of images that were finished since the last call.

    Raises:
        UsageError: An argument out of its range, or a folder that holds something else.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    if workers < 1:
        raise UsageError(f"workers must be 1 or more, got {workers}")
    recipe = _Recipe(images=images, seed=seed, size=size, quality=quality, parts=parts)
    out = Path(out)
    _claim(out, recipe)
    if not (out / ANNOTATIONS).exists():
        for done in _draw_all(out, recipe, workers):
            if progress is not None:
                progress(done)
        _merge(out, recipe)
    elif progress is not None:
        progress(images)
    if layout == "yolo":
        write_yolo_labels(out)
        names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
        _replace(out / "data.yaml", ["train: images\nval: images\nnames:\n", names])


def write_yolo_labels(dataset: Path) -> None:
    """Write `labels/000000.txt ...` from a dataset's `annotations.json`.

    Each line is `class_id cx cy w h`, all but the class as fractions of the image; an image
    without objects has an empty file.
    """
    coco = json.loads((dataset / ANNOTATIONS).read_bytes())
    lines: dict[int, list[str]] = {image["id"]: [] for image in coco["images"]}
    sides = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sides[annotation["image_id"]]
        box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        text = " ".join(f"{value:.6f}" for value in box)
        lines[annotation["image_id"]].append(f"{annotation['category_id']} {text}\n")
    labels = dataset / "labels"
    labels.mkdir(exist_ok=True)
    for image in coco["images"]:
        (labels / f"{Path(image['file_name']).stem}.txt").write_text("".join(lines[image["id"]]))


def _claim(out: Path, recipe: _Recipe) -> None:
    """Make the folder ours, or refuse one that something else is in."""
    begun, complete = out / _SHARDS / "info.json", out / ANNOTATIONS
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        begun.parent.mkdir(parents=True)
        (out / "images").mkdir()
        _replace(begun, [json.dumps(recipe.info())])
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder that is empty or does not exist")
    found = None
    if complete.exists():
        found = json.loads(complete.read_bytes()).get("info")
    elif begun.exists():
        found = json.loads(begun.read_bytes())
    if found is None:
        raise UsageError(
            f"{out} is not empty and was not begun by this command; "
            "give a folder that is empty or does not exist"
        )
    wanted = recipe.info()
    other = [f"{key} {found.get(key)!r}" for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise UsageError(
            f"{out} holds a dataset of other arguments ({', '.join(other)}); "
            "give the same ones to complete it, or another folder"
        )


def _draw_all(out: Path, recipe: _Recipe, workers: int) -> Iterator[int]:
    """Draw every chunk that is not there yet; yield the images done with each."""
    missing: list[range] = []
    for start in range(0, recipe.images, _CHUNK):
        chunk = range(start, min(start + _CHUNK, recipe.images))
        if _shard(out, chunk).exists():
            yield len(chunk)
        else:
            missing.append(chunk)
    if workers == 1:
        for chunk in missing:
            yield _draw_chunk(out, recipe, chunk)
        return
    # spawn: fork is unsafe in a process that has threads, as one that runs models has
    context = multiprocessing.get_context("spawn")
    count = min(workers, max(1, len(missing)))
    with safe_path():
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_one_thread)
    with pool:
        with safe_path():  # processes start as tasks come
            tasks = [pool.submit(_draw_chunk, out, recipe, chunk) for chunk in missing]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one_thread() -> None:
    """Keep OpenCV to one thread in a worker: the processes are the parallelism."""
    cv2.setNumThreads(1)


def _draw_chunk(out: Path, recipe: _Recipe, chunk: range) -> int:
    """Write the images of a chunk, then its shard: a shard means that its images are whole."""
    line = recipe.line()
    shard: list[dict[str, Any]] = []
    for index in chunk:
        pixels, labels = line.image(index)
        rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, index, 1]))
        quality = int(rng.integers(recipe.quality[0], recipe.quality[1] + 1))
        ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not ok:
            raise RuntimeError(f"OpenCV could not encode image {index}")
        (out / "images" / _name(index)).write_bytes(data.tobytes())
        shard.append({"index": index, "labels": [list(label) for label in labels]})
    _replace(_shard(out, chunk), [json.dumps(shard)])
    return len(chunk)


def _merge(out: Path, recipe: _Recipe) -> None:
    """Write `annotations.json` from the shards, a shard at a time, and remove them."""
    _replace(out / ANNOTATIONS, _coco(out, recipe))
    shutil.rmtree(out / _SHARDS)


def _coco(out: Path, recipe: _Recipe) -> Iterator[str]:
    height, width = recipe.size
    categories = [
        {"id": i, "name": name, "supercategory": "defect" if name == "crack" else "part"}
        for i, name in enumerate(CLASSES)
    ]
    yield f'{{"info": {json.dumps(recipe.info())},\n"categories": {json.dumps(categories)},\n'
    yield '"images": ['
    for index in range(recipe.images):
        image = {"id": index, "file_name": _name(index), "width": width, "height": height}
        yield ("\n" if index == 0 else ",\n") + json.dumps(image)
    yield '],\n"annotations": ['
    number = 0
    for start in range(0, recipe.images, _CHUNK):
        shard = _shard(out, range(start, min(start + _CHUNK, recipe.images)))
        for image in json.loads(shard.read_bytes()):
            for class_id, x1, y1, x2, y2 in image["labels"]:
                # from 1: pycocotools takes the id 0 for "no match"
                number += 1
                annotation = {
                    "id": number,
                    "image_id": image["index"],
                    "category_id": class_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
                yield ("\n" if number == 1 else ",\n") + json.dumps(annotation)
    yield "]}\n"


def _shard(out: Path, chunk: range) -> Path:
    return out / _SHARDS / f"{chunk.start:06d}-{chunk.stop:06d}.json"


def _name(index: int) -> str:
    return f"{index:06d}.jpg"


def _replace(path: Path, pieces: Iterable[str]) -> None:
    """Write a file that is either absent or whole, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
