"""Upkeep: near-duplicates, evidence, decay, budgets; what people did stays."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutelage as tt
from tutelage.errors import InputError
from tutelage.history import add
from tutelage.knowledge import Evidence, Insight, Reflection
from tutelage.records import Completion, Segment, Step
from tutelage.retrieval.duplicates import near_duplicates
from tutelage.upkeep import count_all, decay, drop_unhelpful, expected_scores, fit_budget, merge_duplicates, observe

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def case(text: str, answer: str, kind: str | None = None) -> tt.Exemplar:
    messages = (tt.Message(role="user", content=text), tt.Message(role="assistant", content=answer))
    return tt.Exemplar(task_id=text, input_id=text, text=text, messages=messages, kind=kind)


def knowing(*entries, by: str = "test", **fields) -> tt.Knowledge:
    return add(tt.Knowledge(**fields), entries, by=by)


def told(knowledge: tt.Knowledge, **evidence: Evidence) -> tt.Knowledge:
    return knowledge.model_copy(update={"evidence": evidence})


def graded(score: float | None, *shown: str, task_id: str = "t", answer: str = "?") -> tt.Experience:
    said = Step(completion=Completion(message=tt.Message(role="assistant", content=answer)))
    episode = tt.Episode(
        task_id=task_id,
        agent_version="a",
        segments=(Segment(context=(), steps=(said,)),),
        answer=answer,
        stop=tt.StopReason.ANSWERED,
        shown=shown,
    )
    return tt.Experience(episode=episode, grade=tt.Grade(score=score), when=NOW)


# Merging


def test_near_duplicate_insights_become_one_and_their_counts_are_added():
    first, second = Insight(text="Always check the stock first."), Insight(text="always check the stock FIRST", count=5)
    other = Insight(text="Answer in one word.")
    before = told(
        knowing(first, second, other),
        **{first.id: Evidence(supported=1, contradicted=2), second.id: Evidence(supported=3, worth=0.1), other.id: Evidence(supported=7)},
    )
    after = merge_duplicates(before, 0.9)
    assert [(insight.text, insight.count) for insight in after.insights] == [(second.text, 7), (other.text, 2)]
    assert after.evidence == {second.id: Evidence(supported=4, contradicted=2, worth=0.1), other.id: Evidence(supported=7)}
    assert [(change.action, change.by) for change in after.history[3:]] == [("agree", "upkeep"), ("merge", "upkeep")]
    assert after.history[-1].before == first
    assert second.id in after.history[-1].note
    again = merge_duplicates(after, 0.9)
    assert again.insights == after.insights
    assert again.history == after.history


def test_of_equals_the_older_insight_stays_and_what_a_person_wrote_always_does():
    old, new = Insight(text="Check the stock first!"), Insight(text="check the stock first")
    assert merge_duplicates(knowing(old, new), 0.9).insights[0].id == old.id
    with_person = add(knowing(Insight(text=old.text, count=9)), [new], by="person:Ada")
    assert [(insight.text, insight.count) for insight in merge_duplicates(with_person, 0.9).insights] == [(new.text, 11)]
    both_persons = add(knowing(old, by="person"), [new], by="person")
    assert merge_duplicates(both_persons, 0.9) == both_persons


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Always greet the customer by name in the reply", "Never greet the customer by name in the reply"),
        ("Do give a refund after the sale to anyone", "Don't give a refund after the sale to anyone"),
        ("Refunds are allowed up to 30 days after the sale", "Refunds are allowed up to 60 days after the sale"),
        ("Always check the stock before offering a price", "Always check a price before offering the stock"),
    ],
)
def test_alike_in_words_and_opposite_in_sense_is_no_duplicate(one: str, other: str):
    assert near_duplicates([one, other], 0.5) == []
    assert near_duplicates([one, other], 0.5, embedder=Constant()) == []
    assert len(near_duplicates([one, f"{one}!"], 1.0)) == 1


class Constant:
    """Finds all texts the same."""

    name, dim = "constant", 2

    def embed(self, texts):
        return np.tile(np.array([1, 0], np.float32), (len(texts), 1))


class Cars(Constant):
    """Knows that a car is an automobile."""

    def embed(self, texts):
        return np.array([[1, 0] if {"car", "automobile"} & set(text.split()) else [0, 1] for text in texts], np.float32)


def test_by_meaning_other_words_may_say_the_same():
    rules = [Insight(text="wash the car weekly"), Insight(text="clean your automobile once in a week"), Insight(text="eat")]
    assert len(merge_duplicates(knowing(*rules), 0.9).insights) == 3
    assert [insight.text for insight in merge_duplicates(knowing(*rules), 0.9, Cars()).insights] == [rules[0].text, "eat"]


def test_the_same_case_twice_keeps_the_newer_and_calls_are_compared_without_their_ids():
    def calling(id: str, text: str, arguments: str) -> tt.Exemplar:
        call = tt.ToolCall(id=id, name="find", arguments=arguments)
        messages = (tt.Message(role="user", content=text), tt.Message(role="assistant", tool_calls=(call,)))
        return tt.Exemplar(task_id=text, input_id=text, text=text, messages=messages)

    old, new = calling("1", "where is the red car", '{"a": 1, "b": 2}'), calling("2", "Where is the red car?", '{"b":2,"a":1}')
    after = merge_duplicates(knowing(old, new), 0.9)
    assert after.exemplars == (new,)
    assert after.history[-1].action == "merge"
    assert merge_duplicates(add(knowing(old, by="person"), [new], by="test"), 0.9).exemplars == (old,)


def test_contradicting_cases_need_evidence_or_the_newer_wins_at_once():
    old, new = case("where is the red car", "north"), case("Where is the red car?", "south")
    both = knowing(old, new)
    assert merge_duplicates(both, 0.9) == both
    assert merge_duplicates(both, 0.9, newer_wins=True).exemplars == (new,)
    good, bad = Evidence(supported=8), Evidence(contradicted=8)
    assert merge_duplicates(told(both, **{old.id: bad, new.id: good}), 0.9).exemplars == (new,)
    assert merge_duplicates(told(both, **{old.id: good, new.id: bad}), 0.9).exemplars == (old,)
    assert len(merge_duplicates(told(both, **{old.id: Evidence(contradicted=1)}), 0.9).exemplars) == 2
    kinds = knowing(case("where is the red car", "north", "a"), case("Where is the red car?", "south", "b"))
    assert merge_duplicates(kinds, 0.9, newer_wins=True) == kinds


@pytest.mark.parametrize("threshold", [0, -1, 1.01])
def test_a_threshold_is_a_similarity(threshold: float):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        merge_duplicates(tt.Knowledge(), threshold)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "not", "7", ""]), max_size=5), max_size=12), st.sampled_from([0.3, 0.6, 1.0]))
def test_word_overlap_pairs_are_all_pairs(bags: list[list[str]], threshold: float):
    """The prefix filter misses nothing: as comparing all with all."""
    texts = [" ".join(bag) for bag in bags]
    quick = {(pair.first, pair.second) for pair in near_duplicates(texts, threshold)}
    slow = set()
    for second in range(len(texts)):
        for first in range(second):
            one, other = set(texts[first].split()), set(texts[second].split())
            if one and other and len(one & other) / len(one | other) >= threshold and near_duplicates([texts[first], texts[second]], 0.01):
                slow.add((first, second))
    assert quick == slow


@given(st.lists(st.tuples(st.sampled_from(["red car", "red cars now", "Red car!", "blue van"]), st.integers(1, 4)), max_size=6), st.data())
def test_merging_keeps_the_sum_of_counts_and_what_people_hold(rules: list[tuple[str, int]], data):
    knowledge = knowing(*(Insight(text=text, count=count) for text, count in dict(rules).items()))
    pinned = frozenset(insight.id for insight in knowledge.insights if data.draw(st.booleans()))
    knowledge = knowledge.model_copy(update={"pinned": pinned})
    after = merge_duplicates(knowledge, 0.3)
    assert sum(insight.count for insight in after.insights) == sum(insight.count for insight in knowledge.insights)
    assert pinned <= {insight.id for insight in after.insights}


# Evidence


def test_one_unit_is_shared_by_what_was_shown_and_insights_share_a_quarter():
    one, two, rule = case("a", "x"), case("b", "y"), Insight(text="r")
    knowledge = knowing(one, two, rule)
    after = observe(knowledge, [graded(0.75, one.id, two.id, rule.id, "gone", one.id)])
    assert after.evidence[one.id] == after.evidence[two.id] == Evidence(supported=0.375, contradicted=0.125)
    assert after.evidence[rule.id] == Evidence(supported=0.1875, contradicted=0.0625)
    assert "gone" not in after.evidence
    assert after.id == knowledge.id
    assert after.history == knowledge.history


def test_a_case_that_was_followed_answers_for_it_alone():
    one, two = case("a", "North."), case("b", "south")
    after = observe(knowing(one, two), [graded(0.0, one.id, two.id, answer="north.")])
    assert after.evidence == {one.id: Evidence(contradicted=1)}


def test_evidence_is_relative_to_what_is_usual():
    one = case("a", "x")
    hard = observe(knowing(one), [graded(0.0, one.id), graded(1.0, one.id)], expected={"t": 0.1})
    assert hard.evidence[one.id].supported == pytest.approx(1.8)
    assert hard.evidence[one.id].contradicted == pytest.approx(0.2)
    sure = observe(knowing(one), [graded(0.0, one.id)], expected={"t": 1.0})
    assert sure.evidence[one.id].contradicted == pytest.approx(1.9)


def test_what_is_not_graded_changes_nothing_and_scores_are_kept_within_bounds():
    one = case("a", "x")
    assert observe(knowing(one), [graded(None, one.id)]).evidence == {}
    assert observe(knowing(one), [graded(3.0, one.id), graded(-1.0, one.id)]).evidence[one.id] == Evidence(supported=1, contradicted=1)
    assert observe(tt.Knowledge(), [graded(1.0, one.id)]).evidence == {}


def test_old_evidence_counts_half_after_the_half_life():
    one = case("a", "x")
    after = observe(knowing(one), [graded(1.0, one.id), graded(0.0, one.id), graded(0.0, one.id)], half_life=1)
    assert after.evidence[one.id] == Evidence(supported=0.25, contradicted=1.5)
    with pytest.raises(InputError, match="half-life"):
        observe(knowing(one), [], half_life=0)


def test_the_usual_score_of_a_kind():
    tasks = [tt.Task(messages=(tt.Message(role="user", content=str(n)),), kind="hard" if n < 2 else "new") for n in range(3)]
    seen = [graded(1.0, task_id=tasks[0].id), graded(0.0, task_id=tasks[1].id), graded(0.0, task_id=tasks[1].id), graded(None)]
    assert expected_scores(tasks, seen) == {tasks[0].id: 0.4, tasks[1].id: 0.4, tasks[2].id: 0.5}


def test_decay_drops_what_is_contradicted_and_not_the_unlucky():
    one, two, three = case("a", "x"), case("b", "y"), Insight(text="r")
    unlucky = Evidence(contradicted=2)
    clear = Evidence(supported=1, contradicted=12)
    average = Evidence(supported=20, contradicted=20)
    knowledge = told(knowing(one, two, three), **{one.id: unlucky, two.id: clear, three.id: average})
    after = decay(knowledge)
    assert after.entries == (one, three)
    assert set(after.evidence) == {one.id, three.id}
    assert (after.history[-1].action, after.history[-1].note) == ("remove", "contradicted: support 1.0, contradiction 12.0")
    assert decay(told(knowledge.model_copy(update={"pinned": frozenset({two.id})}), **{two.id: clear})).exemplars == (one, two)
    assert len(decay(knowledge, min_observations=14).entries) == 3
    rule = told(add(tt.Knowledge(), [three], by="person"), **{three.id: clear})
    assert decay(rule) == rule


def test_decay_by_hand():
    """Beta(1, 1 + c) lies below f with probability 1 - (1 - f) ** (1 + c): at f = 0.4, 95% is passed between 4.8 and 4.9."""
    one = case("a", "x")
    assert decay(told(knowing(one), **{one.id: Evidence(contradicted=4.8)})).exemplars == (one,)
    assert decay(told(knowing(one), **{one.id: Evidence(contradicted=4.9)})).exemplars == ()


@pytest.mark.parametrize("options", [{"floor": 0}, {"floor": 1}, {"certainty": 1}])
def test_shares_lie_between_0_and_1(options: dict):
    with pytest.raises(InputError, match="between 0 and 1"):
        decay(tt.Knowledge(), **options)


# Budgets


def test_the_budget_drops_the_least_worth_a_token():
    long, short, poor, unknown = case("a" * 40, "x" * 40), case("b" * 20, "y" * 20), case("c" * 20, "z" * 20), case("d" * 20, "u" * 20)
    knowledge = told(
        knowing(long, short, poor, unknown),
        **{long.id: Evidence(worth=0.15), short.id: Evidence(worth=0.1), poor.id: Evidence(contradicted=5)},
    )
    assert count_all(knowledge) == 21 + 3 * 11
    order = [long, short, unknown, poor]
    for budget, kept in [(54, 4), (53, 3), (43, 3), (42, 2), (32, 2), (31, 1)]:
        left = fit_budget(knowledge, budget).exemplars
        assert count_all(fit_budget(knowledge, budget)) <= budget
        expected = {3: [long, short, unknown], 2: [long, short], 4: order, 1: [short]}[kept]
        assert set(left) == set(expected), budget
    assert fit_budget(knowledge, 0).entries == ()
    assert "over the budget of 43" in fit_budget(knowledge, 43).history[-1].note


def test_of_the_unknown_the_least_counted_and_then_the_oldest_goes():
    entries = [Insight(text="one", count=3), case("b", "x"), case("c", "y"), Insight(text="two")]
    order = []
    knowledge = knowing(*entries)
    for budget in range(count_all(knowledge), -1, -1):
        gone = {entry.id for entry in knowledge.entries} - {entry.id for entry in fit_budget(knowledge, budget).entries}
        order += [entry for entry in entries if entry.id in gone and entry not in order]
    assert order == [entries[1], entries[2], entries[3], entries[0]]


def test_what_people_hold_stays_or_the_budget_is_refused():
    mine, other = Insight(text="m" * 40), Insight(text="o" * 4)
    knowledge = add(knowing(other), [mine], by="person")
    assert fit_budget(knowledge, 10).insights == (mine,)
    with pytest.raises(InputError, match="take 10 tokens, and the budget is 9"):
        fit_budget(knowledge, 9)
    with pytest.raises(InputError, match="cannot be negative"):
        fit_budget(tt.Knowledge(), -1)


def test_the_budget_counts_reflections_and_uses_the_tokenizer_given():
    note = Reflection(task_id="t", input_id="i", task_text="x", attempt=0, text="one two three")
    knowledge = knowing(note, Insight(text="four five"))
    assert count_all(knowledge, lambda text: len(text.split())) == 5
    assert fit_budget(knowledge, 3, lambda text: len(text.split())).reflections == ()


def test_harm_goes_and_over_the_budget_what_does_not_help():
    harm, maybe, help_, unknown = (Insight(text=text) for text in ("harm", "maybe", "help", "unknown"))
    knowledge = told(
        knowing(harm, maybe, help_, unknown),
        **{
            harm.id: Evidence(worth=-0.3, low=-0.4, high=-0.1),
            maybe.id: Evidence(worth=0.1, low=-0.1, high=0.3),
            help_.id: Evidence(worth=0.3, low=0.2, high=0.4),
        },
    )
    after = drop_unhelpful(knowledge)
    assert after.insights == (maybe, help_, unknown)
    assert after.history[-1].note == "harmful: -0.300 (-0.400 to -0.100)"
    assert drop_unhelpful(knowledge, unproven_over=count_all(after)).insights == (maybe, help_, unknown)
    assert drop_unhelpful(knowledge, unproven_over=0).insights == (help_, unknown)
    pinned = knowledge.model_copy(update={"pinned": frozenset(entry.id for entry in knowledge.entries)})
    assert drop_unhelpful(pinned, unproven_over=0).insights == pinned.insights
