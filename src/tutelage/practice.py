"""Practice: the only way for a learner to gather experience. It holds the training tasks, and a collector that refuses any other task."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from tutelage.advice import Advisor, described_advisor
from tutelage.agent import Agent
from tutelage.budget import Account, Cost, outside
from tutelage.collector import Collector, Job
from tutelage.environment import EnvironmentFactory
from tutelage.errors import SealedError
from tutelage.experience.cache import CachedModel
from tutelage.grader import Grader
from tutelage.memory import Memory
from tutelage.model import Model
from tutelage.progress import Stage
from tutelage.records import Completion, Experience, Message, Sampling, Task, content_id


@dataclass(frozen=True)
class Learned:
    """What one learner made of an agent, and what that cost, seconds included. episodes: by `ref`, the part of the cost that each had."""

    agent: Agent
    cost: Cost
    facts: dict[str, JsonValue] = field(default_factory=dict)
    episodes: Mapping[str, Cost] = field(default_factory=dict)


class Shelf(Protocol):
    """Keeps what learners have learned, so that arms which begin alike learn their beginning once."""

    def find(self, fingerprint: str, agent: Agent) -> Learned | None:
        """What was learned from the very same things, put on the agent that learning began with."""
        ...

    def keep(self, fingerprint: str, learned: Learned, begun_with: Agent) -> Agent:
        """Keep it; the agent to go on with."""
        ...


@dataclass
class _Tally:
    """What learning has cost and noted: one for a practice and those set apart from it."""

    account: Account = field(default_factory=Account)
    facts: dict[str, JsonValue] = field(default_factory=dict)


class Practice:
    """What a learner practises with: the training tasks, the grader, the seed, `collect` (episodes) and `ask` (a model's reply).

    cost: what learning has cost so far. facts: what the learner noted for the report.

    It holds no test task. `sealed` are the input ids of the test split: a task with one of them is refused wherever it comes from.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        collector: Collector,
        *,
        seed: int = 0,
        sealed: frozenset[str] = frozenset(),
        arm: str = "",
        folder: Path | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self.tasks, self.seed, self.arm, self.shelf = tuple(tasks), seed, arm, shelf
        self._folder = folder
        self._collector, self._sealed = collector, sealed
        self._shared = _Tally()
        self._refuse_sealed(self.tasks)

    @property
    def cost(self) -> Cost:
        """What learning has cost so far."""
        return self._shared.account.cost

    @property
    def facts(self) -> dict[str, JsonValue]:
        """What the learner noted for the report."""
        return self._shared.facts

    @facts.setter
    def facts(self, facts: dict[str, JsonValue]) -> None:
        self._shared.facts = facts

    @property
    def grader(self) -> Grader:
        """The grader of the study."""
        return self._collector.grader

    def fingerprint(self, agent: Agent, described: Mapping[str, Any]) -> str:
        """Hash of everything that a learner, so described, depends on when it begins with this agent."""
        own = [agent.version, described, [task.id for task in self.tasks], self.seed, self.grader.name]
        return content_id([*own, described_advisor(self.advisor)] if self.advisor else own)

    @property
    def advisor(self) -> Advisor | None:
        """Who may be asked by agents whose executor asks."""
        return self._collector.advisor

    @property
    def environment(self) -> EnvironmentFactory | None:
        """What makes the world of each episode."""
        return self._collector.environment

    @property
    def folder(self) -> Path:
        """Where learned weights and checkpoints go: beside the study's results, or a folder of its own that the system may clear."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tutelage-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def apart(self, grader: Grader, *, tasks: Iterable[Task] | None = None, environment: EnvironmentFactory | None = None) -> Practice:
        """A practice with another grader, and perhaps other tasks, in no environment unless one is given.

        The store, the budget, the folder, the sealed tasks, the cost and the facts stay shared.
        """
        collector = self._collector.apart(grader, environment)
        other = Practice(
            self.tasks if tasks is None else tasks, collector, seed=self.seed, sealed=self._sealed, arm=self.arm, folder=self.folder
        )
        other._shared = self._shared
        return other

    def quietly(self, seed: int) -> Practice:
        """The same, with the same accounts, but another seed, and showing no progress."""
        other = copy(self)
        other._collector, other.seed = self._collector.quietly(), seed
        return other

    async def collect(
        self, agent: Agent, tasks: Sequence[Task] | None = None, attempts: int = 1, *, first_attempt: int = 0, memory: Memory | None = None
    ) -> list[Experience]:
        """Run the agent on the tasks (default: all training tasks), `attempts` times each; ordered by task, then attempt.

        Episodes that the store holds already are not run again. Raises `SealedError` for a task of the test split, `BudgetExceeded`,
        `ModelUnavailable`.
        """
        chosen = self.tasks if tasks is None else tuple(tasks)
        self._refuse_sealed(chosen)
        numbers = range(first_attempt, first_attempt + attempts)
        jobs = [Job(task, self.seed, attempt) for task in chosen for attempt in numbers]
        experiences = await self._collector.run(agent, jobs, arm=f"{self.arm} (practice)".strip(), memory=memory)
        self._count(experiences)
        return experiences

    async def collect_each(self, pairs: Sequence[tuple[Agent, Task]], *, attempt: int = 0) -> list[Experience]:
        """As `collect`, once, each task with an agent of its own; in the order of the pairs."""
        self._refuse_sealed([task for _, task in pairs])
        jobs = [(agent, Job(task, self.seed, attempt)) for agent, task in pairs]
        experiences = await self._collector.run_each(jobs, arm=f"{self.arm} (practice)".strip())
        self._count(experiences)
        return experiences

    async def ask(self, model: str | Model | Agent, messages: Sequence[Message], *, sampling: Sampling = Sampling()) -> Completion:
        """One reply of a model outside any episode (a learner's own question): within the budget, kept, and part of the cost of learning.

        A request at a temperature above 0 is given the practice's seed where it has none, so that a repeated run repeats it. Raises
        `ModelFailed`, `ModelUnavailable`, `BudgetExceeded`.
        """
        if sampling.temperature > 0 and sampling.seed is None:
            sampling = sampling.model_copy(update={"seed": self.seed})
        completion = await self._model(model).complete(messages, sampling=sampling)
        self.spend(Cost.of(completion.usage, completion.cost_usd))
        return completion

    def spend(self, cost: Cost) -> None:
        """Add to what learning has cost: work done outside of episodes and of `ask`."""
        self._shared.account.spend(cost)

    def accounting(self) -> AbstractContextManager[Account]:
        """What is spent while inside, by itself: with the episodes that were counted before and are asked for again."""
        return self._shared.account.part()

    def take_over(self, learned: Learned) -> None:
        """Count what another practice learned at what it cost there, an episode that is counted here already not again; and its facts."""
        for episode, cost in learned.episodes.items():
            self._shared.account.count(episode, cost)
        self.spend(outside(learned.cost, learned.episodes))
        self.note(**learned.facts)

    def _model(self, model: str | Model | Agent) -> CachedModel:
        return self._collector.model_of(model) if isinstance(model, Agent) else self._collector.model_for(model)

    def stage(self, label: str, total: int) -> Stage:
        """Show the progress of `total` pieces of a learner's own work; a context manager whose `advance()` counts one."""
        return self._collector.progress.stage(f"{self.arm} ({label})".strip(), total)

    def forget(self, agent: Agent) -> None:
        """Let the agent's model go: training makes an adapter a step, and each would stay in memory."""
        self._collector.forget(agent)

    def note(self, **facts: JsonValue) -> None:
        """Facts about this learning that the report should state (`solved_by_attempt=[10, 14]`)."""
        self.facts.update(facts)

    def _count(self, experiences: Iterable[Experience]) -> None:
        for experience in experiences:
            episode = experience.episode
            self._shared.account.count(episode.ref, Cost.of(episode.usage, episode.cost_usd))

    def _refuse_sealed(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.input_id in self._sealed:
                raise SealedError(f"the task from {task.source or task.id} belongs to the sealed test split; learners may not use it")
