"""Advice in the test episodes: how often it was sought, what it brought, and how that changes over a stream. Pure functions of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from tutelage.streams import parts
from tutelage.study.results import AdviceBlock, AdviceReport, ArmResult, TestRow
from tutelage.study.statistics import score_interval, task_scores

BLOCKS, SMALLEST = 6, 10
"""A stream is shown in at most so many blocks, none of them smaller than this."""


def advice_reports(arms: Sequence[ArmResult], seed: int) -> dict[str, AdviceReport]:
    """By arm; nothing where no arm can ask for advice. seed: of the resampling.

    The unit is the task, as everywhere: under several seeds a task's rate and scores are first averaged over its graded episodes.
    """
    if all(arm.price is None for arm in arms):
        return {}
    return {arm.name: _report(arm, seed) for arm in arms}


def _report(arm: ArmResult, seed: int) -> AdviceReport:
    graded = [row for row in arm.rows if row.score is not None]
    rates, scores, totals = (_by_task(graded, value) for value in (_asked, _score, _reward))
    return AdviceReport(
        price=arm.price,
        rate=_mean(rates),
        rate_ci=score_interval(rates, seed=seed),
        accuracy=_mean(scores),
        accuracy_ci=score_interval(scores, seed=seed),
        total=_mean(totals),
        total_ci=score_interval(totals, seed=seed),
        blocks=_blocks(arm.rows),
    )


def _asked(row: TestRow) -> float | None:
    return float(row.asked)


def _score(row: TestRow) -> float | None:
    return row.score


def _reward(row: TestRow) -> float | None:
    return row.reward


def _by_task(rows: Iterable[TestRow], value: Callable[[TestRow], float | None]) -> list[float]:
    return list(task_scores({(row.task_id, row.seed): value(row) for row in rows}).values())


def _blocks(rows: Sequence[TestRow]) -> tuple[AdviceBlock, ...]:
    """The streams of all seeds, place by place, in parts; none where they are too short for two."""
    length = len({row.place for row in rows})
    n = min(BLOCKS, length // SMALLEST)
    return tuple(_block(part, [row for row in rows if row.place in part]) for part in parts(length, n)) if n > 1 else ()


def _block(part: range, rows: Sequence[TestRow]) -> AdviceBlock:
    graded = [row for row in rows if row.score is not None]
    rate, score, total = (_mean([found for row in graded if (found := value(row)) is not None]) for value in (_asked, _score, _reward))
    return AdviceBlock(first=part.start, sessions=len(part), rate=rate, accuracy=score, total=total)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
