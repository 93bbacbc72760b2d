"""What the checker writes down: findings, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tutelage.environment import EnvironmentFactory
from tutelage.environments.probe import Play, begin, where
from tutelage.records import Task, ToolCall


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Learning in this environment would go wrong."""
    WARNING = "warning"
    """It may be meant so; look at it."""
    NOTE = "note"
    """Something to know, such as what could not be checked."""


CHECKS = {
    "reset": "a fresh environment starts every task, and starts alike each time",
    "tools": "the tools have valid schemas and descriptions",
    "determinism": "the same actions show the same",
    "actions": "random calls that fit the schemas never crash a tool",
    "malformed": "malformed and extreme calls never crash a tool",
    "grade": "the grade is None or a number in [0, 1]",
    "silence": "saying nothing, or garbage, is no success",
    "reference": "the reference is graded 1",
    "isolation": "two environments at once do not disturb each other",
    "resources": "nothing stays open after `close`",
    "done": "the task comes to an end",
    "speed": "reset and steps are quick",
}
"""What is checked, in order."""


@dataclass(frozen=True)
class Finding:
    """One thing found. check: a key of `CHECKS`. tasks: where it was found (source or number), empty where it concerns all."""

    severity: Severity
    check: str
    words: str
    tasks: tuple[str, ...] = ()


Solution = Callable[[Task], Sequence[str | ToolCall] | None]
"""The agent's turns that solve a task, or None where they are not known."""


@dataclass(frozen=True)
class Known:
    """A task that could be played: the random calls made, and what was seen alone."""

    task: Task
    calls: tuple[ToolCall, ...]
    shown: tuple[Any, ...]


@dataclass
class Bench:
    """What is checked, and all that came out so far."""

    factory: EnvironmentFactory
    steps: int
    seed: int
    solution: Solution
    found: dict[tuple[str, str], Finding] = field(default_factory=dict)
    plays: list[Known] = field(default_factory=list)
    worlds: list[Any] = field(default_factory=list)
    resets: list[float] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)
    unsolved: int = 0
    ended: bool = False
    has_done: bool = False
    has_tools: bool = False
    deterministic: bool = True

    def note(self, severity: Severity, check: str, words: str, label: str = "", *, kind: str = "") -> None:
        """Write a finding down; of several of a kind (default: of the same words) the first one's words stay, with all tasks."""
        key = (check, kind or words)
        before = self.found.get(key, Finding(severity, check, words))
        self.found[key] = Finding(before.severity, check, before.words, (*before.tasks, label) if label else before.tasks)

    async def begin(self, task: Task) -> Play:
        """A fresh environment on the task, its reset timed. Raises `Broken`."""
        play = await begin(self.factory, task)
        self.resets.append(play.reset_seconds)
        return play

    async def end(self, play: Play, label: str) -> None:
        """Close it, and take down what it showed: times, whether it came to its end, and what its tools raised."""
        self.step_times += play.step_seconds
        self.ended = self.ended or play.done
        try:
            await play.close()
        except Exception as error:  # noqa: BLE001 -- anyone's code: what it raises is a finding
            self.note(Severity.ERROR, "resources", f"`close` raised {where(error)}", label, kind="close")
