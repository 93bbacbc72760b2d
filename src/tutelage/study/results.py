"""The frozen data of a study's report: what is measured (per episode), and what is reported (per arm).

`Report` is a stable format: its fields, their names and their order are what `report.json` holds. What is unknown is null; `facts`,
`abstained` and `warnings` stand there only where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, JsonValue, SerializerFunctionWrapHandler, model_serializer

from tutelage.practice import Cost
from tutelage.records import Record, StopReason
from tutelage.study.statistics import Interval, Scores


def _graded(score: object) -> object:
    """A score that is not a finite number is no grade."""
    return None if isinstance(score, float) and not math.isfinite(score) else score


Score = Annotated[float | None, BeforeValidator(_graded)]


class TestRow(Record):
    """One test episode of one arm. `score` None: not graded (a score that is not finite becomes None). `words` are the grader's.

    abstained: it is not graded because the grader abstained.
    """

    __test__: ClassVar[bool] = False  # pytest takes classes called Test* for tests

    task_id: str
    seed: int = 0
    score: Score = None
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = None
    seconds: float = 0.0
    stop: StopReason = StopReason.ANSWERED
    words: str = ""
    abstained: bool = False


class CurvePoint(Record):
    """The mean score after learning from only the first `n` training tasks."""

    n: int
    score: Score


class ArmResult(Record):
    """An arm as measured.

    learn: what learning it cost, over all seeds. experiences_used: exemplars, insights and reflections that the agent has. facts: what the
    learner noted under the first seed. rows: its test episodes.
    """

    name: str
    learner: str | None = None
    agent_version: str
    learn: Cost = Cost()
    experiences_used: int = 0
    curve: tuple[CurvePoint, ...] = ()
    facts: Mapping[str, JsonValue] = {}
    rows: tuple[TestRow, ...] = ()

    @property
    def scores(self) -> Scores:
        """(task id, seed) -> score."""
        return {(row.task_id, row.seed): row.score for row in self.rows}


class CheapResult(Record):
    """A baseline without a model. `scores`: one a test task, in the order of the baseline arm's rows of its first seed."""

    name: str
    note: str = ""
    scores: tuple[Score, ...] = ()


class CaseAnswer(NamedTuple):
    """What one arm answered, its score (None: not graded) and the grader's words. `text` None: no answer."""

    text: str | None
    score: float | None
    words: str = ""


class Case(Record):
    """One test task with the answers of the arms, to be read by people."""

    task_id: str
    input_text: str
    expected: str | None = None
    answers: Mapping[str, CaseAnswer] = {}


class UseCost(Record):
    """What an arm costs per test episode, on average. None: unknown."""

    tokens_in: float | None = None
    tokens_out: float | None = None
    usd: float | None = None
    seconds: float | None = None


class Abstained(Record):
    """The `n` of an arm's episodes that the grader abstained from, and what they leave open.

    score: the mean over tasks if every abstention were a failure, and if every one were a success; ci: from the lower end of the first
    one's interval to the upper end of the second's. delta, delta_ci: the same of the difference from the baseline, whose abstentions are
    taken the other way round (None for the baseline).
    """

    n: int
    episodes: int
    score: Interval | None
    ci: Interval | None
    delta: Interval | None = None
    delta_ci: Interval | None = None


class ArmReport(Record):
    """An arm in the report. n: graded test tasks. delta, delta_ci, p, p_holm compare it with the baseline (None for the baseline).

    abstained: where the grader abstained here or in the baseline.
    """

    name: str
    learner: str | None
    agent_version: str
    n: int
    score: float | None
    ci: Interval | None
    delta: float | None
    delta_ci: Interval | None
    p: float | None
    p_holm: float | None
    learn: Cost
    use: UseCost
    facts: Mapping[str, JsonValue] = {}
    abstained: Abstained | None = None

    @model_serializer(mode="wrap")
    def _without_empty_facts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in ("facts", "abstained") or value}


class CheapReport(Record):
    """A baseline without a model: `constant` or `nearest`."""

    name: str
    score: float | None
    ci: Interval | None


class TaskCounts(Record):
    """Tasks in either split."""

    train: int
    test: int


class Report(Record):
    """What `report.json` holds. `recommendation` is the finding in plain words: one sentence a line, the most important first.

    warnings: what casts doubt on the comparison, such as test questions found in what an agent was taught.
    """

    study: str
    seed: int
    tasks: TaskCounts
    test_looks: int
    arms: tuple[ArmReport, ...]
    cheap: tuple[CheapReport, ...]
    recommendation: str
    warnings: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty_warnings(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key != "warnings" or value}
