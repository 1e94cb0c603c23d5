"""One benchmark of two checkouts, by turns: what a change did to its figures.

    python benchmarks/by_turns.py --before ../old --after . --rounds 3 --figures engine_overhead \
        -- benchmarks/engine_overhead.py --rounds 3

Both run the benchmark of their own checkout with this interpreter. Every number of the JSON that it
writes (`benchmarks/results/NAME.json`, without its environment) is compared: median before, median
after, and the median of the ratios of each round. Machines are noisy: only what differs in every
round differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from common import write_json


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON value, with where it is."""
    if isinstance(value, dict):
        named = value.items()
    elif isinstance(value, list):
        named = {str(i): one for i, one in enumerate(value)}.items()
    else:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value)
        return
    for key, one in named:
        if not (path == "" and key == "environment"):
            yield from numbers(one, f"{path}.{key}" if path else key)


def measure(tree: Path, command: list[str], name: str) -> dict[str, float]:
    """Run the benchmark of a checkout; return the numbers that it wrote."""
    result = tree / "benchmarks" / "results" / f"{name}.json"
    result.unlink(missing_ok=True)
    env = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run([sys.executable, *command], cwd=tree, env=env)
    if done.returncode or not result.exists():
        sys.exit(f"{' '.join(command)} failed in {tree} (exit status {done.returncode})")
    return dict(numbers(json.loads(result.read_text())))


def main() -> None:
    """Run both by turns, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figures", required=True, help="name of the JSON that it writes")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names to show")
    parser.add_argument("command", nargs="+", help="the benchmark and its arguments")
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "after": options.after.resolve()}
    runs: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for i in range(options.rounds):
        for side in sorted(trees, reverse=i % 2 == 0):
            runs[side].append(measure(trees[side], options.command, options.figures))
    rows = {}
    print(f"{'figure':<60}{'before':>12}{'after':>12}{'ratio':>8}")
    for figure in runs["before"][0]:
        pairs = [
            (before[figure], after[figure])
            for before, after in zip(runs["before"], runs["after"], strict=True)
            if figure in before and figure in after
        ]
        if not pairs or (options.only and not any(part in figure for part in options.only)):
            continue
        before, after = median(b for b, _ in pairs), median(a for _, a in pairs)
        ratios = [a / b for b, a in pairs if b]
        row = {"before": before, "after": after, "ratios": [round(r, 4) for r in ratios]}
        rows[figure] = row
        ratio = f"{median(ratios):.3f}" if ratios else "-"
        print(f"{figure[-59:]:<60}{before:>12.4g}{after:>12.4g}{ratio:>8}")
    commits = {
        side: subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True
        ).stdout.strip()
        for side, tree in trees.items()
    }
    write_json(
        f"by_turns_{options.figures}",
        {"command": " ".join(options.command), "commits": commits, "figures": rows},
    )


if __name__ == "__main__":
    main()
