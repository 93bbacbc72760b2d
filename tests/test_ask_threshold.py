"""Choosing when to ask: hand-computed thresholds, and agents whose confidence tells much, nothing, or the contrary."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

import tutelage as tt
from tutelage import history
from tutelage.advice import ReferenceAdvisor
from tutelage.errors import InputError
from tutelage.executor.ask_when import ALWAYS, NEVER, AskWhen, agreement, confidence, similarity, token_probability
from tutelage.executor.executor import AgileExecutor
from tutelage.grader import as_grader
from tutelage.knowledge import EMPTY, Exemplar, Retrieval
from tutelage.learners.ask_threshold import AskThreshold, Case, Setting, choose, constant, held_out, scanned, settings
from tutelage.memory import Memory
from tutelage.records import Completion, Message, TokenTrace

PRICE = 0.3


def case(sure: float, own: float, advised: float | None = 1.0, question: str = "") -> Case:
    return Case(sure, own, advised, question or f"{sure}/{own}")


FOUR = [case(0.9, 1), case(0.2, 0), case(0.6, 0), case(0.4, 1)]


def near(setting: Setting) -> tuple[float, ...]:
    return tuple(round(value, 9) for value in (setting.threshold, setting.advice_rate, setting.score, setting.reward))


def test_every_threshold_by_hand() -> None:
    assert [near(one) for one in settings(FOUR, PRICE)] == [
        (NEVER, 0.0, 0.5, 0.5),
        (0.3, 0.25, 0.75, 0.675),
        (0.5, 0.5, 0.75, 0.6),
        (0.75, 0.75, 1.0, 0.775),
        (ALWAYS, 1.0, 1.0, 0.7),
    ]


@pytest.mark.parametrize(
    ("price", "threshold"),
    [
        (0.0, ALWAYS),  # free: of equal rewards the most advice
        (0.1, 0.75),
        (0.3, 0.75),
        (0.6, 0.3),
        (0.99, 0.3),
        (1.0, NEVER),  # what it repairs is just worth its price: of equal rewards the least advice
        (1.5, NEVER),
    ],
)
def test_the_threshold_follows_the_price(price: float, threshold: float) -> None:
    assert scanned(FOUR, price).threshold == pytest.approx(threshold)


def test_cases_of_one_confidence_go_together_and_those_without_advice_are_not_charged() -> None:
    same = [case(0.5, 0, question="a"), case(0.5, 1, question="b"), case(0.5, 0, None, question="c")]
    assert [near(one) for one in settings(same, PRICE)] == [
        (NEVER, 0.0, round(1 / 3, 9), round(1 / 3, 9)),
        (ALWAYS, round(2 / 3, 9), round(2 / 3, 9), round((2 - 0.6) / 3, 9)),
    ]
    wrong = [case(0.1, 1, 0.0), case(0.9, 0, 0.0)]
    assert scanned(wrong, 0.0).threshold == NEVER, "an advisor that is always wrong is not asked, even for nothing"


def test_thresholds_between_neighbouring_numbers_still_part_them() -> None:
    low = 0.3
    high = math.nextafter(low, 1)
    one, two, three = settings([case(low, 0), case(high, 1)], PRICE)
    assert low < two.threshold <= high
    assert (one.advice_rate, two.advice_rate, three.advice_rate) == (0.0, 0.5, 1.0)


def test_held_out_by_hand() -> None:
    """Without a (0.2) the threshold is 0.55, without c (0.3) 0.5, without b (0.8) 0.6, without d (0.9) 0.55: a and c are asked about."""
    cases = [case(0.2, 0, question="a"), case(0.8, 1, question="b"), case(0.3, 0, question="c"), case(0.9, 1, question="d")]
    assert held_out(cases, PRICE, scanned, folds=9) == pytest.approx((0.7 + 1 + 0.7 + 1) / 4)
    # of the other three at most two are right: always asking is worth 0.7, and never 1/3 or 2/3
    assert held_out(cases, PRICE, constant, folds=4) == pytest.approx(0.7)
    assert held_out(cases, 0.5, constant, folds=4) == pytest.approx((0 + 0 + 0.5 + 0.5) / 4), "never is chosen without a or c, else always"
    assert held_out(cases[:1], PRICE, scanned) is None
    assert held_out([case(0.2, 0, question="a"), case(0.3, 1, question="a")], PRICE, scanned) is None, "one question twice"


def test_a_case_is_measured_at_a_threshold_that_has_not_seen_it() -> None:
    seen: list[set[str]] = []
    cases = [case(number / 10, number % 2, question=str(number)) for number in range(7)]

    def watched(some, price):
        seen.append({one.question for one in some})
        return scanned(some, price)

    held_out(cases, PRICE, watched, folds=3)
    assert sorted(len(questions) for questions in seen) == [4, 5, 5]
    assert all(sum(str(number) not in questions for questions in seen) == 1 for number in range(7))


def simulated(informative: float, n: int = 400, seed: int = 0, right: float = 0.5) -> list[Case]:
    """informative: how far confidence and success go together; negative: contrary."""
    draw = random.Random(seed)
    cases = []
    for number in range(n):
        own = float(draw.random() < right)
        noise, sign = draw.random(), own if informative >= 0 else 1 - own
        sure = abs(informative) * (0.5 * sign + 0.5 * noise) + (1 - abs(informative)) * noise
        cases.append(Case(sure, own, 1.0, str(number)))
    return cases


def test_informative_confidence_gains_and_the_gain_stands_on_new_tasks() -> None:
    cases = simulated(1.0)
    chosen = choose(cases, PRICE)
    # confidence tells right from wrong at 0.5: every wrong answer is asked about, and no right one
    assert chosen.threshold == pytest.approx(0.5, abs=0.01)
    wrong = sum(1 - one.own for one in cases) / len(cases)
    assert chosen.reward == pytest.approx(1 - PRICE * wrong)
    expected = held_out(cases, PRICE, choose)
    fresh = settings_at(simulated(1.0, seed=1), chosen.threshold)
    assert expected == pytest.approx(fresh, abs=0.03)
    assert expected > max(constant(cases, PRICE).reward, 0.7) + 0.1


def settings_at(cases: list[Case], threshold: float) -> float:
    earned = [one.advised - PRICE if one.confidence < threshold else one.own for one in cases]
    return sum(earned) / len(earned)


@pytest.mark.parametrize("informative", [0.0, -1.0])
def test_useless_or_contrary_confidence_leaves_the_better_of_never_and_always(informative: float) -> None:
    picked = [choose(simulated(informative, n=60, seed=seed), PRICE) for seed in range(12)]
    assert sum(one.threshold in (NEVER, ALWAYS) for one in picked) >= 9
    for right, threshold in ((0.95, NEVER), (0.2, ALWAYS)):
        cases = simulated(informative, right=right)
        assert constant(cases, PRICE).threshold == threshold
        expected = held_out(cases, PRICE, choose)
        assert expected is not None
        assert expected >= constant(cases, PRICE).reward - 0.02


def test_what_is_held_out_is_not_flattered_by_choosing() -> None:
    """With useless confidence the best threshold looks better than it is on its own tasks; held out it does not, on average."""
    looks, holds = [], []
    for seed in range(30):
        cases = simulated(0.0, n=20, seed=seed, right=0.7)
        looks.append(scanned(cases, PRICE).reward)
        holds.append(held_out(cases, PRICE, scanned))
    # never, always and every threshold are worth 0.7 in truth
    assert sum(looks) / 30 > 0.74
    assert sum(holds) / 30 < 0.72


@tries(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Case,
            st.sampled_from([0.0, 0.2, 0.5, 0.5000001, 1.0]),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([None, 0.0, 1.0]),
            st.sampled_from("abcdef"),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0]),
)
def test_the_books_balance(cases: list[Case], price: float) -> None:
    found = settings(cases, price)
    assert all(one.threshold < two.threshold and one.advice_rate <= two.advice_rate for one, two in pairwise(found))
    for one in found:
        assert one.reward == pytest.approx(one.score - price * one.advice_rate)
        earned = [c.advised - price if c.confidence < one.threshold and c.advised is not None else c.own for c in cases]
        assert one.reward == pytest.approx(sum(earned) / len(earned))
    assert constant(cases, price).reward <= scanned(cases, price).reward + 1e-9
    chosen = choose(cases, price, folds=3)
    assert chosen in found
    assert chosen.reward >= constant(cases, price).reward - 1e-9
    if price >= 1:
        assert chosen.threshold == NEVER


# -- how confidence is measured


def ask(text: str, **fields: Any) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content=text),), **fields)


def test_asking() -> None:
    assert AskWhen(threshold=0.5).asks(0.49)
    assert not AskWhen(threshold=0.5).asks(0.5)
    assert AskWhen(threshold=0.5).asks(None), "what cannot be measured is not sure"
    assert not AskWhen(threshold=NEVER).asks(0.0)
    assert not AskWhen(threshold=NEVER).asks(None)
    assert AskWhen(threshold=ALWAYS).asks(1.0)


def traced(*logprobs: float) -> Completion:
    trace = TokenTrace(prompt_ids=(1,), completion_ids=tuple(range(len(logprobs))), logprobs=logprobs)
    return Completion(message=Message(role="assistant", content="x"), tokens=trace)


def test_token_probability_by_hand() -> None:
    assert token_probability(traced(math.log(0.5), math.log(0.125))) == pytest.approx(0.25)  # the root of 0.5 * 0.125
    assert token_probability(traced(0.0, 0.0)) == 1.0
    assert token_probability(traced(-math.inf, 0.0)) == 0.0
    assert token_probability(traced(math.nan)) is None
    assert token_probability(traced()) is None
    assert token_probability(Completion(message=Message(role="assistant"))) is None
    assert token_probability(None) is None
    listed = tt.records.TokenChoice(text="x", logprob=math.log(0.3))
    assert token_probability(Completion(message=Message(role="assistant"), choices=(listed,))) == pytest.approx(0.3)


def test_agreement_by_hand() -> None:
    plain = ask("Who?")
    assert agreement(plain, "Bob", ["bob.", " BOB ", "Ann", None]) == 0.5
    assert agreement(plain, "", ["bob"]) is None
    assert agreement(plain, "Bob", []) is None
    options = ask("Which?", environment={"choices": {"A": "aspirin", "B": "ibuprofen"}})
    assert agreement(options, "B", ["(b) ibuprofen", "Ibuprofen", "A", "A or B"]) == 0.5


def test_similarity_by_hand() -> None:
    known = [
        Exemplar(task_id=text, input_id=text, text=text, messages=(Message(role="assistant", content="x"),))
        for text in ("red green blue", "red green white black")
    ]
    knowledge = history.add(EMPTY, known, by="test").model_copy(update={"retrieval": Retrieval(choose="text", k=2)})
    assert similarity(Memory(knowledge), ask("red green")) == pytest.approx(2 / 3)
    assert similarity(Memory(knowledge), ask("purple")) is None, "nothing shares a word"
    assert similarity(Memory(EMPTY), ask("red green")) is None
    own = ask("red green blue")
    with_own = history.add(EMPTY, [known[0].model_copy(update={"input_id": own.input_id})], by="test")
    assert similarity(Memory(with_own.model_copy(update={"retrieval": knowledge.retrieval})), own) is None, "never its own case"


async def test_samples_are_drawn_only_for_agreement() -> None:
    drawn: list[int] = []

    async def again(number: int) -> str:
        drawn.append(number)
        return "yes" if number < 4 else "no"

    asked = {"task": ask("Is it?"), "draft": "yes", "completion": traced(0.0), "memory": Memory(EMPTY), "again": again}
    assert await confidence(AskWhen(signal="probability"), **asked) == 1.0
    assert await confidence(AskWhen(signal="similarity"), **asked) is None
    assert drawn == []
    assert await confidence(AskWhen(signal="agreement", samples=4), **asked) == 0.75
    assert drawn == [1, 2, 3, 4]


# -- with the executor


OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "four"}
KNOWN = {"sure": 0.9, "unsure": 0.4}


def quiz(n: int = 24, right: dict[str, float] | None = None) -> list[tt.Task]:
    """Questions that say themselves how sure the pupil is of them; half of them are `unsure`."""
    return [
        tt.Task(
            messages=(Message(role="user", content=f"Question {number}, {'sure' if number % 2 else 'unsure'}?"),),
            reference="ABCD"[number % 4],
            environment={"choices": OPTIONS},
        )
        for number in range(n)
    ]


def graded(task: tt.Task, episode: tt.Episode) -> float:
    return float((episode.answer or "")[:1] == task.reference)


class Pupil:
    """Knows the answers to what it is sure of (`knows`), follows advice, and gives its tokens the probability that the question names."""

    def __init__(self, knows: str = "sure", *, traced: bool = True, follows: bool = True) -> None:
        self.knows, self.traced, self.follows = knows, traced, follows

    def __call__(self, messages: Any, tools: Any, sampling: tt.Sampling) -> Completion:
        text = "\n".join(message.text for message in messages)
        number, sure = re.findall(r"Question (\d+), (\w+)\?", text)[-1]
        advised = re.findall(r"seek_advice: (\w)", text)
        answer = "ABCD"[int(number) % 4] if sure == self.knows else "ABCD"[(int(number) + 1) % 4]
        if sampling.temperature > 0 and sure == "unsure" and sampling.seed is not None and sampling.seed % 2:
            answer = "ABCD"[(int(number) + 2) % 4]
        said = advised[-1] if advised and self.follows else answer
        trace = TokenTrace(prompt_ids=(1,), completion_ids=(2,), logprobs=(math.log(KNOWN[sure]) - int(number) * 1e-4,))
        wanted = self.traced and sampling.logprobs
        return Completion(message=Message(role="assistant", content=f"submit_answer {said}"), tokens=trace if wanted else None)


def agent_of(pupil: Pupil, **executor: Any) -> tt.Agent:
    return tt.Agent(model=tt.Scripted(pupil, name="pupil", native_tools=False), executor=AgileExecutor(**executor))


def practice_of(tasks: list[tt.Task], *, grader: Any = graded, error_rate: float = 0.0, advisor: Any = "reference") -> tt.Practice:
    who = ReferenceAdvisor(tasks, error_rate=error_rate) if advisor == "reference" else advisor
    return tt.Practice(tasks, tt.Collector(as_grader(grader), advisor=who))


def when_of(agent: tt.Agent) -> AskWhen:
    assert isinstance(agent.executor, AgileExecutor)
    assert agent.executor.ask_when is not None
    return agent.executor.ask_when


async def test_the_pupil_learns_to_ask_about_what_it_does_not_know() -> None:
    tasks = quiz()
    training, pupil = practice_of(tasks), agent_of(Pupil())
    learned = await AskThreshold().learn(pupil, training)
    facts = training.facts
    assert 0.4 <= when_of(learned).threshold < 0.9
    assert when_of(learned).signal == "probability"
    # 12 of 24 known; asking about the other 12 gives 1 - 0.3 / 2
    assert (facts["ask_reward_never"], facts["ask_reward_always"]) == (0.5, pytest.approx(0.7))
    assert (facts["ask_reward"], facts["ask_advice_rate"]) == (pytest.approx(0.85), 0.5)
    assert facts["ask_reward_held_out"] == pytest.approx(0.85)
    assert facts["ask_gain_held_out"] == pytest.approx(0.35)
    assert (facts["ask_advisor"], facts["ask_advisor_score"], facts["ask_price"]) == ("asked", 1.0, 0.3)
    assert (facts["ask_graded"], facts["ask_ungraded"], facts["ask_without_draft"]) == (24, 0, 0)
    curve = facts["ask_curve"]
    assert isinstance(curve, list)
    assert curve[0] == {"threshold": 0.0, "advice_rate": 0.0, "score": 0.5, "reward": 0.5}
    assert curve[-1] == {"threshold": ALWAYS, "advice_rate": 1.0, "score": 1.0, "reward": pytest.approx(0.7)}
    assert len(curve) == 25
    assert pupil.executor == AgileExecutor(), "nothing is changed in place"
    assert training.cost.calls == 24, "the advisor's answers cost nothing, and its sessions are not run"
    # the learned agent does as was foreseen, on questions that it has not seen
    fresh = quiz(40)[24:]
    experiences = await practice_of(fresh).collect(learned)
    assert [len(one.episode.advice) for one in experiences] == [1, 0] * 8
    assert [one.grade.score for one in experiences] == [1.0] * 16


async def test_contrary_confidence_is_not_followed() -> None:
    training = practice_of(quiz())
    learned = await AskThreshold().learn(agent_of(Pupil("unsure")), training)
    assert when_of(learned).threshold == ALWAYS, "asking always is worth 0.7, never 0.5, asking below a threshold at most that"
    assert training.facts["ask_reward"] == pytest.approx(0.7)
    dear = practice_of(quiz())
    learned = await AskThreshold().learn(agent_of(Pupil("unsure"), price=0.6), dear)
    assert when_of(learned).threshold == NEVER


@pytest.mark.parametrize(("price", "threshold"), [(0.0, ALWAYS), (1.01, NEVER)])
async def test_free_and_unaffordable_advice(price: float, threshold: float) -> None:
    training = practice_of(quiz())
    learned = await AskThreshold().learn(agent_of(Pupil(), price=price), training)
    assert when_of(learned).threshold == threshold
    assert training.facts["ask_reward"] == (1.0 if price == 0 else 0.5)


async def test_a_model_without_token_probabilities_is_measured_by_agreement() -> None:
    tasks = quiz()
    pupil = agent_of(Pupil(traced=False))
    with pytest.raises(InputError, match="agreement"):
        await AskThreshold().learn(pupil, practice_of(tasks))
    training = practice_of(tasks)
    learner = AskThreshold("agreement", samples=8)
    learned = await learner.learn(pupil, training)
    assert (when_of(learned).signal, when_of(learned).samples) == ("agreement", 8)
    assert 0.4 < when_of(learned).threshold <= 1.0
    assert training.facts["ask_reward"] >= 0.84
    assert training.cost.calls == learner.forecast_calls(24) == 24 * 9


async def test_similarity_asks_where_memory_knows_nothing_alike() -> None:
    tasks = quiz()
    seen = [
        Exemplar(task_id="x", input_id=str(number), text=f"Question {number}, sure?", messages=(Message(role="assistant", content="A"),))
        for number in range(1, 24, 2)
    ]
    pupil = agent_of(Pupil(traced=False)).but(knowledge=history.add(EMPTY, seen, by="test"))
    training = practice_of(tasks)
    learned = await AskThreshold("similarity").learn(pupil, training)
    assert training.facts["ask_reward"] == pytest.approx(0.85)
    assert 0.2 < when_of(learned).threshold <= 1.0  # "unsure" shares one word of four with each of them, "sure" all three with its own
    nothing = practice_of(tasks)
    learned = await AskThreshold("similarity").learn(agent_of(Pupil(traced=False)), nothing)
    assert when_of(learned).threshold == ALWAYS, "an empty memory tells nothing: the better of never (0.5) and always (0.7)"


async def test_an_advisor_that_errs_is_worth_less() -> None:
    tasks = quiz(40)
    training = practice_of(tasks, error_rate=0.5)
    await AskThreshold().learn(agent_of(Pupil()), training)
    advisor, rights = ReferenceAdvisor(tasks, error_rate=0.5), 0
    for task in tasks:
        advice = await advisor.ask(tt.Question(text=task.text, choices=tuple(OPTIONS), task_id=task.id))
        rights += advice is not None and advice.answer == task.reference
    assert training.facts["ask_advisor_score"] == pytest.approx(rights / 40)
    assert 0.2 < rights / 40 < 0.8


class Someone:
    """An expert whose time is not to be spent on learning a threshold."""

    name, price = "someone", 0.0
    asked = 0

    async def ask(self, question: tt.Question) -> tt.Advice | None:
        self.asked += 1
        return None


async def test_who_is_not_simulated_is_not_asked() -> None:
    someone = Someone()
    training = practice_of(quiz(), advisor=someone)
    learned = await AskThreshold(error_rate=0.1).learn(agent_of(Pupil()), training)
    assert someone.asked == 0
    assert (training.facts["ask_advisor"], training.facts["ask_advisor_score"]) == ("assumed", pytest.approx(0.9))
    assert training.facts["ask_reward"] == pytest.approx(0.5 + 0.5 * (0.9 - 0.3))
    assert when_of(learned).threshold < 0.9
    alone = practice_of(quiz(), advisor=None)
    await AskThreshold().learn(agent_of(Pupil()), alone)
    assert alone.facts["ask_advisor_score"] == 1.0


async def test_sessions_with_advice_tell_whether_it_is_followed() -> None:
    training = practice_of(quiz())
    learner = AskThreshold(advised="session")
    learned = await learner.learn(agent_of(Pupil(follows=False)), training)
    assert when_of(learned).threshold == NEVER, "advice that is not followed is worth nothing"
    assert training.facts["ask_advisor_score"] == 0.5
    assert "ask_advisor" not in training.facts
    followed = practice_of(quiz())
    await AskThreshold(advised="session").learn(agent_of(Pupil()), followed)
    assert followed.facts["ask_reward"] == pytest.approx(0.85)
    assert followed.cost.calls == 24 + 48 == learner.forecast_calls(24) + 24, "a session with advice answers twice"


async def test_ungraded_tasks_are_left_out_and_nothing_graded_changes_nothing() -> None:
    def partly(task: tt.Task, episode: tt.Episode) -> float | None:
        return None if "unsure" in task.text else graded(task, episode)

    training = practice_of(quiz(), grader=partly)
    learned = await AskThreshold().learn(agent_of(Pupil()), training)
    assert (training.facts["ask_graded"], training.facts["ask_ungraded"]) == (12, 12)
    assert when_of(learned).threshold == NEVER, "what was graded was known"
    none = practice_of(quiz(), grader=lambda task, episode: None)
    pupil = agent_of(Pupil())
    assert await AskThreshold().learn(pupil, none) == pupil
    assert (none.facts["ask_graded"], none.facts["ask_ungraded"]) == (0, 24)
    assert "ask_curve" not in none.facts


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_few_tasks(n: int) -> None:
    training = practice_of(quiz(n))
    learned = await AskThreshold().learn(agent_of(Pupil()), training)
    assert when_of(learned).threshold in (NEVER, ALWAYS), "too few to tell more than never from always"
    assert (training.facts["ask_reward_held_out"] is None) == (n == 1)


async def test_an_agent_without_an_executor_is_refused() -> None:
    with pytest.raises(InputError, match="executor"):
        await AskThreshold().learn(tt.Agent(model=tt.Scripted("x")), practice_of(quiz()))


async def test_the_agent_is_not_left_to_ask_by_itself() -> None:
    learned = await AskThreshold().learn(agent_of(Pupil()), practice_of(quiz()))
    assert isinstance(learned.executor, AgileExecutor)
    assert "seek_advice" not in learned.executor.enabled
    assert "submit_answer" in learned.executor.enabled


async def test_a_session_without_a_draft_cannot_be_asked_about() -> None:
    def silent(messages: Any, tools: Any, sampling: tt.Sampling) -> Any:
        if "unsure" in "\n".join(message.text for message in messages):
            return "reflect nothing"
        return Pupil()(messages, tools, sampling)

    pupil = tt.Agent(model=tt.Scripted(silent, name="silent", native_tools=False), executor=AgileExecutor(), limits=tt.Limits(steps=2))
    training = practice_of(quiz())
    learned = await AskThreshold().learn(pupil, training)
    assert training.facts["ask_without_draft"] == 12
    assert training.facts["ask_without_advice"] == 12
    assert when_of(learned).threshold == NEVER


async def test_a_repeated_run_learns_the_same_and_asks_nothing_again() -> None:
    tasks, pupil = quiz(), agent_of(Pupil())
    store = tt.Store(":memory:")
    versions, calls = [], []
    for _ in range(2):
        collector = tt.Collector(as_grader(graded), store=store, advisor=ReferenceAdvisor(tasks))
        versions.append((await AskThreshold().learn(pupil, tt.Practice(tasks, collector))).version)
        calls.append(pupil.model.calls)
    assert versions[0] == versions[1]
    assert calls[0] == calls[1]


def test_options() -> None:
    assert isinstance(AskThreshold(), tt.Learner)
    assert AskThreshold("agreement").label == "ask-agreement"
    assert AskThreshold().described() != AskThreshold(folds=3).described()
    for wrong, says in (
        ({"signal": "mood"}, "signal"),
        ({"samples": 0}, "samples"),
        ({"folds": 1}, "folds"),
        ({"fold": 3}, "Did you mean `folds`"),
        ({"error_rate": 1.5}, "error_rate"),
    ):
        with pytest.raises(InputError, match=says):
            AskThreshold(**wrong)


def test_the_order_of_the_cases_does_not_matter() -> None:
    cases = simulated(0.5, n=50)
    assert choose(cases, PRICE) == choose(cases[::-1], PRICE)
