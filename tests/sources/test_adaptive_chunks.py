"""Frames in lists, told by a clock that only reading moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from brimful.sources.adaptive_chunks import MOST, QUICK_S, gather
from brimful.sources.open_source import open_source
from video_kit import noise, write_clip


class Reading:
    """Frames, each of which takes its time to be read."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.read = 0

    def clock(self) -> float:
        return self.now

    def __iter__(self) -> Iterator[int]:
        for i, seconds in enumerate(self.seconds):
            self.now += seconds
            self.read += 1
            yield i

    def lists(self, *, busy_s: float = 0.0) -> list[list[int]]:
        """Gather all; what comes takes its time to be dealt with, too."""
        found = []
        for frames in gather(self, clock=self.clock):
            assert self.read == frames[-1] + 1, "a frame was read before those there were given"
            self.now += busy_s
            found.append(frames)
        assert [frame for frames in found for frame in frames] == list(range(len(self.seconds)))
        return found


def test_lists_grow_while_frames_come_quickly() -> None:
    lists = Reading([QUICK_S / 100] * 40).lists(busy_s=1.0)
    assert list(map(len, lists)) == [1, 2, 4, MOST, MOST, MOST, MOST, 1]


def test_frames_that_come_slowly_are_given_at_once() -> None:
    lists = Reading([0.033] * 5).lists()
    assert list(map(len, lists)) == [1] * 5


def test_after_a_slow_list_comes_a_single_frame() -> None:
    quick = QUICK_S / 100
    lists = Reading([quick] * 3 + [quick, quick, QUICK_S, quick] + [quick] * 3).lists()
    assert list(map(len, lists)) == [1, 2, 4, 1, 2]


def test_what_is_left_is_given() -> None:
    assert Reading([]).lists() == []
    assert Reading([0.0] * 2).lists() == [[0], [1]]


def test_an_error_comes_behind_the_frames_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("gone")

    found: list[int] = []
    with pytest.raises(OSError, match="gone"):
        for frames in gather(broken(), clock=lambda: 0.0):
            found += frames
    assert found == [0, 1, 2, 3, 4]


def test_a_video_keeps_its_numbers(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", noise(21, (48, 64)))
    images = [image for images in open_source(str(tmp_path)).chunks() for image in images]
    assert [image.index for image in images] == list(range(21))
    assert [image.frame for image in images] == list(range(21))
    assert {image.key for image in images} == {clip.name}
