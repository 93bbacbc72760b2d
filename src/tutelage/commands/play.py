"""A person plays a task by hand: the same prompt, the same tools, the same limits and the same grader as the agent."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tutelage.agent import Agent
from tutelage.environment import EnvironmentFactory
from tutelage.episode import run_episode
from tutelage.errors import InputError
from tutelage.grader import Grader
from tutelage.graders.load import grade_episode
from tutelage.prices import FREE, Price
from tutelage.records import Completion, Message, Sampling, StopReason, Task, ToolCall, ToolSpec, Usage
from tutelage.study.config import load_study
from tutelage.tool_protocol import describe_tools

HELP = """Answer with plain text, or call a tool:   name {"argument": "value"}   or   name(argument="value").
Commands: /tools shows the tools again, /quit gives up."""


class Person:
    """A model whose replies a person types. Reads from `stdin`, writes to `stdout`: the terminal's where None."""

    name, native_tools = "person", True
    price: Price | None = FREE

    def __init__(self, stdin: TextIO | None = None, stdout: TextIO | None = None) -> None:
        self._in, self._out, self._shown = stdin or sys.stdin, stdout or sys.stdout, 0

    async def complete(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()) -> Completion:
        """Show what is new, read one line."""
        for message in messages[self._shown :]:
            print(f"\n[{message.role}] {message.text}", file=self._out)
        if self._shown == 0 and tools:
            print(f"\n{describe_tools(tools)}", file=self._out)
            print(f"\n{HELP}", file=self._out)
        self._shown = len(messages) + 1  # the reply itself need not be shown to the one who typed it
        return Completion(message=await self._read(tools), usage=Usage(calls=1))

    async def _read(self, tools: Sequence[ToolSpec]) -> Message:
        while True:
            print("\n> ", end="", file=self._out, flush=True)
            line = await asyncio.to_thread(self._in.readline)
            if not line or line.strip() == "/quit":
                raise InputError("the task was given up; nothing was graded")
            if line.strip() == "/tools":
                print(describe_tools(tools), file=self._out)
            elif line.strip():
                return typed_message(line.strip(), [tool.name for tool in tools])


def typed_message(line: str, names: Sequence[str]) -> Message:
    """What a person typed, as a message: a call if it begins with a tool's name and a bracket or brace, else text."""
    match = re.fullmatch(r"([\w.-]+)\s*(\{.*\}|\(.*\))", line, re.DOTALL)
    if not match or match[1] not in names:
        return Message(role="assistant", content=line)
    arguments = match[2] if match[2].startswith("{") else _keywords_as_json(match[2][1:-1])
    return Message(role="assistant", tool_calls=(ToolCall(id="typed", name=match[1], arguments=arguments),))


def _keywords_as_json(text: str) -> str:
    """`a="x", b=2` as JSON; what cannot be read is passed on, so that the call is refused with a reason."""
    quoted = re.sub(r"(^|,)\s*(\w+)\s*=", r'\1"\2":', text)
    fixed = re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", re.sub(r"\bNone\b", "null", quoted)))
    try:
        return json.dumps(json.loads("{" + fixed + "}"))
    except ValueError:
        return text


def play(player: Agent, task: Task, grader: Grader, environment: EnvironmentFactory | None = None) -> None:
    """Play the task and print the grade. The player is an agent whose model is a `Person`."""
    episode = asyncio.run(run_episode(player, task, environment=environment))
    if episode.stop is not StopReason.ANSWERED:  # results that no further turn has shown
        for observation in list(episode.steps)[-1].observations:
            print(f"\n[result] {observation.text}")
    grade = asyncio.run(grade_episode(grader, task, episode))
    print(f"\nEnded: {episode.stop}. Score: {'not graded' if grade.score is None else f'{grade.score:g}'}. {grade.words}")


def play_task(study_path: Path, number: int, changes: Sequence[str]) -> None:
    """Play training task `number` (from 1) of a study. Test tasks are not offered: looking at them would unseal them."""
    study = load_study(study_path, changes=changes, check_models=False)
    if number > len(study.train):
        raise InputError(f"there are {len(study.train)} training tasks; choose --task from 1 to {len(study.train)}", field="--task")
    own = study.agent
    player = Agent(model=Person(), instructions=own.instructions, tools=own.tools, limits=own.limits, stop_on_tool=own.stop_on_tool)
    play(player, study.train[number - 1], study.grader, study.environment)
