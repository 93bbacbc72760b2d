"""Collecting experience: order, resume, cache, budget, sealing, failure."""

from __future__ import annotations

import asyncio

import pytest

import tutelage as tt
from tutelage.collector import FAILURES_IN_A_ROW, Job
from tutelage.errors import BudgetExceeded, ModelUnavailable, SealedError
from tutelage.models import scripted
from tutelage.prices import Price


def tasks(count: int) -> list[tt.Task]:
    return [tt.Task(messages=(tt.Message(role="user", content=f"say {n}"),), reference=f"say {n}", source=f"t:{n}") for n in range(count)]


def echo(messages, tools, sampling):
    return messages[-1].text


def agent(reply=echo, **options) -> tt.Agent:
    sampling = options.pop("sampling", tt.Sampling())
    return tt.Agent(model=tt.Scripted(reply, **options), sampling=sampling)


async def test_experiences_come_in_the_order_of_tasks_then_attempts():
    one = agent(sampling=tt.Sampling(temperature=1.0))
    practice = tt.Practice(tasks(5), tt.Collector(tt.Exact(), concurrency=3))
    experiences = await practice.collect(one, attempts=2)
    assert [(x.episode.answer, x.episode.attempt) for x in experiences] == [(f"say {n}", a) for n in range(5) for a in (0, 1)]
    assert {x.grade.score for x in experiences} == {1.0}
    assert one.model.calls == 10
    assert practice.cost.calls == 10


async def test_nothing_finished_is_run_again_and_costs_are_counted_once(tmp_path):
    store = tt.Store(tmp_path / "x.sqlite")
    first, second = agent(), agent()
    await tt.Practice(tasks(4), tt.Collector(tt.Exact(), store=store)).collect(first)
    practice = tt.Practice(tasks(6), tt.Collector(tt.Exact(), store=store))
    again = await practice.collect(second)
    assert (first.model.calls, second.model.calls) == (4, 2)
    assert len(again) == 6
    await practice.collect(second)
    assert practice.cost.calls == 6


async def test_the_same_request_is_asked_once():
    one = agent()
    collector = tt.Collector(tt.Exact())
    await collector.run(one, [Job(task) for task in tasks(3)])
    await collector.run(one.but(limits=tt.Limits(steps=3)), [Job(task) for task in tasks(3)])  # another agent, the same requests
    assert one.model.calls == 3


async def test_a_failed_call_is_not_graded_and_is_tried_again(tmp_path):
    store = tt.Store(tmp_path / "x.sqlite")
    broken = agent(scripted.timeout())
    experiences = await tt.Collector(tt.Exact(), store=store).run(broken, [Job(tasks(1)[0])])
    assert experiences[0].grade.score is None
    assert experiences[0].episode.stop is tt.StopReason.MODEL_ERROR
    mended = await tt.Collector(tt.Exact(), store=store).run(agent(), [Job(tasks(1)[0])])
    assert mended[0].grade.score == 1.0


async def test_a_model_that_always_fails_stops_the_run():
    broken = agent(scripted.server_error())
    with pytest.raises(ModelUnavailable, match="in a row"):
        await tt.Collector(tt.Exact(), concurrency=1).run(broken, [Job(task) for task in tasks(50)])
    assert broken.model.calls == FAILURES_IN_A_ROW


async def test_the_first_error_is_raised_as_itself_and_others_are_cancelled():
    with pytest.raises(ModelUnavailable, match="connection refused"):
        await tt.Collector(tt.Exact(), concurrency=8).run(agent(scripted.unavailable()), [Job(task) for task in tasks(20)])


@pytest.mark.parametrize(
    ("budget", "calls"),
    [(tt.Budget(calls=3), 3), (tt.Budget(tokens=30), 8), (tt.Budget(usd=0.000007), 2), (tt.Budget(minutes=0.0), 0)],
)
async def test_a_budget_stops_before_the_next_call_and_keeps_what_is_done(tmp_path, budget, calls):
    store = tt.Store(tmp_path / "x.sqlite")
    one = agent(price=Price(input=1.0, output=1.0))
    collector = tt.Collector(tt.Exact(), store=store, budget=budget, concurrency=1)
    with pytest.raises(BudgetExceeded, match="run again to continue"):
        await collector.run(one, [Job(task) for task in tasks(20)])
    assert one.model.calls == calls
    assert len(list(store.experiences())) == calls
    with pytest.raises(BudgetExceeded):  # calls, tokens and money count over runs
        await tt.Collector(tt.Exact(), store=store, budget=budget, concurrency=1).run(one, [Job(task) for task in tasks(20)])
    assert one.model.calls == calls


async def test_learners_cannot_reach_the_test_split():
    train, test = tasks(4)[:2], tasks(4)[2:]
    sealed = frozenset(task.input_id for task in test)
    practice = tt.Practice(train, tt.Collector(tt.Exact()), sealed=sealed)
    disguised = test[0].model_copy(update={"reference": "another", "source": "mine"})
    for smuggled in (test[0], tt.Task(**{**disguised.model_dump(), "messages": disguised.messages})):
        with pytest.raises(SealedError, match="sealed test split"):
            await practice.collect(agent(), [smuggled])
    with pytest.raises(SealedError):
        tt.Practice(test, tt.Collector(tt.Exact()), sealed=sealed)


async def test_cancelling_loses_nothing_that_had_ended(tmp_path):
    async def some_hang(messages, tools, sampling):
        if messages[-1].text in ("say 3", "say 4"):
            await asyncio.sleep(60)
        return messages[-1].text

    store = tt.Store(tmp_path / "x.sqlite")
    running = asyncio.create_task(tt.Collector(tt.Exact(), store=store, concurrency=2).run(agent(some_hang), [Job(t) for t in tasks(5)]))
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {x.episode.answer for x in store.experiences()} == {"say 0", "say 1", "say 2"}


async def test_a_grader_that_fails_does_not_blame_the_agent():
    def broken(task, episode):
        raise RuntimeError("judge is down")

    store = tt.Store(":memory:")
    (experience,) = await tt.Collector(tt.FunctionGrader(broken, "judge"), store=store).run(agent(), [Job(tasks(1)[0])])
    assert experience.grade.score is None
    assert "judge is down" in experience.grade.words
    later = agent()
    mended = tt.FunctionGrader(lambda task, episode: 1.0, "judge")  # up again: graded without asking the agent
    (again,) = await tt.Collector(mended, store=store).run(later, [Job(tasks(1)[0])])
    assert (again.grade.score, later.model.calls) == (1.0, 0)
    assert next(store.experiences()).grade.score == 1.0
