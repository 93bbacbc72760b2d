"""Objectives under a microscope: does a model that learns each word from those before it learn to plan?

    python benchmarks/path_star.py [--quick | --paper] [--objectives standard reversed ...] [--seeds 5] [--out FOLDER] [--json FILE]

The task is the path-star graph (`tutelage.environments.path_star`): from a start `degree` arms go out, and the model is to write the arm
that leads to the goal. Its first step needs the whole arm, every later one an edge of the question. Small Llamas learn it from nothing:

    standard               next tokens; ends at 1 in `degree`: the first step is guessed, the others read off the edges
    reversed               the path from its end (objective `reversed` of SFT)
    teacherless            all tokens at once behind dummies, in training and in use
    teacherless+standard   half of the rows so, half the usual way; in use the usual way
    masked                 half of the answer's tokens hidden from the model, drawn anew in each epoch; in use the usual way
    scratchpad             next tokens; the path is written backwards first, then forwards
    all-goals              next tokens; a graph comes with each of its arms asked for, in one batch

The first three are Bachmann & Nagarajan's (2024, arXiv:2403.06963), the others remedies that later work names (Frydenlund 2024,
arXiv:2410.13779: all-goals; 2025, arXiv:2503.10542: masked, scratchpad). All have the same model, graphs and learning rate, and as many
steps at most: a run ends once nearly all paths are right in two looks on end. Different from the paper: names are drawn without putting any
back; the small size has as many names as nodes; a Llama in place of a GPT; an end token; a constant learning rate.

`--paper` is the size of the paper (6 layers, width 384, 6 heads, 50 names, 200,000 graphs, batch 256), for a GPU. A finished run (one
objective, one seed) is kept in the folder, and one that was interrupted begins anew. Intervals are over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from common import ROOT, bars, machine
from path_star_model import ARMS, Plan, train
from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.study.statistics import alike_interval, bootstrap_interval

PAPER = Plan(nodes=50, layers=6, width=384, heads=6, batch=256, steps=50_000, rate=3e-4, warmup=1_000, every=1_000)
QUICK = Plan(length=3, nodes=5, layers=2, width=32, heads=2, batch=16, steps=20, graphs=1_000, every=10)
COLOURS = ("#4c566a", "#1b7f5c", "#c0561f", "#d9a441", "#5b4bb5", "#1f77b4", "#a8327d")

Run = dict[str, Any]
"""What `train` tells of one objective and seed."""


def arguments() -> argparse.Namespace:
    """The options of the command line; those of `Plan` are None where nobody sets them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a size that shows only that everything runs")
    size.add_argument("--paper", action="store_true", help="the paper's size, for a GPU")
    parser.add_argument("--objectives", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "path-star", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers as data")
    for one in fields(Plan):
        parser.add_argument(f"--{one.name}", type=type(one.default), help=f"default: {one.default}")
    return parser.parse_args()


def plan_of(chosen: argparse.Namespace) -> Plan:
    """The size that is asked for, with what is set beside it."""
    named = PAPER if chosen.paper else QUICK if chosen.quick else Plan()
    return replace(named, **{one.name: getattr(chosen, one.name) for one in fields(Plan) if getattr(chosen, one.name) is not None})


def run_of(plan: Plan, name: str, seed: int, out: Path) -> Run:
    """One objective with one seed, from the file where it is finished."""
    kept = out / f"{name}-{seed}.json"
    key = plan.id(ARMS[name], seed)
    if kept.is_file():
        found: Run = json.loads(kept.read_text())
        if found.pop("of") == key:
            return found
    with bars().stage(f"{name}, seed {seed}", plan.steps) as stage:
        run = train(plan, ARMS[name], seed, stage.advance)
    write_atomically(kept, json.dumps({"of": key, **run}) + "\n")
    return run


def over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95% interval of the mean, of shares; None for one seed."""
    if len(values) < 2:
        return None
    if max(values) == min(values):
        return alike_interval(values[0], len(values), (0.0, 1.0))
    low, high = bootstrap_interval(np.asarray(values), seed=0)
    return max(0.0, low), min(1.0, high)


def summary(name: str, runs: Sequence[Run], plan: Plan) -> dict[str, Any]:
    """Means over the seeds, with intervals, and from which step on most of the answers are right."""
    found: dict[str, Any] = {"objective": name, "seeds": len(runs)}
    for share in ("whole_path", "first_step"):
        values = [run[share] for run in runs]
        found |= {share: fmean(values), f"{share}_interval": over_seeds(values), f"{share}_by_seed": values}
    found["given"] = np.mean([run["given"] for run in runs], axis=0).round(4).tolist()
    found["learned_at"] = [next((look["step"] for look in run["curve"] if look["whole_path"] > 0.95), None) for run in runs]
    return {
        **found,
        "steps": [run["curve"][-1]["step"] for run in runs],
        "processor_minutes": fmean(run["processor_seconds"] for run in runs) / 60,
    }


def print_table(rows: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """One row an objective."""
    title = f"G({plan.degree}, {plan.length}) of {plan.nodes} names: a guess of the first step is right {1 / plan.degree:.3f} of the time"
    columns = ("whole path", "first step", "by seed (whole path)", "each token, given those before it", "learned at step", "minutes")
    table = Table("objective", *columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(
            row["objective"],
            written(row["whole_path"], row["whole_path_interval"]),
            written(row["first_step"], row["first_step_interval"]),
            " ".join(f"{value:.2f}" for value in row["whole_path_by_seed"]),
            " ".join(f"{value:.2f}" for value in row["given"]),
            " ".join("never" if step is None else f"{step}" for step in row["learned_at"]),
            f"{row['processor_minutes']:.1f}",
        )
    Console(width=190).print(table)


def written(value: float, interval: Sequence[float] | None) -> str:
    """A share with its interval."""
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def picture(found: Mapping[str, Sequence[Run]], plan: Plan, path: Path) -> None:
    """The share of whole paths over the steps: a line an objective, with the best and the worst seed around it."""
    about = f"Path-star G({plan.degree}, {plan.length}), {plan.nodes} names: whole paths that are right, on graphs that nobody learned from"
    axes = {"xaxis_title": "step", "yaxis_title": "whole paths right", "yaxis_range": [-0.02, 1.02]}
    figure = go.Figure(layout={"title": about, "template": "plotly_white", "hovermode": "x unified", **axes})
    for place, (name, runs) in enumerate(found.items()):
        steps = list(range(0, plan.steps + 1, plan.every))
        values = np.array([[at(run, step) for step in steps] for run in runs])
        colour = COLOURS[list(ARMS).index(name) % len(COLOURS)]
        band = {"x": [*steps, *steps[::-1]], "y": [*values.max(0), *values.min(0)[::-1]], "fill": "toself", "fillcolor": colour}
        figure.add_scatter(**band, opacity=0.15, line_width=0, hoverinfo="skip", showlegend=False, legendgroup=name)
        dash = "dash" if place % 2 else "solid"
        figure.add_scatter(x=steps, y=values.mean(0), name=name, legendgroup=name, line={"color": colour, "width": 2.5, "dash": dash})
    figure.add_hline(y=1 / plan.degree, line_dash="dot", annotation_text=f"1 in {plan.degree}")
    write_atomically(path, figure.to_html(include_plotlyjs=True))


def at(run: Run, step: int) -> float:
    """The share of whole paths at a step: of the last look so far, which stands for all that would have come after it."""
    return float([look["whole_path"] for look in run["curve"] if look["step"] <= step][-1])


def main() -> None:
    """Train what is not there yet, print, and write what is asked for."""
    chosen = arguments()
    try:
        plan = plan_of(chosen)
    except InputError as wrong:
        raise SystemExit(str(wrong)) from None
    chosen.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Run]] = {name: [] for name in chosen.objectives}
    for seed in range(chosen.seeds):  # seed by seed, so that what there is of an interrupted run can be compared
        for name, runs in found.items():
            runs.append(run_of(plan, name, seed, chosen.out))
    rows = [summary(name, runs, plan) for name, runs in found.items()]
    print_table(rows, plan)
    picture(found, plan, chosen.out / "path_star.html")
    print(f"picture: {chosen.out / 'path_star.html'}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "plan": asdict(plan), "objectives": rows, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
