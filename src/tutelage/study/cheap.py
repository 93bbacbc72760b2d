"""The cheap answers that any learning must beat: one constant answer, the answer of the nearest training case, always asking for advice.

The first two ask no model, the third asks the advisor and nobody else. All are graded by the study's own grader, as if the agent had
answered so; the third is less the price of advice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from tutelage.advice import Advice, Advisor, Question
from tutelage.errors import MissingExtra, ModelFailed
from tutelage.grader import Grader
from tutelage.graders.load import grade_episode
from tutelage.knowledge import Exemplar
from tutelage.learners.exemplars import reference_exemplars
from tutelage.records import Completion, Episode, Message, Segment, Step, StopReason, Task, content_id
from tutelage.retrieval.embedders import load_embedder
from tutelage.retrieval.index import By, Index
from tutelage.study.results import CheapResult
from tutelage.study.tables import ASK
from tutelage.task_formats.choices import choices_of

CANDIDATES = 10
"""So many of the most frequent training answers are tried as the constant one, on at most `TRIED_ON` training tasks."""
TRIED_ON = 200
AT_ONCE = 16
"""So many questions are put to the advisor at once."""


async def cheap_answers(train: Sequence[Task], test: Sequence[Task], grader: Grader) -> list[CheapResult]:
    """Both baselines; none where the training tasks have no reference answers to repeat."""
    cases = reference_exemplars(train)
    if not cases:
        return []
    return [await _constant(cases, train, test, grader), await _nearest(cases, test, grader)]


async def _constant(cases: Sequence[Exemplar], train: Sequence[Task], test: Sequence[Task], grader: Grader) -> CheapResult:
    """The training answer that would have scored best on the training tasks themselves."""
    counted = Counter(_solution_id(case) for case in cases)
    by_id = {_solution_id(case): case for case in reversed(cases)}
    tried = train[:: 1 + len(train) // TRIED_ON]  # spread over the file, which may be sorted by kind
    best, best_score = cases[0], -1.0
    for solution_id, _ in counted.most_common(CANDIDATES):
        scores = [await score_answer(by_id[solution_id], task, grader) for task in tried]
        mean = _mean(scores)
        if mean > best_score:
            best, best_score = by_id[solution_id], mean
    return CheapResult(name="constant", note=_shown(best), scores=tuple([await score_answer(best, task, grader) for task in test]))


async def _nearest(cases: Sequence[Exemplar], test: Sequence[Task], grader: Grader) -> CheapResult:
    """The answer of the most similar training case, by meaning where the embeddings are installed, else by text."""
    index, by = _nearest_index(cases)
    scores: list[float | None] = []
    for task in test:
        hits = index.search(task.text, 1, by=by)
        scores.append(await score_answer(cases[int(hits[0].id)], task, grader) if hits else 0.0)
    return CheapResult(name="nearest", note=f"by {by}, among {len(cases)} cases", scores=tuple(scores))


def _nearest_index(cases: Sequence[Exemplar]) -> tuple[Index, By]:
    by: By = "meaning"
    try:
        load_embedder("wordllama").embed([""])
    except MissingExtra:
        by = "text"
    index = Index()
    for number, case in enumerate(cases):
        index.add(str(number), case.text)
    return index, by


async def score_answer(case: Exemplar, task: Task, grader: Grader) -> float | None:
    """The score of answering `task` with the solution of `case`."""
    solution = [message for message in case.messages if message.role == "assistant"]
    steps = tuple(Step(completion=Completion(message=message), calls=message.tool_calls) for message in solution)
    called = any(message.tool_calls for message in solution)
    episode = Episode(
        task_id=task.id,
        agent_version="cheap",
        segments=(Segment(context=task.messages, steps=steps),),
        answer=_last_text(solution),
        stop=StopReason.TOOL_CALL if called else StopReason.ANSWERED,
    )
    return (await grade_episode(grader, task, episode)).score


def _last_text(solution: Sequence[Message]) -> str | None:
    return next((message.text for message in reversed(solution) if message.text), None)


def _solution_id(case: Exemplar) -> str:
    said = [message for message in case.messages if message.role == "assistant"]
    return content_id([[message.text, *[(call.name, call.arguments) for call in message.tool_calls]] for message in said])


def _shown(case: Exemplar) -> str:
    said = case.messages[-1]
    return said.text or "; ".join(f"{call.name}({call.arguments})" for call in said.tool_calls)


def _mean(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else 0.0


async def advisor_answers(advisor: Advisor | None, prices: Sequence[float], test: Sequence[Task], grader: Grader) -> list[CheapResult]:
    """Always asking, at each of the prices; nothing without an advisor, and where it is a person, whom a baseline is not worth.

    Where the advisor has no answer nothing is handed over, at no price: that scores 0. Not graded, and a call that failed, are None.
    """
    if advisor is None or not prices or advisor.name.partition(":")[0] == "person":
        return []
    told = [answer for start in range(0, len(test), AT_ONCE) for answer in await _told(advisor, test[start : start + AT_ONCE])]
    scores = [await _handed_over(answer, task, grader) for answer, task in zip(told, test, strict=True)]
    costs = [1.0 if isinstance(answer, Advice) else 0.0 for answer in told]
    return [
        CheapResult(
            name=ASK if len(prices) == 1 else f"{ASK} at {price:g}",
            scores=tuple(None if score is None else score - cost * price for score, cost in zip(scores, costs, strict=True)),
        )
        for price in prices
    ]


async def _told(advisor: Advisor, tasks: Sequence[Task]) -> list[Advice | ModelFailed | None]:
    async def ask(task: Task) -> Advice | ModelFailed | None:
        choices = tuple(choices_of(task))
        question = Question(text=task.text, choices=choices, agent_version=ASK, task_id=task.id, episode=f"{ASK}/{task.id}")
        try:
            return await getattr(advisor, "in_short", advisor).ask(question)
        except ModelFailed as failed:
            return failed

    return await asyncio.gather(*(ask(task) for task in tasks))


async def _handed_over(answer: Advice | ModelFailed | None, task: Task, grader: Grader) -> float | None:
    if isinstance(answer, ModelFailed):
        return None
    if answer is None:
        return 0.0
    said = Message(role="assistant", content=answer.answer)
    episode = Episode(
        task_id=task.id,
        agent_version=ASK,
        segments=(Segment(context=task.messages, steps=(Step(completion=Completion(message=said)),)),),
        answer=answer.answer,
        stop=StopReason.ANSWERED,
    )
    return (await grade_episode(grader, task, episode)).score
