"""Functions to write, with hidden tests: an environment in which the agent may try its code, and where tasks come from.

HumanEval (Chen et al. 2021), from a file in the form of MultiPL-E, or small functions of our own that need no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from tutelage.environments.code_families import FAMILIES, Family
from tutelage.errors import InputError
from tutelage.graders.code import HiddenTests
from tutelage.graders.python_text import self_tests
from tutelage.records import Episode, Grade, Message, Task
from tutelage.sandbox import SandboxLimits
from tutelage.suggest import unknown
from tutelage.task_formats.lines import Where, json_rows, make_task
from tutelage.tools.python import observe

__all__ = ["HUMANEVAL", "CodeEnvironment", "code_tasks", "self_tests"]

HUMANEVAL = "humaneval"
"""As `file`: HumanEval's file within the folder that TUTELAGE_DATA names."""

_HUMANEVAL_FILE = "humaneval/humaneval-py.jsonl"
_TESTS = 8
_ASK = "Write this Python function. Answer with the whole function in one ```python block.\n\n```python\n{prompt}\n```"


class CodeEnvironment:
    """The agent may run programs in the sandbox; its answer is the code, graded by the task's hidden tests, which it never sees.

    show_tests: whether the grade's words may quote them. seconds, memory_mb: limits of each run, and of the tests.
    """

    def __init__(self, show_tests: bool = False, seconds: float = 5.0, memory_mb: int = 512) -> None:
        self._grader = HiddenTests(show_tests=show_tests, seconds=seconds, memory_mb=memory_mb)
        self._limits = SandboxLimits(seconds=seconds, cpu_seconds=seconds, memory_mb=memory_mb)
        self._task: Task | None = None

    def reset(self, task: Task) -> str | None:
        """Start a task. Raises `InputError` where it has no hidden tests."""
        self._grader.check(task)
        self._task = task
        return None

    async def run(self, code: str) -> str:
        """Run a Python program and see what it prints. Each call starts afresh: put the function and its calls into one program.

        Args:
            code: The whole program. Use print to see a value.
        """
        return await observe(code, self._limits)

    async def grade(self, episode: Episode) -> Grade:
        """1 where the answer's code passes the hidden tests, else 0. Raises `GraderError` where they cannot be run."""
        if self._task is None:
            raise InputError("the environment was not reset with a task")
        return await self._grader.grade(self._task, episode)


def code_tasks(n: int, seed: int, *, file: str | None = None, families: Sequence[str] | None = None) -> tuple[Task, ...]:
    """`n` functions to write, drawn by `seed`.

    file: None for functions of our own; `humaneval`, or a path to a file of HumanEval (JSON Lines with `prompt`, `test`, `entry_point`),
    also relative to TUTELAGE_DATA. families: which of our own functions; all where None. A task of our own is the same under every
    seed; the seed chooses which and in what order. Raises `InputError` where there are fewer than `n`, or no such file.
    """
    if n < 1:
        raise InputError(f"at least one task is needed, and n is {n}", field="n")
    if file is not None and families is not None:
        raise InputError("`families` belongs to the functions of our own; leave out `file`", field="families")
    path = None if file is None else _path(file)
    tasks = [_humaneval_task(row, where) for where, row in json_rows(path)] if path else list(_own_tasks(families))
    if len(tasks) < n:
        raise InputError(f"{n} tasks are asked for, and there are {len(tasks)}. Ask for fewer", file=path, field="n")
    Random(f"code/{seed}").shuffle(tasks)
    return tuple(tasks[:n])


def _path(file: str) -> Path:
    data = os.environ.get("TUTELAGE_DATA")
    name = _HUMANEVAL_FILE if file == HUMANEVAL else file
    places = [Path(name).expanduser(), *([Path(data) / name] if data else [])]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"there is no file {' or '.join(map(str, places))}. Give the path to HumanEval's problems as `file` (JSON Lines with prompt, test "
        "and entry_point; the dataset nuprl/MultiPL-E, humaneval-py, has them), or set TUTELAGE_DATA to the folder in which "
        f"{_HUMANEVAL_FILE} stands. Without `file` small functions of our own are asked for",
        file=file, field="file",
    )  # fmt: skip


def _humaneval_task(row: dict[str, Any], where: Where) -> Task:
    for field in ("prompt", "test", "entry_point"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise where.error("this must be a text, as in HumanEval's file", field)
    reference = {"tests": row["test"], "entry": row["entry_point"], "prompt": row["prompt"]}
    return make_task({"messages": (_ask(row["prompt"].rstrip()),), "reference": reference, "kind": "humaneval"}, where)


def _own_tasks(names: Iterable[str] | None) -> Iterable[Task]:
    known = {family.name: family for family in FAMILIES}
    for name in known if names is None else names:
        if name not in known:
            raise InputError(unknown("a family of functions", name, known), field="families")
        yield from (_own_task(known[name], number) for number in range(len(known[name].params)))


def _own_task(family: Family, number: int) -> Task:
    """The task of one parameter, with inputs that depend on nothing else."""
    param = family.params[number]
    random = Random(f"{family.name}/{number}")
    inputs = [family.draw(random), family.edge, *(family.draw(random) for _ in range(_TESTS - 1))]
    example, *hidden = [(_written(args), repr(family.solve(param, *deepcopy(args)))) for args in inputs]
    words = f"{family.words(param)}\n\n    >>> {family.name}({example[0]})\n    {example[1]}\n    "
    prompt = f'def {family.name}{family.signature}:\n    """{words}"""\n'
    tests = "".join(f"assert {family.name}({args}) == {result}\n" for args, result in hidden)
    reference = {"tests": tests, "entry": family.name, "prompt": prompt}
    return Task(messages=(_ask(prompt.rstrip()),), reference=reference, kind=family.name, source=f"code/{family.name}:{number + 1}")


def _written(args: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, args))


def _ask(prompt: str) -> Message:
    return Message(role="user", content=_ASK.format(prompt=prompt))
