"""Workflow patterns, offline: order, gates, routes, votes, plans, rounds, limits, failures, and one episode for the whole."""

from __future__ import annotations

import asyncio

import pytest

import tutelage as tt
from tutelage.errors import InputError
from tutelage.knowledge import Insight, Knowledge, Reflection
from tutelage.learners.exemplars import success_exemplar
from tutelage.records import StopReason
from tutelage.workflows import chain, orchestrate, refine, route, sections, vote
from tutelage.workflows.orchestrate import read_plan
from tutelage.workflows.parallel import last_line
from tutelage.workflows.parts import instructions_of
from tutelage.workflows.refine import is_fail
from tutelage.workflows.route import named


def ask(text: str = "What is 6 times 7?") -> tt.Task:
    return tt.Task(messages=(tt.Message(role="user", content=text),))


def agent(*replies, **fields) -> tt.Agent:
    """An agent that gives these replies, one a call; a single function is asked each time."""
    script = replies[0] if len(replies) == 1 and callable(replies[0]) else list(replies)
    return tt.Agent(model=tt.Scripted(script), **fields)


def seen(one: tt.Agent, number: int = 0) -> str:
    return "\n".join(message.text for message in one.model.requests[number].messages)


# chain


async def test_a_chain_hands_each_answer_on_and_is_one_episode():
    first, second = agent("Notes: 42", instructions="Take notes."), agent("The answer is 42.")
    whole = chain(first, second)
    episode = await tt.run_episode(whole, ask(), seed=3, attempt=2)
    assert episode.answer == "The answer is 42."
    assert episode.stop is StopReason.ANSWERED
    assert [segment.part for segment in episode.segments] == ["step 1", "step 2"]
    assert episode.usage.calls == 2
    assert episode.cost_usd == 0.0
    assert (episode.task_id, episode.agent_version, episode.seed, episode.attempt) == (ask().id, whole.version, 3, 2)
    assert "Take notes." in seen(first)
    assert "What is 6 times 7?" in seen(second) and "Notes: 42" in seen(second) and "Take notes." not in seen(second)


async def test_a_shut_gate_tries_the_step_again_and_then_ends_without_an_answer():
    first, second = agent("x", "y", "fine"), agent("done")
    whole = chain(first, second, gates=(lambda text: text == "fine", None), retries=2)
    assert (await tt.run_episode(whole, ask())).answer == "done"
    first, second = agent("x", "y"), agent("never")
    episode = await tt.run_episode(chain(first, second, gates=(lambda text: False, None), retries=1), ask())
    assert (episode.answer, episode.stop, second.model.calls) == (None, StopReason.EMPTY, 0)


async def test_a_gate_that_raises_is_our_users_bug_and_raises():
    with pytest.raises(ZeroDivisionError):
        await tt.run_episode(chain(agent("x"), gates=(lambda text: 1 / 0,)), ask())


# route


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ("maths", "maths"),
        (" Maths.\n", "maths"),
        ("It is about history, I think", "history"),
        ("maths or history", "history"),
        ("?", "history"),
    ],
)
async def test_a_router_is_understood_or_the_default_taken(said, chosen):
    routes = {"maths": agent("42"), "history": agent("1066")}
    episode = await tt.run_episode(route(agent(said), routes, default="history"), ask())
    assert episode.answer == {"maths": "42", "history": "1066"}[chosen]
    assert [segment.part for segment in episode.segments] == ["router", chosen]
    assert seen(routes[chosen]) == "What is 6 times 7?"


async def test_a_function_may_route():
    routes = {"long": agent("L"), "short": agent("S")}
    whole = route(lambda task: "short" if len(task.text) < 50 else "long", routes)
    assert (await tt.run_episode(whole, ask())).answer == "S"


def test_a_name_inside_another_word_is_no_name():
    assert named("aftermath", {"math": 1}) is None
    assert named("c++", {"c": 1, "c++": 2}) == "c++"


async def test_a_route_may_end_in_a_tool_call():
    def lookup(order: str) -> str:
        """Find an order.

        Args:
            order: Its number.
        """
        return "x"

    worker = agent(tt.ToolCall(id="a", name="lookup", arguments='{"order": "7"}'), tools=[lookup], stop_on_tool=True)
    episode = await tt.run_episode(route(lambda task: "work", {"work": worker}), ask())
    assert episode.stop is StopReason.TOOL_CALL
    assert [call.name for call, _ in episode.calls] == ["lookup"]


# parallel


async def test_sections_run_at_once_and_are_kept_in_their_order():
    began = asyncio.Event()

    async def slow(messages, tools, sampling):
        await asyncio.wait_for(began.wait(), 5)
        return "slow side"

    async def quick(messages, tools, sampling):
        began.set()
        return "quick side"

    whole = sections({"a": agent(slow), "b": agent(quick)}, join=agent(lambda m, t, s: "joined: " + m[-1].text))
    episode = await tt.run_episode(whole, ask())
    assert [segment.part for segment in episode.segments] == ["a", "b", "join"]
    assert "a:\nslow side\n\nb:\nquick side" in episode.answer
    assert (await tt.run_episode(sections({"a": agent("x"), "b": agent("")}), ask())).answer == "a:\nx"


async def test_the_majority_of_votes_wins_and_votes_draw_differently():
    replies = iter(["I say\n41.", "It is\n42", "42!", "", "41"])
    voter = agent(lambda m, t, s: next(replies), sampling=tt.Sampling(temperature=1.0))
    episode = await tt.run_episode(vote(voter, 5), ask())
    assert episode.answer == "I say\n41."  # 2 to 2: the answer that was given first
    seeds = [request.sampling.seed for request in voter.model.requests]
    assert len(set(seeds)) == 5
    again = agent(lambda m, t, s: "x", sampling=tt.Sampling(temperature=1.0))
    await tt.run_episode(vote(again, 5), ask())
    assert [request.sampling.seed for request in again.model.requests] == seeds


def test_what_counts_as_the_same_answer():
    assert last_line("Because.\n**Forty  Two**.\n\n") == last_line("forty two") == "forty two"
    assert last_line(" \n") == ""


def test_votes_that_must_be_equal_are_refused():
    with pytest.raises(InputError, match="temperature"):
        vote(agent("x"), 3)


# orchestrate


async def test_a_plan_is_carried_out_and_joined():
    planner, worker = (
        agent('```json\n["count the sixes", "count the sevens"]\n```', "Together 42"),
        agent(lambda m, t, s: f"did {m[-1].text}"),
    )
    episode = await tt.run_episode(orchestrate(planner, worker), ask())
    assert episode.answer == "Together 42"
    assert [segment.part for segment in episode.segments] == ["plan", "worker 1", "worker 2", "join"]
    assert "count the sevens\n-> did count the sevens" in seen(planner, 1)


async def test_a_plan_beyond_the_cap_is_cut_and_one_that_cannot_be_read_leaves_all_to_the_worker():
    worker = agent(lambda m, t, s: "did it")
    episode = await tt.run_episode(orchestrate(agent("1. a\n2. b\n3. c", "joined"), worker, cap=2), ask())
    assert episode.usage.calls == 4
    episode = await tt.run_episode(orchestrate(agent("I would rather not."), worker), ask())
    assert (episode.answer, episode.usage.calls) == ("did it", 2)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ('["a", "b"]', ["a", "b"]),
        ('{"subtasks": [{"task": "a"}, {"task": "b"}]}', ["a", "b"]),
        ("Plan:\n1. a\n2) b\n- c", ["a", "b", "c"]),
        ("[1, 2]", []),
        ('["", "  "]', []),
        ("", []),
    ],
)
def test_plans_are_read_leniently(text, plan):
    assert read_plan(text) == plan


# refine


async def test_an_answer_is_refined_until_it_passes():
    worker, evaluator = agent("41", "42"), agent("FAIL\nOne too few.", "PASS")
    episode = await tt.run_episode(refine(worker, evaluator), ask())
    assert episode.answer == "42"
    assert [segment.part for segment in episode.segments] == ["worker", "evaluator", "worker", "evaluator"]
    second = worker.model.requests[1].messages
    assert [message.role for message in second] == ["user", "assistant", "user"]
    assert "One too few." in second[-1].text and second[1].text == "41"


async def test_rounds_are_capped():
    worker, evaluator = agent(lambda m, t, s: "41"), agent(lambda m, t, s: "FAIL: no")
    episode = await tt.run_episode(refine(worker, evaluator, rounds=3), ask())
    assert (episode.answer, worker.model.calls, evaluator.model.calls) == ("41", 3, 3)


@pytest.mark.parametrize(
    ("verdict", "fail"), [("PASS", False), ("failed: x", True), ("fail", True), ("Fails here", True), ("", False), ("surpass", False)]
)
def test_verdicts(verdict, fail):
    assert is_fail(verdict) is fail


# the whole


async def test_what_the_whole_knows_reaches_its_parts():
    case = tt.Exemplar(task_id="t", input_id="i", text="a", messages=(tt.Message(role="user", content="SHOWN"),))
    own_case = tt.Exemplar(task_id="t", input_id=ask().input_id, text="a", messages=(tt.Message(role="user", content="OWN CASE"),))
    note = Reflection(task_id="t", input_id=ask().input_id, task_text="a", attempt=0, text="REMEMBER")
    knowledge = Knowledge(exemplars=(own_case, case), insights=(Insight(text="RULE"),), reflections=(note,))
    worker, evaluator = agent("41", "42", knowledge=Knowledge(insights=(Insight(text="OWN RULE"),))), agent("FAIL", "PASS")
    whole = refine(worker, evaluator).but(knowledge=knowledge)
    episode = await tt.run_episode(whole, ask())
    for number in (0, 1):  # the second round too
        assert all(text in seen(worker, number) for text in ("SHOWN", "RULE", "OWN RULE", "REMEMBER"))
        assert "OWN CASE" not in seen(worker, number)
    assert "RULE" in seen(evaluator) and "SHOWN" not in seen(evaluator) and "REMEMBER" not in seen(evaluator)
    assert {case.id, note.id} < set(episode.shown)
    assert refine(worker, evaluator).version != whole.version


async def test_learners_learn_from_a_whole():
    tasks = [ask(f"What is {n} times 2?").model_copy(update={"reference": str(2 * n)}) for n in range(6)]

    def times_two(messages, tools, sampling):
        return str(2 * int(messages[-1].text.split()[2]))

    whole = route(lambda task: "sums", {"sums": agent(times_two)})
    study = tt.Study(
        agent=whole, train=tasks[:3], test=tasks[3:], grader=tt.Exact(), learners={"cases": tt.Exemplars("fixed", 2, source="success")}
    )
    report = await study.arun()
    assert [arm.score for arm in report.arms] == [1.0, 1.0]
    episode = await tt.run_episode(whole, tasks[0])
    assert [message.text for message in success_exemplar(tasks[0], episode).messages] == ["What is 0 times 2?", "0"]


async def test_patterns_nest():
    inner = chain(agent("a"), agent("b"))
    episode = await tt.run_episode(route(lambda task: "inner", {"inner": inner}), ask())
    assert [segment.part for segment in episode.segments] == ["inner/step 1", "inner/step 2"]
    assert episode.answer == "b"


async def test_the_limits_of_the_whole_count_over_its_parts():
    steps = [agent(lambda m, t, s: "x") for _ in range(5)]
    whole = chain(*steps)
    episode = await tt.run_episode(whole.but(limits=tt.Limits(steps=3)), ask())
    assert (episode.stop, episode.usage.calls) == (StopReason.STEPS, 3)
    episode = await tt.run_episode(whole.but(limits=tt.Limits(steps=9, tokens=1)), ask())
    assert (episode.stop, episode.usage.calls) == (StopReason.TOKENS, 1)
    slow = tt.Agent(model=tt.Scripted("x", delay=5))
    episode = await tt.run_episode(chain(agent("a"), slow).but(limits=tt.Limits(seconds=0.05)), ask())
    assert (episode.stop, len(episode.segments)) == (StopReason.SECONDS, 1)


async def test_a_part_whose_model_fails_ends_the_whole_ungraded():
    never = agent("x")
    episode = await tt.run_episode(chain(agent(tt.ModelFailed("busy")), never), ask())
    assert (episode.stop, episode.error, never.model.calls) == (StopReason.MODEL_ERROR, "busy", 0)


async def test_an_environment_that_is_done_ends_the_whole():
    class Button:
        done = False

        def reset(self, task: tt.Task) -> str:
            return "There is a button."

        def press(self) -> str:
            """Press the button."""
            self.done = True
            return "click"

        def grade(self, episode: tt.Episode) -> float:
            return 1.0 if self.done else 0.0

    first, never = agent(tt.ToolCall(id="a", name="press")), agent("x")
    episode = await tt.run_episode(chain(first, never), ask(), environment=Button)
    assert (episode.stop, episode.environment_grade.score, never.model.calls) == (StopReason.ENVIRONMENT, 1.0, 0)
    assert "There is a button." in seen(first)


async def test_a_cancelled_whole_stops_its_parts():
    stopped = []

    async def hang(messages, tools, sampling):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append(1)
            raise

    running = asyncio.create_task(tt.run_episode(sections({"a": agent(hang), "b": agent(hang)}), ask()))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stopped == [1, 1]


@pytest.mark.parametrize(
    "make",
    [
        chain,
        lambda: chain(agent("x"), gates=()),
        lambda: chain(agent("x"), retries=-1),
        lambda: chain("gguf:smollm2-135m"),
        lambda: route(agent("x"), {}),
        lambda: route(agent("x"), {"a": agent("x")}, default="b"),
        lambda: sections({}),
        lambda: vote([]),
        lambda: vote(agent("x"), 0),
        lambda: orchestrate(agent("x"), agent("x"), cap=0),
        lambda: refine(agent("x"), agent("x"), rounds=0),
    ],
)
def test_bad_patterns_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_the_instructions_of_all_parts_are_found():
    inner = chain(agent("a", instructions="inner one"), agent("b", instructions="inner two"))
    whole = route(agent("x", instructions="which"), {"inner": inner, "plain": agent("c", instructions="inner one")})
    assert instructions_of(whole).split("\n") == ["which", "inner one", "inner two", "inner one"]
    assert instructions_of(agent("x")) == ""
