"""What each entry of an agent's knowledge is worth: measured by leaving random halves out, all entries at once.

Every task is run `draws` times, each time with a random half of the entries, and the score is regressed on which entries were in. One run
thus says something of every entry, and the interval of an entry depends on the number of runs, not on the number of entries.

- The subsets come in complementary pairs (fold-over, Box and Wilson 1951): each entry is in exactly half of the runs of each task, and
  what two entries do only together does not enter the effect of either. Entries are drawn independently of each other: with halves of
  exactly equal size the number of entries would be constant, and effects could only be told up to a shared constant.
- The effect is that of being in the knowledge, given a random half of the rest. Where a case is left out, retrieval lets the next one
  in, so a case that has a good stand-in is worth little: that is what is measured, and what matters for leaving it out for good.
- It is the mean over the tasks that the entry reaches: those in whose runs it was shown at least once. Insights reach all tasks.

The estimate is least squares within tasks (task fixed effects); where the runs are too few for that many entries, the difference in means
of each entry by itself, which needs no more than the random draw to be unbiased, but is wider by what the other entries do. Intervals
are by the jackknife over tasks with Student's t (CR3, Bell and McCaffrey 2002): tasks are the unit, as everywhere here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.history import FIELD, kind_of, text_of
from tutelage.knowledge import Evidence, Knowledge
from tutelage.practice import Practice
from tutelage.records import Experience, Record, Task, content_id

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DRAWS = 8
TOP = 40
REST = "rest"
"""The id of the group of all retrieved entries that are not measured one by one."""
LEVEL = 0.95
ALPHA = 0.05
AT_ONCE = 64
"""Episodes collected in one go: each has an agent and an index of its own, which must fit into memory together."""
PAIRS_PER_ENTRY = 4
"""Least squares needs at least so many pairs of runs for each entry: with fewer, its jackknife intervals are wider than needed."""
WORST_SPREAD = 0.05
"""Least squares needs the inclusions of the entries to differ: the least eigenvalue of their correlations."""
TIE = 1e-9


class Worth(Record):
    """What one entry is worth: the mean change of the score when it is in the knowledge, with its 95% interval.

    n: graded episodes behind it, on `tasks` tasks. effect None: no graded run reached it. low, high, p None: fewer than two tasks, or
    scores outside [0, 1] without any variance. p: two-sided, after Holm over all entries.
    """

    id: str
    kind: str
    text: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    tasks: int = 0
    p: float | None = None

    @property
    def verdict(self) -> str:
        """In words: `helps`, `harms` (p < 0.05 after Holm), `seems to help`, `seems to harm` (its own interval only), `not shown`."""
        if self.effect is None:
            return "never reached"
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not shown"
        sure = self.p is not None and self.p < ALPHA
        return ("helps" if sure else "seems to help") if self.low > 0 else ("harms" if sure else "seems to harm")


class Effects(NamedTuple):
    """By entry (p,): effect and its bounds and two-sided p (nan: unknown), graded runs and tasks that it reached."""

    effect: Floats
    low: Floats
    high: Floats
    p: Floats
    runs: NDArray[np.int64]
    tasks: NDArray[np.int64]


@dataclass(frozen=True)
class _Unit:
    """What is left out or kept as one: an entry, or the rest."""

    id: str
    kind: str
    text: str
    members: frozenset[str]


@dataclass(frozen=True)
class _Run:
    """One graded or ungraded run: which task by number, which units were in (p,)."""

    task: int
    included: Flags
    experience: Experience


async def measure_worth(
    agent: Agent,
    practice: Practice,
    *,
    draws: int = DRAWS,
    keep: float = 0.5,
    tasks: Sequence[Task] | None = None,
    top: int | None = TOP,
) -> tuple[Worth, ...]:
    """The worth of every entry that the agent knows, most first; `draws` episodes for each task (default: all training tasks).

    keep: the share of a task's runs that each entry is in. At 1/2 the subsets come in complementary pairs; nearer to 1 the worth is that
    beside more of the rest, and the interval is wider. top: of the exemplars and reflections only so many, those most often shown on
    these tasks, are measured one by one, the others together as one group, `rest` (None: all one by one).

    Episodes are stored: what was interrupted continues, and their cost is in `practice.cost`. Raises `InputError` for options that make no
    design, `SealedError` for a test task, `BudgetExceeded`, `ModelUnavailable`.
    """
    check_design(draws, keep, top)
    chosen = list({task.id: task for task in (practice.tasks if tasks is None else tasks)}.values())
    units = _units(agent, chosen, top)
    if not units or not chosen:
        return ()
    runs = await _run_subsets(agent, practice, chosen, units, draws, keep)
    found = _worths(units, runs, len(chosen))
    return tuple(sorted(found, key=lambda worth: -np.inf if worth.effect is None else worth.effect, reverse=True))


def episodes_needed(knowledge: Knowledge, n_tasks: int, draws: int = DRAWS) -> int:
    """How many episodes measuring takes; none where there is nothing to measure."""
    return n_tasks * draws if knowledge.entries else 0


def with_worth(knowledge: Knowledge, worths: Iterable[Worth]) -> Knowledge:
    """The knowledge with the measured worth of its entries in its evidence; entries that it does not have are passed over."""
    known = {entry.id for entry in knowledge.entries}
    measured = {worth.id: worth for worth in worths if worth.id in known and worth.effect is not None}
    fresh = {
        id: knowledge.evidence.get(id, Evidence()).model_copy(
            update={"worth": worth.effect, "low": worth.low, "high": worth.high, "n": worth.n}
        )
        for id, worth in measured.items()
    }
    return knowledge.model_copy(update={"evidence": {**knowledge.evidence, **fresh}})


def check_design(draws: int, keep: float, top: int | None) -> None:
    """Raise `InputError` for options that make no design."""
    if not 0 < keep < 1:
        raise InputError(f"keep must lie between 0 and 1, not {keep}", field="keep")
    if keep == 0.5 and (draws < 2 or draws % 2):
        raise InputError(f"each subset is run with its complement, so draws must be an even number from 2 on, not {draws}", field="draws")
    if not 0 < round(keep * draws) < draws:
        raise InputError(f"with {draws} draws and keep {keep} an entry would be in all runs or in none; raise draws", field="draws")
    if top is not None and top < 0:
        raise InputError(f"top cannot be negative: {top}", field="top")


# The design


def _units(agent: Agent, tasks: Sequence[Task], top: int | None) -> list[_Unit]:
    entries = list({entry.id: entry for entry in agent.knowledge.entries}.values())
    ordinary = {entry.id for entry in agent.knowledge.insights}
    retrieved = [entry.id for entry in entries if entry.id not in ordinary]
    rest: frozenset[str] = frozenset()
    if top is not None and len(retrieved) > top:
        shown = Counter(case.id for task in tasks for case in agent.memory.choose(task))
        shown.update(note.id for task in tasks for note in agent.memory.recall(task))
        rest = frozenset(sorted(retrieved, key=lambda id: -shown[id])[top:])
    units = [_Unit(entry.id, kind_of(entry), text_of(entry), frozenset({entry.id})) for entry in entries if entry.id not in rest]
    if rest:
        units.append(_Unit(REST, "group", f"the {len(rest)} exemplars and reflections that are shown least, together", rest))
    return units


def draw_subsets(n_entries: int, draws: int, keep: float, generator: np.random.Generator) -> Flags:
    """(draws, n_entries): which entries are in which run. Each is in round(keep * draws) of the runs, drawn independently.

    At keep 1/2 runs 2 i and 2 i + 1 are complements.
    """
    if keep == 0.5:
        half = generator.random((draws // 2, n_entries)) < 0.5
        return np.stack([half, ~half], axis=1).reshape(draws, n_entries)
    in_runs = np.arange(draws)[:, None] < round(keep * draws)
    return generator.permuted(np.repeat(in_runs, n_entries, axis=1), axis=0)


def _subset(knowledge: Knowledge, left_out: frozenset[str]) -> Knowledge:
    fields: dict[str, Any] = {
        name: tuple(entry for entry in getattr(knowledge, name) if entry.id not in left_out) for name in FIELD.values()
    }
    return knowledge.model_copy(update=fields)


async def _run_subsets(
    agent: Agent, practice: Practice, tasks: Sequence[Task], units: Sequence[_Unit], draws: int, keep: float
) -> list[_Run]:
    """All runs; the two of a complementary pair are one attempt, so that they draw with equal seeds."""
    drawn = [draw_subsets(len(units), draws, keep, _generator(practice.seed, task, units)) for task in tasks]
    together = 2 if keep == 0.5 else 1
    runs: list[_Run] = []
    for attempt in range(draws // together):
        rows = range(attempt * together, (attempt + 1) * together)
        planned = [(place, drawn[place][row]) for place in range(len(tasks)) for row in rows]
        for start in range(0, len(planned), AT_ONCE):
            part = planned[start : start + AT_ONCE]
            pairs = [(_agent_with(agent, units, included), tasks[place]) for place, included in part]
            experiences = await practice.collect_each(pairs, attempt=attempt)
            runs += [_Run(place, included, experience) for (place, included), experience in zip(part, experiences, strict=True)]
    return runs


def _generator(seed: int, task: Task, units: Sequence[_Unit]) -> np.random.Generator:
    return np.random.default_rng(int(content_id([seed, task.id, [unit.id for unit in units]]), 16))


def _agent_with(agent: Agent, units: Sequence[_Unit], included: Flags) -> Agent:
    left_out = frozenset[str]().union(*(unit.members for unit, there in zip(units, included.tolist(), strict=True) if not there))
    return agent.but(knowledge=_subset(agent.knowledge, left_out))


# The estimate


def _worths(units: Sequence[_Unit], runs: Sequence[_Run], n_tasks: int) -> list[Worth]:
    graded = [(run, score) for run in runs if (score := run.experience.grade.score) is not None]
    reached = np.zeros((n_tasks, len(units)), dtype=np.bool_)
    for run, _ in graded:
        shown = frozenset(run.experience.episode.shown)
        reached[run.task] |= np.array([not shown.isdisjoint(unit.members) for unit in units])
    included = np.array([run.included for run, _ in graded]).reshape(len(graded), len(units))
    found = estimate_effects(
        np.array([run.task for run, _ in graded], dtype=np.int64), included, np.array([score for _, score in graded]), reached
    )
    adjusted = _holm(found.p)
    return [
        Worth(
            id=unit.id,
            kind=unit.kind,
            text=unit.text,
            effect=_number(found.effect[place]),
            low=_number(found.low[place]),
            high=_number(found.high[place]),
            n=int(found.runs[place]),
            tasks=int(found.tasks[place]),
            p=_number(adjusted[place]),
        )
        for place, unit in enumerate(units)
    ]


def estimate_effects(task: NDArray[np.int64], included: Flags, scores: Floats, reached: Flags | None = None) -> Effects:
    """Effects of p entries out of N runs.

    task (N,): which task each run was on, from 0. included (N, p). scores (N,). reached (tasks, p): which tasks an entry can have an effect
    on (None: all). A task whose runs all had an entry, or all lacked it, says nothing of it.
    """
    n_tasks, p = (int(task.max()) + 1 if len(task) else 0), included.shape[1]
    mask = np.ones((n_tasks, p), dtype=np.bool_) if reached is None else reached[:n_tasks]
    x, y = _centred(included.astype(np.float64), task, n_tasks), _centred(scores[:, None], task, n_tasks)[:, 0]
    x = x * mask[task]
    squares = _sum_by(x * x, task, n_tasks)
    tells = squares > TIE
    effect, moves = np.full(p, np.nan), np.zeros((n_tasks, p))
    active = tells.any(axis=0)
    if active.any():
        estimate = _least_squares if _can_regress(x[:, active]) else _difference_in_means
        effect[active], moves[:, active] = estimate(x[:, active], y, task, n_tasks)
    n_reached = tells.sum(axis=0)
    unit = bool(len(scores)) and bool(scores.min() >= 0 and scores.max() <= 1)
    low, high, p_values = _intervals(effect, moves, n_reached, unit)
    return Effects(effect, low, high, p_values, (tells[task]).sum(axis=0), n_reached)


def _centred(values: Floats, task: NDArray[np.int64], n_tasks: int) -> Floats:
    """(N, k) without the mean of their task."""
    counts = np.maximum(np.bincount(task, minlength=n_tasks), 1)[:, None]
    return np.asarray(values - (_sum_by(values, task, n_tasks) / counts)[task])


def _sum_by(values: Floats, task: NDArray[np.int64], n_tasks: int) -> Floats:
    sums = np.zeros((n_tasks, values.shape[1]))
    np.add.at(sums, task, values)
    return sums


def _can_regress(x: Floats) -> bool:
    """Enough pairs of runs for so many entries, and inclusions that differ enough from each other."""
    pairs = int((np.abs(x).max(axis=1) > TIE).sum()) // 2
    if pairs < PAIRS_PER_ENTRY * x.shape[1]:
        return False
    scaled = x / np.sqrt((x * x).sum(axis=0))
    return bool(np.linalg.eigvalsh(scaled.T @ scaled)[0] >= WORST_SPREAD)


def _least_squares(x: Floats, y: Floats, task: NDArray[np.int64], n_tasks: int) -> tuple[Floats, Floats]:
    """Effects (p,), and by how much each moves when one task is left out (tasks, p), without fitting again."""
    inverse = np.linalg.inv(x.T @ x)
    effect = inverse @ x.T @ y
    residual, moves = y - x @ effect, np.zeros((n_tasks, x.shape[1]))
    for one in range(n_tasks):
        rows = task == one
        if rows.any():
            own = x[rows]
            rest = np.eye(len(own)) - own @ inverse @ own.T
            moves[one] = -inverse @ own.T @ np.linalg.pinv(rest, rcond=TIE, hermitian=True) @ residual[rows]
    return effect, moves


def _difference_in_means(x: Floats, y: Floats, task: NDArray[np.int64], n_tasks: int) -> tuple[Floats, Floats]:
    """As `_least_squares`, each entry by itself."""
    product, square = _sum_by(x * y[:, None], task, n_tasks), _sum_by(x * x, task, n_tasks)
    effect = product.sum(axis=0) / square.sum(axis=0)
    left = square.sum(axis=0) - square
    without = np.divide(product.sum(axis=0) - product, left, out=np.tile(effect, (n_tasks, 1)), where=left > TIE)
    return effect, without - effect


def _intervals(effect: Floats, moves: Floats, n_tasks: NDArray[np.int64], unit: bool) -> tuple[Floats, Floats, Floats]:
    """Bounds and two-sided p by the jackknife over the tasks that an entry reached; nan where it reached fewer than two."""
    low, high, p = (np.full(len(effect), np.nan) for _ in range(3))
    for place in np.flatnonzero(n_tasks >= 2):
        n, value = int(n_tasks[place]), float(effect[place])
        error = float(np.sqrt((n - 1) / n * (moves[:, place] ** 2).sum()))
        if error > TIE:
            half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
            low[place], high[place] = value - half, value + half
            p[place] = 2 * float(student.sf(abs(value) / error, n - 1))
        elif unit:
            low[place], high[place] = _alike_interval(value, n)
            p[place] = 1.0 if abs(value) <= TIE else 2.0 ** (1 - n)
    return low, high, p


def _alike_interval(value: float, n: int) -> tuple[float, float]:
    """n tasks that all say the same leave room for another with probability u at most (Clopper and Pearson 1934), as far off as -1 or 1."""
    other = 1 - ((1 - LEVEL) / 2) ** (1 / n)
    return value - other * (value + 1), value + other * (1 - value)


def _holm(p: Floats) -> Floats:
    """p after Holm's (1979) step-down correction; nan stays nan and counts as no test."""
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (len(order) - np.arange(len(order))) * p[order]))
    return adjusted


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
