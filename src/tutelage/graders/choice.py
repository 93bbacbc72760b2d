"""The grader of multiple choice: which of the task's options the answer names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.errors import InputError
from tutelage.graders.text import answer_of, no_answer, references, short
from tutelage.records import Episode, Grade, Task
from tutelage.task_formats.choices import choices_of, read_choices


@dataclass(frozen=True)
class Choice:
    """1 where the answer names the right option and no other: by its label, its text, or both ("B", "(b) ibuprofen", "it is ibuprofen").

    The options stand in the task's environment (`tutelage.task_formats.choices`); the reference is a label or a text of theirs, or a list
    of acceptable ones. An answer that names two different options is wrong, whichever they are.
    """

    name: str = field(default="choice", kw_only=True)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """1 or 0."""
        choices = _choices(task)
        expected, answer = _expected(task, choices), answer_of(episode)
        if not answer:
            return no_answer(episode)
        named = read_choices(answer, choices)
        if len(named) == 1 and named[0] in expected:
            return Grade(score=1.0, words="correct")
        wanted = f"expected {' or '.join(_shown(label, choices) for label in expected)}"
        if not named:
            return Grade(score=0.0, words=f"the answer {short(answer)} names none of the options; {wanted}")
        got = " and ".join(_shown(label, choices) for label in named)
        return Grade(score=0.0, words=f"{wanted}, got {got}" + ("; one option is wanted" if len(named) > 1 else ""))

    def check(self, task: Task) -> None:
        """Options are needed, and a reference that is one of them."""
        _expected(task, _choices(task))


def _choices(task: Task) -> dict[str, str]:
    choices = choices_of(task)
    if not choices:
        way_out = 'environment: {"choices": {"A": "aspirin", "B": "ibuprofen"}}, or a list of texts'
        raise InputError(f"the task lists no options. Write {way_out}", file=task.source, field="environment.choices")
    return choices


def _expected(task: Task, choices: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of the acceptable options."""
    named = [(text, read_choices(text, choices)) for text in references(task)]
    for text, labels in named:
        if len(labels) != 1:
            raise InputError(
                f"the reference {short(text)} is none of the options: {', '.join(choices)}", file=task.source, field="reference"
            )
    return tuple(dict.fromkeys(labels[0] for _, labels in named))


def _shown(label: str, choices: Mapping[str, str]) -> str:
    return short(label) if label == choices[label] else f"{label}) {short(choices[label])}"
