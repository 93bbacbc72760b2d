"""The four operations on insights: what a reply holds, and what becomes of a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.knowledge import Insight
from tutelage.learners import expel_operations
from tutelage.learners.expel import Operation, apply_operations, parse_operations, read_operations
from tutelage.learners.expel_operations import MAX_CHARS, work_out


def rules(*pairs: tuple[str, int]) -> tuple[Insight, ...]:
    return tuple(Insight(text=text, count=count) for text, count in pairs)


def listed(insights) -> list[tuple[str, int]]:
    return [(insight.text, insight.count) for insight in insights]


def after(insights, reply: str, cap: int = 20) -> list[tuple[str, int]]:
    return listed(apply_operations(insights, parse_operations(reply), cap))


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("ADD 3: Look it up first.", ("add", 3, "Look it up first.")),
        ("ADD: Look it up first.", ("add", None, "Look it up first.")),
        ("add: Look it up first.", ("add", None, "Look it up first.")),
        ("  - **EDIT 2:** Look it up first.", ("edit", 2, "Look it up first.")),
        ("**AGREE 12: Look it up first.**", ("agree", 12, "Look it up first.")),
        ("1. `REMOVE 4`: Look it up first.", ("remove", 4, "Look it up first.")),
        ("### Remove rule 4: Look it up first.", ("remove", 4, "Look it up first.")),
        ("* AGREE [2]: Look it up first.", ("agree", 2, "Look it up first.")),
        ("AGREE #2 : Look it up first.", ("agree", 2, "Look it up first.")),
        ("EDIT 2. Look it up first.", ("edit", 2, "Look it up first.")),
        ("EDIT 2\uff1aLook it up first.", ("edit", 2, "Look it up first.")),
        ('AGREE 2: "Look it up first."', ("agree", 2, "Look it up first.")),
        ("AGREE 2: Look it up first. (importance 7)", ("agree", 2, "Look it up first.")),
        ("AGREE 2: Look it up first. (importance 7, kept by a person)", ("agree", 2, "Look it up first.")),
        ("ADD 1: Ask when: 1) it is late, 2) it is cold", ("add", 1, "Ask when: 1) it is late, 2) it is cold")),
        ("ADD: 2 - 3 items are enough", ("add", None, "2 - 3 items are enough")),
        ("ADD 1: write `a` and `b`", ("add", 1, "write `a` and `b`")),
        ("**ADD 1:**\n   Look it   up first.", ("add", 1, "Look it up first.")),
    ],
)
def test_lines_that_are_operations(line, operation):
    assert parse_operations(f"Let me think.\n{line}\n") == (Operation(*operation),)


@pytest.mark.parametrize(
    "line",
    [
        "AGREE 2",
        "AGREE: Look it up.",
        "REMOVE two: Look it up.",
        "EDIT: Look it up.",
        "ADD",
        "ADD 3:",
        "ADD: ...",
        f"ADD: {'x' * (MAX_CHARS + 1)}",
    ],
)
def test_lines_that_were_meant_as_operations_are_counted(line):
    reading = read_operations(f"ADD 1: Good.\n{line}\n\nEDIT 2: Better.")
    assert [operation.text for operation in reading.operations] == ["Good.", "Better."]
    assert reading.malformed == (line[:MAX_CHARS],)


@pytest.mark.parametrize(
    "line", ["Add more detail", "I agree with rule 2: it helps.", "> ADD 1: a quotation", "readd 1: no", "", "```", "EDITING 2: no"]
)
def test_other_lines_are_ignored(line):
    assert read_operations(line) == read_operations("")


def test_thoughts_are_not_read():
    assert parse_operations("<think>ADD 1: first idea\n</think>\nADD 1: the answer") == (Operation("add", 1, "the answer"),)
    assert parse_operations("ADD 1: the answer\n<think>ADD 2: cut off") == (Operation("add", 1, "the answer"),)


def test_four_operations_a_reply_and_one_a_rule():
    reading = read_operations("ADD 4: a\nAGREE 1: x\nEDIT 1: y\nADD: A!\nREMOVE 2: z\nEDIT 3: w\nADD 5: b")
    assert [(one.kind, one.text) for one in reading.operations] == [("add", "a"), ("agree", "x"), ("remove", "z"), ("edit", "w")]
    assert [(one.kind, one.text) for one in reading.dropped] == [("edit", "y"), ("add", "A!"), ("add", "b")]


def test_counts_by_hand():
    start = rules(("A", 3), ("B", 2), ("C", 2), ("D", 1))
    assert after(start, "AGREE 3: C\nREMOVE 1: A\nEDIT 2: B2\nADD 5: E") == [("B2", 3), ("C", 3), ("A", 2), ("E", 2), ("D", 1)]
    assert after(start, "REMOVE 4: D") == [("A", 3), ("B", 2), ("C", 2)]
    assert after(start, "") == listed(start)
    assert after((), "ADD 1: A\nADD 2: B") == [("A", 2), ("B", 2)]


def test_several_replies_by_hand():
    insights: tuple[Insight, ...] = ()
    for reply in [
        "ADD 1: Look it up.\nADD 2: Be brief.",  #         Look 2, Brief 2
        "AGREE 2: Be brief.\nREMOVE 1: Look it up.",  #    Brief 3, Look 1
        "EDIT 2: Look the order up.\nADD 3: Say please.",  # Brief 3, Look 2, Please 2
        "REMOVE 3: Say please.\nAGREE 1: Be brief.",  #    Brief 4, Look 2, Please 1
        "REMOVE 3: Say please.\nEDIT 1: look the ORDER up",  # the edit agrees: Brief 4, Look 3
    ]:
        insights = apply_operations(insights, parse_operations(reply), 20)
    assert listed(insights) == [("Be brief.", 4), ("Look the order up.", 3)]
    assert insights[1].id == Insight(text="Look it up.").id  # an insight keeps its id through its edits


def test_full_means_five_more_than_the_cap():
    nearly, full = [rules(*((f"rule {n}", 4) for n in range(size))) for size in (6, 7)]
    assert after(nearly, "REMOVE 1: rule 0", cap=2)[-1] == ("rule 0", 3)
    assert after(full, "REMOVE 1: rule 0", cap=2)[-1] == ("rule 0", 1)
    assert after(full, "ADD 8: new", cap=2) == listed(full)
    assert len(after(nearly, "ADD 7: new\nADD 8: newer", cap=2)) == 7
    weak = rules(*((f"rule {n}", 3) for n in range(7)))
    assert after(weak, "ADD 8: new\nREMOVE 1: rule 0", cap=2)[-1] == ("new", 2)  # the removal, applied first, makes room


def test_the_words_say_which_rule_is_meant():
    start = rules(("Look it up.", 2), ("Be brief.", 2), ("Be", 2))
    assert after(start, "AGREE 1: be  BRIEF")[0] == ("Be brief.", 3)  # the words win over the number
    assert after(start, "AGREE 9: be brief")[0] == ("Be brief.", 3)
    assert after(start, "REMOVE 1: Something else.") == listed(start)  # a number alone is not enough
    assert after(start, "AGREE 1: Look it up. The failure shows why.")[0] == ("Look it up.", 3)
    assert after(start, "AGREE 2: Look it up. The failure shows why.") == listed(start)
    assert after(start, "AGREE 3: Be bold.") == listed(start)  # too short a rule for words behind it
    assert after(start, "AGREE 1: Look it upwards.") == listed(start)  # whole words only
    assert after(start, "EDIT 9: New.") == after(start, "EDIT 0: New.") == listed(start)
    twice = (*rules(("Same.", 2)), Insight(text="same", count=2, id="other"))
    assert after(twice, "AGREE 2: SAME") == [("same", 3), ("Same.", 2)]


def test_an_edit_to_what_exists_agrees_and_a_duplicate_is_dropped():
    start = rules(("A", 2), ("B", 2))
    assert after(start, "EDIT 1: b.") == [("B", 3), ("A", 2)]
    assert after(start, "EDIT 1: a") == [("A", 3), ("B", 2)]
    assert after(start, "ADD 3: b!") == listed(start)
    assert after(start, "EDIT 1: C\nADD 3: c") == [("C", 3), ("B", 2)]
    assert after(start, "EDIT 1: C\nADD 3: A") == [("C", 3), ("B", 2)]  # the words that the rule had before
    assert after(start, "EDIT 1: B\nAGREE 2: B") == [("B", 3), ("A", 2)]  # one operation a rule


def test_what_people_keep_is_only_agreed_with():
    start = rules(("A", 1), ("B", 2))
    operations = parse_operations("REMOVE 1: A\nEDIT 2: C")
    kept = work_out(start, operations, 20, kept={start[0].id, start[1].id})
    assert (listed(kept.insights), {outcome.why for outcome in kept.outcomes}) == (
        [("B", 2), ("A", 1)],
        {"only a person may change this rule"},
    )
    assert listed(work_out(start, parse_operations("AGREE 1: A"), 20, kept={start[0].id}).insights) == [("A", 2), ("B", 2)]


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("ORDER", ("add", "edit", "agree", "remove"), test_an_edit_to_what_exists_agrees_and_a_duplicate_is_dropped),
        ("ORDER", ("add", "remove", "agree", "edit"), test_full_means_five_more_than_the_cap),
        ("NEW_COUNT", 1, test_counts_by_hand),
        ("SLACK", 50, test_full_means_five_more_than_the_cap),
        ("MAX_OPERATIONS", 9, test_four_operations_a_reply_and_one_a_rule),
        ("same", lambda text: text, test_the_words_say_which_rule_is_meant),
    ],
)
def test_a_broken_variant_fails_what_was_computed_by_hand(name, value, check, monkeypatch):
    monkeypatch.setattr(expel_operations, name, value)
    with pytest.raises(AssertionError):
        check()


texts = st.text(max_size=12) | st.sampled_from(["A", "b", "B.", "Look it up.", "look it up", "!!!"])
operations = st.builds(Operation, st.sampled_from(["agree", "remove", "edit", "add"]), st.none() | st.integers(-1, 9), texts)
insights = st.lists(st.builds(Insight, text=texts, count=st.integers(-1, 5)), max_size=9, unique_by=lambda insight: insight.id)


@given(st.text())
def test_any_text_can_be_read(text):
    reading = read_operations(text)
    assert len(reading.operations) <= 4
    assert all(one.text.strip() and "\n" not in one.text for one in reading.operations)


@given(
    st.lists(
        st.sampled_from(["ADD", "edit", "AGREE 1", "REMOVE", ":", "2", "**", "\n", " ", "`", '"', "rule", "text", "</think>", "\ud800"])
    )
)
def test_anything_that_resembles_operations_can_be_read(pieces):
    reading = read_operations("".join(pieces))
    assert len(reading.operations) <= 4
    assert len({one.number for one in reading.operations if one.kind != "add"}) == sum(one.kind != "add" for one in reading.operations)


@given(insights, st.lists(operations, max_size=6), st.integers(0, 4))
def test_a_list_stays_sorted_positive_and_bounded(start, given_operations, cap):
    applied = work_out(start, given_operations, cap)
    counts = [insight.count for insight in applied.insights]
    assert counts == sorted(counts, reverse=True)
    assert all(count > 0 for count in counts)
    assert len(counts) <= max(cap + 5, len(start))
    assert len({insight.id for insight in applied.insights}) == len(counts)
    assert len(applied.outcomes) == len(given_operations)
    assert all((outcome.done is None) == bool(outcome.why) for outcome in applied.outcomes)
    assert apply_operations(applied.insights, [], cap) == applied.insights


@given(insights, st.lists(texts, max_size=6), st.integers(0, 4))
def test_adding_again_changes_nothing(start, new, cap):
    adds = [Operation("add", None, text) for text in new]
    start = apply_operations(start, [], cap)
    once = apply_operations(start, adds, cap)
    assert apply_operations(once, adds, cap) == once
