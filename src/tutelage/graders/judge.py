"""A model as a grader: how far an answer meets criteria in plain words.

Each criterion is a question of its own, so that no criterion colours another, and each is asked with no other memory. What is judged stands
in a fence: an answer that asks for full marks is data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from tutelage.errors import InputError
from tutelage.graders.judge_base import ModelJudge, check_reference, read_options, words_for
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Ballot, Opinion, Source, leading, mean_mass
from tutelage.graders.judge_prompts import Asked, Question, score_question
from tutelage.graders.text import no_answer
from tutelage.model import Model, load_model
from tutelage.records import Episode, Grade, Task
from tutelage.suggest import unknown


class Options(Asked):
    """What decides how a `Judge` judges, beside its model.

    criteria: one in plain words (a rubric), or several by name. weights: of the criteria, 1 where not given; divided by their sum; one of
    weight 0 is only reported. scale: the best score; scores are whole numbers from 0 to it.
    """

    criteria: str | dict[str, str]
    weights: dict[str, float] = Field(default_factory=dict)
    scale: int = Field(default=4, ge=1, le=9)

    @property
    def by_name(self) -> dict[str, str]:
        """The criteria by name; a single one without a name has the empty one."""
        return {"": self.criteria} if isinstance(self.criteria, str) else self.criteria

    def weight(self, name: str) -> float:
        """A criterion's weight."""
        return self.weights.get(name, 1.0)


class Judge(ModelJudge[Options]):
    """Grades an answer by criteria in plain words, from 0 to 1. The options are those of `Options`; a wrong one raises `InputError`.

    The confidence of several criteria is that of the least sure one that counts. Where there is nothing to judge (no answer, no action)
    the score is 0 by rule. A judge whose model fails, or gives no readable verdict in two replies, raises `GraderError`. Its name
    holds a hash of its model, criteria, options and prompts: where one of them changes, it is another judge.
    """

    called: ClassVar[str] = "judge"
    kind: Literal["score"] = "score"

    def __init__(self, model: str | Model, criteria: str | Mapping[str, str], **options: Any) -> None:
        super().__init__(model, read_options("judge", Options, {"criteria": criteria, **options}))
        _check_criteria(self.options)
        _check_annotators(self.options)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The score with words, confidence, and the criteria's scores as parts."""
        case = case_of(task, episode, max_chars=self.options.max_chars)
        if not case.answers[0].strip():
            return no_answer(episode).model_copy(update={"confidence": 1.0})
        return grade_of(await self.opinion(case))

    def check(self, task: Task) -> None:
        """A reference is needed where it is to be shown, and a model that can be had."""
        load_model(self.model)
        check_reference(self.options, task)

    async def opinion(self, case: Case) -> Opinion:
        """What the judge thinks of one answer, with all ballots. Raises `GraderError`, and what the models' source raises."""
        if len(case.answers) != 1:
            raise InputError(f"this judge reads one answer at a time, and the case has {len(case.answers)}; compare two with PairwiseJudge")
        if not case.answers[0].strip():
            return _nothing_to_judge()
        ballots, used = await self._ballots(case)
        return self._joined(ballots).model_copy(update=used)

    def questions(self, case: Case) -> list[Question]:
        """What is asked: each criterion, of each annotator."""
        options = self.options
        return [
            score_question(case, criterion, options.scale, options, name=name, annotator=annotator)
            for name, criterion in options.by_name.items()
            for annotator in options.annotators or (None,)
        ]

    def _joined(self, ballots: list[Ballot]) -> Opinion:
        names = list(self.options.by_name)
        each = {name: _one(ballots, name) for name in names}
        counted = [name for name in names if self.options.weight(name) > 0]
        total = math.fsum(self.options.weight(name) for name in counted)
        scores = {name: int(each[name].verdict) / self.options.scale for name in names}
        alone = each[names[0]] if len(names) == 1 else None
        return Opinion(
            verdict=alone.verdict if alone else "",
            score=math.fsum(self.options.weight(name) * scores[name] for name in counted) / total,
            confidence=min(each[name].confidence for name in counted),
            mass=alone.mass if alone else {},
            words="\n".join(f"{name}: {each[name].words}" if name else each[name].words for name in names if each[name].words),
            parts={name: scores[name] for name in names if name},
            ballots=tuple(ballots),
        )


def _one(ballots: list[Ballot], criterion: str) -> Opinion:
    """The opinion on one criterion; of verdicts with equal mass the lowest."""
    own = [ballot for ballot in ballots if ballot.criterion == criterion]
    mass = mean_mass(own)
    verdict = min(leading(mass), key=int)
    return Opinion(verdict=verdict, score=None, confidence=mass[verdict], mass=mass, words=words_for(verdict, own))


def _nothing_to_judge() -> Opinion:
    ballot = Ballot(mass={"0": 1.0}, verdict="0", source=Source.RULE, words="there is no answer")
    return Opinion(verdict="0", score=0.0, confidence=1.0, mass=ballot.mass, words=ballot.words, ballots=(ballot,))


def grade_of(opinion: Opinion) -> Grade:
    """The opinion on one answer as a grade."""
    return Grade(score=opinion.score, words=opinion.words, confidence=opinion.confidence, parts=opinion.parts)


def _check_criteria(options: Options) -> None:
    place = "grader.judge.criteria"
    if not options.by_name:
        raise InputError("at least one criterion is needed", field=place)
    for name, words in options.by_name.items():
        if not words.strip():
            raise InputError("the criterion is empty; say in plain words what a good answer does", field=f"{place}.{name}".rstrip("."))
    for name, weight in options.weights.items():
        if name not in options.by_name or not name:
            raise InputError(unknown("a criterion", name, filter(None, options.by_name)), field=f"grader.judge.weights.{name}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise InputError(f"the weight must be a number of 0 or more, and is {weight}", field=f"grader.judge.weights.{name}")
    if not any(options.weight(name) > 0 for name in options.by_name):
        raise InputError("at least one criterion needs a weight above 0", field="grader.judge.weights")


def _check_annotators(options: Options) -> None:
    place = "grader.judge.annotators"
    if options.confidence == "votes" and len(options.annotators) < 2:
        raise InputError(
            "the votes of a single judge say nothing of how sure it is; add simulated annotators, or take `stated` or `token`",
            field="grader.judge.confidence",
        )
    if options.annotators and len(options.by_name) > 1:
        raise InputError("people's examples speak of the whole answer; simulated annotators need a single criterion", field=place)
    for annotator in options.annotators:
        if any(isinstance(item.label, str) or len(item.case.answers) != 1 for item in annotator.examples):
            raise InputError(f"the examples of {annotator.name} are pairs, and this judge reads single answers", field=place)
