"""Values of options that need reading: names, classes, failures, sizes."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from brimful.errors import UsageError
from brimful.models.names import read_names
from brimful.runtimes.choice import AnyPrecision

_QUANTIZE: dict[str, AnyPrecision] = {"16": "fp16", "fp16": "fp16", "32": "fp32", "fp32": "fp32"}

_FILES = (".txt", ".names", ".yaml", ".yml", ".json", ".csv")
"""Suffixes of what is meant as a file of names, also where there is none."""


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many inputs may fail.

    Attributes:
        count: At most so many, or None.
        percent: At most this share of all, or None.
    """

    count: int | None = None
    percent: float | None = None

    def exceeded(self, failures: int, images: int) -> bool:
        """Whether more failed than allowed, at the end of a job."""
        if self.percent is not None:
            return failures > images * self.percent / 100
        return failures > (self.count or 0)

    def hopeless(self, failures: int) -> bool:
        """Whether the limit is exceeded whatever follows, so that the job may stop."""
        return self.count is not None and failures > self.count


def parse_batch(text: str | None) -> int | Literal["auto"] | None:
    """Read `--batch`: a number, or `auto` (in Ultralytics' spelling -1)."""
    if text is None:
        return None
    if text.lower() in ("auto", "-1"):
        return "auto"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--batch is {text!r}; batch must be at least 1, or auto")


def parse_failures(text: str | None) -> FailureLimit:
    """Read `--max-failures`: a number, or a percentage such as `5%`."""
    if text is None:
        return FailureLimit()
    try:
        if text.endswith("%"):
            percent = float(text[:-1])
            if 0 <= percent <= 100:
                return FailureLimit(percent=percent)
        elif int(text) >= 0:
            return FailureLimit(count=int(text))
    except ValueError:
        pass
    raise UsageError(
        f"--max-failures {text!r}: expected a number such as 10, or a share such as 5%"
    )


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Read `--names`: a comma-separated list, or a file (see `read_names`)."""
    if text is None:
        return None
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    path = Path(text)
    try:
        if path.is_file():
            names = read_names(path)
        elif "," not in text and text.lower().endswith(_FILES):
            raise UsageError(f"--names {text!r}: there is no such file")
    except UnicodeDecodeError:
        raise UsageError(f"--names {text!r} is no text file in UTF-8") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a list may be longer than a file name can be
            raise UsageError(f"--names {text!r} cannot be read: {error.strerror}") from None
    if not names:
        raise UsageError(f"--names {text!r} holds no name; give bolt,nut or a file of names")
    return names


def parse_classes(text: str | None) -> tuple[int | str, ...] | None:
    """Read `--classes`: ids, names or both, such as `0,person`, `[0, 2]` or `['person', 'car']`.

    A name that is a number is an id.
    """
    if text is None:
        return None
    parts = (part.strip().strip("'\"").strip() for part in text.strip("[]() ").split(","))
    classes = tuple(
        int(part) if part.removeprefix("-").isdecimal() else part for part in parts if part
    )
    if not classes:
        raise UsageError(f"--classes {text!r}: expected ids or names such as 0,2 or person,car")
    return classes


def quantized(precision: AnyPrecision, text: str | None) -> AnyPrecision:
    """Return what `--precision` and `--quantize`, Ultralytics' word for it, ask for."""
    if text is None:
        return precision
    asked = _QUANTIZE.get(text.lower())
    if asked is None:
        raise UsageError(
            f"--quantize {text!r}: expected 16 or 32, which are --precision fp16 and fp32; nothing "
            "is quantized to 8 bits here"
        )
    if precision not in ("auto", asked):
        raise UsageError(f"--quantize {text} and --precision {precision} differ; give one of them")
    return asked


def parse_imgsz(text: str | None) -> int | tuple[int, int] | None:
    """Read `--imgsz`: one side, or height and width such as `480,640`."""
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.strip("[]() ").replace("x", ",").split(",")]
    except ValueError:
        sides = []
    if len(sides) == 1 and sides[0] > 0:
        return sides[0]
    if len(sides) == 2 and min(sides) > 0:
        return sides[0], sides[1]
    raise UsageError(f"--imgsz {text!r}: expected a side such as 640, or height,width: 480,640")


def parse_switch(text: str | None, option: str) -> bool | None:
    """Read an option that is true, false or left to the default."""
    if text is None:
        return None
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
        text.lower()
    )
    if value is None:
        raise UsageError(f"{option} {text!r}: expected true or false")
    return value
