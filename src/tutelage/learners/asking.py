"""Asking a model many questions of a learner's own, some at once, in an order that does not depend on timing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress

from tutelage.agent import Agent
from tutelage.errors import ModelFailed
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.progress import Stage
from tutelage.records import Message, Sampling

AT_ONCE = 8
"""Questions in flight where the model does not say how many it takes."""

Asked = str | Model | Agent
"""Whom to ask: a model by its name or itself, or an agent's."""


async def ask_all(
    practice: Practice, model: Asked, questions: Sequence[Sequence[Message]], sampling: Sampling, what: str = "questions"
) -> list[str | None]:
    """The text of the reply to each question, in their order: without blanks around it, None where the call failed after its retries.

    what: what the questions are for, shown with the progress. Raises `BudgetExceeded` and `ModelUnavailable`; replies that were had by then
    are kept and not asked for again.
    """
    replies: list[str | None] = [None] * len(questions)
    queue = iter(enumerate(questions))
    try:
        with practice.stage(what, len(questions)) as stage:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_at_once(model), len(questions))):
                    group.create_task(_work(practice, model, queue, sampling, replies, stage))
    except BaseExceptionGroup as failures:  # the first failure as itself; the others were cancelled because of it
        raise failures.exceptions[0] from None
    return replies


async def _work(
    practice: Practice,
    model: Asked,
    queue: Iterator[tuple[int, Sequence[Message]]],
    sampling: Sampling,
    replies: list[str | None],
    stage: Stage,
) -> None:
    for place, messages in queue:
        with suppress(ModelFailed):
            completion = await practice.ask(model, messages, sampling=sampling)
            replies[place] = completion.message.text.strip()
        stage.advance()


def _at_once(model: Asked) -> int:
    loaded = model.load() if isinstance(model, Agent) else load_model(model)
    return max(1, getattr(loaded, "concurrency", None) or AT_ONCE)
