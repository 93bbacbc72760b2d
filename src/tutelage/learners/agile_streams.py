"""Streams of sessions as rollouts: what an agent with an executor learns its own memory, its questions and its answers from.

Several streams are sampled side by side with the current weights, each over tasks in an order by the seed and from a memory by the seed.
From every S_i the session is tried `num_generations` times, and the stream goes on with one of them, chosen by the seed; all are learned
from, as independent samples of the proxy rewards in `agile_advantage.py`. Sessions that are not graded are left out, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from statistics import fmean
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue

from tutelage.agent import Agent
from tutelage.errors import GraderError
from tutelage.knowledge import Knowledge
from tutelage.learners.agile_advantage import Alike
from tutelage.learners.agile_rewards import Fork, StateAdvantage, proxied
from tutelage.learners.policy_batch import Batch
from tutelage.learners.policy_report import refuse_ungraded
from tutelage.learners.policy_sampler import Judged, held_apart, mean_tokens, names_of
from tutelage.learners.policy_settings import PolicySettings
from tutelage.learners.policy_state import Deck, Row, State
from tutelage.learners.rollouts import NO_ROLLOUTS, Group, Reading, Rollouts, read_rollouts
from tutelage.memory import Memory
from tutelage.practice import Practice
from tutelage.progress import Silent, Stage
from tutelage.records import Experience, Record, Task
from tutelage.streams import StreamRun, StreamSession, blocks, parts, run_stream, shuffled, written

_T = TypeVar("_T")

MEASURES = {"advice_rate": "rate", "accuracy": "score", "total_score": "total"}
"""What rows and facts say of sessions, and what a block of a stream calls it."""


class StreamSettings(Record):
    """How a step's sessions are sampled, and what a session is worth.

    streams: so many side by side in a step; sessions: a stream's length, at most every training task once. memory: what a stream begins
    with: the agent's `own` knowledge, a `random` part of its exemplars, or none (`empty`). blocks: into so many parts a stream is split
    in history and report.

    state_advantage: what a session is credited with beside its own reward, for what it brings into memory: `similarity` (`state_beta`
    where it sought advice and something similar is still to come, divided by one more than how many similar entries memory has), `value`
    (the change of a value function of memory, fitted with `ridge`), or `none`. similar: two questions are similar where their `kind` is
    the same, or their texts (`text`: words; `meaning`: embeddings) are alike by `similar_from` or more.
    """

    streams: int = Field(4, gt=0)
    sessions: int = Field(16, gt=0)
    memory: Literal["own", "random", "empty"] = "own"
    blocks: int = Field(4, gt=0)
    state_advantage: StateAdvantage = "similarity"
    state_beta: float = Field(0.1, ge=0)
    ridge: float = Field(1.0, gt=0)
    similar: Literal["kind", "text", "meaning"] = "text"
    similar_from: float = Field(0.5, ge=-1, le=1)

    @cached_property
    def alike(self) -> Alike:
        """Whether two questions are similar."""
        return Alike(self.similar, self.similar_from)


class Branching(Practice):
    """A practice in which a session is tried several times from the same memory; its stream goes on with one of them.

    It shares everything with the practice that it is made of. tried: all attempts at each task, by its id, in the order of the attempts.
    shown: counts the sessions of all streams of a step, in place of a bar for each stream.
    """

    def __init__(self, practice: Practice, attempts: int, shown: Stage) -> None:
        self.__dict__.update(vars(practice))
        self.attempts, self.shown = attempts, shown
        self.tried: dict[str, list[Experience]] = {}

    async def collect(
        self, agent: Agent, tasks: Sequence[Task] | None = None, attempts: int = 1, *, first_attempt: int = 0, memory: Memory | None = None
    ) -> list[Experience]:
        """One attempt at each task, chosen by the seed among those that are made."""
        chosen: list[Experience] = []
        for task in self.tasks if tasks is None else tasks:
            made = await super().collect(agent, [task], self.attempts, first_attempt=first_attempt, memory=memory)
            self.tried[task.id] = made
            chosen.append(made[Random(f"{self.seed}/goes on with/{first_attempt}/{task.id}").randrange(self.attempts)])
            self.shown.advance()
        return chosen

    def stage(self, label: str, total: int) -> Stage:
        """Not shown by itself."""
        return Silent()


@dataclass
class StreamSampler:
    """Samples streams, and judges weights by a greedy stream over the held-out tasks, from what the agent knows."""

    practice: Practice
    settings: PolicySettings
    streams: StreamSettings
    knowledge: Knowledge
    train: Sequence[Task]
    held_out: Sequence[Task]

    def __post_init__(self) -> None:
        self.deck = Deck(self.train, self.practice.seed)
        self.names = names_of(self.practice)

    @classmethod
    def of(cls, agent: Agent, practice: Practice, settings: PolicySettings, streams: StreamSettings) -> StreamSampler:
        """With a share of the practice's tasks held out."""
        return cls(practice, settings, streams, agent.knowledge, *held_apart(practice, settings))

    @property
    def graders(self) -> list[str]:
        """The practice's own gives the rewards and judges."""
        return [self.practice.grader.name]

    @property
    def earned(self) -> str:
        """Before they are credited with what they bring into memory: a row's `reward` is what was learned from, the proxy reward."""
        return "total_score"

    def described(self) -> dict[str, Any]:
        """How streams are sampled, and who is asked for advice."""
        advisor = self.practice.advisor
        return {**self.streams.model_dump(mode="json"), "advisor": advisor and advisor.name}

    async def gather(self, explorer: Agent, step: int, drawn: int, reading: Reading) -> Batch:
        """The sessions of one step's streams, with their proxy rewards."""
        batch = Batch(drawn=drawn)
        orders: list[list[Task]] = []
        for _ in range(self.streams.streams):
            tasks, batch.drawn = self.deck.draw(batch.drawn, self.streams.sessions, set())
            orders.append(tasks)
        first = step * self.streams.streams
        with self.practice.stage("sessions", sum(map(len, orders))) as shown:
            walks = await side_by_side([self._walk(explorer, number, tasks, shown) for number, tasks in enumerate(orders, first)])
        self._take(batch, walks, reading)
        refuse_ungraded(batch.all)
        batch.measured = self._measured(walks)
        return batch

    async def _walk(self, explorer: Agent, number: int, tasks: Sequence[Task], shown: Stage) -> list[Fork]:
        """One stream, and at each of its places all that was tried there. number: of the stream, from the beginning of learning."""
        practice = Branching(self.practice, self.settings.loop.num_generations, shown)
        start = self._start(number)
        run = await run_stream(practice, explorer, tasks, attempt=number * practice.attempts, memory=start)
        return [
            Fork(memory, session, tuple(_instead(explorer, session, other) for other in practice.tried[session.task.id]))
            for memory, session in zip(run.snapshots(), run.sessions, strict=False)
        ]

    def _start(self, number: int) -> Knowledge:
        """S_0 of a stream."""
        own = self.knowledge
        if self.streams.memory == "own":
            return own
        chance = Random(f"{self.practice.seed}/memory/{number}")
        count = chance.randint(0, len(own.exemplars)) if self.streams.memory == "random" else 0
        kept = set(chance.sample([entry.id for entry in own.exemplars], count))
        return own.model_copy(update={"exemplars": tuple(entry for entry in own.exemplars if entry.id in kept)})

    def _take(self, batch: Batch, walks: Sequence[Sequence[Fork]], reading: Reading) -> None:
        options = self.streams
        rewards = proxied(walks, options.state_advantage, options.alike, beta=options.state_beta, ridge=options.ridge)
        rollouts = NO_ROLLOUTS
        for number, (walk, of_walk) in enumerate(zip(walks, rewards, strict=True)):
            for place, (fork, of_fork) in enumerate(zip(walk, of_walk, strict=True)):
                earned = [_earning(tried.experience, reward) for tried, reward in zip(fork.tried, of_fork, strict=True)]
                rollouts += _named(read_rollouts(earned, reading, self.names), f"{number}/{place}")
        tasks = [fork.session.task for walk in walks for fork in walk]
        grpo = self.settings.policy.algorithm == "grpo"
        batch.take(tasks, [], rollouts, self.settings.loop.min_reward_std if grpo else None)

    def _measured(self, walks: Sequence[Sequence[Fork]]) -> Row:
        """Of all attempts, and, by blocks, of what the streams went on with."""
        every = [tried for walk in walks for fork in walk for tried in fork.tried]
        went_on = [[fork.session for fork in walk] for walk in walks]
        return {**_measures(every), "blocks": _blocks(went_on, self.streams.blocks)}

    async def judge(self, greedy: Agent) -> Judged:
        """The total score (mean reward) of the stream over the held-out tasks."""
        seed = self.practice.seed
        run: StreamRun = await run_stream(self.practice, greedy, shuffled(self.held_out, seed), memory=self.knowledge)
        rewards = [session.reward for session in run.sessions if session.reward is not None]
        if not rewards:
            words = run.sessions[0].experience.grade.words
            raise GraderError(f"none of the {len(run.sessions)} held-out tasks is graded: {words}")
        facts: Row = {**_measures(run.sessions), "blocks": _blocks([run.sessions], self.streams.blocks)}
        return Judged(fmean(rewards), mean_tokens([session.experience for session in run.sessions]), facts)

    def facts(self, state: State) -> Row:
        """Advice rate, accuracy and total score of the first and the last step, of every judgement, and by blocks."""
        facts: Row = {}
        if state.history:
            facts |= {name: [state.history[0].get(name), state.history[-1].get(name)] for name in MEASURES}
            facts["last_blocks"] = state.history[-1].get("blocks")
        for name in MEASURES if state.evaluations else ():
            facts[f"validation_{name}"] = [[evaluation.step, evaluation.facts.get(name)] for evaluation in state.evaluations]
        if state.best is not None:
            facts["validation_blocks"] = state.best.facts.get("blocks")
        return facts


async def side_by_side(work: Iterable[Awaitable[_T]]) -> list[_T]:
    """All results in their order; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _instead(agent: Agent, session: StreamSession, experience: Experience) -> StreamSession:
    """The session as it would be with another attempt in its place."""
    return replace(session, experience=experience, writes=written(agent, session.task, experience))


def _earning(experience: Experience, reward: float | None) -> Experience:
    """With the proxy reward in place of the score."""
    return experience.model_copy(update={"grade": experience.grade.model_copy(update={"score": reward})})


def _named(rollouts: Rollouts, name: str) -> Rollouts:
    """Attempts are compared with those from the same memory alone, so each place of a stream is a group of its own."""
    return replace(rollouts, groups=tuple(_renamed(group, f"{name}/{group.task_id}") for group in rollouts.groups))


def _renamed(group: Group, name: str) -> Group:
    return replace(group, task_id=name, samples=tuple(replace(sample, group=name) for sample in group.samples))


def _measures(sessions: Sequence[StreamSession]) -> Row:
    """Means over the graded sessions; None where there is none."""
    (block,) = blocks(sessions, 1)
    return {name: getattr(block, own) for name, own in MEASURES.items()}


def _blocks(runs: Sequence[Sequence[StreamSession]], n: int) -> list[JsonValue]:
    """Several streams together, in parts by the place of their sessions."""
    together = ([one for run in runs for one in run[part.start : part.stop]] for part in parts(max(map(len, runs)), n))
    return [block.model_dump(mode="json") for some in together for block in blocks(some, 1)]
