"""What every model that judges has: its model and options, a name that changes with all that decides its verdicts, how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import ValidationError

from tutelage.errors import InputError
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_confidence import Ballot, polling
from tutelage.graders.judge_models import Models
from tutelage.graders.judge_prompts import Asked, Question, again
from tutelage.graders.judge_reply import Tally
from tutelage.model import Model, load_model
from tutelage.records import Record, Task, content_id
from tutelage.suggest import unknown

_O = TypeVar("_O", bound=Asked)
_R = TypeVar("_R", bound=Record)


class ModelJudge(Generic[_O]):
    """A model that judges, whatever it is shown. Whoever derives from it says what is asked (`questions`) and of how many answers.

    called: the kind of judge, with which its name begins. kind: what it reads, single answers or pairs.
    """

    called: ClassVar[str]
    kind: Literal["score", "pair"]

    def __init__(self, model: str | Model, options: _O) -> None:
        self.model, self.options = model, options
        self._models: Models = load_model
        self._polling = polling(options)

    def bind(self, models: Models) -> Self:
        """The same judge, asking the models that `models` gives."""
        other = copy(self)
        other._models = models
        return other

    @cached_property
    def name(self) -> str:
        """What it is called, and the version."""
        return f"{self.called}:{self.version}"

    @cached_property
    def version(self) -> str:
        """Hash of all that decides its verdicts."""
        return content_id(self.described())

    def described(self) -> dict[str, Any]:
        """All that decides its verdicts, as JSON; the prompts by their hash, as they are for a made-up case."""
        probe = Case(question="?", answers=("!",) if self.kind == "score" else ("!", "."), reference="!")
        shown = [question.messages(form) for question in self.questions(probe) for form in ("json", "lines", "digit", "reasons")]
        texts = [[[message.role, message.text] for message in messages] for messages in shown]
        repeated = [message.text for message in again((), "?", "?")]
        return {
            "kind": self.called,
            "model": load_model(self.model).name,
            "options": self.options.canonical(),
            "prompts": content_id([texts, repeated]),
        }

    def questions(self, case: Case) -> list[Question]:
        """What is asked about a case."""
        raise NotImplementedError

    async def _ballots(self, case: Case) -> tuple[list[Ballot], dict[str, Any]]:
        """A ballot for each question, and what the calls used and cost, as an opinion has it."""
        model, tally = self._models(self.model), Tally()
        ballots = [await self._polling.ballot(model, question, tally) for question in self.questions(case)]
        return ballots, {"usage": tally.usage, "cost_usd": tally.cost_usd}


def words_for(verdict: str, ballots: Sequence[Ballot]) -> str:
    """The first reasons given for a verdict."""
    return next((ballot.words for ballot in ballots if ballot.words and ballot.verdict == verdict), "")


def check_reference(options: Asked, task: Task) -> None:
    """Raise `InputError` where the reference is to be shown and there is none."""
    if options.reference and task.reference is None:
        message = "the judge is to compare with a reference, and the task has none; add it, or leave `reference` out"
        raise InputError(message, file=task.source, field="reference")


def read_options(name: str, kind: type[_R], options: dict[str, Any]) -> _R:
    """The options of a judge, checked. Raises `InputError` naming the option."""
    for option in options:
        if option not in kind.model_fields:
            raise InputError(unknown(f"an option of `{name}`", option, kind.model_fields), field=f"grader.{name}.{option}")
    try:
        return kind(**options)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{first['msg']} (given: {first['input']!r})", field=f"grader.{name}.{place}") from None
