"""Curricula: each part learns from the agent that the one before it made, and what the parts note stays apart."""

from __future__ import annotations

import pytest

import tutelage as tt
from tutelage.errors import BudgetExceeded, InputError
from tutelage.learner import Learner
from tutelage.learners.curriculum import Curriculum
from tutelage.learners.reflexion import Reflexion


def task(number: int) -> tt.Task:
    return tt.Task(messages=(tt.Message(role="user", content=f"say {number}"),), reference=f"say {number}")


TASKS = [task(n) for n in range(3)]


class Telling:
    """Adds a word to the instructions, and notes what it found there."""

    name = "telling"

    def __init__(self, word: str, needs: frozenset[tt.Need] = frozenset(), fails: bool = False) -> None:
        self.word, self.needs, self.fails = word, needs, fails

    def described(self) -> dict:
        return {"telling": self.word}

    def forecast_calls(self, n_tasks: int) -> int:
        return len(self.word) * n_tasks

    async def learn(self, agent: tt.Agent, practice: tt.Practice) -> tt.Agent:
        practice.note(found=agent.instructions, word=self.word)
        if self.fails:
            raise BudgetExceeded("spent")
        return agent.but(instructions=f"{agent.instructions}{self.word}")


def practice() -> tt.Practice:
    return tt.Practice(TASKS, tt.Collector(tt.Exact()))


def agent(reply="pink") -> tt.Agent:
    return tt.Agent(model=tt.Scripted(reply))


async def test_parts_learn_in_order_and_their_notes_do_not_overwrite_one_another():
    training = practice()
    training.note(mine=1)
    learned = await Curriculum(Telling("a"), Telling("b"), Telling("c")).learn(agent(), training)
    assert learned.instructions == "abc"
    assert training.facts == {
        "mine": 1,
        "telling.found": "",
        "telling.word": "a",
        "telling-2.found": "a",
        "telling-2.word": "b",
        "telling-3.found": "ab",
        "telling-3.word": "c",
    }


async def test_curricula_nest_and_what_was_noted_before_a_failure_is_kept():
    training = practice()
    inner = Curriculum(Telling("a"), Telling("b", fails=True))
    with pytest.raises(BudgetExceeded):
        await Curriculum.of([("first", inner), ("second", Telling("c"))]).learn(agent(), training)
    assert training.facts == {
        "first.telling.found": "",
        "first.telling.word": "a",
        "first.telling-2.found": "a",
        "first.telling-2.word": "b",
    }


def test_a_curriculum_is_what_its_parts_are():
    both = Curriculum(Reflexion(trials=2), tt.Exemplars(choose="text", source="success"), Telling("abc", frozenset({tt.Need.TEACHER})))
    assert both.label == "reflexion+exemplars-text+telling"
    assert both.needs == {tt.Need.GRADES, tt.Need.TEACHER}
    assert both.forecast_calls(10) == (20 + 10) + 10 + 30
    assert [list(part) for part in both.described()["curriculum"]] == [["reflexion"], ["exemplars"], ["telling"]]
    assert Curriculum(Telling("a"), Telling("b")).described() != Curriculum(Telling("b"), Telling("a")).described()
    assert isinstance(both, Learner)
    assert Curriculum.of([("warm-up", Telling("a")), ("main", Telling("b"))]).label == "warm-up+main"


def test_wrong_parts():
    with pytest.raises(InputError, match="in a list"):
        Curriculum()
    with pytest.raises(InputError, match="are learners"):
        Curriculum(Telling("a"), "reflexion")


async def test_reflections_and_the_successes_that_they_led_to_end_up_in_one_agent():
    """The student gives the right answer only once its plan says so, and then its success becomes an exemplar."""

    def student(messages, tools, sampling):
        prompt = messages[-1].text
        if "Write a plan" in prompt:
            return "Repeat what is said to you."
        return prompt.splitlines()[-1] if "Repeat what is said" in prompt else "pink"

    both = Curriculum(Reflexion(trials=2), tt.Exemplars(choose="text", k=2, source="success"))
    training = practice()
    learned = await both.learn(agent(student), training)
    assert training.facts["reflexion.solved_by_attempt"] == [0, 3]
    assert len(learned.knowledge.reflections) == 3
    assert [case.messages[-1].text for case in learned.knowledge.exemplars] == ["say 0", "say 1", "say 2"]
    episode = await tt.run_episode(learned, TASKS[0])
    assert len(episode.shown) == 3, "two cases of other tasks and its own reflection"
    assert episode.answer == "say 0"
