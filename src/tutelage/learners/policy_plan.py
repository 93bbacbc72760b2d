"""What reinforcement learning is to be planned for, before an episode is run."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.agent import Agent
from tutelage.learners.policy_settings import PolicySettings
from tutelage.records import Task
from tutelage.training.memory import Case, Rows
from tutelage.training.planner import policy_case

CHARACTERS_PER_TOKEN = 3
"""A prompt is taken to have a token for so many characters: rather too many than too few."""


def case_of(agent: Agent, settings: PolicySettings, tasks: Sequence[Task]) -> Case:
    """A step on episodes of the longest task, one turn each, with replies as long as they may be."""
    loop = settings.loop
    characters = max((len(agent.instructions) + sum(len(message.text) for message in task.messages) for task in tasks), default=0)
    length = min(settings.train.max_length, characters // CHARACTERS_PER_TOKEN + agent.sampling.max_tokens)
    rows = Rows((max(1, length),) * (loop.tasks_per_step * loop.num_generations), steps=loop.steps, known=False)
    sampling = loop.rollout if loop.rollout != "auto" else agent.model_name.partition(":")[0]
    return policy_case(settings.train, settings.policy, rows, sampler=sampling == "hf")
