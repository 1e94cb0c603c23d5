"""Decoding and loading of batches, with the kernels compiled for the CPU and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import io
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from brimful.runtimes.cuda.input import decoding, loader
from brimful.runtimes.cuda.input import pinned_files as file_memory
from brimful.runtimes.cuda.input.decoding import Decoding, runs
from brimful.runtimes.cuda.input.loader import Loader
from brimful.runtimes.cuda.input.pinned_files import PinnedFiles
from brimful.runtimes.cuda.input.plan import Plans, room
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.cuda.jpeg import GOOD, JpegDecoder
from brimful.vision.decode import check_encoded, decode_pixels, read_encoded
from brimful.vision.encoded import Encoded
from brimful.vision.letterbox import letterbox
from host_jpeg import library

CANVAS_SIZE = (96, 96)
POLICY = CanvasPolicy(mode="fixed", imgsz=CANVAS_SIZE)


class HostDecoder:
    """The decoder's kernels on the CPU."""

    takes = staticmethod(JpegDecoder.takes)

    def decode(
        self, images: Any, statuses: Any, told: Any, *, count: int, most: int, mean: int
    ) -> None:
        rounds = np.zeros(count, np.int32)
        pointers = map(ctypes.c_void_p, (images.data_ptr(), statuses.data_ptr()))
        library().brimful_decode(*pointers, count, ctypes.c_void_p(rounds.ctypes.data))
        told.copy_(statuses)

    def place(self, images: Any, statuses: Any, out: Any, *, count: int) -> None:
        for i in range(count):
            if statuses[i] == GOOD:
                pointers = ctypes.c_void_p(images[i].data_ptr()), ctypes.c_void_p(out.data_ptr())
                library().brimful_place(*pointers, *out.shape[2:], 0)


class Event:
    """All work is done at once here."""

    def __init__(self, blocking: bool = False) -> None:
        pass

    def record(self, stream: Any) -> None:
        pass

    def wait(self, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put the CPU in the place of a device; return the bytes of images' memory, as it is made."""
    sizes: list[int] = []
    alive: list[Any] = []

    def tensor(real: Any) -> Any:
        def make(size: Any, *, dtype: Any, pin_memory: bool = False, device: Any = None) -> Any:
            made = real(size, dtype=dtype)
            if device is not None and dtype == torch.uint8 and size:
                sizes.append(size)
                held = sum(one() is not None for one in alive)
                assert held <= 1, "of images and files the old memory is gone before the new comes"
                alive.append(weakref.ref(made.untyped_storage()))
            return made

        return make

    fake = SimpleNamespace(
        empty=tensor(torch.empty),
        zeros=tensor(torch.zeros),
        cuda=SimpleNamespace(stream=lambda stream: contextlib.nullcontext()),
        **{name: getattr(torch, name) for name in ("uint8", "int32", "int64", "OutOfMemoryError")},
    )
    for module in (decoding, file_memory):
        monkeypatch.setattr(module, "torch", fake)
    monkeypatch.setattr(decoding, "copy_in", ctypes.memmove)
    monkeypatch.setattr(decoding, "Event", Event)
    monkeypatch.setattr(
        decoding, "zeros", lambda shape, dtype, device: torch.zeros(shape, dtype=dtype)
    )
    return sizes


def stream() -> Any:
    return SimpleNamespace(device="here", synchronize=lambda: None)


def host_frame(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


def jpeg(seed: int, size: tuple[int, int] = (60, 80), orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    Image.fromarray(host_frame(seed, size)).save(target, "JPEG", quality=90, exif=exif)
    return target.getvalue()


def damaged(data: bytes) -> bytes:
    """Return a JPEG whose scan loses its end, but which has the marker of it."""
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


def with_a_third_table(data: bytes) -> bytes:
    """Return a JPEG whose AC table of chroma has a number beyond those of baseline."""
    found = bytearray(data)
    at = found.index(b"\xff\xc4")
    while found[at + 1] == 0xC4:
        if found[at + 4] == 0x11:
            found[at + 4] = 0x12
        at += 2 + int.from_bytes(found[at + 2 : at + 4], "big")
    scan = found.index(b"\xff\xda")
    found[scan + 8] = found[scan + 10] = 0x12
    return bytes(found)


def expected(encoded: Encoded) -> np.ndarray:
    assert encoded.header.size is not None
    rows = np.zeros((*CANVAS_SIZE, 3), np.uint8)
    letterbox(decode_pixels(encoded), POLICY.place(encoded.header.size), rows)
    return rows


def pixels(out: Any) -> np.ndarray:
    """Return canvases as uint8 BGR."""
    found: np.ndarray = (out.permute(0, 2, 3, 1).flip(3) * 255).round().numpy().astype(np.uint8)
    return found


def canvases(count: int) -> Any:
    shape = (count, 3, *CANVAS_SIZE)
    return torch.full(shape, 0.0).contiguous(memory_format=torch.channels_last)


def loaded(
    tested: Loader, slot: CudaSlot, out: Any, errors: dict[int, str]
) -> tuple[int, list[int]]:
    """Place a slot's images as a lane would; return how many pieces came, and the host's rows."""
    pieces, on_host = 0, []
    for piece in tested.pieces(slot, slot.capacity, errors):
        pieces += 1
        if piece.decoded:
            assert tested._decoding is not None
            tested._decoding.place(out, piece.decoded)
        else:
            assert piece.table is not None
            on_host += piece.table[:, 10].tolist()
    return pieces, on_host


def test_files_from_anywhere_land_in_their_rows(made: list[int]) -> None:
    memory = PinnedFiles()
    files: list[Any] = [jpeg(1), jpeg(2, (31, 64)), jpeg(3, orientation=6), jpeg(4, (90, 40))]
    for i in (0, 2, 3):
        part = memory.take(len(files[i]))
        assert part is not None
        part[:] = files[i]
        files[i] = part
    encoded = [check_encoded(data) for data in files]
    plans, sizes = Plans(), [one.header.size for one in encoded]
    wanted = [
        plans.of(one.header, POLICY.place(size))
        for one, size in zip(encoded, sizes, strict=True)
        if size
    ]
    tested = Decoding(HostDecoder(), 8, stream(), limit=2**20)  # type: ignore[arg-type]
    assert all(tested.takes(one.header) for one in encoded)
    assert tested.fitting(wanted) == wanted
    for positions in ([0, 1, 2, 3], [5, 1, 7, 2]):
        assert tested.decode(encoded, wanted, positions) == set()
        out = canvases(8)
        tested.place(out, 4)
        found = pixels(out)
        for one, position in zip(encoded, positions, strict=True):
            np.testing.assert_array_equal(found[position], expected(one))
        assert not found[sorted(set(range(8)) - set(positions))].any()


def test_an_address_that_is_known_is_not_asked_for(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = PinnedFiles()
    part = memory.take(1000)
    assert part is not None
    address = ctypes.addressof(ctypes.c_char.from_buffer(part))
    place = file_memory.place_of(part)
    assert place is not None and place[0] == address
    monkeypatch.setattr(file_memory, "ctypes", None)
    assert file_memory.place_of(part[64:], address + 64) == (address + 64, place[1])
    assert file_memory.place_of(bytes(part), address) is None


def test_memory_grows_with_the_images_and_stays(made: list[int]) -> None:
    small, large = read_encoded(jpeg(1)), read_encoded(jpeg(2, (300, 400)))
    plan_of = Plans().of
    plans = [plan_of(one.header, POLICY.place(one.header.size or (1, 1))) for one in (small, large)]
    tested = Decoding(HostDecoder(), 4, stream(), limit=2**20)  # type: ignore[arg-type]
    for one, plan in ((small, plans[0]), (large, plans[1]), (small, plans[0])):
        assert tested.decode([one], [plan], [0]) == set()
    images = [size for size in made if size >= plans[0].room.total]
    assert images == [int(1.25 * plan.room.total) for plan in plans]
    count = len(made)
    for _ in range(3):
        tested.decode([small, large], plans, [0, 1])
    assert len(made) <= count + 2, "once for both together, and for their files"
    count = len(made)
    for _ in range(3):
        tested.decode([large, small], plans[::-1], [0, 1])
    assert len(made) == count


def test_what_is_taken_at_the_start_is_enough(made: list[int]) -> None:
    large = read_encoded(jpeg(2, (300, 400)))
    needed = room(large.header).total
    size = 2 * needed
    tested = Decoding(HostDecoder(), 4, stream(), limit=size, initial=size)  # type: ignore[arg-type]
    assert made == [size, size // 16]
    plan = Plans().of(large.header, POLICY.place(large.header.size or (1, 1)))
    assert len(tested.fitting([plan] * 4)) == 2
    assert tested.decode([large] * 2, [plan] * 2, [0, 1]) == set()
    assert made.count(size) == 1
    tested.close()
    grown = Decoding(HostDecoder(), 4, stream(), limit=size)  # type: ignore[arg-type]
    assert grown.decode([large] * 2, [plan] * 2, [0, 1]) == set()
    assert made.count(size) == 2, "no more than the limit, though memory grows with some to spare"
    grown.close()
    tight = Decoding(HostDecoder(), 4, stream(), limit=needed - 1)  # type: ignore[arg-type]
    assert not tight.takes(large.header)


def test_where_memory_is_short_pieces_get_smaller(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "take_stream", lambda device: stream())
    monkeypatch.setattr(loader, "Event", Event)
    encoded = [read_encoded(jpeg(i)) for i in range(8)] + [read_encoded(jpeg(8, (200, 300)))]
    needed, large = (room(encoded[i].header).total for i in (0, 8))
    there_are = 5 * needed
    assert needed < there_are // 2 < large, "the last one will not be decoded there any more"
    empty = decoding.torch.empty

    def scarce(size: Any, **options: Any) -> Any:
        if options.get("device") and size > there_are:
            raise torch.OutOfMemoryError("scarce")
        return empty(size, **options)

    monkeypatch.setattr(decoding.torch, "empty", scarce)
    tested = Loader(9, 3, "here", decoder=HostDecoder(), limit=64 * needed)  # type: ignore[arg-type]
    slot = CudaSlot(CANVAS_SIZE, 9, 3)
    slot._pinned = torch.zeros((9, *CANVAS_SIZE, 3), dtype=torch.uint8)
    assert all(tested.takes(one.header) for one in encoded)
    failed = 0
    for _ in range(8):
        for i, one in enumerate(encoded):
            slot.put(i, one, POLICY.place(one.header.size or (1, 1)))
        errors = dict[int, str]()
        out = canvases(9)
        try:
            pieces, on_host = loaded(tested, slot, out, errors)
        except torch.OutOfMemoryError:  # the engine splits the batch, and goes on
            failed += 1
            continue
        break
    assert 1 <= failed <= 5 and not errors and pieces > 2 and on_host == [8]
    assert not tested.takes(encoded[8].header) and tested.takes(encoded[0].header)
    for i in range(8):
        np.testing.assert_array_equal(pixels(out)[i], expected(encoded[i]))
    np.testing.assert_array_equal(slot.inputs[8], expected(encoded[8]))


def test_what_the_device_refuses_is_decoded_on_the_host(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is broken, one of a kind that the device does not know; the others do not care."""
    monkeypatch.setattr(loader, "take_stream", lambda device: stream())
    monkeypatch.setattr(loader, "Event", Event)
    files = [jpeg(1), damaged(jpeg(2)), with_a_third_table(jpeg(3)), jpeg(4)]
    encoded = [read_encoded(data) for data in files]
    limit = 2 * room(encoded[0].header).total  # so in two pieces
    tested = Loader(4, 3, "here", decoder=HostDecoder(), limit=limit)  # type: ignore[arg-type]
    slot = CudaSlot(CANVAS_SIZE, 4, 3)
    slot._pinned = torch.zeros((4, *CANVAS_SIZE, 3), dtype=torch.uint8)
    for i, one in enumerate(encoded):
        assert tested.takes(one.header)
        slot.put(i, one, POLICY.place(one.header.size or (1, 1)))
    out, errors = canvases(4), dict[int, str]()
    pieces, on_host = loaded(tested, slot, out, errors)
    assert pieces == 3
    found = pixels(out)
    for i in (0, 3):
        np.testing.assert_array_equal(found[i], expected(encoded[i]))
    assert on_host == [2]
    np.testing.assert_array_equal(slot.inputs[2], expected(encoded[2]))
    assert list(errors) == [1] and "its data ends early" in errors[1]
    assert not found[1].any() and not found[2].any()


# allocations, each with things one behind the other: (distance, size)
allocations = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=8),
    min_size=1,
    max_size=3,
)


@given(allocations, st.integers(0, 30), st.randoms())
def test_runs_hold_what_lies_together(
    given_: list[list[tuple[int, int]]], gap: int, random: Any
) -> None:
    found: list[tuple[int, int, int, int]] = []  # start, allocation, size, run
    count = 0
    for allocation, inside in enumerate(given_):
        end = 7
        for i, (distance, size) in enumerate(inside):
            count += i == 0 or distance > gap
            found.append((end + distance, allocation, size, count))
            end += distance + size
    random.shuffle(found)
    table = np.array(found, np.int64)
    begins, lengths, run = runs(table[:, :2], table[:, 2], gap)
    assert len(begins) == len(lengths) == count
    assert len(set(zip(table[:, 3].tolist(), run.tolist(), strict=True))) == count
    for number in range(count):
        members = table[run == number]
        assert begins[number] == members[:, 0].min()
        assert begins[number] + lengths[number] == (members[:, 0] + members[:, 2]).max()
