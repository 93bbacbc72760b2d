"""Practice: the only way for a learner to gather experience, and the machinery under it.

`Collector` runs episodes with concurrency, a budget, a cache of replies and resume; a study uses it for the test split too. `Practice`
is what a learner gets: the training tasks, and a collector that refuses any other task.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from tutelage.advice import Advisor
from tutelage.agent import Agent
from tutelage.budget import Account, Budget, Cost, Meter, MeteredModel, outside
from tutelage.environment import EnvironmentFactory
from tutelage.episode import run_episode
from tutelage.errors import ModelUnavailable, SealedError
from tutelage.experience.cache import CachedModel
from tutelage.experience.store import Store
from tutelage.grader import Grader
from tutelage.graders.judge_models import bind_grader
from tutelage.graders.load import grade_episode
from tutelage.memory import Memory
from tutelage.model import Model, load_model
from tutelage.prices import Price
from tutelage.progress import Progress, Silent, Stage
from tutelage.records import Completion, Experience, Message, Sampling, StopReason, Task, content_id

FAILURES_IN_A_ROW = 10
"""So many episodes in a row that end with a failed model call stop the run: the model is down, whatever it says."""


_Key = tuple[str, str, int, int]
"""Agent version, task id, seed, attempt."""


@dataclass(frozen=True)
class Job:
    """One episode to run."""

    task: Task
    seed: int = 0
    attempt: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies the episode within an agent's version."""
        return self.task.id, self.seed, self.attempt


class Collector:
    """Runs episodes and grades them: at most `concurrency` at once, each stored when it ends, none repeated that is stored already.

    advisor: who may be asked by agents whose executor asks. It is no part of an agent's version: another advisor needs another study.
    """

    def __init__(
        self,
        grader: Grader,
        *,
        store: Store | None = None,
        study: str = "",
        budget: Budget = Budget(),
        environment: EnvironmentFactory | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
        prices: Mapping[str, Price] | None = None,
        advisor: Advisor | None = None,
    ) -> None:
        self.advisor = advisor
        self.study, self.environment, self.concurrency = study, environment, concurrency
        self.store = store if store is not None else Store(":memory:")
        self.progress = progress or Silent()
        self.meter = Meter(budget, Cost.of(*self.store.spent(study)))
        self.prices = prices or {}
        self._models: dict[str, CachedModel] = {}
        self.grader = bind_grader(grader, self.model_for)
        self._failures_in_a_row = 0

    def model_of(self, agent: Agent) -> CachedModel:
        """The agent's model, metered, behind the cache of replies."""
        return self.model_named(agent.model_name, agent.load, worn=_worn(agent))

    def model_for(self, model: str | Model) -> CachedModel:
        """A model by its name, or the model itself, metered, behind the cache of replies: what judges ask."""
        return self.model_named(model if isinstance(model, str) else model.name, lambda: load_model(model))

    def forget(self, agent: Agent) -> None:
        """Let the agent's model go."""
        self._models.pop(agent.model_name + _worn(agent), None)

    def model_named(self, name: str, load: Callable[[], Model], *, worn: str = "") -> CachedModel:
        """A model, metered, behind the cache of replies; `load` gives it at first use. worn: which adapter it wears."""
        key = name + worn
        if key not in self._models:
            price = self.prices.get(name) or self.prices.get(name.partition(":")[2])
            self._models[key] = CachedModel(MeteredModel(load(), self.meter, price), self.store, study=self.study)
        return self._models[key]

    def apart(self, grader: Grader, environment: EnvironmentFactory | None) -> Collector:
        """A collector with another grader and environment over the same store, models, advisor, budget and progress."""
        other = Collector(
            grader,
            store=self.store,
            study=self.study,
            environment=environment,
            concurrency=self.concurrency,
            progress=self.progress,
            prices=self.prices,
            advisor=self.advisor,
        )
        other.meter, other._models = self.meter, self._models
        return other

    def quietly(self) -> Collector:
        """The same, with the same store, models and budget, but showing no progress."""
        other = copy(self)
        other.progress = Silent()
        return other

    async def run(self, agent: Agent, jobs: Sequence[Job], *, arm: str = "", memory: Memory | None = None) -> list[Experience]:
        """The experiences of all jobs in their order; what the store has is taken from there.

        Raises `BudgetExceeded` or `ModelUnavailable`; what had ended by then is stored.
        """
        return await self.run_each([(agent, job) for job in jobs], arm=arm, memory=memory)

    async def run_each(self, pairs: Sequence[tuple[Agent, Job]], *, arm: str = "", memory: Memory | None = None) -> list[Experience]:
        """As `run`, each job with an agent of its own. The first agent's model says how many run at once."""
        for _, job in pairs:
            self.grader.check(job.task)
        done = await self._stored(pairs)
        waiting = [(agent, job) for agent, job in pairs if (agent.version, *job.key) not in done]
        if waiting:
            for agent in {agent.version: agent for agent, _ in waiting}.values():
                self.store.add_agent(agent.version, agent.described())
            await self._run_all(waiting, arm, memory, done)
        return [done[agent.version, *job.key] for agent, job in pairs]

    async def _stored(self, pairs: Sequence[tuple[Agent, Job]]) -> dict[_Key, Experience]:
        """What the store has of these jobs, graded again where an earlier run could not grade."""
        jobs: dict[str, list[Job]] = {}
        for agent, job in pairs:
            jobs.setdefault(agent.version, []).append(job)
        found: dict[_Key, Experience] = {}
        for version, own in jobs.items():
            done = self.store.load(self.study, version, self.grader.name)
            await self._grade_what_failed(own, done)
            found.update({(version, *key): experience for key, experience in done.items()})
        return found

    async def _grade_what_failed(self, jobs: Sequence[Job], done: dict[tuple[str, int, int], Experience]) -> None:
        """Grade again what an earlier run could not grade: the grader may have been down, and asking it does not ask the agent."""
        for job in jobs:
            earlier = done.get(job.key)
            if earlier is None or earlier.grade.score is not None or earlier.grade.abstained:
                continue
            grade = await grade_episode(self.grader, job.task, earlier.episode)
            if grade != earlier.grade:
                self.store.add_grade(earlier.episode, grade, study=self.study, grader=self.grader.name)
                done[job.key] = earlier.model_copy(update={"grade": grade})

    async def _run_all(self, waiting: list[tuple[Agent, Job]], arm: str, memory: Memory | None, done: dict[_Key, Experience]) -> None:
        slots = self.concurrency or getattr(waiting[0][0].load(), "concurrency", None) or 32
        queue = iter(waiting)
        scores: list[float] = []
        with self.progress.stage(arm or "episodes", len(waiting)) as stage:

            async def worker() -> None:
                for agent, job in queue:
                    experience = await self._one(agent, job, arm, memory)
                    done[agent.version, *job.key] = experience
                    if experience.grade.score is not None:
                        scores.append(experience.grade.score)
                    stage.advance(f"score {sum(scores) / len(scores):.3f}" if scores else "")

            await _together([worker() for _ in range(min(slots, len(waiting)))])

    async def _one(self, agent: Agent, job: Job, arm: str, memory: Memory | None) -> Experience:
        episode = await run_episode(
            agent,
            job.task,
            environment=self.environment,
            memory=memory,
            models=self.model_of,
            seed=job.seed,
            attempt=job.attempt,
            advisor=self.advisor,
        )
        grade = await grade_episode(self.grader, job.task, episode)
        experience = Experience(episode=episode, grade=grade, when=datetime.now(UTC), study=self.study)
        self.store.add(experience, study=self.study, arm=arm, grader=self.grader.name, task=job.task)
        self._stop_if_down(episode.stop, episode.error)
        return experience

    def _stop_if_down(self, stop: StopReason, error: str | None) -> None:
        self._failures_in_a_row = self._failures_in_a_row + 1 if stop is StopReason.MODEL_ERROR else 0
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise ModelUnavailable(f"{FAILURES_IN_A_ROW} episodes in a row ended with a failed model call; the last said: {error}")


def _worn(agent: Agent) -> str:
    return f"+{agent.adapter.id}" if agent.adapter else ""


async def _together(workers: list[Any]) -> None:
    """Run all; the first failure cancels the others and is raised as itself, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


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
        return content_id([*own, self.advisor.name] if self.advisor else own)

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
