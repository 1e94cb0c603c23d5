"""Clearing memory: through the driver on a device, and what it is asked for."""

from types import SimpleNamespace

import pytest
import torch

from brimful.cuda import memory
from brimful.cuda.memory import clear, zeros
from brimful.errors import RuntimeFailedError

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.int64)


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_are_zeros(dtype, device):
    made = zeros((3, 5), dtype, device)
    assert (made.shape, made.dtype, made.device.type) == ((3, 5), dtype, device.type)
    assert made.cpu().tolist() == [[0] * 5] * 3
    assert zeros((0, 4), dtype, device).shape == (0, 4)


def test_a_part_is_cleared_and_nothing_beside_it(device):
    whole = torch.full((6, 4), 7, dtype=torch.int32, device=device)
    clear(whole[2:4])
    assert whole.cpu().tolist() == [[7] * 4] * 2 + [[0] * 4] * 2 + [[7] * 4] * 2
    images = torch.ones((2, 3, 4, 5), device=device).contiguous(memory_format=torch.channels_last)
    clear(images)
    assert not images.any()


def test_memory_with_gaps_is_refused(device):
    whole = torch.ones((4, 6), device=device)
    with pytest.raises(ValueError, match=r"contiguous tensor, got \(4, 2\) with strides \(6, 1\)"):
        clear(whole[:, :2])
    assert whole.all()


@pytest.fixture
def asked(monkeypatch):
    """A tensor that says it is on a device, and what the driver was asked then."""
    calls, answers = [], [0]

    def memset(*arguments):
        calls.append([argument.value for argument in arguments])
        return answers.pop(0)

    def load(*, queueing):
        assert queueing
        return SimpleNamespace(cuMemsetD8Async=memset)

    def stream(device):
        assert device.type == "cuda"
        return SimpleNamespace(cuda_stream=0x51, query=lambda: calls.append("query"))

    monkeypatch.setattr(memory, "load_driver", load)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    tensor = SimpleNamespace(
        ndim=2,
        device=torch.device("cuda", 0),
        is_contiguous=lambda: True,
        numel=lambda: 5_000_000_000,
        element_size=lambda: 2,
        data_ptr=lambda: 0x7F00_0000_0200,
    )
    return tensor, calls, answers


REQUEST = [0x7F00_0000_0200, 0, 10_000_000_000, 0x51]


def test_the_driver_gets_whole_addresses_and_sizes(asked):
    tensor, calls, _ = asked
    clear(tensor)
    assert calls == [REQUEST]


def test_a_thread_without_a_context_gets_one(asked):
    tensor, calls, answers = asked
    answers[:] = [201, 0]
    clear(tensor)
    assert calls == [REQUEST, "query", REQUEST]


def test_a_refusal_is_told(asked):
    tensor, calls, answers = asked
    answers[:] = [700]
    with pytest.raises(RuntimeFailedError, match=r"10000000000 bytes .* CUDA error 700"):
        clear(tensor)
    assert calls == [REQUEST]
