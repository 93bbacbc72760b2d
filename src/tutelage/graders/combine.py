"""Grading one episode, and grading by several graders at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from tutelage.errors import BudgetExceeded, InputError, ModelUnavailable
from tutelage.grader import Grader, as_grade, as_grader
from tutelage.graders.judge_models import Models, bind_grader
from tutelage.records import Episode, Grade, StopReason, Task

NO_NUMBER = "grader failed: its score is"
"""How the words of a grade begin whose score was NaN or infinite."""

GraderLike = Grader | Callable[[Task, Episode], Any]


async def grade_episode(grader: Grader, task: Task, episode: Episode) -> Grade:
    """The grade of an episode. The only place that decides what is not graded (score None).

    Not graded: an episode whose model failed, and one whose grader failed (it raised, or gave something that is no score); the words say
    which. Raised are only `BudgetExceeded` and `ModelUnavailable`, which end a run.
    """
    if episode.stop is StopReason.MODEL_ERROR:
        return Grade(score=None, words=f"not graded: the model failed ({episode.error or 'no reason given'})")
    try:
        grade = as_grade(await grader.grade(task, episode))
    except (BudgetExceeded, ModelUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 -- a grader is anyone's code, and its failure must not cost the run
        return Grade(score=None, words=f"grader failed: {type(error).__name__}: {error}")
    if grade.score is not None and not math.isfinite(grade.score):
        return Grade(score=None, words=f"{NO_NUMBER} {grade.score}")
    return grade


class Weighted:
    """The weighted mean of several graders' scores; each score is a part by its name, a grader's own parts are `name.part`.

    Weights are 0 or more and are divided by their sum, so the score keeps the parts' range. A grader of weight 0 is only reported. Where
    a grader that counts gives no score, the whole is not graded: a mean over the rest would be a different measure.
    """

    def __init__(self, graders: Mapping[str, tuple[GraderLike, float]], name: str = "weighted") -> None:
        self.graders = {key: as_grader(grader) for key, (grader, _) in graders.items()}
        self.weights = {key: float(weight) for key, (_, weight) in graders.items()}
        self.name = name
        for key, weight in self.weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"the weight must be a number of 0 or more, and is {weight}", field=f"grader.weighted.{key}")
        if not sum(self.weights.values()) > 0:
            raise InputError("at least one grader needs a weight above 0", field="grader.weighted")

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The weighted mean, all graders at once."""
        given = await asyncio.gather(*(grade_episode(grader, task, episode) for grader in self.graders.values()))
        grades = dict(zip(self.graders, given, strict=True))
        counted = {key: grade for key, grade in grades.items() if self.weights[key] > 0}
        return Grade(
            score=self._mean(counted),
            words="\n".join(f"{key}: {grade.words}" for key, grade in grades.items() if grade.words),
            abstained=any(grade.abstained for grade in counted.values()),
            parts=_parts(grades),
        )

    def bind(self, models: Models) -> Weighted:
        """The same, those of its graders that ask models asking the ones that `models` gives."""
        other = copy(self)
        other.graders = {key: bind_grader(grader, models) for key, grader in self.graders.items()}
        return other

    def check(self, task: Task) -> None:
        """What each of them needs."""
        for grader in self.graders.values():
            grader.check(task)

    def _mean(self, grades: Mapping[str, Grade]) -> float | None:
        scores = {key: grade.score for key, grade in grades.items()}
        if any(score is None for score in scores.values()):
            return None
        total = sum(self.weights[key] * score for key, score in scores.items() if score is not None)
        return total / sum(self.weights.values())


def _parts(grades: Mapping[str, Grade]) -> dict[str, float | None]:
    parts: dict[str, float | None] = {}
    for key, grade in grades.items():
        parts[key] = grade.score
        parts |= {f"{key}.{inner}": score for inner, score in grade.parts.items()}
    return parts
