"""What the engine costs on top of the bare runtime, at the same batch.

    python benchmarks/engine_overhead.py

Three ways to run the same decoded 640x480 picture, which fills its canvas, in turns within one
process: OpenVINO's own asynchronous queue, brimful's runtime without an engine, and the whole
engine (queues, letterbox copy, batcher, postprocess, ordering). The overhead is the engine's median
time an image over OpenVINO's, both in wall-clock time and in CPU time of the process.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from common import MODELS, environment, shared, write_json

IMAGES = 100


def main() -> None:
    """Measure in turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="yolo26n")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    precisions = ["fp32"]
    if {"amx_bf16", "avx512_bf16"} & set(environment()["cpu_features"]):
        precisions.append("bf16")
    rows = []
    print(f"{'':<6}{'OpenVINO':>11}{'runtime':>11}{'engine':>11}{'overhead':>10}{'CPU':>8}")
    for precision in precisions:
        row = measure(options.model, precision, options.rounds)
        rows.append(row)
        print(
            f"{precision:<6}{row['bare_ms']:>8.2f} ms{row['runtime_ms']:>8.2f} ms"
            f"{row['engine_ms']:>8.2f} ms{row['overhead']:>9.1%}{row['cpu_overhead']:>8.1%}"
        )
    print(f"written: {write_json('engine_overhead', {'model': options.model, 'rows': rows}).name}")


def measure(model: str, precision: str, rounds: int) -> dict[str, Any]:
    """Measure one precision."""
    import cv2

    from brimful.load import load
    from brimful.runtimes.openvino import OpenVinoRuntime

    cv2.setNumThreads(1)
    picture = cv2.resize(cv2.imread(str(shared("photos/dog.jpg"))), (640, 480))
    path = shared(f"models/{MODELS[model]}")
    with load(path, runtime="openvino", device="cpu", precision=precision) as engine:
        runtime = engine.runtime
        assert isinstance(runtime, OpenVinoRuntime)
        slots = [runtime.allocate((480, 640)) for _ in range(runtime.concurrency + 1)]
        for slot in slots:
            slot.inputs[0] = picture

        def bare() -> None:
            import openvino

            queue = openvino.AsyncInferQueue(slots[0].compiled, runtime.concurrency)
            for _ in range(IMAGES):
                queue.start_async({0: picture[None]})
            queue.wait_all()

        def alone() -> None:
            finished = threading.Semaphore(0)
            waiting = iter(range(IMAGES - len(slots)))
            lock = threading.Lock()

            def go(slot: Any) -> None:
                def done(_: Any, error: BaseException | None, seconds: Any = None) -> None:
                    assert error is None
                    with lock:
                        more = next(waiting, None) is not None
                    if more:
                        go(slot)
                    finished.release()

                runtime.submit(slot, 1, done)

            for slot in slots:
                go(slot)
            for _ in range(IMAGES):
                finished.acquire()

        def whole() -> None:
            assert sum(len(results) for results in engine.stream([picture] * IMAGES)) == IMAGES

        times: dict[str, list[tuple[float, float]]] = {"bare": [], "runtime": [], "engine": []}
        ways: list[tuple[str, Callable[[], None]]] = [
            ("bare", bare),
            ("runtime", alone),
            ("engine", whole),
        ]
        for _, way in ways:
            way()  # warm-up
        for _ in range(rounds):
            for name, way in ways:
                wall, cpu = time.perf_counter(), time.process_time()
                way()
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall = {name: [a for a, _ in pairs] for name, pairs in times.items()}
    cpu = {name: [b for _, b in pairs] for name, pairs in times.items()}

    def over(seconds: dict[str, list[float]]) -> float:
        """Return the median over the rounds of engine over bare, less one."""
        pairs = zip(seconds["engine"], seconds["bare"], strict=True)
        return statistics.median(a / b for a, b in pairs) - 1

    return {
        "precision": precision,
        "bare_ms": round(statistics.median(wall["bare"]) / IMAGES * 1000, 3),
        "runtime_ms": round(statistics.median(wall["runtime"]) / IMAGES * 1000, 3),
        "engine_ms": round(statistics.median(wall["engine"]) / IMAGES * 1000, 3),
        "overhead": round(over(wall), 4),
        "cpu_overhead": round(over(cpu), 4),
    }


if __name__ == "__main__":
    main()
