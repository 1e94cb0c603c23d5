import random

import numpy as np

from brimful.cluster.arena import Arena
from brimful.cluster.messages import raised, travelling
from brimful.cluster.packing import in_memory, pack, unpack
from brimful.errors import MissingExtraError, ModelError
from brimful.sources.image import SourceImage


def test_blocks_never_overlap_and_all_comes_back():
    chance = random.Random(1)
    arena = Arena(1 << 16)
    held = []
    refused = 0
    for _ in range(3000):
        if held and chance.random() < 0.5:
            block, image = held.pop(chance.randrange(len(held)))
            assert np.array_equal(arena.read(block), image)
            arena.free(block)
            continue
        image = np.frombuffer(chance.randbytes(chance.randrange(1, 9000)), np.uint8)
        block = arena.allocate(image)
        if block is None:
            refused += 1
            continue
        arena.write(block, image)
        held.append((block, image))
    assert refused > 10, "it was never full"
    for block, image in held:
        assert np.array_equal(arena.read(block), image)
        arena.free(block)
    assert arena.used == 0
    whole = arena.allocate(bytes(1 << 16))
    assert whole is not None, "the free parts did not merge"
    assert arena.allocate(b"x") is None
    arena.close()


def test_arrays_and_bytes_read_back_as_they_were():
    arena = Arena(1 << 20)
    strided = np.arange(600, dtype=np.uint16).reshape(20, 30)[::2, ::-1]
    for image in (np.full((5, 7, 3), 9, np.uint8), strided, b"encoded"):
        block = arena.allocate(image)
        arena.write(block, image)
        back = arena.read(block)
        assert type(back) is type(image)
        if isinstance(image, bytes):
            assert back == image
        else:
            assert back.dtype == image.dtype and np.array_equal(back, image)
    arena.close()


def test_what_takes_a_block():
    assert in_memory(np.zeros((64, 64, 3), np.uint8)) and in_memory(bytes(5000))
    assert not in_memory(np.zeros((4, 4, 3), np.uint8)) and not in_memory(b"x" * 100)
    assert not in_memory("path") and not in_memory(np.array([object()] * 5000))


def test_frames_keep_number_and_time(tmp_path):
    arena = Arena(1 << 16)
    image = SourceImage(index=7, key="a.mp4", payload=str(tmp_path), frame=3, pts_ms=120.5)
    assert unpack(pack(image, None), arena) == image
    image.payload = tmp_path
    assert unpack(pack(image, None), arena).payload == str(tmp_path)
    arena.close()


def test_errors_travel_with_class_text_and_facts():
    missing = raised(travelling(MissingExtraError("X", "video", module="av")))
    assert type(missing) is MissingExtraError and missing.extra == "video"
    assert str(missing) == str(MissingExtraError("X", "video", module="av"))
    model = raised(travelling(ModelError("no")))
    assert type(model) is ModelError and str(model) == "no" and model.exit_code == 4
    assert str(raised(travelling(KeyError("x")))) == "KeyError: 'x'"
