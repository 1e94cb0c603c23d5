"""The decode split against a plant with known rates: it must settle near the best split."""

from __future__ import annotations

import itertools
import random

import pytest

from brimful.runtimes.cuda.input.decode_balancer import (
    HOPELESS_BATCHES,
    MOST,
    SETTLING,
    STEP,
    WINDOW_BATCHES,
    DecodeBalancer,
)

BATCH = 128


class Plant:
    """A pipeline whose stages overlap, with a clock of its own."""

    def __init__(
        self, engines: float, threads: float, model: float, *, harm_us: float = 0, noise: float = 0
    ) -> None:
        self.engines, self.threads, self.model = engines, threads, model
        self.harm_us, self.noise = harm_us, noise
        self.now = 0.0
        self.draw = random.Random(3)

    def rate(self, share: float) -> float:
        """Return images per second at a share of the CPU's."""
        # What threads do in the interpreter, the driver waits for.
        feeder = 1 / ((1 - share) / self.engines + share * self.harm_us / 1e6)
        return min(self.model, feeder, self.threads / share if share else feeder)

    def best(self) -> float:
        return max(self.rate(i / 1000) for i in range(int(1000 * MOST) + 1))

    def run(self, split: DecodeBalancer, batches: int) -> float:
        """Run batches; return the rate of the later half."""
        half = 0.0
        for i in range(batches):
            # The share that was really sent to the CPU, image by image.
            share = sum(not split.to_device() for _ in range(BATCH)) / BATCH
            rate = self.rate(share)
            seconds = BATCH / rate * self.draw.uniform(1 - self.noise, 1 + self.noise)
            decode = BATCH * ((1 - share) / self.engines + share * self.harm_us / 1e6)
            rest = max(0.0, seconds - decode)
            host_limits = bool(share) and rate == self.threads / share
            self.now += seconds
            split.observe(
                BATCH,
                decode_s=min(decode, seconds),
                wait_s=0.0 if host_limits else rest,
                idle_s=rest if host_limits else 0.0,
            )
            if i == batches // 2:
                half = self.now
        return BATCH * (batches - 1 - batches // 2) / (self.now - half)


def start(plant: Plant) -> DecodeBalancer:
    return DecodeBalancer(clock=lambda: plant.now)


@pytest.mark.parametrize("noise", [0, 0.1])
@pytest.mark.parametrize(
    ("engines", "threads", "model"),
    [
        (30_000, 6_000, 20_000),  # the model limits: the CPU is left alone
        (4_000, 2_000, 20_000),  # the engines limit: both decode
        (4_000, 2_000, 5_000),  # help until the model limits
        (2_000, 8_000, 20_000),  # large host frames, many CPUs
        (4_000, 100, 20_000),  # a CPU that is no help
    ],
)
def test_it_settles_near_the_best_split(
    engines: float, threads: float, model: float, noise: float
) -> None:
    plant = Plant(engines, threads, model, noise=noise)
    assert plant.run(start(plant), 8_000) > 0.85 * plant.best()


def test_threads_that_hold_up_the_driver_are_left_alone() -> None:
    plant = Plant(11_000, 20_000, 20_000, harm_us=150, noise=0.05)
    split = start(plant)
    assert plant.run(split, 8_000) > 0.97 * plant.rate(0)


def test_a_step_that_does_harm_is_taken_back_at_once() -> None:
    plant = Plant(4_000, 20, 20_000)  # threads so slow that a window of theirs takes a minute
    split = start(plant)
    while not split.share:
        plant.run(split, 3)
    begun, taken = plant.now, 0
    while split.share:
        plant.run(split, 3)
        taken += 3
    assert taken <= SETTLING + HOPELESS_BATCHES + 3 < WINDOW_BATCHES
    assert plant.now > begun


def test_the_cpu_is_left_alone_where_the_model_limits() -> None:
    plant = Plant(30_000, 6_000, 20_000)
    split = start(plant)
    plant.run(split, 4_000)
    assert split.share == 0
    assert all(split.to_device() for _ in range(1000))


def test_the_first_second_is_the_engines() -> None:
    plant = Plant(4_000, 2_000, 20_000)
    split = start(plant)
    plant.run(split, 30)
    assert split.share == 0


def test_it_follows_a_change() -> None:
    plant = Plant(4_000, 2_000, 20_000)
    split = start(plant)
    plant.run(split, 8_000)
    assert 0.15 < split.share < 0.45
    plant.engines = 30_000  # smaller host frames come
    plant.run(split, 8_000)
    assert split.share == 0


def test_it_gives_way_when_the_model_becomes_the_limit() -> None:
    plant = Plant(4_000, 8_000, 20_000)
    split = start(plant)
    plant.run(split, 8_000)
    assert split.share > 0.5
    plant.model = 2_000  # the engines alone are enough, and the CPU never waits
    plant.run(split, 8_000)
    assert split.share == 0


def test_images_for_the_cpu_are_spread_evenly() -> None:
    split = DecodeBalancer()
    split.share = 0.25
    sent = [split.to_device() for _ in range(400)]
    assert sent.count(False) == 100
    assert all(sent[i : i + 4].count(False) == 1 for i in range(0, 400, 4))


def test_nothing_is_learnt_from_nothing() -> None:
    now = itertools.count()
    split = DecodeBalancer(clock=lambda: next(now))
    for _ in range(200):
        split.observe(0, decode_s=0, wait_s=0, idle_s=0)
    assert split.share <= STEP
