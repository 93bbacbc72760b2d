"""Demonstrations from tasks: their reference answers, or what the agent itself did well. Each row with the key of its question."""

from __future__ import annotations

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.experience.views import by_task, reference_rows, sft_rows, successes
from tutelage.learners.supervised import Gathering, tools_of, trying
from tutelage.practice import Practice
from tutelage.training.rows import SFTRow

Keyed = list[tuple[str, SFTRow]]


async def from_references(agent: Agent, practice: Practice, *, bare: bool = False) -> Keyed:
    """The tasks' reference answers. bare: leave the agent's knowledge out of the prompts. Raises `InputError` where there are none."""
    _, tools = await tools_of(agent, practice)
    keyed = [(task.input_id, row) for task in practice.tasks for row in reference_rows([task], agent, tools=tools, bare=bare)]
    if not keyed:
        raise InputError("no training task has a reference answer to learn from; add some, or set source to `success`", field="source")
    return keyed


async def from_successes(agent: Agent, practice: Practice, options: Gathering, *, bare: bool = False) -> Keyed:
    """The agent's own episodes that were graded a success, which may be none. bare: as above."""
    native = agent.load().native_tools
    experiences = await practice.collect(trying(agent, options.attempts, options.temperature), attempts=options.attempts)
    practice.note(successes=len(successes(experiences, options.threshold)))
    tools = [spec for group in await tools_of(agent, practice) for spec in group]
    known = {task.id: task for task in practice.tasks}
    return [
        (known[task_id].input_id, row)
        for task_id, tried in by_task(experiences).items()
        for row in sft_rows(
            tried,
            [known[task_id]],
            threshold=options.threshold,
            per_task=options.per_task,
            tools=tools,
            native_tools=native,
            bare=agent if bare else None,
            truncated=options.truncated_episodes,
        )
    ]


def no_success(options: Gathering) -> str:
    """Why nothing was learned."""
    return (
        f"no episode that came to its end reached a score of {options.threshold:g}, so there is no success to learn from: "
        "set source to `reference` or `file`, lower the threshold, or raise attempts"
    )
