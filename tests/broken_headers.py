"""JPEGs whose headers are broken at random, segment by segment, while their scans stay whole."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from jpegs import FACTORS, encoded, picture

TABLES, QUANTISERS, INTERVAL, FRAME, SCAN = 0xC4, 0xDB, 0xDD, 0xC0, 0xDA
JFIF, EXIF, ADOBE = 0xE0, 0xE1, 0xEE


@dataclass
class Segment:
    """A segment of a header, which need not be right.

    Attributes:
        marker: Its code.
        content: What comes behind its length.
        off: Bytes that the length says too much.
        before: Bytes in front of the marker.
    """

    marker: int
    content: bytearray
    off: int = 0
    before: bytes = b""

    def packed(self) -> bytes:
        length = max(len(self.content) + 2 + self.off, 0) & 0xFFFF
        return self.before + bytes([0xFF, self.marker, *length.to_bytes(2, "big"), *self.content])


@dataclass
class Broken:
    """A JPEG in parts: the segments up to the scan's, the scan, and what is behind it."""

    segments: list[Segment]
    scan: bytes
    behind: bytes = b"\xff\xd9"

    def packed(self) -> bytes:
        head = b"".join(segment.packed() for segment in self.segments)
        return b"\xff\xd8" + head + self.scan + self.behind

    def of(self, choose: random.Random, marker: int) -> Segment | None:
        """Return one of the segments of this kind."""
        found = [segment for segment in self.segments if segment.marker == marker]
        return choose.choice(found) if found else None


def parts_of(data: bytes) -> Broken:
    """Take a whole JPEG of one scan apart."""
    segments, at = [], 2
    while not segments or segments[-1].marker != SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(Segment(data[at + 1], bytearray(data[at + 4 : end])))
        at = end
    return Broken(segments, data[at:-2])


def whole_jpegs() -> list[bytes]:
    """JPEGs of each kind that the device decodes, a few blocks large."""
    made = []
    for number, factors in enumerate(FACTORS.values()):
        image = picture((24 + number, 40 - number), seed=number)
        for options in ({}, {"OPTIMIZE": 1}, {"RST_INTERVAL": 2}):
            made.append(encoded(image, QUALITY=80, SAMPLING_FACTOR=factors, **options))
    gray = picture((24, 40))[..., 0].copy()
    made += [encoded(gray, QUALITY=70), encoded(gray, QUALITY=90, OPTIMIZE=1)]
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(picture((24, 40))).save(buffer, "JPEG", exif=exif)
    return [*made, buffer.getvalue()]


def broken_jpegs(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield so many of them, each with the names of what was done to it."""
    choose = random.Random(seed)
    originals = whole_jpegs()
    for _ in range(count):
        broken = parts_of(choose.choice(originals))
        chosen = [choose.choice(DAMAGES) for _ in range(choose.choice((1, 1, 1, 2, 3)))]
        for damage in chosen:
            damage(broken, choose)
        yield "+".join(damage.__name__ for damage in chosen), broken.packed()


def code_lengths(broken: Broken, choose: random.Random) -> None:
    """Change how many codes a table has of some lengths, with as many symbols or not."""
    segment = broken.of(choose, TABLES)
    if segment is None or len(segment.content) < 17:
        return
    used = [i for i in range(1, 17) if segment.content[i]]
    for _ in range(choose.randint(1, 2)):
        segment.content[choose.choice([*used, choose.randint(1, 16)])] ^= choose.choice((1, 2, 3))
    missing = sum(segment.content[1:17]) - (len(segment.content) - 17)
    if choose.random() < 0.7 and missing > 0:
        segment.content += bytes(choose.randrange(12) for _ in range(missing))
    elif missing < 0 and choose.random() < 0.7:
        del segment.content[missing:]


def all_codes(broken: Broken, choose: random.Random) -> None:
    """Give a table one code more of the longest ones or of 16 bits: it may be all ones."""
    segment = broken.of(choose, TABLES)
    if segment is None or len(segment.content) < 17:
        return
    longest = max((i for i in range(1, 17) if segment.content[i]), default=16)
    left = 1 << longest
    for length in range(1, longest + 1):
        left -= segment.content[length] << (longest - length)
    more = min(max(left - choose.choice((0, 0, 1)), 0), 40)
    segment.content[longest] = min(segment.content[longest] + more, 255)
    segment.content += bytes(choose.randrange(12) for _ in range(more))


def symbols(broken: Broken, choose: random.Random) -> None:
    segment = broken.of(choose, TABLES)
    if segment is None or len(segment.content) <= 17:
        return
    value = choose.choice((choose.randrange(256), choose.randrange(10, 20), 0x10))
    place = choose.choice((choose.randrange(17, len(segment.content)), len(segment.content) - 1))
    segment.content[place] = value


def another_table(broken: Broken, choose: random.Random) -> None:
    """Add a table, mostly one that nothing uses and that cannot be."""
    counts = bytearray(16)
    for _ in range(choose.randint(0, 4)):
        counts[choose.randrange(16)] = choose.choice((1, 2, 3, 12))
    values = bytes(choose.choice((choose.randrange(12), 200)) for _ in range(sum(counts)))
    kind = choose.choice((0, 1, 0x10, 0x11, 2, 3, 0x13, 4, 0x20))
    place = choose.randrange(len(broken.segments))
    broken.segments.insert(place, Segment(TABLES, bytearray([kind, *counts, *values])))


def lengths(broken: Broken, choose: random.Random) -> None:
    """Let a segment say another length than it has, or have more or less than it needs."""
    segment = choose.choice(broken.segments)
    by = choose.choice((-2, -1, 1, 1, 2, 3, 17, 65))
    if choose.random() < 0.4:
        segment.off = by
    elif by < 0:
        del segment.content[by:]
    else:
        segment.content += choose.choice((bytes(by), choose.randbytes(by)))


def interval(broken: Broken, choose: random.Random) -> None:
    """Add a restart interval, mostly one that never ends, of two bytes or not."""
    content = bytearray(choose.choice((0, 0, 2, 1000, 65535)).to_bytes(2, "big"))
    content += bytes(choose.choice((0, 0, 1, 2)))
    content = content[: choose.choice((None, None, 0, 1))]
    broken.segments.insert(choose.randrange(len(broken.segments)), Segment(INTERVAL, content))


def another_segment(broken: Broken, choose: random.Random) -> None:
    """Add a segment of any marker, also of those that have no meaning."""
    marker = choose.choice((choose.randrange(256), choose.randrange(0xC0, 0x100)))
    content = bytearray(choose.randbytes(choose.choice((0, 2, 12, 40))))
    broken.segments.insert(choose.randrange(len(broken.segments)), Segment(marker, content))


def markers(broken: Broken, choose: random.Random) -> None:
    choose.choice(broken.segments).marker = choose.choice(
        (choose.randrange(256), choose.randrange(0xC0, 0xD0), choose.randrange(0xDC, 0xE0))
    )


def between(broken: Broken, choose: random.Random) -> None:
    """Put bytes in front of a marker: some fill, others are garbage."""
    choose.choice(broken.segments).before = choose.choice(
        (b"\xff", b"\xff\xff\xff", b"\0", b"\xff\0", b"\xff\x01", b"\xff\xd0", b"ab")
    )


def frame(broken: Broken, choose: random.Random) -> None:
    segment = broken.of(choose, FRAME)
    if segment is not None and segment.content:
        place = choose.choice((0, 2, 4, 5, *range(6, len(segment.content))))
        _put(
            segment, place, choose.choice((*range(5), 8, 12, 17, 33, 34, 82, choose.randrange(256)))
        )


def sampling(broken: Broken, choose: random.Random) -> None:
    segment = broken.of(choose, FRAME)
    if segment is not None:
        for place in choose.choice(((7,), (10,), (7, 10, 13), (10, 13))):
            _put(segment, place, choose.choice((0, 1, 2, 4, 5)) << 4 | choose.choice((0, 1, 2, 4)))


def scan(broken: Broken, choose: random.Random) -> None:
    segment = broken.of(choose, SCAN)
    if segment is not None and segment.content:
        place = choose.randrange(len(segment.content))
        _put(segment, place, choose.choice((0, 1, 2, 3, 0x10, 0x11, 62, 64, choose.randrange(256))))


def names(broken: Broken, choose: random.Random) -> None:
    """Rename components, to the same name or not, in the frame and the scan alike."""
    segment, of_scan = broken.of(choose, FRAME), broken.of(choose, SCAN)
    if segment is None or of_scan is None:
        return
    chosen = choose.choice(((1, 1, 1), (0, 1, 2), (1, 1, 3), (82, 71, 66), (3, 2, 1), (9, 200, 7)))
    for i, name in enumerate(chosen):
        _put(segment, 6 + 3 * i, name)
        _put(of_scan, 1 + 2 * i, name if choose.random() < 0.95 else 5)


def quantisers(broken: Broken, choose: random.Random) -> None:
    segment = broken.of(choose, QUANTISERS)
    if segment is not None and segment.content:
        if choose.random() < 0.5:
            segment.content[0] = choose.choice((0, 1, 2, 3, 4, 0x10))
        else:
            _put(segment, choose.randrange(len(segment.content)), choose.choice((0, 1, 255)))


def colours(broken: Broken, choose: random.Random) -> None:
    """Say of the colours what JFIF and Adobe can say, whole or cut."""
    if choose.random() < 0.6:
        broken.segments = [s for s in broken.segments if s.marker != JFIF]
    for _ in range(choose.randint(0, 2)):
        content = bytearray(b"Adobe" + bytes(6) + bytes([choose.choice((0, 1, 1, 2))]))
        content = content[: choose.choice((12, 12, 11, 5))] + bytes(choose.choice((0, 1)))
        broken.segments.insert(choose.randrange(len(broken.segments)), Segment(ADOBE, content))
    if choose.random() < 0.3:
        version = bytes([choose.choice((0, 1, 2)), 1])
        content = bytearray(b"JFIF\0" + version + bytes([0, 0, 1, 0, 1, 0, 0]))
        content = content[: choose.choice((14, 14, 13, 5))]
        broken.segments.insert(choose.randrange(len(broken.segments)), Segment(JFIF, content))


def rotations(broken: Broken, choose: random.Random) -> None:
    """Add EXIF with an orientation, perhaps a damaged one, perhaps beside another one."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = choose.randrange(0, 10)
    exif[0x011A] = 72.0
    content = bytearray(exif.tobytes())
    if choose.random() < 0.5:
        content[choose.randrange(len(content))] = choose.choice((0, 1, 6, 255, 0x12, 77))
    broken.segments.insert(choose.randrange(len(broken.segments)), Segment(EXIF, content))


def order(broken: Broken, choose: random.Random) -> None:
    """Leave a segment out, repeat one, or put one elsewhere."""
    place = choose.randrange(len(broken.segments))
    segment = broken.segments[place]
    if choose.random() < 0.6:
        del broken.segments[place]
    if choose.random() < 0.6:
        copy = Segment(segment.marker, bytearray(segment.content))
        broken.segments.insert(choose.randrange(len(broken.segments) + 1), copy)
    if not broken.segments:
        broken.segments.append(segment)


def behind(broken: Broken, choose: random.Random) -> None:
    """Put bytes between the scan and the end marker, or behind that."""
    extra = choose.choice(
        (
            Segment(choose.randrange(256), bytearray(choose.randbytes(6))).packed(),
            Segment(choose.randrange(0xC0, 0x100), bytearray(8)).packed(),
            *(
                b"\xff",
                b"\xff\xff",
                b"\0",
                b"\xff\0",
                b"\xff\x01",
                b"\xff\xd0",
                b"abc",
                b"\xff\xd8",
            ),
        )
    )
    before = choose.random() < 0.8
    broken.behind = extra + broken.behind if before else broken.behind + extra


def any_byte(broken: Broken, choose: random.Random) -> None:
    segment = choose.choice(broken.segments)
    if segment.content:
        segment.content[choose.randrange(len(segment.content))] = choose.randrange(256)


def _put(segment: Segment, place: int, value: int) -> None:
    if place < len(segment.content):
        segment.content[place] = value


DAMAGES: tuple[Callable[[Broken, random.Random], None], ...] = (
    *(code_lengths, all_codes, symbols, another_table, lengths, interval, another_segment),
    *(markers, between, frame, sampling, scan, names, quantisers, colours, rotations),
    *(order, behind, any_byte),
)
