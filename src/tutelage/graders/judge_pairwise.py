"""A model that says which of two answers is better, asked in both orders.

A verdict that changes with the order says nothing of the answers: averaged over both orders such ballots cancel, and the pair is a tie of
low confidence.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from tutelage.errors import InputError
from tutelage.graders.judge_base import ModelJudge, check_reference, read_options, words_for
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Ballot, Opinion, Source, leading, mean_mass
from tutelage.graders.judge_prompts import Asked, Question, pair_question
from tutelage.model import Model
from tutelage.records import Episode, Record, Task


class PairOptions(Asked):
    """What decides how a `PairwiseJudge` judges, beside its model. ties: whether two answers may be called equally good."""

    criteria: str
    ties: bool = True


class Preferred(Record):
    """The better and the worse of two episodes, by `Episode.ref`, and how sure the judge is, in (0, 1]."""

    winner: str
    loser: str
    weight: float


class PairwiseJudge(ModelJudge[PairOptions]):
    """Compares two answers by a criterion in plain words, in both orders. The options are those of `PairOptions`.

    The verdict has the largest mean mass over annotators and orders; where `a` and `b` have the same, it is a tie. Two equal answers are a
    tie, and an empty one loses, by rule (without `ties` equal ones have no confidence). Raises `InputError` for a wrong option.
    """

    called: ClassVar[str] = "pairwise"
    kind: Literal["pair"] = "pair"

    def __init__(self, model: str | Model, criteria: str, **options: Any) -> None:
        super().__init__(model, read_options("pairwise", PairOptions, {"criteria": criteria, **options}))
        if not self.options.criteria.strip():
            raise InputError("the criterion is empty; say in plain words what makes an answer better", field="grader.pairwise.criteria")
        for annotator in self.options.annotators:
            if any(not isinstance(item.label, str) or len(item.case.answers) != 2 for item in annotator.examples):
                message = f"the examples of {annotator.name} are no pairs, and this judge compares pairs"
                raise InputError(message, field="grader.pairwise.annotators")

    async def opinion(self, case: Case) -> Opinion:
        """Which answer is better, with all ballots. Raises `GraderError`, and what the models' source raises."""
        if len(case.answers) != 2:
            raise InputError(f"this judge compares two answers, and the case has {len(case.answers)}")
        if (ruled := _by_rule(*(answer.strip() for answer in case.answers), ties=self.options.ties)) is not None:
            return ruled
        ballots, used = await self._ballots(case)
        return _joined(ballots).model_copy(update=used)

    async def prefer(self, task: Task, one: Episode, other: Episode) -> Opinion:
        """Which of two episodes of a task is better: `a` is the first."""
        check_reference(self.options, task)
        return await self.opinion(case_of(task, one, other, max_chars=self.options.max_chars))

    def questions(self, case: Case) -> list[Question]:
        """What is asked: each annotator, in both orders."""
        options = self.options
        return [
            pair_question(case, options.criteria, options, ties=options.ties, swapped=swapped, annotator=annotator)
            for annotator in options.annotators or (None,)
            for swapped in (False, True)
        ]


def preferred(opinion: Opinion, one: Episode, other: Episode) -> Preferred | None:
    """The pair to learn from; None for a tie, and where the judge is not sure at all."""
    if opinion.verdict not in ("a", "b") or opinion.confidence <= 0:
        return None
    winner, loser = (one, other) if opinion.verdict == "a" else (other, one)
    return Preferred(winner=winner.ref, loser=loser.ref, weight=opinion.confidence)


def _joined(ballots: list[Ballot]) -> Opinion:
    mass = mean_mass(ballots)
    verdict = _winner(mass)
    in_order, swapped = ([ballot for ballot in ballots if ballot.swapped is order] for order in (False, True))
    return Opinion(
        verdict=verdict,
        score=None,
        confidence=max(mass.values()),
        mass=mass,
        words=words_for(verdict, in_order) or words_for(verdict, ballots),
        consistent=_winner(mean_mass(in_order)) == _winner(mean_mass(swapped)),
        ballots=tuple(ballots),
    )


def _winner(mass: dict[str, float]) -> str:
    best = leading(mass)
    return best[0] if len(best) == 1 else "tie"


def _by_rule(first: str, second: str, *, ties: bool) -> Opinion | None:
    """What needs no model. Equal answers where no tie is allowed get no confidence at all."""
    if first and second and first != second:
        return None
    verdict = "tie" if first == second else "a" if first else "b"
    sure = float(ties or verdict != "tie")
    words = "the answers are the same" if first == second else f"the {'second' if first else 'first'} answer is empty"
    ballot = Ballot(mass={verdict: sure}, verdict=verdict, source=Source.RULE, words=words)
    return Opinion(verdict=verdict, score=None, confidence=sure, mass=ballot.mass, words=words, consistent=True, ballots=(ballot,))
