"""Grading code by hidden tests, run in the sandbox."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import GraderError, InputError
from tutelage.graders.python_text import find_code
from tutelage.graders.text import no_answer, short
from tutelage.records import Episode, Grade, Task
from tutelage.sandbox import Outcome, SandboxFailed, SandboxLimits, TestsResult, run_tests


@dataclass(frozen=True)
class HiddenTests:
    """1 where the code in the answer passes the task's tests, else 0, with words that say which test fails.

    The reference is `{"tests": TEXT, "entry": NAME, "prompt": TEXT}`: tests as `run_tests` takes them, the function they call, and, where
    the answer may be a function's body alone, the beginning of the function. show_tests: whether the words may quote the failing test
    and the call with its values; a learner that reads them sees a part of the hidden tests. seconds, memory_mb: limits of the sandbox.
    Where the tests themselves are broken, or the sandbox fails, a `GraderError` is raised: the code is not blamed.
    """

    show_tests: bool = True
    seconds: float = 5.0
    memory_mb: int = 512
    name: str = field(default="code", kw_only=True)

    def __post_init__(self) -> None:
        self._limits()

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """1 or 0."""
        tests, entry, prompt = self._reference(task)
        answer = episode.answer or ""
        if not answer.strip():
            return no_answer(episode)
        code = find_code(answer, entry, prompt)
        if code is None:
            return Grade(score=0.0, words=f"there is no Python program in the answer {short(answer.strip())}")
        try:
            result = await run_tests(code, tests, entry=entry, limits=self._limits())
        except SandboxFailed as error:
            raise GraderError(f"the tests could not be run: {error}") from error
        if result.outcome is Outcome.TESTS:
            raise GraderError(f"the tests of the task {task.source or task.id} are broken: {result.words}")
        return Grade(score=float(result.passed), words=self._words(result, entry))

    def check(self, task: Task) -> None:
        """Tests that are Python, and the name of the function, are needed."""
        self._reference(task)

    def _words(self, result: TestsResult, entry: str) -> str:
        if result.passed:
            return "correct: every hidden test holds"
        if self.show_tests or result.outcome is Outcome.CODE:
            return result.words
        return {
            Outcome.ASSERTION: f"`{entry}` returns a wrong value in a hidden test",
            Outcome.RAISED: f"`{entry}` raises an exception in a hidden test",
            Outcome.STOPPED: f"a limit was reached in a hidden test ({result.stopped})",
            Outcome.ENDED: "the program ended within a hidden test",
            Outcome.REFUSED: f"`{entry}` returns something else than plain data in a hidden test",
        }.get(result.outcome, "a hidden test fails")

    def _limits(self) -> SandboxLimits:
        return SandboxLimits(seconds=self.seconds, cpu_seconds=self.seconds, memory_mb=self.memory_mb)

    def _reference(self, task: Task) -> tuple[str, str, str]:
        reference: Any = task.reference
        if not isinstance(reference, dict):
            raise InputError('the reference must be {"tests": TEXT, "entry": NAME}', file=task.source, field="reference")
        texts = {"tests": reference.get("tests"), "entry": reference.get("entry"), "prompt": reference.get("prompt") or ""}
        for name, value in texts.items():
            if not isinstance(value, str) or not (value.strip() or name == "prompt"):
                raise InputError(f"`{name}` must be a text, and is {short(value)}", file=task.source, field=f"reference.{name}")
        tests, entry, prompt = (str(value) for value in texts.values())
        try:
            ast.parse(tests)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"the tests are no Python: {error}", file=task.source, field="reference.tests") from None
        return tests, entry, prompt
