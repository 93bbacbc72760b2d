"""The contract of a learner: a way of turning experience into a better agent."""

from __future__ import annotations

from enum import StrEnum
from time import monotonic
from typing import Any, Protocol, runtime_checkable

from tutelage.agent import Agent
from tutelage.budget import Cost
from tutelage.practice import Learned, Practice


class Need(StrEnum):
    """What a learner cannot do without; checked before anything is spent."""

    REFERENCES = "references"
    """Training tasks with reference answers."""
    GRADES = "grades"
    """A grader that tells success from failure, and episodes of the agent to grade."""
    TEACHER = "teacher"
    """A stronger model, or a person."""
    WEIGHTS = "weights"
    """A model whose weights can be trained."""


@runtime_checkable
class Learner(Protocol):
    """One way of learning. `learn` returns a new agent and changes nothing in place.

    name: for reports. needs: checked by the study before it spends anything. `described()`: the settings as JSON; equal settings on equal
    tasks with an equal seed learn the same agent.
    """

    @property
    def name(self) -> str:
        """The kind of learner."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What it cannot do without."""
        ...

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        ...

    def forecast_calls(self, n_tasks: int) -> int:
        """How many episodes `learn` will run on so many training tasks."""
        ...

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """A better agent, from what practice gives."""
        ...


async def learn_once(learner: Learner, agent: Agent, practice: Practice) -> Agent:
    """What another arm has learned from the very same things is taken over, at what it cost there: `sft, then rlvr` beside `sft`."""
    if practice.shelf is None:
        return await learner.learn(agent, practice)
    fingerprint = practice.fingerprint(agent, learner.described())
    if found := practice.shelf.find(fingerprint, agent):
        practice.take_over(found)
        return found.agent
    begun = monotonic()
    with practice.accounting() as account:
        learned = await learner.learn(agent, practice)
    cost = account.cost.plus(Cost(seconds=monotonic() - begun))
    return practice.shelf.keep(fingerprint, Learned(learned, cost, practice.facts, account.episodes), agent)
