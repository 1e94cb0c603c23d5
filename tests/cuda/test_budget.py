"""A budget limits the process, so several of them must agree on one limit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from brimful.cuda import budget as budgets
from brimful.cuda.budget import Budget

TOTAL = 1000 * 2**20


@pytest.fixture
def limits(monkeypatch) -> dict[int, float]:
    """Return the share of its memory that each device allows PyTorch, with a fake device."""
    shares: dict[int, float] = {}
    properties = SimpleNamespace(uuid="GPU-0", total_memory=TOTAL)
    memory = SimpleNamespace(process=lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, device: shares.__setitem__(device.index, share),
    )
    monkeypatch.setattr(budgets, "synchronize", lambda device: None)
    monkeypatch.setattr(budgets, "DeviceMemory", lambda uuid: memory)
    monkeypatch.setattr(budgets, "SLACK", 0)
    return shares


def test_closing_one_engine_leaves_the_limit_of_another(limits):
    device = torch.device("cuda", 0)
    wide, tight = Budget(TOTAL // 2, device), Budget(TOTAL // 4, device)
    wide.enforce()
    assert limits == {0: 0.5}
    tight.enforce()
    assert limits == {0: 0.25}
    tight.release()
    assert limits == {0: 0.5}
    wide.release()
    assert limits == {0: 1.0}


def test_the_tightest_limit_holds_whichever_was_first(limits):
    device = torch.device("cuda", 0)
    tight, wide = Budget(TOTAL // 4, device), Budget(TOTAL // 2, device)
    tight.enforce()
    wide.enforce()
    assert limits == {0: 0.25}
    wide.share(TOTAL // 8)
    assert limits == {0: 0.125}
    wide.release()
    assert limits == {0: 0.25}
    tight.release()
    assert limits == {0: 1.0}


def test_devices_have_limits_of_their_own(limits):
    budgets_of = [Budget(TOTAL // (2 + i), torch.device("cuda", i)) for i in range(2)]
    for budget in budgets_of:
        budget.enforce()
    budgets_of[0].release()
    assert limits == {0: 1.0, 1: pytest.approx(1 / 3)}
    budgets_of[1].release()


def test_what_was_never_enforced_lifts_nothing(limits):
    device = torch.device("cuda", 0)
    enforced, unused = Budget(TOTAL // 2, device), Budget(TOTAL // 4, device)
    enforced.enforce()
    unused.release()
    assert limits == {0: 0.5}
    enforced.release()
