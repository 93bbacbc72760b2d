"""Where a run of reinforcement learning stands: what a checkpoint needs beside the weights, and which tasks are next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from pydantic import Field, JsonValue

from tutelage.budget import Cost
from tutelage.records import Record, Task

Row = dict[str, JsonValue]
"""What happened in one step."""


class Evaluation(Record):
    """The greedy score on the held-out tasks after so many steps. adapter: the id of the weights then (None: the agent's own).

    facts: what else there is to know of it.
    """

    step: int
    score: float
    tokens: float
    adapter: str | None
    facts: Row = Field(default_factory=dict)


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
