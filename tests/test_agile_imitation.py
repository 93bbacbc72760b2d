"""Sessions to imitate: every branch of the teacher by hand, the memories they start from, and the rows that come of them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutelage as tt
from tutelage.environments.shop_catalogue import GROUPS
from tutelage.environments.shop_store import open_shop
from tutelage.errors import InputError, SealedError
from tutelage.executor import AgileExecutor, parse_action, writes_of
from tutelage.executor.actions import ACTIONS
from tutelage.knowledge import Insight, Knowledge, Retrieval
from tutelage.learners.agile_imitation import AgileImitation, imitation_rows, imitation_sessions, own_sessions
from tutelage.learners.agile_memories import Lessons, Memories, memory_entry
from tutelage.learners.agile_oracle import Call, Plan, ShopOracle
from tutelage.learners.agile_teacher import Move, choose_branch, moves, write_move
from tutelage.records import Advice, Completion, Episode, Experience, Grade, Message, Record, Segment, Step, StopReason, Task

ALL = frozenset({"seek_advice", "reflect", "update_memory", "predict_answer", "submit_answer", "sql"})
CALL = Call(name="sql", arguments={"query": "SELECT weight_kg FROM lamps"})
RULE = "In this shop a lamp is cleared for bathrooms if its IP rating is at least 44, and not otherwise."


def said(*written: Move) -> list[str]:
    return [" ".join([move.action, *map(str, move.arguments.values())]) for move in written]


# -- the branches


@pytest.mark.parametrize(
    ("plan", "shown", "may_ask", "ask", "branch"),
    [
        (Plan(answer="x", calls=(CALL,), sure=True), "", True, None, "search"),
        (Plan(answer="x", sure=True), "", True, None, "shown"),
        (Plan(answer="x", needs=(RULE,)), f"Known:   {RULE.upper()}\n", True, None, "known"),
        (Plan(answer="x", needs=("a", RULE)), RULE, True, None, "known"),
        (Plan(answer="x", needs=(RULE,)), "Known: another rule", True, None, "advice"),
        (Plan(answer="x"), "anything", True, None, "advice"),
        (Plan(answer="x", needs=(RULE,)), "", False, None, "unaided"),
        (Plan(answer="x", sure=True), "", True, True, "advice"),
        (Plan(answer="x", needs=(RULE,)), RULE, True, True, "advice"),
        (Plan(answer="x", needs=(RULE,)), "", True, False, "unaided"),
        (Plan(answer="x", needs=(RULE,)), RULE, True, False, "known"),
        (Plan(answer="x", calls=(CALL,), sure=True), "", True, False, "search"),
        (Plan(answer="x", needs=(RULE,)), "", False, True, "unaided"),
    ],
)
def test_what_is_shown_decides_the_branch(plan, shown, may_ask, ask, branch):
    assert choose_branch(plan, shown, may_ask=may_ask, ask=ask) == branch


def test_the_actions_of_each_branch():
    plan = Plan(answer="yes", calls=(CALL,), needs=(RULE,), lesson=RULE)
    answered = ["sql SELECT weight_kg FROM lamps", "predict_answer yes", "submit_answer"]
    assert said(*moves(plan, "known", ALL)) == said(*moves(plan, "search", ALL)) == said(*moves(plan, "unaided", ALL)) == answered
    assert said(*moves(Plan(answer="yes", sure=True), "shown", ALL)) == ["predict_answer yes", "submit_answer"]
    assert said(*moves(plan, "advice", ALL)) == ["seek_advice", f"reflect {RULE}", "update_memory", "submit_answer yes"]


def test_where_advice_teaches_nothing_memory_is_left_alone():
    assert said(*moves(Plan(answer="7"), "advice", ALL)) == ["seek_advice", "reflect no information", "submit_answer 7"]


def test_actions_that_are_not_there_are_not_taken():
    plan = Plan(answer="yes", calls=(CALL,), needs=(RULE,), lesson=RULE)
    assert said(*moves(plan, "known", ALL - {"sql", "submit_answer"})) == ["predict_answer yes"]
    assert said(*moves(plan, "known", ALL - {"predict_answer"}))[-1] == "submit_answer yes"
    assert said(*moves(plan, "advice", ALL - {"submit_answer"}))[-1] == "predict_answer yes"
    assert said(*moves(plan, "advice", ALL - {"reflect"})) == ["seek_advice", f"update_memory {RULE}", "submit_answer yes"]
    assert said(*moves(plan, "advice", {"seek_advice", "submit_answer"})) == ["seek_advice", "submit_answer yes"]
    assert said(*moves(plan, "advice", ALL | {"clear_context"}))[2:] == ["update_memory", "clear_context", "submit_answer yes"]


SPECS = tuple(item.spec for item in ACTIONS.values())


@given(st.sampled_from(["reflect", "submit_answer", "update_memory", "predict_answer"]), st.text(max_size=60))
def test_what_is_written_is_read_as_it_was_meant(name, text):
    """Whatever the words are: a line where the executor reads that line so, else a tool call."""
    argument = next(iter(ACTIONS[name].spec.parameters["properties"]))
    move = Move(action=name, arguments={argument: text})
    message = write_move(move, AgileExecutor(), SPECS, native=False)
    read = parse_action(message.text, SPECS)
    assert read.name == name
    assert " ".join(read.parsed()[argument].split()) == " ".join(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").split())


def test_tool_calls_are_written_in_the_models_own_form():
    move = Move(action="submit_answer", arguments={"answer": "yes"})
    executor = AgileExecutor(form="tools")
    native = write_move(move, executor, SPECS, native=True, number=3)
    assert (native.text, native.tool_calls[0].name, native.tool_calls[0].parsed()) == ("", "submit_answer", {"answer": "yes"})
    text = '<tool_call>{"name":"submit_answer","arguments":{"answer":"yes"}}</tool_call>'
    assert write_move(move, executor, SPECS, native=False).text.replace('": ', '":').replace(', "', ',"') == text


# -- sessions through the real executor

LAMPS = tt.shop_tasks(48, 0, groups=["lamps"])
REASONING = tt.shop_tasks(24, 0, groups=["lamps"], kinds=["reasoning"])


def shopkeeper(**fields: Any) -> tt.Agent:
    executor = fields.pop("executor", None) or AgileExecutor(**fields.pop("options", {}))
    return tt.Agent(model=tt.Scripted("never asked", native_tools=fields.pop("native", False)), executor=executor, **fields)


def practising(tasks=LAMPS, grader=None, **options: Any) -> tt.Practice:
    collector = tt.Collector(grader or tt.ShopGrader(), environment=tt.ShopEnvironment, store=options.pop("store", None))
    return tt.Practice(tasks, collector, **options)


def turns(session: Experience) -> list[str]:
    return [step.completion.message.text for step in session.episode.steps]


def plain(session: Experience) -> tuple[Any, ...]:
    episode = session.episode
    return episode.ref, [segment.context for segment in episode.segments], turns(session), episode.answer


async def test_sessions_are_those_of_the_agents_own_executor():
    training = practising()
    sessions = await imitation_sessions(shopkeeper(), training, ShopOracle())
    assert training.facts["sessions_taught"] == len(sessions) == 48
    assert training.facts["sessions_dropped"] == 0
    by_kind = Counter((task.kind, "advice" if one.episode.advice else "own") for task, one in zip(LAMPS, sessions, strict=True))
    assert by_kind[("fact", "own")] == by_kind[("search", "own")] == 16
    assert min(by_kind[("reasoning", "advice")], by_kind[("reasoning", "own")]) >= 3
    known = by_kind[("reasoning", "own")]
    assert training.facts["sessions_by_branch"] == {"search": 32, "known": known, "advice": 16 - known}
    assert training.facts["advice_rate"] == (16 - known) / 48
    assert training.cost.calls == 0, "no model was asked"


async def test_a_session_asks_exactly_where_memory_does_not_show_the_rule():
    oracle = ShopOracle()
    sessions = await imitation_sessions(shopkeeper(), practising(REASONING), oracle, per_task=4)
    by_id = {task.id: task for task in REASONING}
    seen = Counter()
    for session in sessions:
        task = by_id[session.episode.task_id]
        context = session.episode.segments[0].context[-1].text
        shown = oracle.plan(task).lesson in context
        assert bool(session.episode.advice) is not shown
        seen[shown] += 1
        column = next(rule.column for rule in GROUPS["lamps"].rules if rule.name == task.environment["rule"])
        assert turns(session)[0].split()[:3] == ["sql", "SELECT", column] if shown else turns(session)[0] == "seek_advice"
    assert min(seen.values()) >= 15


async def test_a_session_that_asks_writes_the_rule_without_the_product():
    training = practising(REASONING[:1])
    (session,) = await imitation_sessions(shopkeeper(options={"price": 0.4}), training, ShopOracle())
    task, (advice,) = REASONING[0], session.episode.advice
    law = open_shop(0).law("lamps", task.environment["rule"]).words(GROUPS["lamps"])
    assert (advice.answer, advice.by, advice.price) == (task.reference[1], "oracle", 0.4)
    assert turns(session)[1:3] == [f"reflect In this shop {law}.", "update_memory"]
    (entry,) = writes_of(session.episode, task)
    assert entry == memory_entry(task, ShopOracle().plan(task).lesson)
    title = open_shop(0).rows["lamps"][task.environment["product"]]["title"]
    assert title in advice.answer and title not in entry.messages[-1].text
    assert session.episode.stop is StopReason.ANSWERED


async def test_sessions_repeat_exactly_under_a_seed_and_differ_by_it():
    runs = [await imitation_sessions(shopkeeper(), practising(REASONING), ShopOracle(), seed=seed, per_task=2) for seed in (0, 0, 1)]
    first, again, other = ([plain(session) for session in run] for run in runs)
    assert first == again
    assert first != other


async def test_a_stored_session_is_not_run_again(tmp_path):
    with tt.Store(tmp_path / "store.db") as store:
        first = await imitation_sessions(shopkeeper(), practising(store=store), ShopOracle())
        again = await imitation_sessions(shopkeeper(), practising(store=store), ShopOracle())
    assert [one.when for one in first] == [one.when for one in again]


@pytest.mark.parametrize("share", [0.25, 0.75])
async def test_the_weak_start_asks_at_random(share):
    tasks = tt.shop_tasks(150, 0)
    training = practising(tasks)
    sessions = await imitation_sessions(shopkeeper(), training, ShopOracle(), random_advice=share)
    asked = sum(bool(one.episode.advice) for one in sessions) / len(sessions)
    assert len(sessions) == 150 and abs(asked - share) < 3 * (share * (1 - share) / 150) ** 0.5
    assert training.facts["advice_rate"] == asked
    branches = training.facts["sessions_by_branch"]
    assert branches["unaided"] > 0, "it also answers without what it takes"
    kinds = {task.id: task.kind for task in tasks}
    by_kind = Counter((kinds[one.episode.task_id], bool(one.episode.advice)) for one in sessions)
    for kind in ("fact", "search", "reasoning"):
        total = by_kind[kind, True] + by_kind[kind, False]
        assert abs(by_kind[kind, True] / total - share) < 3 * (share * (1 - share) / total) ** 0.5, "whatever the question is"


async def test_sessions_that_the_grader_finds_wrong_are_dropped_and_counted():
    class Wrong(ShopOracle):
        def plan(self, task: Task) -> Plan:
            plan = super().plan(task)
            return plan.model_copy(update={"answer": "nonsense"}) if task.kind == "fact" else plan

    training = practising()
    sessions = await imitation_sessions(shopkeeper(), training, Wrong())
    assert (training.facts["sessions_taught"], training.facts["sessions_dropped"], len(sessions)) == (48, 16, 32)


async def test_sessions_that_are_not_graded_are_dropped():
    training = practising(LAMPS[:3], grader=tt.grader.as_grader(lambda task, episode: Grade(score=None)))
    assert await imitation_sessions(shopkeeper(), training, ShopOracle()) == []
    assert training.facts["advice_rate"] is None


class Watching:
    """An oracle that remembers of whom it was asked."""

    name = "watching"

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def described(self) -> dict[str, Any]:
        return {}

    def plan(self, task: Task) -> Plan:
        self.asked.add(task.id)
        return ShopOracle().plan(task)


async def test_the_teacher_reads_no_sealed_task():
    train, test = LAMPS[:24], LAMPS[24:]
    sealed = frozenset(task.input_id for task in test)
    with pytest.raises(SealedError):
        practising(LAMPS, sealed=sealed)
    oracle = Watching()
    sessions = await imitation_sessions(shopkeeper(), practising(train, sealed=sealed), oracle, per_task=2)
    assert oracle.asked == {task.id for task in train}
    shown = "\n".join(message.text for one in sessions for segment in one.episode.segments for message in segment.context)
    assert not any(task.text in shown for task in test)


async def test_what_the_agent_knows_otherwise_stays_in_the_prompt():
    knowing = Knowledge(insights=(Insight(text="Answer in few words."),), exemplars=(memory_entry(LAMPS[5], "an own case"),))
    sessions = await imitation_sessions(shopkeeper(knowledge=knowing), practising(), ShopOracle())
    assert all("Answer in few words." in one.episode.segments[0].context[0].text for one in sessions)
    assert not any("an own case" in message.text for one in sessions for message in one.episode.segments[0].context)


async def test_the_executors_other_settings_hold():
    options = {"actions": ("get_question", "retrieve_memory", "seek_advice", "submit_answer"), "opening": ()}
    sessions = await imitation_sessions(shopkeeper(options=options), practising(REASONING), ShopOracle())
    assert all(turns(session)[:2] == ["get_question", "retrieve_memory"] for session in sessions)
    thirds = {turns(session)[2].partition(" ")[0] for session in sessions}
    assert thirds == {"sql", "seek_advice"}, "what it looked up decides"
    mute = {"actions": ("predict_answer",)}
    training = practising(REASONING)
    await imitation_sessions(shopkeeper(options=mute), training, ShopOracle())
    assert set(training.facts["sessions_by_branch"]) == {"known", "unaided"}


async def test_limits_too_narrow_for_a_session_are_refused():
    narrow = shopkeeper(limits=tt.Limits(steps=3))
    with pytest.raises(InputError, match="a session takes up to 4 actions, and the agent may take 3"):
        await imitation_sessions(narrow, practising(REASONING), ShopOracle())


async def test_an_agent_without_an_executor_is_refused():
    with pytest.raises(InputError, match="give it an executor"):
        await imitation_sessions(tt.Agent(model=tt.Scripted("x")), practising(), ShopOracle())


# -- memories


def test_memories_hold_what_is_needed_in_the_share_that_is_asked_for():
    oracle = ShopOracle()
    plans = [(task, oracle.plan(task)) for task in REASONING]
    lessons, memories = Lessons(plans), Memories(size=(2, 5), known=0.7)
    task, plan = plans[0]
    held, sizes = 0, Counter()
    for number in range(400):
        knowledge = lessons.memory(task, plan, memories, Random(number))
        found = [entry for entry in knowledge.exemplars if entry.messages[-1].text == plan.lesson]
        assert len(found) <= 1 and task.input_id not in {entry.input_id for entry in knowledge.exemplars}
        held += bool(found)
        sizes[len(knowledge.exemplars)] += 1
    assert abs(held / 400 - 0.7) < 4 * (0.7 * 0.3 / 400) ** 0.5
    assert set(sizes) == {2, 3, 4, 5} and min(sizes.values()) > 60


def test_a_memory_of_nothing_and_of_more_than_there_is():
    oracle = ShopOracle()
    plans = [(task, oracle.plan(task)) for task in REASONING[:4]]
    task, plan = plans[0]
    assert Lessons(plans).memory(task, plan, Memories(size=(0, 0)), Random(0)).exemplars == ()
    assert len(Lessons(plans).memory(task, plan, Memories(size=(50, 50), known=1), Random(0)).exemplars) <= 3
    facts = [(task, oracle.plan(task)) for task in LAMPS if task.kind == "fact"]
    assert Lessons(facts).memory(*facts[0], Memories(size=(3, 3)), Random(0)).exemplars == (), "facts teach nothing"


# -- rows


async def test_rows_are_the_conversation_as_the_model_saw_it():
    sessions = await imitation_sessions(shopkeeper(), practising(REASONING[:1]), ShopOracle())
    (row,) = imitation_rows(sessions, REASONING)
    (segment,) = sessions[0].episode.segments
    assert row.prompt == segment.context
    assert [message.role for message in row.completion] == ["assistant", "user"] * 3 + ["assistant"]
    assert row.learned == (0, 2, 4, 6) and row.tools == () and row.source == sessions[0].episode.ref
    assert row.completion[1].text == f"seek_advice: {REASONING[0].reference[1]}"
    assert row.completion[6].text == f"submit_answer {REASONING[0].reference[0]}"


async def test_a_cleared_context_is_a_row_of_its_own():
    actions = ("seek_advice", "reflect", "update_memory", "clear_context", "submit_answer")
    sessions = await imitation_sessions(shopkeeper(options={"actions": actions}), practising(REASONING[:1]), ShopOracle())
    first, second = imitation_rows(sessions, REASONING)
    assert (first.source, second.source) == (f"{sessions[0].episode.ref}#0", f"{sessions[0].episode.ref}#1")
    assert [message.text.partition(" ")[0] for message in first.completion[::2]] == list(actions[:4])
    assert [message.text for message in second.completion] == [f"submit_answer {REASONING[0].reference[0]}"]
    assert REASONING[0].reference[1] in second.prompt[-1].text, "the advice is noted there"
    assert not any("seek_advice: " in message.text for message in first.prompt)


async def test_rows_of_native_tools_hold_the_actions_and_the_tools():
    agent, training = shopkeeper(options={"form": "tools"}, native=True), practising(REASONING[:1])
    rows = [row for _, row in await AgileImitation("shop").rows(agent, training)]
    assert [call.name for row in rows for message in row.completion for call in message.tool_calls] == [
        "seek_advice",
        "reflect",
        "update_memory",
        "submit_answer",
    ]
    assert [spec.name for spec in rows[0].tools] == ["seek_advice", "reflect", "update_memory", "predict_answer", "submit_answer", "sql"]
    assert [message.role for message in rows[0].completion] == ["assistant", "tool"] * 3 + ["assistant"]


async def test_sessions_that_say_the_same_from_other_memories_are_all_kept():
    sessions = await imitation_sessions(shopkeeper(), practising(LAMPS[:1]), ShopOracle(), per_task=5)
    assert len(sessions) == 1, "one task alone has an empty memory each time, and the very same session runs once"
    sessions = await imitation_sessions(shopkeeper(), practising(LAMPS[:12]), ShopOracle(), per_task=5)
    rows = imitation_rows(sessions, LAMPS)
    assert len(rows) == len(sessions) > len({row.completion for row in rows})


def step(text: str, finish: str = "stop") -> Step:
    return Step(completion=Completion(message=Message(role="assistant", content=text), finish=finish))


def session(task: str, score: float | None, *, asked: float = 0.0, finish: str = "stop", words: str = "a") -> Experience:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    advice = (Advice(question_id="q", answer="a", by="e", when=when, price=asked),) if asked else ()
    segment = Segment(context=(Message(role="user", content="q"),), steps=(step(words, finish),))
    episode = Episode(task_id=task, agent_version=words, segments=(segment,), answer="a", stop=StopReason.ANSWERED, advice=advice)
    return Experience(episode=episode, grade=Grade(score=score), when=when)


def test_own_sessions_are_chosen_by_their_reward():
    paid, free = session("t", 1.0, asked=0.3, words="paid"), session("t", 1.0, words="free")
    wrong, ungraded, cut = session("t", 0.0), session("u", None), session("v", 1.0, finish="length")
    assert own_sessions([paid, wrong, free, ungraded, cut], 0.5, 1) == [free]
    assert own_sessions([paid, wrong, free, ungraded, cut], 0.5, 2) == [free, paid]
    assert own_sessions([paid, free], 0.8, 2) == [free]
    assert own_sessions([session("t", 1.0, asked=0.6)], 0.5, 1) == []


def test_rows_of_an_unknown_task_are_refused():
    with pytest.raises(InputError, match="not among the tasks"):
        imitation_rows([session("t", 1.0)], LAMPS)


async def test_own_sessions_are_streams_of_the_agent_itself():
    """A clerk that knows what memory tells it, asks what it does not know, and writes it down."""
    lessons = {task.id: ShopOracle().plan(task) for task in REASONING}
    by_text = {task.text: task for task in REASONING}

    def clerk(messages, tools=(), sampling=None) -> str:
        opened = next(message.text for message in messages if message.role == "user")
        plan = lessons[by_text[opened.partition("\n")[0]].id]
        said = [message.text for message in messages if message.role == "assistant"]
        if plan.knows(opened):
            return f"submit_answer {plan.answer}"
        return ["seek_advice", f"update_memory {plan.lesson}", f"submit_answer {plan.answer}"][len(said)]

    agent = tt.Agent(model=tt.Scripted(clerk, native_tools=False), executor=AgileExecutor(retrieval=Retrieval(choose="text", k=40)))
    advisor = tt.ReferenceAdvisor(REASONING)
    collector = tt.Collector(tt.ShopGrader(), environment=tt.ShopEnvironment, advisor=advisor)
    training = tt.Practice(REASONING, collector)
    keyed = await AgileImitation(source="own", reward=0.8).rows(agent, training)
    assert (training.facts["sessions_own"], training.facts["sessions_kept"]) == (24, 20)
    assert len(keyed) == 20, "each of the four rules was asked for once, at a price; all other sessions were free"
    assert all(row.completion[0].text.startswith("submit_answer") for _, row in keyed)


# -- the learner's options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "a teacher needs an oracle"),
        ({"oracle": "shop", "source": "own"}, "own sessions need none"),
        ({"oracle": "shopp"}, "shop"),
        ({"oracle": "shop", "folder": "x"}, "productqa only"),
        ({"oracle": "shop", "sure": 0.5}, "productqa and multiple_choice only"),
        ({"oracle": "shop", "memory_size": [3, 1]}, "the least and the most"),
        ({"oracle": "shop", "random_advice": 1.5}, "random_advice"),
        ({"oracle": "shop", "random_advise": 0.5}, "random_advice"),
        ({"oracle": 7}, "oracle"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        AgileImitation(**options)


def test_what_decides_the_learning_is_described():
    learner = AgileImitation("productqa", sure=0.3, folder="a/b", sessions_per_task=3, save_steps=7)
    described = learner.described()["agile_imitation"]
    assert (described["oracle"], described["sure"], described["num_train_epochs"]) == ("productqa", 0.3, 2.0)
    assert not {"folder", "save_steps"} & described.keys()
    assert learner.forecast_calls(10) == 30
    assert AgileImitation(source="own", streams=4).forecast_calls(10) == 40
    assert AgileImitation(ShopOracle()).described()["agile_imitation"]["oracle"] == {"name": "shop"}
    assert tt.Need.REFERENCES in learner.needs and tt.Need.GRADES in AgileImitation(source="own").needs


def test_records_of_plans_are_plain_data():
    assert isinstance(Plan(answer="x"), Record) and Plan.model_validate_json(Plan(answer="x").model_dump_json()) == Plan(answer="x")
