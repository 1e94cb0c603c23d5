"""The decode split against a plant with known rates: it must settle near the best split."""

from __future__ import annotations

import pytest

from brimful.runtimes.cuda.split import MOST, DecodeSplit

BATCH = 128


def throughput(share: float, engines: float, threads: float, model: float) -> float:
    """Return images per second of a pipeline whose stages overlap."""
    limits = [model, engines / (1 - share)]
    if share:
        limits.append(threads / share)
    return min(limits)


def settle(split: DecodeSplit, engines: float, threads: float, model: float) -> list[float]:
    """Run batches; return the throughput of the last ones."""
    seen = []
    for _ in range(400):
        # The share that was really sent to the CPU, image by image.
        share = sum(not split.to_device() for _ in range(BATCH)) / BATCH
        rate = throughput(share, engines, threads, model)
        cycle, decode = BATCH / rate, BATCH * (1 - share) / engines
        rest = max(0.0, cycle - decode)
        host_limits = bool(share) and rate == threads / share
        split.observe(
            decode_s=decode,
            wait_s=0.0 if host_limits else rest,
            idle_s=rest if host_limits else 0.0,
        )
        seen.append(rate)
    return seen[-100:]


@pytest.mark.parametrize(
    ("engines", "threads", "model"),
    [
        (30_000, 6_000, 20_000),  # the model limits: the CPU is left alone
        (4_000, 2_000, 20_000),  # the engines limit: both decode
        (4_000, 2_000, 5_000),  # help until the model limits
        (2_000, 8_000, 20_000),  # large pictures, many CPUs
        (4_000, 100, 20_000),  # a CPU that is no help
    ],
)
def test_it_settles_near_the_best_split(engines: float, threads: float, model: float) -> None:
    best = max(throughput(i / 1000, engines, threads, model) for i in range(int(1000 * MOST) + 1))
    split = DecodeSplit()
    rates = settle(split, engines, threads, model)
    seconds = [BATCH / rate for rate in rates]
    assert BATCH * len(rates) / sum(seconds) > 0.9 * best
    for start in range(0, len(rates), 20):  # nor does it swing
        assert BATCH * 20 / sum(seconds[start : start + 20]) > 0.85 * best


def test_the_cpu_is_left_alone_where_the_model_limits() -> None:
    split = DecodeSplit()
    settle(split, 30_000, 6_000, 20_000)
    assert split.share == 0
    assert all(split.to_device() for _ in range(1000))


def test_it_follows_a_change() -> None:
    split = DecodeSplit()
    settle(split, 4_000, 2_000, 20_000)
    assert 0.25 < split.share < 0.45
    settle(split, 30_000, 2_000, 20_000)  # smaller pictures come
    assert split.share == 0


def test_it_gives_way_when_the_model_becomes_the_limit() -> None:
    split = DecodeSplit()
    settle(split, 4_000, 8_000, 20_000)
    assert split.share > 0.5
    settle(split, 4_000, 8_000, 2_000)  # the engines alone are enough, and the CPU never waits
    assert split.share == 0


def test_images_for_the_cpu_are_spread_evenly() -> None:
    split = DecodeSplit()
    split.share = 0.25
    sent = [split.to_device() for _ in range(400)]
    assert sent.count(False) == 100
    assert all(sent[i : i + 4].count(False) == 1 for i in range(0, 400, 4))


def test_nothing_is_learnt_from_nothing() -> None:
    split = DecodeSplit()
    split.observe(decode_s=0, wait_s=0, idle_s=0)
    assert split.share == 0
