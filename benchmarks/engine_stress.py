"""Stress of the engine on the `debug` runtime: exactly one outcome for every request, nothing left.

Threads submit single images (with deadlines, priorities, thresholds of their own, line policies),
submit many, run jobs, cancel and leave early, while decode, preprocess, forward, postprocess and
whole stages fail at random, runtimes are swapped and engines are closed in the middle and opened
again. At the end of each engine no thread, slot, byte or live request may be left, and every
request must have had exactly one outcome, the right one where it is a result.

    python benchmarks/engine_stress.py --seconds 600 --threads 64
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.engine import Engine
from brimful.errors import EngineStoppedError, ModelError, QueueFullError, RuntimeFailedError
from brimful.runtimes.debug import DebugFaults, DebugRuntime
from brimful.runtimes.runtime import OutOfMemoryError, RuntimeOptions
from common import write_json

POISON = 13
WAIT_S = 60.0
"""How long an outcome may take before it counts as missing."""


class FaultyRuntime(DebugRuntime):
    """A debug runtime whose forwards fail at random, and which runs out of memory at random."""

    def __init__(self, seed: int, **options: Any) -> None:
        """Seed its faults."""
        faults = DebugFaults(poison_level=POISON, batch_ms=0.5)
        super().__init__(RuntimeOptions(max_batch=options["batch"]), faults, concurrency=2)
        self._random = random.Random(seed)

    def _forward(self, slot: Any, count: int, params: Any) -> Any:
        outputs = super()._forward(slot, count, params)
        dice = self._random.random()
        if dice < 0.02:
            raise RuntimeFailedError("at random")
        if dice < 0.04 and count > 1:
            raise OutOfMemoryError("at random")
        return outputs


def _busy(engine: Engine) -> bool:
    """Tell whether anything of a request is left in an engine."""
    load = engine.load()
    slots = load.slots if engine.health == "ok" else 0  # a closed one drops its slots whole
    batches = load.running + load.batched + load.preparing + load.waiting
    return bool(load.live or load.nbytes or batches or slots)


def gray(level: int, height: int, width: int) -> Any:
    """Return an image of one gray level, which its result can be checked against."""
    return np.full((height, width, 3), level, np.uint8)


class Ledger:
    """Outcomes by kind, and what was wrong."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def count(self, kind: str, number: int = 1) -> None:
        """Count outcomes of a kind."""
        with self._lock:
            self.outcomes[kind] += number

    def fault(self, text: str) -> None:
        """Note something that must not be."""
        with self._lock:
            self.wrong.append(text)

    def check(self, result: Detections, level: int, *, min_conf: float = 0.25) -> None:
        """Check a result against the image's gray level, and count it."""
        if result.failure is not None:
            if (result.error is None) or len(result):
                self.fault(f"a failure with a result: {result!r}")
            self.count(f"failure: {result.failure}")
            return
        score = level / 255 / 2 + 0.5
        expected = 1 if score > min_conf else 0
        if len(result) != expected or (expected and int(result.class_id[0]) != level % 10):
            self.fault(f"level {level}, conf {min_conf}: {result!r} {result.class_id}")
        self.count("result")


class Chaos:
    """One engine and the threads that use it."""

    def __init__(self, seed: int, ledger: Ledger, threads: int) -> None:
        """Start the engine with faults in each of its stages."""
        self.random = random.Random(seed)
        self.ledger = ledger
        self.threads = threads
        self.stopping = threading.Event()
        self.batch = self.random.choice([1, 2, 8, 16])
        config = EngineConfig(
            imgsz=96,
            canvas=self.random.choice(["auto", "square"]),
            workers=self.random.choice([1, 2, 4]),
            queue=self.random.choice([4, 32, 128]),
            queue_bytes=self.random.choice([50_000, 2_000_000]),
            max_delay_ms=self.random.choice([0.0, 5.0, 50.0]),
            on_stage_death="restart",
        )
        self.engine = Engine(FaultyRuntime(seed, batch=self.batch), config)
        self._plant()

    def _plant(self) -> None:
        """Let decode, placing, writing and postprocess fail at random, also after restarts."""
        engine, dice = self.engine, random.Random(self.random.random())
        start = engine._lifecycle.start

        def faulty(inner: Any, share: float, error: type[BaseException]) -> Any:
            def call(*arguments: Any) -> Any:
                if dice.random() < share:
                    raise error("at random")
                return inner(*arguments)

            return call

        def plant(pipeline: Any) -> Any:
            pre = engine._lifecycle.preprocess
            pre.decode = faulty(pre.decode, 0.01, OverflowError)
            pre.place = faulty(pre.place, 0.01, MemoryError)
            pre.write = faulty(pre.write, 0.01, ValueError)
            inner = pipeline._postprocess
            inner = faulty(inner, 0.01, IndexError)
            pipeline._postprocess = faulty(inner, 0.001, ModelError)  # kills the stage
            return pipeline

        plant(engine._lifecycle.pipeline)
        engine._lifecycle.start = lambda: plant(start())  # type: ignore[method-assign]

    def run(self, seconds: float) -> None:
        """Run the threads for a while, close the engine in their middle, and look what is left."""
        users = [self.submitter, self.submitter, self.many, self.job, self.canceller]
        started = [
            threading.Thread(target=self._guard, args=(users[i % len(users)], i), daemon=True)
            for i in range(self.threads)
        ]
        for thread in started:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            if self.random.random() < 0.3:
                self._swap()
        if self.random.random() < 0.5:  # in the middle of everything, or when all has come to rest
            self.engine.close()
        self.stopping.set()
        for thread in started:
            thread.join(WAIT_S)
            if thread.is_alive():
                self.ledger.fault(f"{thread.name} hangs")
        end = time.monotonic() + WAIT_S
        while _busy(self.engine) and time.monotonic() < end:
            time.sleep(0.01)  # what was cancelled is dropped when its turn comes
        if _busy(self.engine):
            self.ledger.fault(f"left behind: {self.engine.load()}")
        self.engine.close()
        left = [t.name for t in threading.enumerate() if t.name.startswith("brimful")]
        if left:
            self.ledger.fault(f"threads left: {left}")

    def _swap(self) -> None:
        runtime = FaultyRuntime(self.random.randrange(1 << 30), batch=self.batch)
        try:
            self.engine.swap(runtime, WAIT_S)
            self.ledger.count("swap")
        except EngineStoppedError:
            runtime.close()

    def _guard(self, user: Any, number: int) -> None:
        dice = random.Random(self.random.random() + number)
        try:
            while not self.stopping.is_set():
                user(dice, number)
        except EngineStoppedError as error:
            if "closed" not in str(error):
                self.ledger.fault(f"{user.__name__}: {error}")
        except BaseException as error:
            self.ledger.fault(f"{user.__name__}: {type(error).__name__}: {error}")

    def _options(self, dice: random.Random, number: int) -> dict[str, Any]:
        options: dict[str, Any] = {"client": number, "priority": dice.choice([0, 0, 0, 1])}
        if dice.random() < 0.3:
            options["deadline_ms"] = dice.choice([0, 1, 20, 1000])
        if dice.random() < 0.3:
            options["conf"] = dice.choice([0.1, 0.6, 0.9])
        return options

    def submitter(self, dice: random.Random, number: int) -> None:
        """Submit single images and wait for some of them at a time."""
        pending = []
        for _ in range(dice.randint(1, 20)):
            level = dice.randrange(256)
            options = self._options(dice, number)
            if dice.random() < 0.1:
                options["line"] = "newest"
            image = gray(level, dice.randint(8, 96), dice.randint(8, 96))
            try:
                future = self.engine.submit(image, wait=dice.random() < 0.7, **options)
            except QueueFullError:
                self.ledger.count("refused")
                continue
            except EngineStoppedError as error:
                if "closed" in str(error):
                    self._settle(pending)
                    raise
                self.ledger.count("stopped at submit")
                continue
            pending.append((future, level, options.get("conf", 0.25)))
        self._settle(pending)

    def _settle(self, pending: list[Any]) -> None:
        for future, level, conf in pending:
            try:
                self.ledger.check(future.result(WAIT_S), level, min_conf=conf)
            except TimeoutError:
                self.ledger.fault("a future without an outcome")
            except EngineStoppedError:
                self.ledger.count("stopped")

    def canceller(self, dice: random.Random, number: int) -> None:
        """Submit images and cancel most of them."""
        futures = []
        for _ in range(dice.randint(1, 20)):
            try:
                options = self._options(dice, number)
                future = self.engine.submit(gray(1, 30, 30), **options)
                futures.append((future, options.get("conf", 0.25)))
            except EngineStoppedError as error:
                if "closed" in str(error):
                    break
        for future, conf in futures:
            if dice.random() < 0.7 and future.cancel():
                self.ledger.count("cancelled")
                continue
            try:
                self.ledger.check(future.result(WAIT_S), 1, min_conf=conf)
            except CancelledError:
                self.ledger.fault("a future was cancelled by nobody")
            except TimeoutError:
                self.ledger.fault("a future without an outcome")
            except EngineStoppedError:
                self.ledger.count("stopped")
        self.engine._lifecycle.check_usable()

    def many(self, dice: random.Random, number: int) -> None:
        """Submit several images with one callback."""
        levels = [dice.randrange(256) for _ in range(dice.randint(1, 30))]
        outcomes: Counter[int] = Counter()
        done = threading.Event()

        def note(position: int, outcome: Any) -> None:
            outcomes[position] += 1
            if isinstance(outcome, Detections):
                self.ledger.check(outcome, levels[position], min_conf=conf)
            else:
                self.ledger.count("stopped")
            if sum(outcomes.values()) >= len(levels):
                done.set()

        options = self._options(dice, number)
        conf = options.get("conf", 0.25)
        images = [gray(level, 20, dice.randint(10, 40)) for level in levels]
        try:
            submission = self.engine.submit_many(images, note, **options)
        except EngineStoppedError as error:
            if "closed" in str(error):
                raise
            return
        if dice.random() < 0.2:
            submission.cancel()
            self.ledger.count("cancelled", len(levels) - sum(outcomes.values()))
            return
        if not done.wait(WAIT_S):
            self.ledger.fault(f"{len(levels) - len(outcomes)} images without an outcome")
        if any(count > 1 for count in outcomes.values()):
            self.ledger.fault("an image with two outcomes")

    def job(self, dice: random.Random, number: int) -> None:
        """Run a job, to its end or not."""
        levels = [dice.randrange(256) for _ in range(dice.randint(1, 200))]
        leave = dice.randrange(len(levels)) if dice.random() < 0.3 else None
        stream = self.engine.predict([gray(level, 24, 32) for level in levels])
        seen = 0
        try:
            for result in stream:
                if result.index != seen:
                    self.ledger.fault(f"out of order: {result.index} instead of {seen}")
                self.ledger.check(result, levels[seen])
                seen += 1
                if seen == leave:
                    break
            if leave is None and seen != len(levels):
                self.ledger.fault(f"{seen} of {len(levels)} results")
        except EngineStoppedError as error:
            self.ledger.count("job stopped")
            if "closed" in str(error):
                raise
        finally:
            stream.close()  # type: ignore[attr-defined]


def main() -> None:
    """Run one engine after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=float, default=10.0, help="seconds of an engine")
    parser.add_argument("--result", default="engine_stress", help="name of the JSON, or - for none")
    options = parser.parse_args()
    ledger = Ledger()
    begun, engines = time.monotonic(), 0
    while time.monotonic() - begun < options.seconds and not ledger.wrong:
        Chaos(options.seed + engines, ledger, options.threads).run(options.each)
        engines += 1
    summary = {
        "seconds": round(time.monotonic() - begun),
        "threads": options.threads,
        "seed": options.seed,
        "engines": engines,
        "outcomes": dict(sorted(ledger.outcomes.items())),
        "wrong": ledger.wrong[:20],
    }
    for key, value in summary.items():
        print(f"{key}: {value}")
    if options.result != "-":
        print(write_json(options.result, summary))
    sys.exit(1 if ledger.wrong else 0)


if __name__ == "__main__":
    main()
