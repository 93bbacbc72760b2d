"""Advice in tables and words: how often each arm sought it and what that brought, and how both change over a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tutelage.study.results import AdviceBlock, AdviceReport, ArmReport, Report
from tutelage.study.statistics import LEVEL, Interval
from tutelage.study.tables import NONE, Table, advised, always_asks, interval, number, quoted

MEASURES = ("advice rate", "accuracy", "total score")


def advice_tables(report: Report) -> tuple[Table, ...]:
    """The tables that have something in them: none where no arm can ask for advice."""
    return tuple(table for table in (_rates(report), _stream(report)) if table is not None)


def _rates(report: Report) -> Table | None:
    rows = [_rate_row(arm, arm.advice) for arm in report.arms if arm.advice is not None]
    if not rows:
        return None
    return Table(
        title="Advice sought in the test tasks, and what it brought",
        columns=("arm", "price", "rate", "95% interval", "accuracy", "95% interval", "total"),
        rows=tuple(rows),
    )


def _rate_row(arm: ArmReport, advice: AdviceReport) -> tuple[str, ...]:
    price = NONE if advice.price is None else f"{advice.price:g}"
    rates = (number(advice.rate), interval(advice.rate_ci)) if advice.price is not None else (NONE, NONE)
    return arm.name, price, *rates, number(advice.accuracy), interval(advice.accuracy_ci), number(advice.total)


def _stream(report: Report) -> Table | None:
    asking = [(arm, arm.advice) for arm in report.arms if arm.advice is not None and arm.advice.price is not None and arm.advice.blocks]
    if not asking:
        return None
    longest = max((advice.blocks for _, advice in asking), key=len)
    return Table(
        title="Over the stream: means by place of the task in it",
        columns=("arm", "mean", *(f"{block.first + 1}-{block.first + block.sessions}" for block in longest)),
        rows=tuple(row for arm, advice in asking for row in _block_rows(arm, advice)),
    )


def _block_rows(arm: ArmReport, advice: AdviceReport) -> Iterator[tuple[str, ...]]:
    for name, values in zip(MEASURES, zip(*map(_values, advice.blocks), strict=True), strict=True):
        yield arm.name, name, *(number(value) for value in values)


def _values(block: AdviceBlock) -> tuple[float | None, ...]:
    return block.rate, block.accuracy, block.total


def advice_words(arms: Sequence[ArmReport]) -> Iterator[str]:
    """A sentence for each arm that can ask."""
    for arm in arms:
        found = arm.advice
        if found is None or found.price is None or found.rate is None:
            continue
        rate = f"{found.rate:.1%} of the tasks ({LEVEL:.0%} interval {_percent(found.rate_ci)}) at a price of {found.price:g}"
        yield f"{quoted(arm.name)} got advice on {rate}: accuracy {number(found.accuracy)}, total score {number(found.total)}."


def _percent(ends: Interval | None) -> str:
    return "unknown" if ends is None else f"{ends[0]:.1%} to {ends[1]:.1%}"


def advice_method(report: Report) -> Iterator[str]:
    """How it was measured."""
    if advised(report):
        yield (
            "Advice: every score is the total score, a task's grade less the price of the advice that was sought on it; accuracy is the "
            "grade alone. Advice rate, accuracy and total score are over the graded tasks. Agents with a memory work on the test tasks as "
            "a stream, one after another in an order that the seed decides, and know what they wrote down before."
        )
    if any(always_asks(cheap.name) for cheap in report.cheap):
        yield "Without the agent: the advisor is asked about every test task, its answer handed over as it is, and its price taken off."
