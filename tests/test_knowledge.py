"""What a snapshot is: its id, the names of its entries, and that it survives being written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tutelage.experience.store import to_json
from tutelage.knowledge import Change, Evidence, Exemplar, Held, Insight, Knowledge, Recall, Reflection, Retrieval
from tutelage.records import Message

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
CASE = Exemplar(task_id="t", input_id="i", text="q", messages=(Message(role="user", content="q"), Message(role="assistant", content="a")))


def reflection(**changes) -> Reflection:
    return Reflection(**{"task_id": "t", "input_id": "i", "task_text": "q", "attempt": 1, "text": "plan", **changes})


def test_the_id_is_of_what_may_be_shown_and_in_which_order():
    rules = (Insight(text="a"), Insight(text="b"))
    base = Knowledge(exemplars=(CASE,), insights=rules, reflections=(reflection(),))
    same = base.model_copy(
        update={
            "held": (Held(entry=Insight(text="x"), reasons=("y",)),),
            "history": (Change(when=WHEN, by="person", action="pin", entry_id="z"),),
            "evidence": {rules[0].id: Evidence(worth=0.5)},
            "pinned": frozenset({rules[0].id}),
        }
    )
    assert same.id == base.id
    others = [
        {"insights": rules[::-1]},
        {"insights": rules[:1]},
        {"exemplars": ()},
        {"reflections": (reflection(text="other"),)},
        {"retrieval": Retrieval(k=1)},
        {"recall": Recall(omega=1)},
    ]
    ids = {base.model_copy(update=change).id for change in others}
    assert len(ids | {base.id}) == len(others) + 1


def test_an_insight_keeps_its_name_through_edits_and_equal_texts_share_theirs():
    first = Insight(text="Be brief.")
    assert first.id == Insight(text="Be brief.", count=9).id != Insight(text="Be long.").id
    assert first.model_copy(update={"text": "Be long."}).id == first.id
    assert Insight(text="x", id="mine").id == "mine"
    with pytest.raises(ValidationError):
        Insight(text="x", colour="red")


def test_a_reflection_is_named_by_its_task_attempt_and_words():
    assert reflection().id == reflection(task_id="other").id
    assert len({reflection(**change).id for change in ({}, {"input_id": "j"}, {"attempt": 2}, {"text": "p"}, {"trajectory": "t"})}) == 5


def test_finding_an_entry():
    knowledge = Knowledge(exemplars=(CASE,), insights=(Insight(text="a"),), held=(Held(entry=Insight(text="x"), reasons=()),))
    assert knowledge.find(CASE.id) == CASE
    assert knowledge.find(Insight(text="x").id) is None
    assert [entry.id for entry in knowledge.entries] == [CASE.id, Insight(text="a").id]


@given(st.lists(st.text(), max_size=4), st.booleans())
def test_a_snapshot_survives_being_written(texts, pinned):
    insights = tuple(Insight(text=text) for text in dict.fromkeys(text.encode("utf-8", "replace").decode() for text in texts))
    history = tuple(Change(when=WHEN, by="x", action="edit", entry_id=item.id, before=item, place=0, episodes=("e",)) for item in insights)
    held = tuple(Held(entry=entry, reasons=("r",)) for entry in (CASE, reflection()))
    pins = frozenset(item.id for item in insights) if pinned else frozenset()
    knowledge = Knowledge(
        insights=insights, history=history, held=held, pinned=pins, evidence={item.id: Evidence(n=1) for item in insights}
    )
    again = Knowledge.model_validate_json(to_json(knowledge))
    assert (again, again.id) == (knowledge, knowledge.id)
    assert [type(item.entry) for item in again.held] == [Exemplar, Reflection]


def test_who_did_it():
    by = {name: Change(when=WHEN, by=name, action="add", entry_id="x").by_person for name in ("person", "person:ann", "personal", "expel")}
    assert by == {"person": True, "person:ann": True, "personal": False, "expel": False}
