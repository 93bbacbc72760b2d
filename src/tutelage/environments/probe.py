"""Playing an environment step by step while watching what its own code does: what the checker looks at."""

from __future__ import annotations

import gc
import inspect
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from tutelage.environment import Environment, EnvironmentFactory, environment_tools
from tutelage.errors import InputError, ToolError
from tutelage.records import Observation, Task, ToolCall
from tutelage.tool import Tool, call_tool, unknown_tool


@dataclass
class Play:
    """One environment at work on one task.

    opening, seen: what an agent would see. broken: tools whose schema is none, with the reason. raised: exceptions of the tools other
    than `ToolError`, each with the call that led to it. reset_seconds: how long making and resetting it took; step_seconds: each call.
    """

    world: Environment
    task: Task
    opening: str | None = None
    tools: dict[str, Tool] = field(default_factory=dict)
    broken: dict[str, InputError] = field(default_factory=dict)
    seen: list[Observation] = field(default_factory=list)
    raised: list[tuple[ToolCall, BaseException]] = field(default_factory=list)
    reset_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    _latest: list[BaseException] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the environment says that the task is over."""
        return bool(getattr(self.world, "done", False))

    async def step(self, call: ToolCall) -> Observation:
        """Make one call as an agent would."""
        if call.name not in self.tools:
            return unknown_tool(call, list(self.tools))
        began = perf_counter()
        self._latest.clear()
        observation = await call_tool(self.tools[call.name], call)
        self.step_seconds.append(perf_counter() - began)
        self.raised += [(call, error) for error in self._latest]
        self.seen.append(observation)
        return observation

    async def steps(self, calls: Sequence[ToolCall]) -> None:
        """Make these calls, until the task is over."""
        for call in calls:
            if self.done:
                return
            await self.step(call)

    async def close(self) -> None:
        """Close the environment, where it can be closed."""
        if close := getattr(self.world, "close", None):
            await settled(close())


class Broken(Exception):
    """An environment cannot be begun. phase: `reset` (or making it) or `tools`; cause: what was raised."""

    def __init__(self, phase: str, cause: Exception) -> None:
        self.phase, self.cause = phase, cause
        super().__init__(f"{phase}: {cause}")


async def begin(factory: EnvironmentFactory, task: Task) -> Play:
    """A fresh environment, reset, with its tools. Raises `Broken` after closing it where that fails."""
    began = perf_counter()
    try:
        play = Play(factory(), task)
    except Exception as error:
        raise Broken("reset", error) from error
    phase = "reset"
    try:
        play.opening = await settled(play.world.reset(task))
        play.reset_seconds = perf_counter() - began
        phase = "tools"
        _take_tools(play)
    except Exception as error:
        with suppress(Exception):
            await play.close()
        raise Broken(phase, error) from error
    return play


def _take_tools(play: Play) -> None:
    """The tools that can be called, watched; those that are only declared are left to the caller, those with a broken schema put aside."""
    for item in environment_tools(play.world):
        if item.function is None:
            continue
        try:
            item.check  # noqa: B018 -- reading it checks the schema
        except InputError as error:
            play.broken[item.spec.name] = error
        else:
            play.tools[item.spec.name] = _watched(item, item.function, play._latest)


async def settled(result: Any) -> Any:
    """The result, awaited where it must be."""
    return await result if inspect.isawaitable(result) else result


def _watched(item: Tool, function: Callable[..., Any], raised: list[BaseException]) -> Tool:
    """The tool, noting what its function raises besides `ToolError`."""

    def note(error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, ToolError):  # others, such as a cancellation, come from outside
            raised.append(error)

    @wraps(function)
    async def asynchronous(**values: Any) -> Any:
        try:
            return await function(**values)
        except BaseException as error:
            note(error)
            raise

    @wraps(function)
    def plain(**values: Any) -> Any:
        try:
            return function(**values)
        except BaseException as error:
            note(error)
            raise

    return replace(item, function=asynchronous if inspect.iscoroutinefunction(function) else plain)


def where(error: BaseException) -> str:
    """An exception in one line, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]}{place}"


@dataclass(frozen=True)
class Held:
    """What this process holds: file descriptors, child processes (both 0 where the system does not tell), and threads that run no tool."""

    files: int
    children: int
    threads: int

    def more_than(self, other: Held, slack: int = 0) -> str:
        """What is held beyond `other` by more than `slack`, in words; empty where it is nothing."""
        grown = {
            "file descriptors": self.files - other.files,
            "child processes": self.children - other.children,
            "threads": self.threads - other.threads,
        }
        return ", ".join(f"{count} {what}" for what, count in grown.items() if count > slack)


def held() -> Held:
    """What is held now, after collecting what nobody refers to."""
    gc.collect()
    threads = sum(not thread.name.startswith(("tutelage-tool", "asyncio")) for thread in threading.enumerate())
    try:
        return Held(len(list(Path("/proc/self/fd").iterdir())), _children(), threads)
    except OSError:
        return Held(0, 0, threads)


def _children() -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                count += int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    return count
