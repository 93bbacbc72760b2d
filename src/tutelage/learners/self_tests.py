"""Tests that the model writes for its own code, in place of hidden ones, while it tries again (Reflexion's programming variant).

A test that is wrong misleads: one that passes bad code ends the trials too early (a false positive), one that fails good code costs a
retry (a false negative). Both are counted against the hidden tests afterwards, which the loop itself never sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from tutelage.errors import InputError
from tutelage.graders.python_text import find_code, self_tests
from tutelage.learners.asking import Asked, ask_all
from tutelage.learners.trajectory import Verdict, stuck
from tutelage.practice import Practice
from tutelage.records import Experience, Message, Sampling, StopReason, Task
from tutelage.sandbox import Outcome, run_tests
from tutelage.screening import fence

_SILENT = (Outcome.TESTS, Outcome.NO_CALL)
"""Outcomes that say something about the tests, and nothing about the code."""

_ASK = """\
A programmer was given this task:

{task}

Write tests for the function `{entry}`: at most {cap} lines, each one `assert {entry}(...) == ...` with values that follow from the task \
beyond doubt. Cover an ordinary case first, then edge cases. Do not write the function itself. Answer with one ```python block."""


class SelfTests:
    """The tests of each task that has a function to write (`reference.entry`), and the judge that they make.

    `tests`: task id -> the assertions. A task for which the model wrote none is not judged by them at all.
    """

    def __init__(self, tests: Mapping[str, Sequence[str]], threshold: float) -> None:
        self.tests, self.threshold = tests, threshold
        self._counts: Counter[tuple[bool, bool]] = Counter()

    @classmethod
    async def written_by(
        cls, model: Asked, practice: Practice, tasks: Sequence[Task], cap: int, *, threshold: float = 1.0, max_tokens: int = 512
    ) -> SelfTests:
        """Let the model write the tests of all tasks. Raises `InputError` where no task names a function."""
        with_entry = [task for task in tasks if entry_of(task)]
        if not with_entry:
            raise InputError(
                "no training task has a function to test (a reference with `entry`); leave self_tests at 0",
                field="learners.reflexion.self_tests",
            )
        questions = [_question(task, cap) for task in with_entry]
        replies = await ask_all(practice, model, questions, Sampling(max_tokens=max_tokens), "own tests")
        read = {task.id: self_tests(reply or "", entry_of(task), cap) for task, reply in zip(with_entry, replies, strict=True)}
        return cls({id: tests for id, tests in read.items() if tests}, threshold)

    async def judge(self, task: Task, experience: Experience) -> Verdict:
        """Whether the attempt's code passes its own tests, with the failing one in words; what the grader said is only counted."""
        episode, tests = experience.episode, self.tests.get(task.id)
        if not tests or episode.stop is StopReason.MODEL_ERROR:
            return Verdict(None)
        verdict = await self._run(task, episode.answer or "", "\n".join(tests))
        reason = stuck(episode)
        if verdict.solved is not None and experience.grade.score is not None:
            self._counts[verdict.solved, experience.grade.score >= self.threshold] += 1
        words = "\n".join(part for part in (verdict.words, reason if not verdict.solved else "") if part)
        return Verdict(verdict.solved, words, stuck=reason is not None)

    async def _run(self, task: Task, answer: str, tests: str) -> Verdict:
        code = find_code(answer, entry_of(task), _prompt_of(task))
        if code is None:
            return Verdict(False, "there is no Python program in the answer")
        result = await run_tests(code, tests, entry=entry_of(task))
        return Verdict(None if result.outcome in _SILENT else result.passed, f"By the tests that you wrote yourself: {result.words}")

    def facts(self, tasks: Iterable[Task]) -> dict[str, JsonValue]:
        """For the report. Rates are shares of attempts: of those that passed their own tests, the ones that fail the hidden tests
        (false positives); of those that failed their own, the ones that pass the hidden ones (false negatives). None: there were none.
        """
        return {
            "self_test_false_positives": _share(self._counts, passed_own=True, passed_hidden=False),
            "self_test_false_negatives": _share(self._counts, passed_own=False, passed_hidden=True),
            "self_test_attempts": self._counts.total(),
            "self_tests_missing": sum(1 for task in tasks if task.id not in self.tests),
        }


def entry_of(task: Task) -> str:
    """The name of the function to write; empty where the task names none."""
    return _text_in(task, "entry")


def _prompt_of(task: Task) -> str:
    return _text_in(task, "prompt")


def _text_in(task: Task, name: str) -> str:
    reference: Any = task.reference
    value = reference.get(name) if isinstance(reference, dict) else None
    return value if isinstance(value, str) else ""


def _question(task: Task, cap: int) -> list[Message]:
    return [Message(role="user", content=_ASK.format(task=fence(task.text, "user"), entry=entry_of(task), cap=cap))]


def _share(counts: Counter[tuple[bool, bool]], *, passed_own: bool, passed_hidden: bool) -> float | None:
    whole = counts[passed_own, True] + counts[passed_own, False]
    return counts[passed_own, passed_hidden] / whole if whole else None
