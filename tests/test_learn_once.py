"""What several arms learn alike is learned once and costs each of them what it would have cost alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tutelage as tt
from tutelage.budget import Account, Cost, outside
from tutelage.learner import learn_once
from tutelage.learners.curriculum import Curriculum
from tutelage.practice import Learned
from tutelage.prices import Price
from tutelage.study.shelf import RunShelf

TASKS = [tt.Task(messages=(tt.Message(role="user", content=f"say {n}"),), reference=f"say {n}") for n in range(3)]


class Trying:
    """Tries each task so often, asks so many questions, and says so in the instructions where it is told to."""

    name = "trying"
    needs = frozenset[tt.Need]()

    def __init__(self, attempts: int, questions: int = 0, says: str = "") -> None:
        self.attempts, self.questions, self.says = attempts, questions, says
        self.learned = 0

    def described(self) -> dict:
        return {"trying": [self.attempts, self.questions, self.says]}

    def forecast_calls(self, n_tasks: int) -> int:
        return n_tasks * self.attempts

    async def learn(self, agent: tt.Agent, practice: tt.Practice) -> tt.Agent:
        self.learned += 1
        experiences = await practice.collect(agent, attempts=self.attempts)
        for number in range(self.questions):
            await practice.ask(agent, [tt.Message(role="user", content=f"{agent.instructions} question {number}")])
        practice.note(tried=len(experiences))
        return agent.but(instructions=agent.instructions + self.says)


class InMemory:
    """A shelf that keeps everything as it is."""

    def __init__(self) -> None:
        self.kept: dict[str, Learned] = {}

    def find(self, fingerprint: str, agent: tt.Agent) -> Learned | None:
        return self.kept.get(fingerprint)

    def keep(self, fingerprint: str, learned: Learned, begun_with: tt.Agent) -> tt.Agent:
        self.kept[fingerprint] = learned
        return learned.agent


@pytest.fixture
def shelf() -> InMemory:
    return InMemory()


async def test_the_shelf_of_a_run_keeps_what_each_episode_cost(tmp_path, store):
    shelf, part = RunShelf(tmp_path), Trying(2)
    await learn(part, shelf, store)
    again = await learn(Curriculum(part, Trying(3)), RunShelf(tmp_path), store)
    assert part.learned == 1
    assert again.cost.calls == 9


@pytest.fixture
def store() -> tt.Store:
    return tt.Store(":memory:")


def agent(price: Price | None = None) -> tt.Agent:
    model = tt.Scripted(lambda messages, tools, sampling: messages[-1].text, price=price)
    return tt.Agent(model=model, sampling=tt.Sampling(temperature=1.0))


async def learn(learner, shelf, store, one: tt.Agent | None = None) -> tt.Practice:
    """One arm: its practice, once it has learned."""
    practice = tt.Practice(TASKS, tt.Collector(tt.Exact(), store=store), shelf=shelf)
    await learn_once(learner, one or agent(), practice)
    return practice


@pytest.mark.parametrize("says", ["", "!"])
async def test_a_part_that_an_arm_took_over_and_the_next_one_count_each_episode_once(shelf, store, says):
    """The first part tries 3 tasks twice and the second three times; where the first changed nothing, 6 of these 9 are the same."""
    first, second = Trying(2, says=says), Trying(3)
    alone = await learn(first, shelf, store)
    both = await learn(Curriculum(first, second), shelf, store)
    assert first.learned == 1, "the curriculum found it on the shelf"
    assert (alone.cost.calls, both.cost.calls) == (6, 15 if says else 9)
    unshelved = await learn(Curriculum(first, second), None, store)
    assert both.cost.model_copy(update={"seconds": 0.0}) == unshelved.cost
    assert both.facts == unshelved.facts == {"trying.tried": 6, "trying-2.tried": 9}


async def test_a_part_is_kept_at_what_it_costs_alone_whoever_paid_for_its_episodes(shelf, store):
    """In the curriculum the second part adds 3 episodes to the 6 of the first; an arm of its own needs all 9."""
    second = Trying(3)
    both = await learn(Curriculum(Trying(2), second), shelf, store)
    alone = await learn(second, shelf, store)
    assert second.learned == 1
    assert (both.cost.calls, alone.cost.calls) == (9, 9)


async def test_questions_seconds_and_money_are_taken_over_too(shelf, store):
    one = agent(Price(input=1.0, output=1.0))
    asking = Trying(1, questions=2)
    first = await learn(asking, shelf, store, one)
    again = await learn(Curriculum(asking, asking), shelf, store, one)
    assert asking.learned == 1
    (kept,) = {id(learned): learned for learned in shelf.kept.values() if learned.facts == {"tried": 3}}.values()
    assert (kept.cost.calls, len(kept.episodes), outside(kept.cost, kept.episodes).calls) == (5, 3, 2)
    assert kept.cost.seconds > 0
    assert first.cost.usd == pytest.approx(kept.cost.usd)
    assert again.cost.calls == 5 + 2, "questions are not episodes: whoever learns twice asks twice"
    assert again.cost.seconds >= 2 * kept.cost.seconds


async def test_an_unknown_price_stays_unknown(shelf, store):
    one = agent()
    one.model.price = None
    part = Trying(2)
    assert (await learn(part, shelf, store, one)).cost.usd is None
    assert (await learn(Curriculum(part, Trying(3)), shelf, store, one)).cost.usd is None


async def test_a_shelf_that_knows_no_episodes_gives_the_sum(shelf, store):
    part = Trying(2)
    await learn(part, shelf, store)
    shelf.kept = {name: replace(learned, episodes={}) for name, learned in shelf.kept.items()}
    assert (await learn(part, shelf, store)).cost.calls == 6


def test_an_account_and_its_parts():
    whole, call = Account(), Cost(calls=1, tokens_in=10, usd=0.5)
    whole.count("a", call)
    with whole.part() as part:
        whole.count("a", call)
        whole.count("b", call)
        with whole.part() as inner:
            whole.spend(Cost(calls=7))
            whole.count("b", call)
    whole.count("c", call)
    assert (whole.cost.calls, part.cost.calls, inner.cost.calls) == (3 + 7, 2 + 7, 1 + 7)
    assert (whole.cost.usd, part.cost.usd, inner.cost.usd) == (1.5, 1.0, 0.5)
    assert (set(whole.episodes), set(part.episodes), set(inner.episodes)) == ({"a", "b", "c"}, {"a", "b"}, {"b"})
    assert outside(whole.cost, whole.episodes) == Cost(calls=7)
