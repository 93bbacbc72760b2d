"""What all patterns share: an agent out of a pattern, tasks for the parts, and reading what a part said."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from json_repair import repair_json

from tutelage.agent import Agent, Limits, Workflow
from tutelage.errors import InputError
from tutelage.records import Message, Task

STEPS = 64
"""The model turns that a whole may take over all its parts, unless its limits say otherwise."""


def joined(pattern: Workflow, first: Agent) -> Agent:
    """The agent that works by a pattern. What the whole knows starts empty; the parts keep what they know themselves."""
    return Agent(model=first.model, instructions=first.instructions, limits=Limits(steps=STEPS), workflow=pattern)


def check_agents(pattern: str, agents: Mapping[str, Agent] | Sequence[Agent], least: int) -> None:
    """Raise `InputError` where parts are missing, or are no agents."""
    parts = list(agents.values()) if isinstance(agents, Mapping) else list(agents)
    if len(parts) < least:
        raise InputError(f"{pattern} needs at least {least} agent{'s' * (least > 1)}, and has {len(parts)}", field=f"workflow.{pattern}")
    for part in parts:
        if not isinstance(part, Agent):
            raise InputError(f"the parts of {pattern} are agents, and one is a {type(part).__name__}", field=f"workflow.{pattern}")


def instructions_of(agent: Agent) -> str:
    """The instructions of an agent and, where it works by a pattern, those of all its parts, however deep."""
    told = [agent.instructions] if agent.workflow is None else [instructions_of(part) for part in _agents_in(agent.workflow)]
    return "\n".join(dict.fromkeys(text for text in told if text))


def _agents_in(pattern: Workflow) -> Iterator[Agent]:
    """The agents among a pattern's fields, alone or in a tuple or mapping."""
    for value in vars(pattern).values():
        several = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        yield from (item for item in several if isinstance(item, Agent))


def text_task(text: str) -> Task:
    """A task of one user message."""
    return Task(messages=(Message(role="user", content=text),))


def asked(task: Task) -> str:
    """What the user asks, whole: all messages but those of the system."""
    said = [message for message in task.messages if message.role != "system" and message.text]
    if len(said) == 1:
        return said[0].text
    return "\n\n".join(f"{message.role}: {message.text}" for message in said)


def json_in(text: str) -> Any:
    """The JSON value in a reply, in a fence or bare, broken in the usual ways or not; None where there is none."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    body = fenced[1] if fenced else text
    start = min((place for place in (body.find("{"), body.find("[")) if place >= 0), default=-1)
    return None if start < 0 else repair_json(body[start:], return_objects=True)


def function_name(function: Any) -> str | None:
    """What stands for a function in an agent's version: its name and its source, where that can be had."""
    if function is None:
        return None
    try:
        return f"{function.__qualname__}: {inspect.getsource(function).strip()}"
    except (OSError, TypeError, AttributeError):
        return str(getattr(function, "__qualname__", type(function).__name__))
