"""Expert solutions cut into steps, for learning step by step (SRL).

Source: Supervised Reinforcement Learning (Deng et al. 2025, arXiv:2510.25992). Solutions in words are cut as `training.steps_text` says. Of
an agent's episode every turn that acts is a step, the last one too, and its context is the task with the last two actions and what they
gave.
"""

from __future__ import annotations

from collections.abc import Iterable

from tutelage.agent import Agent
from tutelage.experience.conversations import said, seen
from tutelage.experience.views import best_per_task, first_messages, successes
from tutelage.records import Experience, Message, Segment, Step, Task
from tutelage.tasks import reference_messages
from tutelage.tool_protocol import render_call
from tutelage.training.rows import StepRow
from tutelage.training.steps_text import THOUGHT, split_steps, step_rows

__all__ = ["episode_steps", "reference_steps", "split_steps", "step_rows"]

SHOWN_PAIRS = 2
"""So many of the last actions, with their observations, an agent's step is found from."""


def reference_steps(tasks: Iterable[Task], agent: Agent, *, last: bool = False, bare: bool = True) -> list[StepRow]:
    """The steps of the tasks' reference answers, asked as the agent is asked; tasks whose reference is no text give none."""
    rows: list[StepRow] = []
    for task in tasks:
        solution = reference_messages(task) or ()
        if len(solution) == 1 and not solution[0].tool_calls:
            rows += _text_rows(task, solution[0].text, agent, last=last, bare=bare)
    return rows


def _text_rows(task: Task, text: str, agent: Agent, *, last: bool, bare: bool) -> list[StepRow]:
    prompt = first_messages(agent, task, (), native_tools=True, bare=bare)  # a solution in words uses no tool
    return step_rows(prompt, split_steps(text), task.id, last=last, source=task.source or task.id)


def episode_steps(experiences: Iterable[Experience], *, threshold: float = 1.0, last: bool = False) -> list[StepRow]:
    """The steps of successful episodes, the best one of each task: a teacher's or the agent's own.

    An episode with tool calls gives one row for each turn whose calls did not fail: what is to be found are the calls, as text. One
    without gives the steps of its answer.
    """
    rows: list[StepRow] = []
    for experience in best_per_task(successes(experiences, threshold)).values():
        for segment in experience.episode.segments:
            task_id, source = experience.episode.task_id, experience.episode.ref
            if any(step.calls for step in segment.steps):
                rows += _action_rows(segment, task_id, source)
            elif segment.steps:
                text = segment.steps[-1].completion.message.text
                rows += step_rows(segment.context, split_steps(text), task_id, last=last, source=source)
    return rows


def _action_rows(segment: Segment, task_id: str, source: str) -> list[StepRow]:
    rows: list[StepRow] = []
    for number, step in enumerate(segment.steps):
        if not step.calls or any(observation.failure for observation in step.observations):
            continue
        shown = segment.steps[max(0, number - SHOWN_PAIRS) : number]
        before = [message for earlier in shown for message in _pair(earlier)]
        target = "\n".join(map(render_call, step.calls))
        rows.append(StepRow(prompt=(*segment.context, *before), target=target, task_id=task_id, number=len(rows) + 1, source=source))
    return rows


def _pair(step: Step) -> list[Message]:
    """An action, without the reasoning that led to it, and what it gave."""
    message = said(step)
    if isinstance(message.content, str):
        message = message.model_copy(update={"content": THOUGHT.sub("", message.content).strip()})
    return [message, *seen(step)]
