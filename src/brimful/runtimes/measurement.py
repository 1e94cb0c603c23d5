"""Measurement: what runtimes take for a model on this machine, found once and kept.

It is made in a process of its own: a runtime that is not taken in the end leaves no threads, no
memory and no crash behind.

    python -m brimful.runtimes.measurement < request.json
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brimful.child_python import python_command
from brimful.cpus import cpu_model
from brimful.errors import BrimfulError
from brimful.extras import installed_version
from brimful.log_slow import log_slow
from brimful.models.artifact import FACTS, artifact, cache_root, kept_artifact
from brimful.models.model import Model, open_model
from brimful.runtimes.cost import Cost
from brimful.runtimes.registry import Entry, load_runtime
from brimful.runtimes.runtime import Precision, RuntimeOptions, Slot
from brimful.spec import Size

Candidate = tuple[Entry, Precision]
"""A runtime of this installation, and the precision that it would compute in."""

KIND = "measured"
TURNS, TURN_S = 3, 0.15
"""How often each runtime has its turn, and for how many seconds: noise then hits all of them."""

LIMIT_S = 120.0
"""Seconds after which a measurement is given up; a large model may take half a minute."""

METHOD = 1
"""Raised whenever figures of before are no longer good."""


class Measurement:
    """What each of several runtimes takes for a model on this machine, and with these threads."""

    def __init__(
        self,
        model: Model,
        candidates: Sequence[Candidate],
        threads: int,
        *,
        run: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None,
    ) -> None:
        """Say what is to be measured.

        Args:
            model: The model.
            candidates: Runtimes to be measured.
            threads: CPU threads of the forward.
            run: Measures; `measure_in_child` by default.
        """
        self._model, self._candidates, self._threads = model, list(candidates), threads
        self._run = run or measure_in_child

    def kept(self) -> list[Cost] | None:
        """Return what was measured before, one a candidate, or None."""
        try:
            folder = kept_artifact(KIND, self._facts())
            return None if folder is None else self._read(folder)
        except (BrimfulError, OSError, ValueError, TypeError, KeyError):
            return None  # such as a cache that others may write to: nothing of it is used

    def take(self) -> list[Cost] | None:
        """Measure and keep the result; None where that was not possible."""
        try:
            with log_slow(f"measuring which runtime is fastest for {self._model.path.name}, once"):
                return self._read(artifact(KIND, self._facts(), self._measure))
        except (BrimfulError, OSError, ValueError, TypeError, KeyError):
            return None  # assumptions have to do

    def _facts(self) -> dict[str, object]:
        options = self._model.options
        return {
            "model": self._model.digest,
            "nms": options.nms,
            "max_det": max(options.max_det, 300),
            "cpu": cpu_model(),
            "threads": self._threads,
            "method": METHOD,
            "runtimes": [
                (
                    entry.name,
                    precision,
                    installed_version(*(entry.distributions or (entry.module,))),
                )
                for entry, precision in self._candidates
            ],
        }

    def _measure(self, folder: Path) -> None:
        options = self._model.options
        onnx = self._model.as_onnx() if self._model.format == "pt" else self._model.path
        request = {
            "model": str(onnx.absolute()),
            "task": options.overrides.task,
            "names": options.overrides.names,
            "threads": self._threads,
            "candidates": [(entry.name, precision) for entry, precision in self._candidates],
        }
        costs = [Cost(**cost) for cost in self._run(request)]
        if len(costs) != len(self._candidates):
            raise ValueError("a candidate was not measured")
        text = {"model": self._model.path.name, "costs": [asdict(cost) for cost in costs]}
        (folder / "costs.json").write_text(json.dumps(text, indent=2) + "\n")

    def _read(self, folder: Path) -> list[Cost]:
        costs = json.loads((folder / "costs.json").read_text())["costs"]
        return [Cost(**cost) for cost in costs]


def kept_measurements() -> Iterator[tuple[str, dict[str, Any], list[Cost]]]:
    """Yield what the artifact cache has: the model's name, the facts, a cost for each runtime."""
    for folder in sorted(cache_root().glob(f"{KIND}-*")):
        try:
            facts = json.loads((folder / FACTS).read_text())
            said = json.loads((folder / "costs.json").read_text())
            costs = [Cost(**cost) for cost in said["costs"]]
            facts["runtimes"] = [tuple(runtime) for runtime in facts["runtimes"]]
        except (OSError, ValueError, TypeError, KeyError):
            continue  # nothing that a job would use
        yield str(said["model"]), facts, costs


def measure_in_child(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure in a child process; return its answer.

    Raises:
        ValueError: It gave none.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    try:
        child = subprocess.run(
            python_command("-m", "brimful.runtimes.measurement"),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("it took too long") from None
    answer = child.stdout.splitlines()[-1:]
    if child.returncode or not answer:
        raise ValueError(child.stderr)
    costs: list[dict[str, Any]] = json.loads(answer[0])
    return costs


class Trial:
    """A runtime that is being measured."""

    def __init__(self, model: Model, name: str, precision: Precision, threads: int) -> None:
        """Load a model, compile it for a canvas and run it once.

        Raises:
            BrimfulError: The runtime does not run it.
        """
        before, started = _resident_mib(), time.perf_counter()
        options = RuntimeOptions(precision=precision, threads=threads)
        self._runtime = runtime = load_runtime(name, model, options)
        self._done: queue.SimpleQueue[tuple[Slot, BaseException | None]] = queue.SimpleQueue()
        try:
            self._load_s = time.perf_counter() - started
            spec = runtime.spec
            canvas = spec.fixed_size or _usual_canvas(spec.imgsz, spec.stride)
            self._slots = [runtime.allocate(canvas)]
            self._start(self._slots[0])
            self._wait()
            self._first_s = time.perf_counter() - started - self._load_s
            self._slots += [runtime.allocate(canvas) for _ in range(runtime.concurrency - 1)]
        except BaseException:
            self.close()
            raise
        self._mib = max(0, _resident_mib() - before)
        self._image_s = math.inf

    def run(self, seconds: float) -> None:
        """Keep it busy for a moment; the best moment counts, as neighbours only ever slow it."""
        for slot in self._slots:
            self._start(slot)
        count, began = 0, time.perf_counter()
        while (now := time.perf_counter()) - began < seconds or count < 2 * len(self._slots):
            self._start(self._wait())
            count += 1
        for _ in self._slots:
            self._wait()
        images = count * self._slots[0].capacity
        self._image_s = min(self._image_s, (now - began) / images)

    def cost(self) -> Cost:
        """Return what was found."""
        one = self._image_s * self._runtime.concurrency  # the first image, with one thread
        return Cost(
            load_s=round(self._load_s, 4),
            canvas_s=round(max(0.0, self._first_s - one), 4),
            image_s=round(self._image_s, 5),
            canvas_mib=self._mib,
        )

    def close(self) -> None:
        """Give the runtime's memory back."""
        self._runtime.close()

    def _start(self, slot: Slot) -> None:
        def done(
            outputs: object, error: BaseException | None, seconds: float | None = None, /
        ) -> None:
            self._done.put((slot, error))

        self._runtime.submit(slot, slot.capacity, done)

    def _wait(self) -> Slot:
        """Return a slot whose forward has ended."""
        slot, error = self._done.get()
        if error is not None:
            raise error
        return slot


def _usual_canvas(imgsz: Size, stride: int) -> Size:
    """Return the canvas of a photograph of 4:3."""
    return max(stride, round(imgsz[0] * 0.75 / stride) * stride), imgsz[1]


def _resident_mib() -> int:
    """Return the memory that this process has now, in MiB; 0 where the kernel does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def main() -> int:
    """Be the child: read the request, measure the candidates by turns, answer."""
    from brimful.models.model import ModelOptions
    from brimful.models.signature import SpecOverrides

    request: dict[str, Any] = json.load(sys.stdin)
    names = request["names"]
    overrides = SpecOverrides(task=request["task"], names=None if names is None else tuple(names))
    model = open_model(request["model"], ModelOptions(overrides=overrides))
    trials = [
        Trial(model, name, precision, request["threads"])
        for name, precision in request["candidates"]
    ]
    for _ in range(TURNS):
        for trial in trials:
            trial.run(TURN_S)
    for trial in trials:
        trial.close()
    print(json.dumps([asdict(trial.cost()) for trial in trials]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
