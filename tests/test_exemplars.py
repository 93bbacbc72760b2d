"""Learning from exemplars: sources, choices, growth, and what is never shown."""

from __future__ import annotations

import json
from collections import Counter

import pytest

import tutelage as tt
from tutelage.errors import InputError
from tutelage.history import add
from tutelage.knowledge import Insight, Knowledge
from tutelage.learners.exemplars import GROW_EVERY, spread
from tutelage.records import Task

COLOURS = ["red", "green", "blue", "black"]


def task(number: int, kind: str | None = None, reference: bool = True) -> Task:
    text = f"What colour is car number {number}?"
    colour = COLOURS[number % 4]
    return Task(messages=(tt.Message(role="user", content=text),), reference=colour if reference else None, kind=kind or colour)


def practice(tasks, grader=None, **options) -> tt.Practice:
    return tt.Practice(tasks, tt.Collector(grader or tt.Exact()), **options)


def agent(reply="red", **fields) -> tt.Agent:
    return tt.Agent(model=tt.Scripted(reply), **fields)


async def test_references_become_cases_at_no_cost():
    tasks = [task(n) for n in range(20)]
    training = practice(tasks)
    base = agent()
    learned = await tt.Exemplars(choose="text", k=3).learn(base, training)
    assert base.knowledge == tt.Knowledge()
    assert len(learned.knowledge.exemplars) == 20
    assert learned.version != base.version
    assert (training.cost.calls, base.model.calls) == (0, 0)
    assert [message.text for message in learned.knowledge.exemplars[2].messages] == ["What colour is car number 2?", "blue"]


async def test_fixed_keeps_k_cases_spread_over_the_kinds_and_repeats_by_seed():
    tasks = [task(n, kind="common") for n in range(30)] + [task(n, kind="rare") for n in range(30, 33)]
    chosen = [await tt.Exemplars(k=4).learn(agent(), practice(tasks, seed=seed)) for seed in (1, 1, 2)]
    assert chosen[0].version == chosen[1].version != chosen[2].version
    kinds = Counter(exemplar.kind for exemplar in chosen[0].knowledge.exemplars)
    assert kinds == {"common": 2, "rare": 2}


def test_spread_takes_what_there_is():
    assert spread([], 3, 0) == []


async def test_successes_are_the_agents_own_words_and_only_the_good_ones():
    def reply(messages, tools, sampling):
        number = int(messages[-1].text.split()[-1].rstrip("?"))
        return "red" if number % 4 == 0 else "I think it is pink"

    training = practice([task(n) for n in range(8)])
    learned = await tt.Exemplars(choose="text", source="success").learn(agent(reply), training)
    assert [exemplar.messages[-1].text for exemplar in learned.knowledge.exemplars] == ["red", "red"]
    assert {exemplar.origin for exemplar in learned.knowledge.exemplars} == {"success"}
    assert training.cost.calls == 8
    both = await tt.Exemplars(choose="text", source="both").learn(agent(reply), practice([task(n) for n in range(8)]))
    assert Counter(exemplar.origin for exemplar in both.knowledge.exemplars) == {"success": 2, "reference": 6}


async def test_no_success_at_all_says_what_to_do():
    training, unable = practice([task(1)]), agent("pink")
    assert await tt.Exemplars(source="success").learn(unable, training) is unable
    assert "set source to `both` or `reference`" in training.facts["nothing_learned"]
    with pytest.raises(InputError, match="no training task has a reference"):
        await tt.Exemplars().learn(agent(), practice([task(1, reference=False)], grader=tt.FunctionGrader(lambda task, episode: 1.0)))


async def test_what_else_the_agent_knows_stays():
    mine = tt.Exemplar(task_id="m", input_id="m", text="m", messages=(tt.Message(role="user", content="mine"),))
    knowing = Knowledge(insights=(Insight(text="Be brief."),))
    person = add(knowing, [mine], by="person:ann")
    earlier = await tt.Exemplars(k=1).learn(agent(knowledge=person), practice([task(1)]))
    again = await tt.Exemplars(k=2).learn(earlier, practice([task(2)]))
    shown = [exemplar.messages[0].text for exemplar in again.knowledge.exemplars]
    assert (shown[0], len(shown)) == ("mine", 2)  # the earlier learner's case has gone, the person's stands first
    assert [insight.text for insight in again.knowledge.insights] == ["Be brief."]
    done = [(change.by, change.action) for change in again.knowledge.history]
    assert done == [("person:ann", "add"), ("exemplars", "add"), ("exemplars", "remove"), ("exemplars", "add")]


async def test_a_task_never_sees_its_own_case():
    tasks = [task(n) for n in range(6)]
    learned = await tt.Exemplars(choose="text", k=6).learn(agent(), practice(tasks))
    for one in tasks:
        episode = await tt.run_episode(learned, one)
        assert len(episode.shown) == 5
        own = [exemplar.id for exemplar in learned.knowledge.exemplars if exemplar.task_id == one.id]
        assert not set(own) & set(episode.shown)


async def test_a_growing_memory_shows_what_was_solved_before_and_does_not_depend_on_timing():
    """The agent knows only what it is shown: it solves a colour once it was lucky with it, so success must snowball."""

    def reply(messages, tools, sampling):
        number = int(messages[-1].text.split()[-1].rstrip("?"))
        shown = {message.text for message in messages if message.role == "assistant"}
        lucky = number < GROW_EVERY
        return COLOURS[number % 4] if lucky or COLOURS[number % 4] in shown else "pink"

    tasks = [task(n, kind="car") for n in range(40)]
    learned = []
    for concurrency in (1, 16):
        training = tt.Practice(tasks, tt.Collector(tt.Exact(), concurrency=concurrency))
        learned.append(await tt.Exemplars(choose="text", k=8, source="success", grow=True).learn(agent(reply), training))
    assert learned[0].version == learned[1].version
    still = await tt.Exemplars(choose="text", k=8, source="success").learn(agent(reply), practice(tasks))
    assert len(still.knowledge.exemplars) == GROW_EVERY
    assert len(learned[0].knowledge.exemplars) > 30


async def test_a_memory_grows_while_the_agent_works():
    memory = tt.Memory(tt.Knowledge(retrieval=tt.Retrieval(choose="text", k=2)))
    one = agent(lambda messages, tools, sampling: COLOURS[int(messages[-1].text.split()[-1].rstrip("?")) % 4])
    first = await tt.run_episode(one, task(1), memory=memory)
    assert first.shown == ()
    assert memory.add(tt.success_exemplar(task(1), first))
    assert not memory.add(tt.success_exemplar(task(1), first))
    second = await tt.run_episode(one, task(5), memory=memory)
    assert second.shown == (memory.snapshot().exemplars[0].id,)


async def test_a_success_with_tools_is_shown_without_its_failed_steps():
    @tt.tool
    def paint(colour: str) -> str:
        """Paint the car.

        Args:
            colour: Which colour.
        """
        return f"painted {colour}"

    def call(arguments: dict, id_: str) -> tt.ToolCall:
        return tt.ToolCall(id=id_, name="paint", arguments=json.dumps(arguments))

    model = tt.Scripted([call({"color": "red"}, "a"), call({"colour": "red"}, "b"), "red"])
    worker = tt.Agent(model=model, tools=[paint])
    exemplar = tt.success_exemplar(task(0), await tt.run_episode(worker, task(0)))
    assert [message.role for message in exemplar.messages] == ["user", "assistant", "tool", "assistant"]
    assert exemplar.messages[1].tool_calls[0].parsed() == {"colour": "red"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"choose": "nearest"}, "fixed, text, meaning or fused"),
        ({"k": 0}, "at least 1"),
        ({"k": "6"}, "whole number"),
        ({"source": "teacher"}, "reference, success or both"),
        ({"grow": True}, "grows from the agent's own successes"),
        ({"attempts": 0}, "at least 1"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(InputError, match=says):
        tt.Exemplars(**options)
