"""Asking for help at a price: what is asked, what comes back, and who may be asked.

A person (`tutelage.inbox`), a stronger model and the reference answer are all an `Advisor`. A person who advises and a person who grades
answer the same kind of question.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from random import Random
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import ConfigDict, field_validator

from tutelage.errors import InputError
from tutelage.records import Advice, Completion, Message, Record, Task, content_id
from tutelage.screening import fence

__all__ = [
    "PREFERENCES",
    "RIGHT",
    "WRONG",
    "Advice",
    "Advisor",
    "AskModel",
    "Kind",
    "ModelAdvisor",
    "Question",
    "ReferenceAdvisor",
    "advisor_messages",
    "described_advisor",
    "read_answer",
    "reference_text",
    "score_of",
]

Kind = Literal["advice", "grade", "preference"]
"""What is wanted: help for an episode that waits, a grade (right, wrong, or a number from 0 to 1), or which of two is better."""

PREFERENCES = ("a", "b", "tie")
RIGHT, WRONG = "right", "wrong"
_SCORES = {RIGHT: 1.0, WRONG: 0.0, "correct": 1.0, "incorrect": 0.0, "yes": 1.0, "no": 0.0}


class Question(Record):
    """What is asked, with what somebody needs to know who answers it.

    choices: the only answers there are; none: free words. episode: the `Episode.ref` that asks, so that the same words asked twice in one
    episode are one question, and in another episode another one. to: the expert who is asked by name; "": whoever is there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    context: str = ""
    kind: Kind = "advice"
    choices: tuple[str, ...] = ()
    agent_version: str = ""
    task_id: str = ""
    episode: str = ""
    to: str = ""

    @field_validator("text", "context")
    @classmethod
    def _whole(cls, text: str) -> str:
        """Without halves of surrogate pairs, which models leave behind and nothing can store: the id must not change by being stored."""
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @cached_property
    def id(self) -> str:
        """Hash of the content."""
        return content_id(self.canonical())


@runtime_checkable
class Advisor(Protocol):
    """Anyone who may be asked. name: for reports. price: what one answer costs, in units of reward."""

    @property
    def name(self) -> str:
        """Who it is."""
        ...

    @property
    def price(self) -> float:
        """Units of reward per answer."""
        ...

    async def ask(self, question: Question) -> Advice | None:
        """The answer; None where none is to be had, and the agent goes on without. Nothing is charged then.

        The same question asked again gives the same answer, and is charged once. Raises `ModelFailed`, `ModelUnavailable` and
        `BudgetExceeded` where a model is asked, `StoreError` where the answer cannot be kept.
        """
        ...


def described_advisor(advisor: Advisor) -> dict[str, Any]:
    """All that is known to decide its answers, as JSON."""
    if describe := getattr(advisor, "described", None):
        return dict(describe())
    known = {name: getattr(advisor, name) for name in ("error_rate", "seed") if hasattr(advisor, name)}
    return {"name": advisor.name, **known}


def read_answer(question: Question, answer: str) -> str:
    """The answer in its one spelling: a choice as it was offered, a grade as `right`, `wrong` or a number, words without blanks around.

    The beginning of a choice is enough where no other begins so. Raises `InputError` saying what may be answered.
    """
    said = answer.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    choices = question.choices or (PREFERENCES if question.kind == "preference" else ())
    if choices:
        return _choice(said, choices)
    if question.kind == "grade":
        return _read_grade(said)
    if not said:
        raise InputError("the answer has no words; write it, or decline the question", field="TEXT")
    return said


def _choice(said: str, choices: Sequence[str]) -> str:
    folded = said.casefold()
    exact = [choice for choice in choices if choice.casefold() == folded]
    near = [choice for choice in choices if folded and choice.casefold().startswith(folded)]
    found = exact or near
    if len(found) != 1:
        raise InputError(f"`{said}` is not one of the answers: {', '.join(choices)}", field="TEXT")
    return found[0]


def _read_grade(said: str) -> str:
    score = _SCORES.get(said.casefold())
    if score is not None:
        return RIGHT if score else WRONG
    try:
        value = float(said)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or not 0 <= value <= 1:
        raise InputError(f"`{said}` is no grade; write right, wrong, or a number from 0 to 1", field="TEXT")
    return f"{value:g}"


def score_of(answer: str) -> float:
    """The score in [0, 1] that a grade's answer means, as `read_answer` spells it."""
    score = _SCORES.get(answer)
    return float(answer) if score is None else score


# -- the reference answer: a simulated expert


def reference_text(task: Task) -> str | None:
    """The reference as words; of several right answers the first. None: the task has none."""
    reference: Any = task.reference
    if isinstance(reference, list | tuple) and reference and all(isinstance(item, str) for item in reference):
        reference = reference[0]
    if reference is None or isinstance(reference, str):
        return reference
    return json.dumps(reference, ensure_ascii=False, sort_keys=True)


class ReferenceAdvisor:
    """A simulated expert: knows the tasks' reference answers, and gives another one for a share `error_rate` of the tasks.

    Whether it errs on a task, and how, depends on `seed` and the task alone: asking again, in other words or from another episode, does
    not help, as it does not with a person who has it wrong, and a rerun repeats it. Where it errs it gives another of the question's
    choices, else the answer of another task of the same kind (of any kind where that has only one). say: what it answers for a task.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        error_rate: float = 0.0,
        seed: int = 0,
        price: float = 0.0,
        name: str = "reference",
        say: Callable[[Task], str | None] = reference_text,
    ) -> None:
        if not 0 <= error_rate <= 1:
            raise InputError(f"is a share from 0 to 1, and this is {error_rate}", field="error_rate")
        self.name, self.price, self.error_rate, self.seed = name, price, error_rate, seed
        self._answers: dict[str, tuple[str, str | None]] = {}
        pools: dict[str | None, set[str]] = {}
        for task in tasks:
            answer = say(task)
            if answer is not None:
                self._answers[task.id] = answer, task.kind
                pools.setdefault(task.kind, set()).add(answer)
        self._all = sorted(set().union(*pools.values()))
        self._pools = {kind: sorted(answers) if len(answers) > 1 else self._all for kind, answers in pools.items()}

    async def ask(self, question: Question) -> Advice | None:
        """The reference answer or, on its bad tasks, a wrong one; None for a task without a reference, or where nothing wrong is known."""
        if question.task_id not in self._answers:
            return None
        right, kind = self._answers[question.task_id]
        random = Random(f"{self.seed}/{question.task_id}")
        errs = random.random() < self.error_rate
        answer = self._wrong(right, question.choices or self._pools[kind], random) if errs else right
        return None if answer is None else self._advice(question, answer)

    def _wrong(self, right: str, pool: Sequence[str], random: Random) -> str | None:
        others = [answer for answer in pool if answer != right]
        return random.choice(others) if others else None

    def _advice(self, question: Question, answer: str) -> Advice:
        return Advice(question_id=question.id, answer=answer, by=self.name, when=datetime.now(UTC), price=self.price)


# -- a stronger model

AskModel = Callable[[Sequence[Message]], Awaitable[Completion]]
"""One reply of a model: within a budget and kept, as `Practice.ask` with the model named."""

INSTRUCTIONS = (
    "You are an expert. A colleague who works on a task asks you for help. Answer the question itself, briefly and with what is needed to "
    "act on it. Where you do not know, say so."
)


class ModelAdvisor:
    """A stronger model as the expert. ask: how it is reached, such as `lambda messages: practice.ask("endpoint:big", messages)`.

    What the agent shows of its work is fenced as data. A question with choices is answered with one of them, else not at all.
    """

    def __init__(self, name: str, ask: AskModel, *, price: float = 0.0, instructions: str = INSTRUCTIONS) -> None:
        self.name, self.price, self._ask, self._instructions = f"model:{name}", price, ask, instructions

    async def ask(self, question: Question) -> Advice | None:
        """The model's reply; None where it is empty, cut off, or none of the choices."""
        completion = await self._ask(advisor_messages(question, self._instructions))
        answer = _model_answer(question, completion)
        if answer is None:
            return None
        when, usd = datetime.now(UTC), completion.cost_usd
        return Advice(question_id=question.id, answer=answer, by=self.name, when=when, price=self.price, price_usd=usd)


def advisor_messages(question: Question, instructions: str = INSTRUCTIONS) -> tuple[Message, ...]:
    """What a model that advises is shown."""
    parts = [fence(question.context, "agent")] if question.context else []
    parts.append(f"Question: {question.text}")
    choices = question.choices or (PREFERENCES if question.kind == "preference" else ())
    if choices:
        parts.append(f"Answer with one of these, and nothing else: {', '.join(choices)}")
    elif question.kind == "grade":
        parts.append("Answer with right, wrong, or a number from 0 to 1, and nothing else.")
    return Message(role="system", content=instructions), Message(role="user", content="\n\n".join(parts))


def _model_answer(question: Question, completion: Completion) -> str | None:
    text = completion.message.text.strip()
    if not question.choices and question.kind != "advice":
        text = text.rstrip(".")
    if completion.finish == "length":
        return None
    try:
        return read_answer(question, text)
    except InputError:
        return None
