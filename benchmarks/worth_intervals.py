"""Do the intervals of `tutelage.worth` hold what they promise? Simulated scores with known effects, many times over.

For each design: the share of 95% intervals that hold the true effect, the largest bias of an estimate, the mean width of an interval, and
how often an entry without effect gets p < 0.05. Effects differ by entry (-0.3 to 0.3) and by task (standard deviation 0.15), tasks differ
in difficulty, scores have noise of 0.3 (or are 0 or 1). No model; about a minute.

    python benchmarks/worth_intervals.py [--times 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from common import machine
from tutelage.worth import Effects, draw_subsets, estimate_effects

DESIGNS: dict[str, dict[str, Any]] = {
    "30 tasks, 8 draws, 6 entries": {"tasks": 30, "p": 6},
    "10 tasks, 8 draws, 4 entries": {"tasks": 10, "p": 4},
    "6 tasks, 4 draws, 3 entries": {"tasks": 6, "draws": 4, "p": 3},
    "40 tasks, 4 draws, 15 entries": {"tasks": 40, "draws": 4, "p": 15},
    "20 tasks, 8 draws, 30 entries": {"tasks": 20, "p": 30},
    "10 tasks, 2 draws, 60 entries": {"tasks": 10, "draws": 2, "p": 60},
    "30 tasks, 8 draws, 6 entries, keep 0.75": {"tasks": 30, "p": 6, "keep": 0.75},
    "40 tasks, 8 draws, 12 entries, each reaches 40%": {"tasks": 40, "p": 12, "reach": 0.4},
    "30 tasks, 8 draws, 6 entries, scores 0 or 1": {"tasks": 30, "p": 6, "binary": True},
}


def simulate(
    rng: np.random.Generator,
    true: np.ndarray,
    *,
    tasks: int,
    p: int,
    draws: int = 8,
    keep: float = 0.5,
    reach: float = 1.0,
    binary: bool = False,
) -> Effects:
    x = np.concatenate([draw_subsets(p, draws, keep, rng) for _ in range(tasks)])
    task, own = np.repeat(np.arange(tasks), draws), true + 0.15 * rng.standard_normal((tasks, p))
    reached = rng.random((tasks, p)) < reach
    if binary:  # small effects, so that no chance of success leaves [0, 1]
        chance = rng.uniform(0.4, 0.6, tasks)[task] + ((x - keep) * (own * reached)[task]).sum(axis=1) / 5
        return estimate_effects(task, x, (rng.random(len(x)) < chance).astype(float), reached)
    mean = rng.normal(0.5, 0.3, tasks)[task] + (x * (own * reached)[task]).sum(axis=1)
    return estimate_effects(task, x, mean + 0.3 * rng.standard_normal(len(x)), reached)


def measure(design: dict[str, Any], times: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    given = np.linspace(-0.3, 0.3, design["p"])
    true = given / 5 if design.get("binary") else given
    found = [simulate(rng, given, **design) for _ in range(times)]
    nothing = [simulate(rng, 0 * given, **design) for _ in range(times)]
    covered = np.array([(one.low <= true) & (true <= one.high) for one in found])
    return {
        "coverage": float(covered.mean()),
        "bias": float(np.abs(np.nanmean([one.effect for one in found], axis=0) - true).max()),
        "width": float(np.nanmean([one.high - one.low for one in found])),
        "false alarms": float(np.mean([one.p < 0.05 for one in nothing])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the numbers as data")
    chosen = parser.parse_args()
    found = {name: measure(design, chosen.times) for name, design in DESIGNS.items()}
    table = Table("design", *next(iter(found.values())), title=f"{chosen.times} simulations each", title_justify="left")
    for name, row in found.items():
        table.add_row(name, *[f"{value:.3f}" for value in row.values()])
    Console(width=140).print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "times": chosen.times, "designs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
