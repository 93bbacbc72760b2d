"""What the episodes hide from which the grader abstained: how many they are, and between what bounds an arm's score lies.

An abstention is no grade, so a score is that of the other episodes. That is the score of all where the grader abstains from good and bad
answers alike, which nobody knows. The bounds assume only that scores lie from 0 to 1 (Manski 1990, "Nonparametric bounds on treatment
effects"): every abstention a failure, or every one a success, less what was paid for advice. Episodes that are not graded for another
reason stay left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from tutelage.study.results import Abstained, ArmResult
from tutelage.study.statistics import Comparison, Interval, Scores, compare, score_interval, task_scores

WORST, BEST = 0.0, 1.0


def abstentions(arms: Sequence[ArmResult], seed: int) -> dict[str, Abstained]:
    """By arm, for those whose score or whose difference from the baseline (the first arm) abstentions leave open.

    Arms with a score outside [0, 1] are left out: nothing bounds what an abstention hides there.
    """
    within = {arm.name: arm for arm in arms if all(row.score is None or WORST <= row.score <= BEST for row in arm.rows)}
    baseline = within.get(arms[0].name)
    found = {name: _of(arm, baseline, seed) for name, arm in within.items()}
    return {name: one for name, one in found.items() if one.n or one.delta is not None}


def _of(arm: ArmResult, baseline: ArmResult | None, seed: int) -> Abstained:
    n = count(arm)
    ends = [list(task_scores(filled(arm, value)).values()) for value in (WORST, BEST)]
    means = _both([fmean(scores) if scores else None for scores in ends])
    intervals = [score_interval(scores, seed=seed) for scores in ends]
    open_, worst, best = baseline is not None and baseline is not arm and bool(n + count(baseline)), Comparison(n=0), Comparison(n=0)
    if open_ and baseline is not None:
        worst = compare(filled(baseline, BEST), filled(arm, WORST), seed)
        best = compare(filled(baseline, WORST), filled(arm, BEST), seed)
    return Abstained(
        n=n,
        episodes=len(arm.rows),
        score=means,
        ci=_outer(intervals),
        delta=_both([worst.delta, best.delta]),
        delta_ci=_outer([worst.interval, best.interval]),
    )


def count(arm: ArmResult) -> int:
    """How many episodes the grader abstained from."""
    return sum(row.abstained and row.score is None for row in arm.rows)


def filled(arm: ArmResult, value: float) -> Scores:
    """The arm's scores, every abstention taken for `value`."""
    found: Mapping[tuple[str, int], float | None] = {
        (row.task_id, row.seed): value - row.paid if row.abstained and row.score is None else row.reward for row in arm.rows
    }
    return found


def _both(ends: Sequence[float | None]) -> Interval | None:
    low, high = ends
    return None if low is None or high is None else (low, high)


def _outer(intervals: Sequence[Interval | None]) -> Interval | None:
    """From the lower end of the one to the upper end of the other: it misses on either side no more often than that interval does."""
    low, high = intervals
    return None if low is None or high is None else (low[0], high[1])
