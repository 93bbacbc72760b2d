"""Oracles: what they say of real tasks of the shop, of multiple choice and of ProductQA, and sessions taught by them."""

from __future__ import annotations

from collections import Counter

import pytest

import tutelage as tt
from tutelage.environments.productqa import ProductQAEnvironment, ProductQAGrader, productqa_tasks
from tutelage.environments.shop_catalogue import GROUPS
from tutelage.environments.shop_store import open_shop
from tutelage.errors import InputError
from tutelage.executor import AgileExecutor
from tutelage.learners.agile_imitation import Options, imitation_sessions, make_oracle
from tutelage.learners.agile_memories import Memories
from tutelage.learners.agile_oracle import MultipleChoiceOracle, Oracle, ShopOracle, is_sure
from tutelage.learners.agile_oracle_productqa import ProductQAOracle
from tutelage.learners.agile_teacher import branch_of
from tutelage.records import Message, Task
from tutelage.task_formats.lines import Where
from tutelage.task_formats.multiple_choice import to_task


@pytest.mark.parametrize("seed", [0, 5])
def test_the_shops_sql_finds_what_is_asked(seed):
    world = tt.ShopEnvironment()
    for task in tt.shop_tasks(150, seed, flip_after=90):
        plan = ShopOracle().plan(task)
        world.reset(task)
        found = world.sql(plan.calls[0].arguments["query"]).splitlines()[1:]
        if task.kind == "search":
            assert sorted(found) == (sorted(task.environment["answer"]["value"]) or ["(no rows)"])
        elif task.kind == "fact":
            value = task.environment["answer"]["value"]
            assert found == [value] if isinstance(value, str) else float(found[0]) == value
        else:
            law = open_shop(seed).law(task.environment["group"], task.environment["rule"], flipped=bool(task.environment.get("flipped")))
            group = GROUPS[task.environment["group"]]
            value = open_shop(seed).rows[group.name][task.environment["product"]][law.rule.column]
            assert plan.lesson == f"In this shop {law.words(group)}."
            assert found == [value] if isinstance(value, str) else float(found[0]) == value


def test_the_shops_oracle_knows_no_other_tasks():
    with pytest.raises(InputError, match="no task of shop_tasks"):
        ShopOracle().plan(Task(messages=(Message(role="user", content="q"),), reference=["a", "b"]))


def choice(question: str, options: list[str], answer: str) -> Task:
    row = {"question": question, "options": options, "answer": answer}
    return to_task(row, Where("q.jsonl", 1))


DRUGS = [
    choice("Which drug treats fever in small children?", ["aspirin", "paracetamol"], "B"),
    choice("Which drug against fever suits small children best?", ["paracetamol", "morphine"], "A"),
    choice("Which organ makes insulin?", ["liver", "pancreas"], "B"),
]


def test_a_similar_question_with_the_same_answer_helps():
    oracle = MultipleChoiceOracle(DRUGS, sure=0.0)
    plan = oracle.plan(DRUGS[0])
    assert (plan.answer, plan.advice, plan.sure) == ("B", "B", False)
    assert plan.lesson == "To the question `Which drug treats fever in small children?` the right answer is: paracetamol"
    assert plan.needs == ("To the question `Which drug against fever suits small children best?` the right answer is: paracetamol",)
    assert oracle.plan(DRUGS[2]).needs == ()
    assert MultipleChoiceOracle(DRUGS, sure=0.0, similarity=0.9).plan(DRUGS[0]).needs == ()


async def test_multiple_choice_sessions():
    agent = tt.Agent(model=tt.Scripted("x", native_tools=False), executor=AgileExecutor())
    training = tt.Practice(DRUGS, tt.Collector(tt.Exact()))
    sessions = await imitation_sessions(agent, training, MultipleChoiceOracle(DRUGS, sure=0.0), memories=Memories(size=(1, 2), known=1))
    assert training.facts["sessions_by_branch"] == {"known": 2, "advice": 1}
    asked = sessions[2].episode
    assert [step.completion.message.text for step in asked.steps] == [
        "seek_advice",
        "reflect To the question `Which organ makes insulin?` the right answer is: pancreas",
        "update_memory",
        "submit_answer B",
    ]
    assert next(asked.steps).observations[0].text == "seek_advice: B: pancreas"
    training = tt.Practice(DRUGS, tt.Collector(tt.Exact()))
    await imitation_sessions(agent, training, MultipleChoiceOracle(DRUGS, sure=lambda task: task.id == DRUGS[2].id))
    assert training.facts["sessions_by_branch"]["shown"] == 1


def test_a_share_of_the_questions_is_answered_without_help():
    tasks = [choice(f"Question number {number}?", ["a", "b"], "A") for number in range(400)]
    sure = [is_sure(0.3, task) for task in tasks]
    assert abs(sum(sure) / 400 - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    assert sure == [is_sure(0.3, task) for task in tasks]
    assert sure != [is_sure(0.3, task, seed=1) for task in tasks]
    assert not any(is_sure(0.0, task) for task in tasks) and all(is_sure(1.0, task) for task in tasks)


@pytest.mark.data
async def test_productqa_sessions(data):
    """Of 60 training questions every session is right; each question needs what its file says."""
    folder = data / "productqa"
    tasks = productqa_tasks(60, 0, folder=folder, groups=["printers"])
    oracle = ProductQAOracle(sure=0.5)
    assert isinstance(oracle, Oracle)
    collector = tt.Collector(ProductQAGrader(), environment=lambda: ProductQAEnvironment(folder))
    training = tt.Practice(tasks, collector)
    agent = tt.Agent(model=tt.Scripted("x", native_tools=False), executor=AgileExecutor())
    sessions = await imitation_sessions(agent, training, oracle)
    assert (training.facts["sessions_taught"], training.facts["sessions_dropped"]) == (60, 0)
    plans = {task.id: oracle.plan(task) for task in tasks}
    kinds = {task.id: task.kind for task in tasks}
    seen = Counter((kinds[one.episode.task_id], branch_of(one.episode, plans[one.episode.task_id])) for one in sessions)
    assert {branch for kind, branch in seen if kind == "search"} == {"search"}
    assert {branch for kind, branch in seen if kind == "fact"} == {"shown", "advice"}
    assert {branch for kind, branch in seen if kind == "reasoning"} <= {"known", "advice"}
    reasoning = next(task for task in tasks if task.kind == "reasoning")
    assert plans[reasoning.id].lesson == plans[reasoning.id].needs[0] == reasoning.environment["knowledge"]
    assert plans[reasoning.id].advice.lower().startswith(f"{reasoning.reference[0].lower()}. ")
    search = next(task for task in tasks if task.kind == "search")
    assert ProductQAOracle(folder).plan(search) == plans[search.id]


@pytest.mark.data
def test_productqas_oracle_says_what_it_misses(data):
    search = next(task for task in productqa_tasks(None, 0, folder=data / "productqa", groups=["blades"]) if task.kind == "search")
    with pytest.raises(InputError, match="name the folder"):
        ProductQAOracle().plan(search.model_copy(update={"source": None}))
    with pytest.raises(InputError, match="no task of productqa_tasks"):
        ProductQAOracle().plan(tt.shop_tasks(1, 0)[0].model_copy(update={"environment": {}}))
    other = search.model_copy(update={"messages": (Message(role="user", content="another question"),)})
    with pytest.raises(InputError, match="no SQL"):
        ProductQAOracle().plan(other)


@pytest.mark.parametrize("make", [lambda: MultipleChoiceOracle(DRUGS, sure=2), lambda: ProductQAOracle(sure=-1)])
def test_shares_are_shares(make):
    with pytest.raises(InputError, match="share"):
        make()


def test_oracles_are_made_for_the_practice():
    training = tt.Practice(DRUGS, tt.Collector(tt.Exact()), seed=3)
    made = make_oracle(Options(oracle="multiple_choice", sure=0.2), training)
    assert made.described() == {"name": "multiple_choice", "sure": 0.2, "similarity": 0.3, "seed": 3}
    assert make_oracle(Options(oracle="shop"), training).name == "shop"
    assert make_oracle(Options(oracle="productqa"), training).described() == {"name": "productqa", "sure": 0.0, "seed": 3}
