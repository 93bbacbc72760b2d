"""Running episodes: with concurrency, a budget, a cache of replies and resume.

A study runs its test split by a `Collector`, and learners gather experience by one, within their `Practice`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tutelage.advice import Advisor
from tutelage.agent import Agent
from tutelage.budget import Budget, Cost, Meter, MeteredModel
from tutelage.environment import EnvironmentFactory
from tutelage.episode import run_episode
from tutelage.errors import ModelUnavailable
from tutelage.experience.cache import CachedModel
from tutelage.experience.store import Store
from tutelage.grader import Grader
from tutelage.graders.judge_models import bind_grader
from tutelage.graders.load import grade_episode
from tutelage.memory import Memory
from tutelage.model import Model, load_model
from tutelage.prices import Price
from tutelage.progress import Progress, Silent
from tutelage.records import Experience, StopReason, Task

FAILURES_IN_A_ROW = 10
"""So many episodes in a row that end with a failed model call stop the run: the model is down, whatever it says."""

FEW = 500
"""So many tasks are named when the store is asked for their episodes (databases limit that); of more, all of the agent's are read."""

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
            wanted = {job.task.id for job in own}
            done = self.store.load(self.study, version, self.grader.name, task_ids=wanted if len(wanted) <= FEW else None)
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
