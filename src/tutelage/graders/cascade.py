"""Judges asked one after another: the first that is sure enough decides, and where none is, a person may be asked.

Source: Jung, Brahman and Choi 2024, "Trust or Escalate" (arXiv:2407.18370). Each level is calibrated on the items that the levels before it
did not accept. Different from it: delta is split over the levels, so that the promise is one for all of them together
(`guarantee_cascade`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from tutelage.errors import GraderError, InputError
from tutelage.grader import Grader
from tutelage.graders.calibrated_judge import ALPHA, DELTA, CalibratedJudge, abstention, load_levels, save_levels
from tutelage.graders.certificate import AnyJudge, Certificate, Rule
from tutelage.graders.judge import grade_of
from tutelage.graders.judge_calibration import Wanted, certify_levels
from tutelage.graders.judge_case import Case, case_of
from tutelage.graders.judge_confidence import Opinion
from tutelage.graders.judge_models import Models, bind_grader
from tutelage.graders.labels import Labelled
from tutelage.graders.monitored import promise_of
from tutelage.progress import Progress
from tutelage.records import Episode, Grade, Record, Task

_RULE = Rule()
NOBODY = 0
"""The level of a case that no judge and no person decided."""


@dataclass(frozen=True)
class Decision:
    """Which level decided a case (from 1; `NOBODY`), its opinion, and the opinions of all levels that were asked, by level."""

    level: int
    opinion: Opinion | None
    asked: Mapping[int, Opinion]

    @property
    def parts(self) -> dict[str, float | None]:
        """For a grade: the level that decided, and of each level that was asked its confidence, calls and cost."""
        found: dict[str, float | None] = {"level": float(self.level)}
        for level, opinion in self.asked.items():
            found |= {
                f"level_{level}_confidence": opinion.confidence,
                f"level_{level}_calls": float(opinion.usage.calls),
                f"level_{level}_usd": opinion.cost_usd,
            }
        return found


class Cascade:
    """Calibrated judges from the cheapest to the strongest; the first whose confidence passes its own threshold decides.

    then: the grader for what none decides, such as one that asks a person; without one the cascade abstains. A level that fails on a case
    passes it on, as in its calibration. Parts of a grade: `level` (from 1; one more than the judges: `then`; 0: nobody), and for each
    level that was asked its confidence, calls and cost.

    Raises `InputError` where the levels were not calibrated as this cascade: each on what those before it did not accept.
    """

    def __init__(self, levels: Sequence[CalibratedJudge], then: Grader | None = None) -> None:
        self.levels, self.then = tuple(levels), then
        _check_levels(self.levels)

    @cached_property
    def name(self) -> str:
        """`cascade:` and the id of what its levels promise together; behind a `+` the name of what decides the rest."""
        promised = promise_of([level.certificate for level in self.levels]).id
        return f"cascade:{promised}" + (f"+{self.then.name}" if self.then else "")

    def bind(self, models: Models) -> Self:
        """The same, asking the models that `models` gives."""
        other = copy(self)
        other.levels = tuple(level.bind(models) for level in self.levels)
        other.then = bind_grader(self.then, models) if self.then else None
        return other

    async def decide(self, case: Case) -> Decision:
        """Ask level after level. Raises `GraderError` where nobody decides, and a level failed instead of giving its opinion."""
        asked: dict[int, Opinion] = {}
        failed: GraderError | None = None
        for number, level in enumerate(self.levels, 1):
            try:
                opinion = await level.opinion(case)
            except GraderError as error:
                failed = error
                continue
            if opinion is None:
                continue
            asked[number] = opinion
            if level.accepts(opinion):
                return Decision(number, opinion, asked)
        if failed is not None and self.then is None:
            raise failed
        return Decision(NOBODY, None, asked)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The grade of the level that decides. While `then` has none to give, the episode is not graded, and may be graded again later."""
        decision = await self.decide(case_of(task, episode, max_chars=self._max_chars))
        if decision.opinion is not None:
            grade = grade_of(decision.opinion)
            return grade.model_copy(update={"parts": {**grade.parts, **decision.parts}})
        if self.then is None:
            return abstention(self._unsure(decision), parts=decision.parts)
        grade = await self.then.grade(task, episode)
        level = NOBODY if grade.score is None else len(self.levels) + 1
        return grade.model_copy(update={"parts": {**grade.parts, **decision.parts, "level": float(level)}})

    def check(self, task: Task) -> None:
        """What the levels need."""
        for level in self.levels:
            level.check(task)
        if self.then is not None:
            self.then.check(task)

    def save(self, path: str | Path) -> None:
        """Write the certificates, from which `load_cascade` makes the cascade again. Raises `StoreError`."""
        save_levels(path, "cascade", self.levels)

    def lines(self) -> list[str]:
        """For a report."""
        alpha = max(level.certificate.calibration.alpha for level in self.levels)
        delta = math.fsum(level.certificate.calibration.delta for level in self.levels)
        whole = f"promised for all levels together: agreement of at least {1 - alpha:g} where they decide, with probability {1 - delta:g}"
        each = [
            f"level {number} ({level.judge.name}): {line}"
            for number, level in enumerate(self.levels, 1)
            for line in level.certificate.lines()[1:]
        ]
        return [
            whole,
            expected([level.certificate for level in self.levels]).line(),
            *each,
            f"then: {self.then.name if self.then else 'abstains'}",
        ]

    @property
    def _max_chars(self) -> int:
        """Of the answer, for the judge that reads most; each judge shortens to what it reads."""
        return max(level.judge.options.max_chars for level in self.levels)

    def _unsure(self, decision: Decision) -> str:
        each = [f"level {number}: {level.unsure(decision.asked.get(number))}" for number, level in enumerate(self.levels, 1)]
        return "\n".join(["no judge is sure enough", *each])


def _check_levels(levels: Sequence[CalibratedJudge]) -> None:
    if not levels:
        raise InputError("a cascade needs one judge at least", field="grader.cascade")
    if len({level.judge.kind for level in levels}) > 1:
        raise InputError("the judges of a cascade read either single answers or pairs, all of them", field="grader.cascade")
    ids = [level.certificate.id for level in levels]
    for number, level in enumerate(levels):
        if level.certificate.after != tuple(ids[:number]):
            raise InputError(
                f"level {number + 1} was not calibrated on what the levels before it leave over, so nothing is promised; "
                "calibrate them together (calibrate_cascade)",
                field="grader.cascade",
            )


def load_cascade(
    file: str | Path, *, judges: Sequence[AnyJudge] | None = None, then: Grader | None = None, domain: str | None = None
) -> Cascade:
    """The cascade of a file. judges: for which it must hold (None: made again from the file). Raises as `load_calibrated` does."""
    return Cascade(load_levels(file, "cascade", judges, domain=domain), then)


async def calibrate_cascade(
    judges: Sequence[AnyJudge],
    labelled: Sequence[Labelled],
    alpha: float = ALPHA,
    delta: float = DELTA,
    *,
    min_items: int | None = None,
    rule: Rule = _RULE,
    domain: str = "",
    progress: Progress | None = None,
) -> Cascade:
    """Calibrate judges one after another, each on the items that those before it do not accept, at delta / judges each.

    A later judge is asked only about what is left. With probability 1 - delta every level's accepted verdicts agree with people at least
    1 - alpha of the time (see `guarantee_cascade` for what this needs). The rest is as in `calibrate`.
    """
    certificates = await certify_levels(judges, labelled, Wanted(alpha, delta, min_items, rule, domain), progress)
    return Cascade([CalibratedJudge(judge, certificate) for judge, certificate in zip(judges, certificates, strict=True)])


class Expected(Record):
    """What a cascade may be expected to do, by its calibration: of n items its judges decide some; calls and usd are of one item.

    usd None: a price is unknown. Judges that abstain always are not asked.
    """

    n: int
    decided: int
    calls: float
    usd: float | None

    def line(self) -> str:
        """For a report."""
        cost = "an unknown price" if self.usd is None else f"{self.usd:.6g} US dollars"
        return (
            f"{self.decided} of {self.n} items decided (coverage {self.decided / self.n:.1%}), {self.n - self.decided} left to whoever "
            f"comes then; an item takes {self.calls:.3g} calls, {cost}"
        )


def expected(certificates: Sequence[Certificate]) -> Expected:
    """What the levels of a cascade do together."""
    n = certificates[0].calibration.n
    asked = [one for one in certificates if one.calibration.threshold is not None]
    usd = [one.usd for one in asked]
    prices = [price for price in usd if price is not None]
    return Expected(
        n=n,
        decided=sum(one.calibration.accepted for one in asked),
        calls=math.fsum(one.calibration.n * one.calls for one in asked) / n,
        usd=math.fsum(one.calibration.n * price for one, price in zip(asked, prices, strict=True)) / n if len(prices) == len(usd) else None,
    )


class LevelSummary(Record):
    """What one level did: cases that it was asked about, cases that it decided, its calls, and its cost (None: a price is unknown)."""

    asked: int
    decided: int
    calls: int
    usd: float | None


class CascadeSummary(Record):
    """What a cascade did over `n` grades: by its judges, by `then`, and undecided."""

    n: int
    levels: tuple[LevelSummary, ...]
    then: int
    undecided: int

    def lines(self) -> list[str]:
        """For a report."""

        def share(count: int) -> str:
            return f"{count} of {self.n}" + (f" ({count / self.n:.1%})" if self.n else "")

        each = [
            f"level {number}: asked {level.asked}, decided {share(level.decided)}, {level.calls} calls, "
            + ("cost unknown" if level.usd is None else f"{level.usd:.4f} USD")
            for number, level in enumerate(self.levels, 1)
        ]
        return [*each, f"then: decided {share(self.then)}", f"undecided: {share(self.undecided)}"]


def summarise(grades: Iterable[Grade], levels: int) -> CascadeSummary:
    """What the grades of a cascade of so many judges say of it, from their parts; grades of others are left out."""
    parts = [grade.parts for grade in grades if "level" in grade.parts]
    decided = [int(own["level"] or NOBODY) for own in parts]
    return CascadeSummary(
        n=len(parts),
        levels=tuple(_summary(parts, decided, number) for number in range(1, levels + 1)),
        then=decided.count(levels + 1),
        undecided=decided.count(NOBODY),
    )


def _summary(parts: Sequence[Mapping[str, float | None]], decided: Sequence[int], number: int) -> LevelSummary:
    asked = [own for own in parts if f"level_{number}_calls" in own]
    costs = [own[f"level_{number}_usd"] for own in asked]
    known = [cost for cost in costs if cost is not None]
    return LevelSummary(
        asked=len(asked),
        decided=decided.count(number),
        calls=int(sum(own[f"level_{number}_calls"] or 0 for own in asked)),
        usd=math.fsum(known) if len(known) == len(costs) else None,
    )
