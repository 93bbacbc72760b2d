"""State advantages, proxy rewards and the value of a memory, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import InputError
from tutelage.knowledge import Exemplar, Knowledge
from tutelage.learners.agile_advantage import (
    Alike,
    SessionState,
    Value,
    fit_value,
    proxy_rewards,
    returns_to_go,
    state_advantages,
    state_features,
)
from tutelage.learners.agile_rewards import Fork, proxied
from tutelage.records import Advice, Episode, Experience, Grade, Message, StopReason, Task
from tutelage.streams import StreamSession


@dataclass(frozen=True)
class Ask:
    """A question of a kind."""

    text: str
    kind: str | None
    input_id: str


def ask(name: str) -> Ask:
    """`a3`: the third question of kind a."""
    return Ask(name, name[0], name)


def asks(names: str) -> list[Ask]:
    return [ask(name) for name in names.split()]


SAME_KIND = Alike("kind")


def stream(names: str, asked: str) -> list[SessionState]:
    """Every session writes its own question into memory; `+` sought advice."""
    questions = asks(names)
    return [SessionState(question, questions[:place], asked[place] == "+") for place, question in enumerate(questions)]


def test_advice_is_credited_where_something_similar_comes_and_less_where_memory_has_it():
    # a1: a2 and a3 come, memory empty: .1 / 1. b1: no b comes. a2: a3 comes, memory has a1: .1 / 2. a3: nothing comes. c1: did not ask.
    assert state_advantages(stream("a1 b1 a2 a3 c1 c2", "++++-+"), SAME_KIND) == pytest.approx([0.1, 0, 0.05, 0, 0, 0])
    assert state_advantages(stream("a1 a2 a3 a4", "++++"), SAME_KIND, beta=0.6) == pytest.approx([0.6, 0.3, 0.2, 0])


def test_a_question_does_not_help_with_itself():
    assert state_advantages(stream("a1 a1", "++"), SAME_KIND) == [0, 0]
    assert state_advantages(stream("a1 a1 a2", "+++"), SAME_KIND) == pytest.approx([0.1, 0.1, 0])  # its own entry is not shown with it


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.floats(0, 1))
def test_credit_is_between_nothing_and_beta_and_goes_to_those_who_asked(drawn, beta):
    names = " ".join(f"{kind}{place}" for place, (kind, _) in enumerate(drawn))
    sessions = stream(names, "".join("+" if asked else "-" for _, asked in drawn))
    credits = state_advantages(sessions, SAME_KIND, beta)
    assert len(credits) == len(sessions)
    assert all(0 <= credit <= beta for credit in credits)
    assert not any(credit for credit, session in zip(credits, sessions, strict=True) if not session.asked)
    assert not credits or credits[-1] == 0


def test_proxy_rewards_are_rewards_and_the_change_of_value():
    assert proxy_rewards([1.0, None, 0.7], [0.5, 0.2, 0.9, 0.0]) == [pytest.approx(0.7), None, pytest.approx(-0.2)]
    assert proxy_rewards([], [3.0]) == []
    with pytest.raises(ValueError, match="2 sessions have 3 states"):
        proxy_rewards([1.0, 1.0], [0.0, 0.0])


rewards_lists = st.lists(st.floats(-2, 2), max_size=10)


@given(rewards_lists, st.data())
def test_a_streams_proxy_rewards_add_up_to_its_rewards_and_the_whole_change(rewards: Sequence[float], data):
    values = data.draw(st.lists(st.floats(-5, 5), min_size=len(rewards) + 1, max_size=len(rewards) + 1))
    total = sum(reward for reward in proxy_rewards(rewards, values) if reward is not None)
    assert total == pytest.approx(sum(rewards) + values[-1] - values[0], abs=1e-9)


def test_returns_leave_ungraded_sessions_out():
    assert returns_to_go([1.0, None, -0.3, 0.7]) == pytest.approx([1.4, 0.4, 0.4, 0.7, 0.0])


def test_features_of_a_memory():
    memory, to_come = asks("a1 b1 b2"), asks("a9 c9 b2")
    # three are left; a and b are known kinds; b2 is helped by b1 and not by its own case
    assert state_features(memory, to_come, SAME_KIND).tolist() == pytest.approx([3, 3 * math.log(4), 2, 2])
    assert state_features(asks("b2"), asks("b2"), SAME_KIND).tolist() == pytest.approx([1, math.log(2), 1, 0])
    assert state_features(memory, [], SAME_KIND).tolist() == [0, 0, 0, 0]
    assert state_features([], to_come, SAME_KIND).tolist() == [3, 0, 0, 0]


def test_a_value_by_hand():
    # minimise (w - 1)^2 + (2 w - 3)^2 + w^2: w = (1 + 6) / (1 + 4 + 1)
    assert fit_value([np.array([1.0]), np.array([2.0])], [1.0, 3.0], ridge=1.0).weights == pytest.approx((7 / 6,))
    assert Value((2.0, -1.0))(np.array([3.0, 4.0])) == 2.0


def test_a_value_of_known_data_is_found_again():
    weights = np.array([0.5, -0.1, 0.25, 0.4])
    rows = [*np.random.default_rng(0).uniform(0, 10, (50, 4))]
    found = fit_value(rows, [float(row @ weights) for row in rows], ridge=1e-9)
    assert found.weights == pytest.approx(tuple(weights), abs=1e-6)
    assert found(np.zeros(4)) == 0


def test_a_value_needs_as_many_returns_as_states():
    with pytest.raises(ValueError, match="0 and 0"):
        fit_value([], [])
    with pytest.raises(ValueError, match="1 and 2"):
        fit_value([np.ones(2)], [1.0, 2.0])


def test_similar_by_words():
    def said(text: str) -> Ask:
        return Ask(text, None, text)

    alike = Alike("text", 0.5)
    one = said("is the red lamp waterproof")
    assert alike(one, said("is the blue lamp waterproof"))  # 4 of 6 words
    assert alike(said("is the blue lamp waterproof"), one)
    assert not alike(one, said("how heavy is a chair"))
    assert not Alike("text", 0.7)(one, said("is the blue lamp waterproof"))
    assert not SAME_KIND(one, one)  # without a kind
    with pytest.raises(InputError, match="nothing"):
        Alike("meaning", 0.5, embedder="nothing")(one, said("a chair"))


# -- whole streams

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def session(place: int, name: str, score: float | None, *, asked: bool = False, writes: bool = False) -> StreamSession:
    """A session on the question `a3` at a price of .3; it writes its own case."""
    task = Task(messages=(Message(role="user", content=name),), kind=name[0])
    advice = (Advice(question_id="q", answer="x", by="expert", when=NOON, price=0.3),) * asked
    episode = Episode(task_id=task.id, agent_version="v", segments=(), answer="x", stop=StopReason.ANSWERED, advice=advice)
    entry = Exemplar(task_id=task.id, input_id=task.input_id, text=name, messages=task.messages, kind=task.kind)
    experience = Experience(episode=episode, grade=Grade(score=score), when=NOON)
    return StreamSession(place, task, experience, "", (entry,) if writes else ())


def fork(memory: Knowledge, *tried: StreamSession) -> Fork:
    return Fork(memory, tried[0], tried)


def known(*names: str) -> Knowledge:
    """A memory that holds these cases."""
    cases = [session(0, name, 1.0, writes=True).writes[0] for name in names]
    return Knowledge(exemplars=tuple(cases))


def near(rewards):
    """Numbers to compare nested lists with."""
    return [[[None if value is None else pytest.approx(value) for value in tried] for tried in walk] for walk in rewards]


def test_every_attempt_of_a_stream_is_credited_by_similarity():
    walk = [
        fork(known(), session(0, "a1", 1.0, asked=True), session(0, "a1", 1.0), session(0, "a1", None, asked=True)),
        fork(known("a1"), session(1, "a2", 0.0, asked=True), session(1, "a2", 0.5)),
        fork(known("a1"), session(2, "a3", 1.0, asked=True)),
    ]
    assert proxied([walk], "similarity", SAME_KIND) == near([[[0.7 + 0.1, 1.0, None], [-0.3 + 0.05, 0.5], [0.7]]])
    assert proxied([walk], "none", SAME_KIND) == near([[[0.7, 1.0, None], [-0.3, 0.5], [0.7]]])
    assert proxied([walk], "similarity", SAME_KIND, beta=1.0)[0][0][0] == pytest.approx(1.7)


def test_a_stream_is_valued_by_a_value_that_was_fitted_on_the_others():
    # each is one session from an empty memory: features (1, 0, 0, 0), so V = r of the other / (1 + ridge); nothing comes after it
    walks = [[fork(known(), session(0, "a1", 1.0))], [fork(known(), session(0, "b1", 1.0, asked=True), session(0, "b1", 0.0))]]
    assert proxied(walks, "value", SAME_KIND, ridge=1.0) == near([[[1.0 - 0.7 / 2]], [[0.7 - 0.5, 0.0 - 0.5]]])
    assert proxied(walks[:1], "value", SAME_KIND, ridge=1.0) == near([[[1.0 - 0.5]]])  # a lone one by its own


def test_what_a_session_writes_is_worth_what_it_changes_for_those_to_come():
    # of the other streams: who knows something similar earned 1 more from the one question left
    others = [[fork(known(), session(0, "a1", 0.0))], [fork(known("a0"), session(0, "a1", 1.0))]] * 50
    keeps, forgets = session(0, "a1", 0.7, writes=True), session(0, "a1", 0.7)
    walk = [fork(known(), keeps, forgets), fork(known("a1"), session(1, "a2", 1.0))]
    (kept, forgotten), _ = proxied([*others, walk], "value", SAME_KIND, ridge=1e-6)[-1]
    assert kept - forgotten == pytest.approx(1.0, abs=1e-3)


def test_ungraded_sessions_are_worth_nothing_and_change_nothing():
    one = [[fork(known(), session(0, "a1", 1.0))], [fork(known(), session(0, "a2", 1.0))]]
    ungraded = fork(known(), session(1, "a3", None))
    assert proxied([[*walk, ungraded] for walk in one], "value", SAME_KIND) == near([[[0.5], [None]]] * 2)
    assert proxied([[ungraded]], "value", SAME_KIND) == [[[None]]]
