"""A stream of tasks whose rule flips half-way: memories that forget in several ways, and one that only grows.

Tickets of four subjects go to four desks; from the middle of the stream on, subjects belong to another desk. The student is scripted: it
answers as the most similar case in its prompt was answered, so its score is what the memory makes of it. Three worlds: `clean`; `noisy`,
where a fifth of the tickets goes to a desk at random (the best possible score is then 0.85); and `one of four`, where only one subject's
rule flips and no kinds are given, so that forgetting everything would be too much. Several seeds; the interval is Student's over seeds. No
model, no network; about three minutes.

    python benchmarks/drift.py [--seeds 20] [--tasks 320] [--json FILE] [--html FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

import tutelage as tt
from common import machine
from tutelage.learners.stream import Stream

SUBJECTS, DESKS = ("billing", "shipping", "returns", "access"), ("north", "south", "east", "west")
FILLERS = [f"{a}{b}{c}" for a in "abcde" for b in "klmno" for c in "xyzw"]
WORLDS = {"clean": (0.0, 4), "noisy": (0.2, 4), "one of four": (0.0, 1)}
"""Share of tickets that go anywhere, and how many subjects flip."""
WAVE, K = 8, 3
WAYS: Mapping[str, dict[str, Any]] = {
    "no decay": {"decay": False},
    "decay": {},
    "newest 40": {"decay": False, "window": 40},
    "newest 80": {"decay": False, "window": 80},
    "decay, newest 80": {"window": 80},
}
NEAR = 0.05
"""A score so near to the level before the flip counts as back."""


def tickets(n: int, noise: float, flipped: int, seed: int) -> list[tt.Task]:
    """Three words of the subject's eight and three of a hundred others, in any order; the rule flips after half of them."""
    drawn, tasks = random.Random(seed), []
    for number in range(n):
        subject = drawn.randrange(4)
        words = [f"{SUBJECTS[subject]}{letter}" for letter in drawn.sample("abcdefgh", 3)] + drawn.sample(FILLERS, 3)
        text = " ".join(drawn.sample(words, 6))
        flips = number >= n // 2 and subject < flipped
        desk = DESKS[(subject + flips) % 4] if drawn.random() >= noise else drawn.choice(DESKS)
        tasks.append(tt.Task(messages=(tt.Message(role="user", content=text),), reference=desk))
    return tasks


def follow(messages: Sequence[tt.Message], tools: Any, sampling: Any) -> str:
    """The answer of the case in the prompt that shares most words with the question."""
    asked = set(messages[-1].text.split())
    best, answer = -1, "no idea"
    for question, reply in pairwise(messages):
        alike = len(asked & set(question.text.split()))
        if question.role == "user" and reply.role == "assistant" and alike >= best:
            best, answer = alike, reply.text
    return answer


async def scores_of(options: Mapping[str, Any], tasks: Sequence[tt.Task], seed: int) -> tuple[list[float], int]:
    """Mean score by wave, and how many cases were kept in the end."""
    practice = tt.Practice(tasks, tt.Collector(tt.Exact()), seed=seed)
    agent = tt.Agent(model=tt.Scripted(follow, record=False))
    learned = await Stream(k=K, wave=WAVE, **options).learn(agent, practice)
    return practice.facts["stream_scores"], len(learned.knowledge.exemplars)  # type: ignore[return-value]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(student.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def summary(curves: np.ndarray, cases: Sequence[int]) -> dict[str, Any]:
    """curves (seeds, waves). Before: the quarter of the waves before the flip. Back: the first of two waves in a row at that level."""
    half = curves.shape[1] // 2
    before = interval(curves[:, half // 2 : half].mean(axis=1))
    mean = curves.mean(axis=0)
    there = mean[half:] >= before[0] - NEAR
    back = next((place + 1 for place, (now, then) in enumerate(pairwise(there)) if now and then), None)
    return {
        "before": before,
        "waves 1 to 5": interval(curves[:, half : half + 5].mean(axis=1)),
        "waves 6 to 10": interval(curves[:, half + 5 : half + 10].mean(axis=1)),
        "last 10 waves": interval(curves[:, -10:].mean(axis=1)),
        "back in wave": back,
        "cases kept": float(np.mean(cases)),
        "curve": mean.tolist(),
        "error": (curves.std(axis=0, ddof=1) / len(curves) ** 0.5).tolist(),
    }


def measure(n_tasks: int, n_seeds: int) -> dict[str, dict[str, Any]]:
    """World -> way -> summary."""
    found: dict[str, dict[str, Any]] = {}
    for world, (noise, flipped) in WORLDS.items():
        for way, options in WAYS.items():
            runs = [asyncio.run(scores_of(options, tickets(n_tasks, noise, flipped, seed), seed)) for seed in range(n_seeds)]
            found.setdefault(world, {})[way] = summary(np.array([scores for scores, _ in runs]), [cases for _, cases in runs])
    return found


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """One table a world."""
    columns = ("before", "waves 1 to 5", "waves 6 to 10", "last 10 waves")
    for world, ways in found.items():
        table = Table(
            "memory", *columns, "back in wave", "cases kept", title=f"{world}: score before and after the flip", title_justify="left"
        )
        for way, row in ways.items():
            cells = [f"{row[name][0]:.3f} ({row[name][1]:.3f} to {row[name][2]:.3f})" for name in columns]
            table.add_row(way, *cells, str(row["back in wave"] or "never"), f"{row['cases kept']:.0f}")
        Console(width=160).print(table)


def plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Mean score by wave with a band of 95% over seeds, one figure a world."""
    parts = []
    for world, ways in found.items():
        figure = go.Figure(layout={"title": f"A stream whose rule flips half-way ({world})", "xaxis_title": "wave", "yaxis_title": "score"})
        for way, row in ways.items():
            waves, error = list(range(len(row["curve"]))), 1.96 * np.array(row["error"])
            figure.add_scatter(x=waves, y=row["curve"], name=way, error_y={"type": "data", "array": error.tolist(), "thickness": 0.7})
        figure.add_vline(x=len(waves) / 2 - 0.5, line_dash="dash")
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    path.write_text("\n".join(parts))


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--tasks", type=int, default=320, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the numbers as data")
    parser.add_argument("--html", type=Path, help="write the curves as a page")
    chosen = parser.parse_args()
    found = measure(chosen.tasks, chosen.seeds)
    show(found)
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"machine": machine(), "seeds": chosen.seeds, "tasks": chosen.tasks, "worlds": found}, indent=1) + "\n"
        )
    if chosen.html:
        plot(found, chosen.html)


if __name__ == "__main__":
    main()
