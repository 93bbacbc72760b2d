"""Solutions in words cut into steps (SRL; Deng et al. 2025, arXiv:2510.25992).

A solution of N steps gives N - 1 rows: from the question and the steps before, step k is to be found, for k = 1 to N - 1. The last step
states the answer, which the grader of the whole can judge, so it is left out unless asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tutelage.records import Message
from tutelage.training.rows import StepRow

STEPS_HEADING = "The solution so far:"

THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*(```|~~~)")
_MARKS = (
    re.compile(r"^\s{0,3}(?:#{1,6}\s*|\*\*|__)?step\s+(\d+)\b", re.IGNORECASE),
    re.compile(r"^\s{0,3}#{1,6}\s*(?:\*\*)?(\d+)[.:)]"),
    re.compile(r"^\s{0,3}(?:\*\*)?(\d+)[.)]\s"),
)
"""`Step 1: ...` with or without a heading's marks, `## 1. ...`, `1. ...`, in this order of trust."""


def split_steps(text: str) -> list[str]:
    """The steps of a solution, in order: numbered ones (`Step 1`, `## 1.`, `1.`) where they count up from 1, else its lines.

    What stands before the first number belongs to the first step. Reasoning between <think> marks is left out, and code in a fence is
    never cut.
    """
    lines = THOUGHT.sub("", text).strip().splitlines()
    open_lines = list(_outside_fences(lines))
    for mark in _MARKS:
        starts = _counted(mark, open_lines)
        if len(starts) > 1:
            borders = [0, *starts[1:], len(lines)]
            return ["\n".join(lines[a:b]).strip() for a, b in pairwise(borders)]
    return _line_steps(lines)


def _outside_fences(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _counted(mark: re.Pattern[str], lines: Iterable[tuple[int, str]]) -> list[int]:
    """Where steps 1, 2, 3 ... begin; a number out of turn (a list within a step) is passed over."""
    starts: list[int] = []
    for number, line in lines:
        found = mark.match(line)
        if found and int(found.group(1)) == len(starts) + 1:
            starts.append(number)
    return starts


def _line_steps(lines: Sequence[str]) -> list[str]:
    steps: list[str] = []
    free = {number for number, _ in _outside_fences(lines)}
    for number, line in enumerate(lines):
        if number in free or not steps:
            steps += [line.strip()] if line.strip() else []
        else:
            steps[-1] += "\n" + line
    return steps


def step_rows(
    prompt: Sequence[Message],
    steps: Sequence[str],
    task_id: str,
    *,
    last: bool = False,
    source: str | None = None,
) -> list[StepRow]:
    """The rows of one solution: N - 1 of N steps (`last`: N).

    The steps before join the last message of the prompt, which is the user's. What to do with them is the learner's to say.
    """
    targets = steps if last else steps[:-1]
    return [
        StepRow(prompt=_asked(prompt, steps[:number]), target=step, task_id=task_id, number=number + 1, source=source)
        for number, step in enumerate(targets)
    ]


def _asked(prompt: Sequence[Message], before: Sequence[str]) -> tuple[Message, ...]:
    done = "\n".join([STEPS_HEADING, *before]) if before else ""
    words = "\n\n".join(part for part in (prompt[-1].text, done) if part)
    return (*prompt[:-1], prompt[-1].model_copy(update={"content": words}))
