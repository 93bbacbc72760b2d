"""Asking a model many questions of a learner's own, some at once, in an order that does not depend on timing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from tutelage.agent import Agent
from tutelage.errors import ModelFailed
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Message, Sampling

AT_ONCE = 8
"""Questions in flight where the model does not say how many it takes."""

Asked = str | Model | Agent
"""Whom to ask: a model by its name or itself, or an agent's."""


async def ask_all(practice: Practice, model: Asked, questions: Sequence[Sequence[Message]], sampling: Sampling) -> list[str | None]:
    """The text of the reply to each question, in their order: without blanks around it, None where the call failed after its retries.

    Raises `BudgetExceeded` and `ModelUnavailable`; replies that were had by then are kept and not asked for again.
    """
    replies: list[str | None] = [None] * len(questions)
    queue = iter(enumerate(questions))
    workers = [_work(practice, model, queue, sampling, replies) for _ in range(min(_at_once(model), len(questions)))]
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except BaseExceptionGroup as failures:  # the first failure as itself; the others were cancelled because of it
        raise failures.exceptions[0] from None
    return replies


async def _work(
    practice: Practice, model: Asked, queue: Iterator[tuple[int, Sequence[Message]]], sampling: Sampling, replies: list[str | None]
) -> None:
    for place, messages in queue:
        try:
            completion = await practice.ask(model, messages, sampling=sampling)
        except ModelFailed:
            continue
        replies[place] = completion.message.text.strip()


def _at_once(model: Asked) -> int:
    loaded = model.load() if isinstance(model, Agent) else load_model(model)
    return max(1, getattr(loaded, "concurrency", None) or AT_ONCE)
