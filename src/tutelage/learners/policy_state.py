"""Where a run of reinforcement learning stands: what a checkpoint needs beside the weights, and the history that people read."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic import JsonValue

from tutelage.files import write_atomically
from tutelage.practice import Cost
from tutelage.records import Record, Task

Row = dict[str, JsonValue]
"""What happened in one step."""

HISTORY = "history.jsonl"


class Evaluation(Record):
    """The greedy score on the held-out tasks after so many steps. adapter: the id of the weights then (None: the agent's own)."""

    step: int
    score: float
    tokens: float
    adapter: str | None


class State(Record):
    """Where the loop stands after `step` steps.

    drawn: places taken from the deck. fruitless: steps in a row in which no group differed. adapter: of the current weights (None: the
    agent's own). made: adapters of this run that are still kept. waited: evaluations since the best. cost: of learning so far. stopped: why
    there are no further steps.
    """

    step: int = 0
    updates: int = 0
    drawn: int = 0
    fruitless: int = 0
    adapter: str | None = None
    made: tuple[str, ...] = ()
    best: Evaluation | None = None
    waited: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    history: tuple[Row, ...] = ()
    cost: Cost = Cost()
    stopped: str | None = None

    def evaluated(self, evaluation: Evaluation) -> State:
        """With one more evaluation. Of equal scores the later is the best: it has learned more."""
        better = self.best is None or evaluation.score > self.best.score
        as_good = self.best is not None and evaluation.score == self.best.score
        return self.model_copy(
            update={
                "evaluations": (*self.evaluations, evaluation),
                "best": evaluation if better or as_good else self.best,
                "waited": 0 if better else self.waited + 1,
            }
        )

    @property
    def needed(self) -> set[str]:
        """The adapters that go on from here needs: the current and the best."""
        ids = {self.adapter, self.best.adapter if self.best else None}
        return {each for each in ids if each is not None}


class Deck:
    """Tasks in an order that is shuffled anew for every epoch: a function of the seed alone."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.tasks = tuple({task.id: task for task in tasks}.values())
        self._order = cache(lambda epoch: random.Random(f"{seed}/{epoch}").sample(self.tasks, len(self.tasks)))

    def draw(self, drawn: int, count: int, without: set[str]) -> tuple[list[Task], int]:
        """The next `count` tasks from the place `drawn` on, none that is in `without`, and the place after them.

        Fewer where there are no others.
        """
        taken: dict[str, Task] = {}
        while len(taken) < count and len(without | taken.keys()) < len(self.tasks):
            epoch, place = divmod(drawn, len(self.tasks))
            task = self._order(epoch)[place]
            drawn += 1
            if task.id not in without:
                taken.setdefault(task.id, task)
        return list(taken.values()), drawn


def split_tasks(tasks: Sequence[Task], n_held_out: int, seed: int) -> tuple[list[Task], list[Task]]:
    """(to train on, held out), by the seed; both in their order. Tasks that ask the same stay on one side."""
    inputs = list(dict.fromkeys(task.input_id for task in tasks))
    held_out: set[str] = set()
    for input_id in random.Random(f"{seed}/held out").sample(inputs, len(inputs)):
        if len(held_out) >= min(n_held_out, len(inputs) - 1):
            break
        held_out.add(input_id)
    return [task for task in tasks if task.input_id not in held_out], [task for task in tasks if task.input_id in held_out]


def write_history(folder: Path, run: str, by: str, rows: Sequence[Row]) -> None:
    """Put this run's rows to FOLDER/history.jsonl, in place of those that it wrote before; those of other runs stay."""
    path = folder / HISTORY
    others = [line for line in _lines(path) if json.loads(line).get("run") != run]
    own = [json.dumps({"run": run, "by": by, **row}) for row in rows]
    write_atomically(path, "".join(f"{line}\n" for line in [*others, *own]))


def as_row(*parts: Mapping[str, JsonValue]) -> Row:
    """One row of several parts; a number that is not finite is unknown (None), as JSON has none."""
    merged = {name: value for part in parts for name, value in part.items()}
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in merged.items()}


def cost_between(earlier: Cost, later: Cost) -> Cost:
    """What was spent from one point to another."""
    usd = None if earlier.usd is None or later.usd is None else later.usd - earlier.usd
    return Cost(
        calls=later.calls - earlier.calls,
        tokens_in=later.tokens_in - earlier.tokens_in,
        tokens_out=later.tokens_out - earlier.tokens_out,
        usd=usd,
        seconds=later.seconds - earlier.seconds,
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
