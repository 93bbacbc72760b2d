"""Asking a judge about many cases, some at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

from tutelage.errors import GraderError
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_confidence import Opinion
from tutelage.model import Model, load_model
from tutelage.progress import Progress, Silent, Stage

AT_ONCE = 8
"""Cases worked on at once where the model does not say how many calls it takes."""


class Judging(Protocol):
    """What has opinions: `Judge` and `PairwiseJudge`."""

    @property
    def model(self) -> str | Model:
        """Whom it asks."""
        ...

    async def opinion(self, case: Case) -> Opinion:
        """What it thinks of a case."""
        ...


async def opinions_of(
    judge: Judging, cases: Sequence[Case], progress: Progress | None = None, what: str = "judging"
) -> list[Opinion | None]:
    """The opinion on each case, in their order; None where the judge failed.

    Raises `GraderError` where it failed on all of them, and `BudgetExceeded` and `ModelUnavailable`; what had been asked by then is kept
    where the judge is bound to models that keep their replies, and is not asked again.
    """
    found: list[Opinion | None] = [None] * len(cases)
    failures: list[GraderError] = []
    queue = iter(enumerate(cases))
    at_once = max(1, getattr(load_model(judge.model), "concurrency", None) or AT_ONCE)
    try:
        with (progress or Silent()).stage(what, len(cases)) as stage:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(cases))):
                    group.create_task(_work(judge, queue, found, failures, stage))
    except BaseExceptionGroup as failed:  # the first failure as itself; the others were cancelled because of it
        raise failed.exceptions[0] from None
    if cases and len(failures) == len(cases):
        raise GraderError(f"the judge failed on all of {len(cases)} cases; the last time: {failures[-1]}")
    return found


async def _work(
    judge: Judging, queue: Iterator[tuple[int, Case]], found: list[Opinion | None], failures: list[GraderError], stage: Stage
) -> None:
    for place, case in queue:
        try:
            found[place] = await judge.opinion(case)
        except GraderError as failed:
            failures.append(failed)
        stage.advance()
