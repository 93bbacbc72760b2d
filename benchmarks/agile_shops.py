"""Many shops: each has its own hidden rules, so what was learned in one holds in no other, and every stream stays in one shop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import tutelage as tt
from tutelage.agent import Agent
from tutelage.collector import Collector
from tutelage.environments.shop import ShopEnvironment, ShopGrader, expert_answer, shop_tasks
from tutelage.executor import AgileExecutor
from tutelage.grader import as_grader
from tutelage.knowledge import Retrieval
from tutelage.learners.agile import Agile
from tutelage.learners.agile_imitation import AgileImitation, Keyed
from tutelage.learners.agile_streams import StreamSampler, side_by_side
from tutelage.learners.policy import train_with
from tutelage.learners.policy_sampler import Judged, mean_tokens
from tutelage.practice import Practice
from tutelage.records import Task, content_id
from tutelage.streams import run_stream, shuffled

ACTIONS = ("seek_advice", "reflect", "update_memory", "predict_answer")
_FIRST = {"practice": 10_000, "train": 20_000, "held": 30_000, "test": 40_000}
"""Where the seeds of a side's shops begin: no shop is of two sides."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    groups: of the shop's catalogue. products: in each. contrary: the share of rules that are the opposite of what one would think.
    sessions: of a stream, of which half are reasoning questions. practice, train, held, test: shops the pupil is made with, learned in,
    judged in and tested in. width, layers: of the pupil; pretrain: its batches, of so many rows. epochs: of imitation. steps, streams,
    length, tries: of reinforcement: streams a step, their sessions, and attempts from each memory. rate: of learning; twice that in
    imitation. seed: of it all.
    """

    groups: tuple[str, ...] = ("lamps", "pans")
    others: tuple[str, ...] = ("fact",)
    products: int = 30
    contrary: float = 0.0
    sessions: int = 60
    practice: int = 120
    train: int = 12
    held: int = 3
    test: int = 20
    width: int = 96
    layers: int = 4
    pretrain: int = 1600
    rows: int = 32
    epochs: float = 2.0
    steps: int = 20
    streams: int = 4
    length: int = 48
    tries: int = 4
    rate: float = 5e-4
    seed: int = 0

    @cached_property
    def pupil_id(self) -> str:
        """What the pupil depends on."""
        own = ("groups", "others", "products", "contrary", "sessions", "practice", "width", "layers", "pretrain", "rows")
        return content_id({name: value for name, value in asdict(self).items() if name in own})


def shop_of(task: Task) -> int:
    """The seed of the task's shop."""
    return int(str(task.environment["seed"]))


def shop(plan: Plan, side: str, number: int) -> tuple[Task, ...]:
    """The questions to one shop, in the order of a stream."""
    seed = _FIRST[side] + number
    half = plan.sessions // 2
    where: dict[str, Any] = {"groups": plan.groups, "products": plan.products, "contrary": plan.contrary}
    tasks = [*shop_tasks(half, seed, kinds=("reasoning",), **where), *shop_tasks(plan.sessions - half, seed, kinds=plan.others, **where)]
    return shuffled(tasks, seed)


def shops(plan: Plan, side: str) -> tuple[Task, ...]:
    """The questions to all shops of a side, one shop after another."""
    return tuple(task for number in range(getattr(plan, side)) for task in shop(plan, side, number))


def by_shop(tasks: Sequence[Task]) -> dict[int, list[Task]]:
    """Shop -> its tasks, in their order."""
    found: dict[int, list[Task]] = {}
    for task in tasks:
        found.setdefault(shop_of(task), []).append(task)
    return found


def executor(price: float, without: Sequence[str] = (), **changes: Any) -> AgileExecutor:
    """How sessions are run. without: `reflection`, `memory`, `advice`, `tools`."""
    gone = {"reflection": {"reflect"}, "memory": {"reflect", "update_memory"}, "advice": {"seek_advice", "reflect", "update_memory"}}
    left_out = set().union(*(gone.get(name, set()) for name in without))
    opening = () if "memory" in without else ("retrieve_memory",)
    actions = tuple(name for name in ACTIONS if name not in left_out)
    found = Retrieval(choose="text", k=3)
    return AgileExecutor(actions=actions, opening=opening, price=price, retrieval=found, tools="tools" not in without, **changes)


class ClosedShop(ShopEnvironment):
    """The shop whose table nobody can read."""

    sql = None  # type: ignore[assignment] # so that it is no tool


def expert(tasks: Sequence[Task], price: float) -> tt.ReferenceAdvisor:
    """Who knows the shops' rules."""
    return tt.ReferenceAdvisor(tasks, price=price, say=expert_answer, name="expert")


def practice_of(
    tasks: Sequence[Task], *, price: float = 0.0, without: Sequence[str] = (), others: Sequence[Task] = (), **options: Any
) -> Practice:
    """A practice in these shops. others: what else the expert knows. options: of the practice, `store` and `progress` of its collector."""
    kept = {name: options.pop(name) for name in ("store", "progress") if name in options}
    collector = Collector(
        as_grader(ShopGrader()),
        environment=ClosedShop if "tools" in without else ShopEnvironment,
        advisor=expert([*tasks, *others], price),
        **kept,
    )
    return Practice(tasks, collector, **options)


class ShopImitation(AgileImitation):
    """Imitation in which the memory of a session holds what was learned in its own shop."""

    async def rows(self, agent: Agent, practice: Practice) -> Keyed:
        """What is learned from, shop by shop."""
        found: Keyed = []
        facts: list[dict[str, Any]] = []
        for tasks in by_shop(practice.tasks).values():
            part = practice.apart(practice.grader, tasks=tasks, environment=practice.environment)
            found += await super().rows(agent, part)
            facts.append(dict(practice.facts))
        counted = ("sessions_taught", "sessions_dropped")
        practice.note(**{name: sum(fact[name] for fact in facts) for name in counted})
        practice.note(advice_rate=fmean(fact["advice_rate"] or 0.0 for fact in facts))
        return found


class Street:
    """The order in which shops are visited: a shop a stream, whole streets in an order that is drawn anew each time."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.shops, self.seed = by_shop(tasks), seed

    def draw(self, drawn: int, count: int, without: set[str]) -> tuple[list[Task], int]:
        """`count` questions to the shop whose turn it is after `drawn` streams, and how many streams there were then."""
        epoch, place = divmod(drawn, len(self.shops))
        order = random.Random(f"{self.seed}/{epoch}").sample(sorted(self.shops), len(self.shops))
        tasks = [task for task in self.shops[order[place]] if task.id not in without]
        return random.Random(f"{self.seed}/{drawn}").sample(tasks, min(count, len(tasks))), drawn + 1


class ShopStreams(StreamSampler):
    """Streams of which each stays in one shop. Whole shops are held out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.deck = Street(self.train, self.practice.seed)  # type: ignore[assignment]

    async def judge(self, greedy: Agent) -> Judged:
        """The mean reward of a stream in each of the shops that are held out, side by side."""
        work = [run_stream(self.practice, greedy, tasks, memory=self.knowledge) for tasks in by_shop(self.held_out).values()]
        runs = await side_by_side(work)
        sessions = [session for run in runs for session in run.sessions]
        tokens = mean_tokens([session.experience for session in sessions])
        return Judged(fmean(session.reward or 0.0 for session in sessions), tokens)


class ShopAgile(Agile):
    """`Agile`, shop by shop. held: the tasks of the shops that weights are judged in."""

    def __init__(self, *args: Any, held: Sequence[Task], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.held = tuple(held)

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        return {**super().described(), "held": content_id([task.id for task in self.held])}

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """As `Agile.learn`."""
        sampler = ShopStreams(practice, self.settings, self.streams, agent.knowledge, practice.tasks, self.held)
        return (await train_with(sampler, agent, practice, self.settings, by=self.name)).agent
