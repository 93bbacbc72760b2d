"""Parallelisation: different parts of one task at once (sections), or the same task several times (votes)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tutelage.agent import Agent, RunPart
from tutelage.errors import InputError
from tutelage.records import Episode, Task
from tutelage.workflows.parts import asked, check_agents, function_name, joined, text_task

Normalise = Callable[[str], str]


@dataclass(frozen=True)
class Sections:
    """The pattern itself; `sections` makes an agent of it."""

    agents: Mapping[str, Agent]
    join: Agent | None
    name: str = "sections"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        return {"sections": {name: agent.version for name, agent in self.agents.items()}, "join": self.join and self.join.version}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """What all said, under their names, or what `join` made of it; None where nobody said anything."""
        episodes = await at_once([run_part(agent, task, name) for name, agent in self.agents.items()])
        said = [f"{name}:\n{episode.answer}" for name, episode in zip(self.agents, episodes, strict=True) if episode.answer]
        if not said or self.join is None:
            return "\n\n".join(said) or None
        together = "\n\n".join(said)
        question = text_task(f"{asked(task)}\n\nContributions to the answer:\n\n{together}\n\nWrite one answer out of them.")
        return (await run_part(self.join, question, "join")).answer


def sections(agents: Mapping[str, Agent], *, join: Agent | None = None) -> Agent:
    """An agent whose parts all work on the task at once, each on its own side of it (as its instructions say).

    join: an agent that makes one answer of theirs; without it they stand under each other by name. Raises `InputError`.
    """
    check_agents("sections", agents, 1)
    return joined(Sections(MappingProxyType(dict(agents)), join), next(iter(agents.values())))


@dataclass(frozen=True)
class Vote:
    """The pattern itself; `vote` makes an agent of it."""

    agents: tuple[Agent, ...]
    normalise: Normalise
    name: str = "vote"

    def described(self) -> dict[str, Any]:
        """All that decides its behaviour."""
        return {"vote": [agent.version for agent in self.agents], "normalise": function_name(self.normalise)}

    async def run(self, task: Task, run_part: RunPart) -> str | None:
        """The answer that most gave, as its first voter worded it; of equals the one given first. Silence is no vote."""
        episodes = await at_once([run_part(agent, task, f"vote {number}") for number, agent in enumerate(self.agents, 1)])
        answers = [episode.answer for episode in episodes if episode.answer]
        if not answers:
            return None
        most = Counter(self.normalise(answer) for answer in answers).most_common(1)[0][0]
        return next(answer for answer in answers if self.normalise(answer) == most)


def last_line(answer: str) -> str:
    """What counts as the same answer: its last line that is not empty, without case, punctuation at its ends and repeated spaces."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[-1]).strip(" .!?:;*`'\"").casefold() if lines else ""


def vote(agents: Agent | Sequence[Agent], n: int = 5, *, normalise: Normalise = last_line) -> Agent:
    """An agent that answers what most of its parts answer (self-consistency, Wang et al. 2022, arXiv:2203.11171).

    agents: one agent that votes n times (give it a temperature above 0, or all votes are the same), or several, each with one vote.
    normalise: what counts as the same answer. Raises `InputError`.
    """
    if isinstance(agents, Agent):
        if n < 1:
            raise InputError(f"there must be at least one vote, and n is {n}", field="workflow.vote.n")
        if n > 1 and agents.sampling.temperature == 0:
            raise InputError("at temperature 0 all votes are the same; give the agent a temperature", field="workflow.vote")
        agents = (agents,) * n
    check_agents("vote", agents, 1)
    return joined(Vote(tuple(agents), normalise), agents[0])


async def at_once(runs: Sequence[Any]) -> list[Episode]:
    """All episodes at once; the first failure cancels the others and is raised as itself."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
