"""Rewards with degrees between wrong and right, for learning; a study's verdict stays with its grader.

`graded_tool_call` looks at what was meant key by key, so that a nearly right call is worth more than a wrong one: without degrees a weak
model's attempts all earn the same, and nothing can be learned from them. The name must be equal (a match of parts of it would be earned
by naming every tool), and readable calls earn little by themselves (a reward for the form alone is learned instead of the task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from tutelage.grader import Grader
from tutelage.graders.judge_models import Models, bind_grader
from tutelage.graders.load import make_grader
from tutelage.graders.text import answer_of
from tutelage.graders.toolcall import ToolCallMatch, standardise
from tutelage.records import Episode, Grade, Task, ToolCall, ToolFailure, content_id
from tutelage.task_formats.references import ExpectedCall, call_reference

READABLE, NAME, ARGUMENTS, EXTRA = 0.1, 0.2, 0.7, 0.1
"""What one expected call can earn: for a JSON object, for the right name, for the right arguments; and what a call too many costs."""

WORST = -1.0
"""No readable call where one is expected, or a call where none is."""


@dataclass(frozen=True)
class GradedToolCall:
    """From -1 to 1. The reference is that of the grader `toolcall`.

    -1 without any call that can be read, and for a call where none is expected (where saying something instead is 1). Else the mean over
    the expected calls of .1 for a readable call, .2 for the right name and .7 times the mean credit of the arguments, less .1 for each call
    too many, at least -1. An argument that is missing or not expected has no credit. Numbers may differ by `tolerance` times their size;
    texts are compared as `toolcall` does, without case, spaces and punctuation; lists earn the share of their values that both have, and
    objects that of their keys, weighed by the values' credit. A call that was refused earns no arguments.
    """

    tolerance: float = 1e-3
    name: str = field(default="graded_tool_call", kw_only=True)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The reward."""
        expected = call_reference(task).calls
        made = [(call, seen is not None and seen.failure in _REFUSED) for call, seen in episode.calls]
        if not expected:
            right = not made and bool(answer_of(episode))
            return Grade(score=1.0 if right else WORST, words="correct" if right else "no call was expected, but an answer was")
        if not any(_object(call) is not None for call, _ in made):
            return Grade(score=WORST, words="no readable call")
        credits = _paired([[self._credit(*attempt, call) for attempt in made] for call in expected])
        extra = max(0, len(made) - len(expected))
        score = max(WORST, sum(credits) / len(expected) - EXTRA * extra)
        words = f"credit of the expected calls: {', '.join(f'{credit:.2f}' for credit in credits)}; calls too many: {extra}"
        return Grade(score=score, words=words)

    def check(self, task: Task) -> None:
        """As `toolcall`."""
        ToolCallMatch().check(task)

    def _credit(self, call: ToolCall, refused: bool, expected: ExpectedCall) -> float:
        given = _object(call)
        if given is None:
            return 0.0
        if call.name != expected.name:
            return READABLE
        arguments = 0.0 if refused else self._arguments(given, expected)
        return READABLE + NAME + ARGUMENTS * arguments

    def _arguments(self, given: Mapping[str, Any], expected: ExpectedCall) -> float:
        judged = [key for key in {**expected.known, **dict.fromkeys(given)} if key in given or key not in expected.optional]
        credits = [self._argument(given[key], key, expected) if key in given else 0.0 for key in judged]
        return sum(credits) / len(credits) if credits else 1.0

    def _argument(self, value: Any, key: str, expected: ExpectedCall) -> float:
        if key not in expected.known:
            return 0.0
        if key in expected.allowed:
            return max(self._value(value, _shown(pattern)) for pattern in expected.allowed[key])
        return self._value(value, expected.arguments[key]) if key in expected.arguments else 1.0

    def _value(self, value: Any, wanted: Any) -> float:
        if isinstance(wanted, bool) or wanted is None or isinstance(value, bool):
            return float(value is wanted)
        if isinstance(wanted, int | float):
            return float(isinstance(value, int | float) and abs(value - wanted) <= self.tolerance * abs(wanted))
        if isinstance(wanted, str):
            return float(isinstance(value, str) and standardise(value) == standardise(wanted))
        if isinstance(wanted, list):
            return self._list(value, wanted) if isinstance(value, list) else 0.0
        if not isinstance(value, dict):
            return 0.0
        keys = {*wanted, *value}
        return sum(self._value(value[key], wanted[key]) for key in keys if key in value and key in wanted) / len(keys) if keys else 1.0

    def _list(self, value: Sequence[Any], wanted: Sequence[Any]) -> float:
        longest = max(len(value), len(wanted))
        return sum(_paired([[self._value(item, want) for item in value] for want in wanted])) / longest if longest else 1.0


_REFUSED = (ToolFailure.UNKNOWN_TOOL, ToolFailure.BAD_ARGUMENTS)


@dataclass(frozen=True)
class Reward:
    """A grader under a name that tells its options apart, because grades are kept by the name of their grader."""

    grader: Grader
    name: str

    def bind(self, models: Models) -> Reward:
        """The same, its grader asking the models that `models` gives, where it asks any."""
        return replace(self, grader=bind_grader(self.grader, models))

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The grader's grade."""
        return await self.grader.grade(task, episode)

    def check(self, task: Task) -> None:
        """What the grader checks."""
        self.grader.check(task)


def make_reward(spec: Any) -> Reward:
    """The reward that a setting names: as `graders.load.make_grader`, and `graded_tool_call`. Raises `InputError`."""
    if spec == GradedToolCall().name:
        return Reward(GradedToolCall(), spec)
    grader = make_grader(spec)
    return Reward(grader, f"{grader.name}#{content_id(spec)[:8]}" if isinstance(spec, Mapping) else f"{grader.name} (reward)")


def _object(call: ToolCall) -> dict[str, Any] | None:
    try:
        parsed = call.parsed()
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _paired(table: Sequence[Sequence[float]]) -> list[float]:
    """The credit of each row, each column given to one row at most: the best pairs first."""
    credits = [0.0] * len(table)
    rows: set[int] = set()
    columns: set[int] = set()
    cells = product(range(len(table)), range(len(table[0]) if table else 0))
    for row, column in sorted(cells, key=lambda cell: (-table[cell[0]][cell[1]], cell)):
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            credits[row] = table[row][column]
    return credits


def _shown(pattern: Any) -> Any:
    """The first value that a pattern allows: in a pattern an object lists the allowed values of each of its keys."""
    if isinstance(pattern, dict):
        return {key: _shown(allowed[0]) for key, allowed in pattern.items() if allowed and allowed[0] != ""}
    return [_shown(item) for item in pattern] if isinstance(pattern, list) else pattern
