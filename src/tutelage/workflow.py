"""Running a workflow: several agents work on one task, and what they did becomes one episode."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter

from tutelage.agent import Agent, Workflow
from tutelage.knowledge import Retrieval
from tutelage.memory import Memory
from tutelage.records import Episode, StopReason, Task, Usage

RunOne = Callable[[Agent, Task, int], Awaitable[Episode]]
"""Runs one agent on one task; the number of the part within the whole enters the seeds, so that equal parts draw differently."""


class _Ended(Exception):
    """A limit of the whole was reached, or a part's model failed: no further part is run."""

    def __init__(self, stop: StopReason, error: str | None = None) -> None:
        self.stop, self.error = stop, error


async def run_workflow(agent: Agent, workflow: Workflow, task: Task, run_one: RunOne, memory: Memory) -> Episode:
    """The episode of the whole: the parts' segments in the order in which the parts were begun, their usage and cost together.

    What the whole knows (`memory`) reaches its parts: insights all of them, the exemplars and reflections that suit the whole's task those
    whose conversation begins with it. The whole's limits count over all parts and are looked at before each. A part whose model fails ends
    the whole with `MODEL_ERROR`, and an environment that says it is done ends it too.
    """
    whole = _Whole(agent, task, run_one, memory)
    answer: str | None = None
    stop, error = StopReason.ANSWERED, None
    try:
        async with asyncio.timeout(agent.limits.seconds) as clock:
            answer = await workflow.run(task, whole.run_part)
        stop = whole.end(answer)
    except _Ended as ended:
        stop, error = ended.stop, ended.error
    except TimeoutError:
        if not clock.expired():
            raise
        stop = StopReason.SECONDS
    return whole.episode(answer, stop, error)


@dataclass
class _Whole:
    """What has been done so far. `parts`: one place for each part that was begun, None until it has ended."""

    agent: Agent
    task: Task
    run_one: RunOne
    memory: Memory
    parts: list[tuple[str, Episode] | None] = field(default_factory=list)
    started: float = field(default_factory=perf_counter)

    async def run_part(self, part: Agent, task: Task, name: str) -> Episode:
        """Run one of the agents, with what the whole knows."""
        if reached := self._limit_reached():
            raise _Ended(reached)
        place = len(self.parts)
        self.parts.append(None)
        episode = await self.run_one(self._informed(part, task), task, place)
        self.parts[place] = (name, episode)
        if episode.stop in (StopReason.MODEL_ERROR, StopReason.ENVIRONMENT):
            raise _Ended(episode.stop, episode.error)
        return episode

    def end(self, answer: str | None) -> StopReason:
        """How it ended of itself: a last part may have handed over a tool call in place of words."""
        if answer and answer.strip():
            return StopReason.ANSWERED
        done = self._ended()
        return StopReason.TOOL_CALL if done and done[-1][1].stop is StopReason.TOOL_CALL else StopReason.EMPTY

    def _limit_reached(self) -> StopReason | None:
        limits, done = self.agent.limits, self._ended()
        if sum(1 for _, episode in done for _ in episode.steps) >= limits.steps:
            return StopReason.STEPS
        if limits.tokens is not None and _usage(done).tokens >= limits.tokens:
            return StopReason.TOKENS
        cost = _cost(done)
        return StopReason.COST if limits.cost_usd is not None and cost is not None and cost >= limits.cost_usd else None

    def _ended(self) -> list[tuple[str, Episode]]:
        return [part for part in self.parts if part is not None]

    def episode(self, answer: str | None, stop: StopReason, error: str | None) -> Episode:
        """The whole run as one episode."""
        done = self._ended()
        return Episode(
            task_id=self.task.id,
            agent_version=self.agent.version,
            segments=tuple(
                segment.model_copy(update={"part": f"{name}/{segment.part}" if segment.part else name})
                for name, episode in done
                for segment in episode.segments
            ),
            answer=answer if answer is not None or not done else done[-1][1].answer if stop is StopReason.ENVIRONMENT else None,
            stop=stop,
            usage=_usage(done),
            cost_usd=_cost(done),
            seconds=perf_counter() - self.started,
            error=error,
            shown=tuple(dict.fromkeys(id for _, episode in done for id in episode.shown)),
            advice=tuple(item for _, episode in done for item in episode.advice),
        )

    def _informed(self, part: Agent, task: Task) -> Agent:
        """The part with what the whole knows beside its own knowledge."""
        whole, own = self.memory, part.knowledge
        insights = {"insights": (*own.insights, *whole.insights)}
        if task.messages[: len(self.task.messages)] != self.task.messages:
            return part.but(knowledge=own.model_copy(update=insights)) if whole.insights else part
        exemplars, reflections = whole.choose(self.task), whole.recall(self.task)
        if not (whole.insights or exemplars or reflections):
            return part
        shown = (*part.memory.choose(task), *exemplars)
        rekeyed = tuple(
            item.model_copy(update={"input_id": task.input_id}) if item.input_id == self.task.input_id else item for item in reflections
        )
        kept = {"exemplars": shown, "retrieval": Retrieval(k=len(shown)), "reflections": (*own.reflections, *rekeyed)}
        recall = {"recall": whole.recall_settings} if reflections else {}
        return part.but(knowledge=own.model_copy(update={**insights, **kept, **recall}))


def _usage(parts: list[tuple[str, Episode]]) -> Usage:
    return sum((episode.usage for _, episode in parts), Usage())


def _cost(parts: list[tuple[str, Episode]]) -> float | None:
    costs = [episode.cost_usd for _, episode in parts]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
