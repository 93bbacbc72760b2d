"""Curate: a learner that tidies, behind others or alone."""

from __future__ import annotations

import hashlib

import pytest

import tutelage as tt
from tutelage.errors import InputError
from tutelage.history import add
from tutelage.knowledge import Insight
from tutelage.learners import curate as curate_module
from tutelage.learners.curate import Curate

GOOD, TWIN = Insight(text="Carry the one when you add."), Insight(text="Carry the one when you add!")
BAD, USELESS = Insight(text="Guess whenever in doubt."), Insight(text="Be polite to everybody.")


def student(messages, tools, sampling) -> str:
    rules = messages[0].text if messages[0].role == "system" else ""
    share = 0.3 + 0.6 * ("Carry" in rules) - 0.3 * (BAD.text in rules)
    luck = int(hashlib.sha256(messages[-1].text.encode()).hexdigest()[:8], 16) / 16**8
    return "right" if luck < share else "wrong"


def agent(*insights: Insight, by: str = "test") -> tt.Agent:
    return tt.Agent(model=tt.Scripted(student), knowledge=add(tt.Knowledge(), insights, by=by))


def practice(n: int = 40, grader=None) -> tt.Practice:
    tasks = [tt.Task(messages=(tt.Message(role="user", content=f"Sum {number}"),), reference="right") for number in range(n)]
    return tt.Practice(tasks, tt.Collector(grader or tt.Exact()))


@pytest.fixture(autouse=True)
def by_words(monkeypatch):
    """Without an embedder, so that nothing optional is needed."""
    monkeypatch.setattr(curate_module, "_likeness", lambda knowledge: (0.8, None))


async def test_it_merges_measures_and_drops_and_says_so():
    base, training = agent(GOOD, TWIN, BAD, USELESS), practice()
    learned = await Curate().learn(base, training)
    assert {insight.text for insight in learned.knowledge.insights} == {GOOD.text, USELESS.text}
    assert learned.knowledge.insights[0].count == 4
    assert learned.knowledge.evidence[GOOD.id].low > 0
    assert {change.by for change in learned.knowledge.history[4:]} == {"curate"}
    noted = ("entries_before", "entries_merged", "entries_dropped", "entries_kept")
    assert [training.facts[name] for name in noted] == [4, 1, 1, 2]
    assert training.facts["worth_verdicts"] == {"helps": 1, "not shown": 1, "harms": 1}
    assert training.cost.calls == Curate().forecast_calls(40) == 320
    assert base.knowledge.insights == (GOOD, TWIN, BAD, USELESS)


async def test_unhelpful_goes_too_and_none_keeps_all():
    learned = await Curate(drop="unhelpful").learn(agent(GOOD, BAD, USELESS), practice())
    assert learned.knowledge.insights == (GOOD,)
    within = await Curate(tokens=13, drop="unhelpful").learn(agent(GOOD, BAD, USELESS), practice())
    assert set(within.knowledge.insights) == {GOOD, USELESS}  # 7 + 6 tokens fit once the harmful one is gone
    kept = await Curate(drop="none").learn(agent(GOOD, BAD, USELESS), practice())
    assert len(kept.knowledge.insights) == 3
    assert kept.knowledge.evidence[BAD.id].high < 0


async def test_the_budget_keeps_what_is_worth_most():
    learned = await Curate(tokens=7, drop="none").learn(agent(BAD, USELESS, GOOD), practice())
    assert learned.knowledge.insights == (GOOD,)


async def test_what_people_hold_stays_however_harmful():
    learned = await Curate(drop="unhelpful").learn(agent(BAD, by="person"), practice())
    assert learned.knowledge.insights == (BAD,)
    with pytest.raises(InputError, match="the budget is 1"):
        await Curate(tokens=1, measure=False).learn(agent(BAD, by="person"), practice())


async def test_half_life_drops_what_one_pass_contradicts():
    """Two kinds of cases; those with the wrong answer are followed to failure."""

    def reply(messages, tools, sampling):
        return next(message.text for message in reversed(messages) if message.role == "assistant")

    def task(n: int) -> tt.Task:
        return tt.Task(messages=(tt.Message(role="user", content=f"{'apple' if n % 2 else 'stone'} {n}"),), reference="yes")

    cases = [
        tt.Exemplar(
            task_id=text,
            input_id=text,
            text=text,
            messages=(tt.Message(role="user", content=text), tt.Message(role="assistant", content=answer)),
        )
        for text, answer in (("apple", "yes"), ("stone", "no"))
    ]
    knowledge = add(tt.Knowledge(retrieval=tt.Retrieval(choose="text", k=1)), cases, by="test")
    training = tt.Practice([task(n) for n in range(20)], tt.Collector(tt.Exact()))
    curate = Curate(measure=False, half_life=20)
    learned = await curate.learn(tt.Agent(model=tt.Scripted(reply), knowledge=knowledge), training)
    assert [case.text for case in learned.knowledge.exemplars] == ["apple"]
    assert training.cost.calls == curate.forecast_calls(20) == 20
    assert "contradicted" in learned.knowledge.history[-1].note


async def test_nothing_known_and_nothing_graded_cost_nothing_and_lose_nothing():
    training = practice()
    assert (await Curate(half_life=3).learn(agent(), training)).knowledge.entries == ()
    assert training.cost.calls == 0
    nothing = tt.FunctionGrader(lambda task, episode: None)
    learned = await Curate(drop="unhelpful", half_life=3).learn(agent(GOOD, BAD), practice(grader=nothing))
    assert learned.knowledge.insights == (GOOD, BAD)


async def test_it_repeats():
    versions = [(await Curate(draws=2).learn(agent(GOOD, BAD), practice(10))).version for _ in range(2)]
    assert versions[0] == versions[1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"drop": "all"}, "harmful, unhelpful or none"),
        ({"tokens": -1}, "cannot be negative"),
        ({"draws": 5}, "even number"),
        ({"half_life": 0}, "half-life"),
    ],
)
def test_wrong_options(options: dict, match: str):
    with pytest.raises(InputError, match=match):
        Curate(**options)


def test_it_is_a_learner_whose_settings_are_told():
    assert isinstance(Curate(), tt.Learner)
    assert Curate(100).described() == {
        "curate": {"tokens": 100, "measure": True, "draws": 8, "top": 40, "merge": True, "drop": "harmful", "half_life": None}
    }
    assert Curate(measure=False).forecast_calls(10) == 0
