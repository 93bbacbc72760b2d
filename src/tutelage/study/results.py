"""The frozen data of a study's report: what is measured (per episode), and what is reported (per arm).

`Report` is a stable format: its fields, their names and their order are what `report.json` holds. What is unknown is null; `facts`,
`abstained`, `advice` and `warnings` stand there only where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, JsonValue, SerializerFunctionWrapHandler, model_serializer

from tutelage.budget import Cost
from tutelage.records import Record, StopReason
from tutelage.study.statistics import Interval, Scores


def _graded(score: object) -> object:
    """A score that is not a finite number is no grade."""
    return None if isinstance(score, float) and not math.isfinite(score) else score


Score = Annotated[float | None, BeforeValidator(_graded)]


class TestRow(Record):
    """One test episode of one arm. `score` None: not graded (a score that is not finite becomes None). `words` are the grader's.

    abstained: it is not graded because the grader abstained. asked: it got advice, whose price in units of reward is `paid`. place: how
    many tasks stood before it in the order of a stream under its seed.
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
    asked: bool = False
    paid: float = 0.0
    place: int = 0

    @property
    def reward(self) -> float | None:
        """The score less what was paid for advice: what arms are compared by."""
        return self.score if self.score is None or not self.paid else self.score - self.paid


class CurvePoint(Record):
    """The mean score after learning from only the first `n` training tasks."""

    n: int
    score: Score


class ArmResult(Record):
    """An arm as measured.

    learn: what learning it cost, over all seeds. experiences_used: exemplars, insights and reflections that the agent has. facts: what the
    learner noted under the first seed. price: of advice, in units of reward (None: the agent cannot ask for any). rows: its test episodes.
    """

    name: str
    learner: str | None = None
    agent_version: str
    learn: Cost = Cost()
    experiences_used: int = 0
    curve: tuple[CurvePoint, ...] = ()
    facts: Mapping[str, JsonValue] = {}
    price: float | None = None
    rows: tuple[TestRow, ...] = ()

    @property
    def scores(self) -> Scores:
        """(task id, seed) -> score, less what was paid for advice."""
        return {(row.task_id, row.seed): row.reward for row in self.rows}


class CheapResult(Record):
    """A baseline without the agent. `scores`: one a test task, in the order of the baseline arm's rows of its first seed."""

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


class AdviceBlock(Record):
    """The sessions at the places from `first` on, `sessions` of them under each seed: means over the graded ones (None: there is none)."""

    first: int
    sessions: int
    rate: float | None
    accuracy: float | None
    total: float | None


class AdviceReport(Record):
    """Advice in an arm's test episodes, over the graded tasks: total = accuracy - price x rate, where all advice has that price.

    price: of one advice, in units of reward (None: the agent cannot ask for any). rate: the share of episodes that got advice. accuracy:
    the mean score before the price of advice. total: less that price, which is the arm's `score`. blocks: over the order of the stream.
    """

    price: float | None
    rate: float | None
    rate_ci: Interval | None
    accuracy: float | None
    accuracy_ci: Interval | None
    total: float | None
    total_ci: Interval | None
    blocks: tuple[AdviceBlock, ...] = ()


class ArmReport(Record):
    """An arm in the report. n: graded test tasks. delta, delta_ci, p, p_holm compare it with the baseline (None for the baseline).

    score: the mean over tasks, less what was paid for advice. abstained: where the grader abstained here or in the baseline. advice: where
    an arm of the study can ask for any.
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
    advice: AdviceReport | None = None

    @model_serializer(mode="wrap")
    def _without_empty_facts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in ("facts", "abstained", "advice") or value}


class CheapReport(Record):
    """A baseline without the agent: `constant`, `nearest`, or always asking for advice (`ask`, at several prices `ask at 0.3`)."""

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
