"""What an agent was taught of its test: shared runs, whole questions, canaries; and what is only the wording of the family."""

from __future__ import annotations

import json
import time

import pytest

from tutelage.agent import Agent
from tutelage.history import add
from tutelage.knowledge import Insight, Knowledge, Reflection
from tutelage.learners.exemplars import reference_exemplars
from tutelage.models.scripted import Scripted
from tutelage.records import Message, Task
from tutelage.study.contamination import INSTRUCTIONS, Overlap, contamination_lines, find_contamination

GUID = "26b5c67b-86ad-4d02-9b2f-0c1d2e3f4a5b"
LONG = "A farmer in the north has seven grey horses and sells three of them at the autumn market to a man from the coast"


def task(text: str, reference=None, source: str | None = None) -> Task:
    return Task(messages=(Message(role="user", content=text),), reference=reference, source=source)


def known(*texts: str) -> Knowledge:
    return Knowledge(insights=tuple(Insight(text=text) for text in texts))


def test_a_shared_run_of_words_is_found_with_its_length_and_share():
    test = task(LONG, source="test.jsonl:3")
    part = " ".join(LONG.split()[4:18])
    (found,) = find_contamination(known("Be brief.", f"Note - {part.upper()}, of course."), "", [test])
    assert (found.what, found.task_id, found.source) == ("input", test.id, "test.jsonl:3")
    assert found.words == part.lower()
    assert found.share == round(14 / 24, 4)
    assert find_contamination(known(" ".join(LONG.split()[4:16])), "", [test]) == ()
    assert len(find_contamination(known(" ".join(LONG.split()[4:16])), "", [test], 12)) == 1


def test_two_runs_are_counted_once_each():
    words = LONG.split()
    entry = " ".join([*words[:6], "x", *words[8:15], "y", *words[9:16]])
    (found,) = find_contamination(known(entry), "", [task(LONG)], 5)
    assert found.words == " ".join(words[8:16]).lower()
    assert found.share == round(14 / 24, 4)


def test_a_question_that_stands_whole_counts_however_short():
    test = [task("Where is my grey cat?"), task("Why?")]
    entries = known("Say: where is my grey cat", "Ask why?", "Where is my cat?")
    (found,) = find_contamination(entries, "", test)
    assert (found.words, found.share) == ("where is my grey cat", 1.0)
    asked = Knowledge(exemplars=tuple(reference_exemplars([task("WHY", "Because.")])))
    (found,) = find_contamination(asked, "", test)
    assert (found.task_id, found.words) == (test[1].id, "why")


def test_references_in_instructions_and_reflections():
    answer = {"calls": [{"name": "f", "arguments": {"text": "the blue key lies under the third stone"}}], "text": "yes"}
    test = [task("Where is the key?", answer)]
    agent = Agent(model=Scripted("x"), instructions="Remember: the blue key lies under the third stone!", knowledge=Knowledge())
    (found,) = find_contamination(agent, "", test)
    assert (found.what, found.entry_id) == ("reference", INSTRUCTIONS)
    assert find_contamination(agent.knowledge, agent.instructions, test) == (found,)
    reflection = Reflection(
        task_id="t", input_id="i", task_text="q", attempt=1, text="Yes.", trajectory="The blue key lies under the third stone"
    )
    assert [x.what for x in find_contamination(Knowledge(reflections=(reflection,)), "", test)] == ["reference"]


def test_the_wording_of_a_family_is_passed_over_but_never_a_whole_question():
    def templated(name: str) -> str:
        return f"Hello dear help desk, I would be glad if you could please have a look at the account of {name} as soon as you can today"

    train = [task(templated(name), "unlock the account of this user") for name in ("anna", "ben", "carla")]
    test = [task(templated("dora"), "unlock the account of this user")]
    taught = Knowledge(exemplars=tuple(reference_exemplars(train)))
    assert len(find_contamination(taught, "", test)) == 6
    assert find_contamination(taught, "", test, common=train) == ()
    leaked = add(taught, [Insight(text=f"To `{templated('Dora')}` answer at once.")], by="x")
    (found,) = find_contamination(leaked, "", test, common=train)
    assert found.share == 1.0
    two = Knowledge(exemplars=tuple(reference_exemplars(train[:2])))
    assert find_contamination(two, "", test, common=train[:2]) != ()


def test_canaries_of_test_tasks_and_configured_ones_and_any_that_announces_itself():
    test = [task(f"What is 2 + 2? (canary GUID {GUID})", source="test.jsonl:1"), task("What is 3 + 3?")]
    entries = known(f"Do not train on {GUID.upper()}.", "secret-canary-7 was here", f"BENCHMARK DATA. canary guid {GUID}")
    found = find_contamination(entries, "", test, canaries=["SECRET-canary-7"])
    assert {overlap.what for overlap in found} == {"canary"}
    assert sorted((overlap.words, overlap.source) for overlap in found) == [
        (GUID, "test.jsonl:1"),
        (GUID, "test.jsonl:1"),
        ("secret-canary-7", None),
    ]
    alone = find_contamination(known(f"canary GUID: {GUID}"), "", [task("What?")])
    assert [(overlap.words, overlap.task_id) for overlap in alone] == [(GUID, None)]
    assert find_contamination(known("a canary sings"), "", test) == ()


def test_nothing_to_compare():
    assert find_contamination(Knowledge(), "", []) == ()
    assert find_contamination(known("", "..."), "", [task("", ""), task("?!")]) == ()
    assert contamination_lines(()) == []


def test_scripts_without_blanks():
    question = "北方の農夫は灰色の馬を七頭飼っている"
    assert find_contamination(known(f"覚えておく:{question}。"), "", [task(question)])[0].share == 1.0
    assert find_contamination(known("北方の農夫は馬を七頭"), "", [task(question)]) == ()


def test_the_report_counts_before_it_lists():
    overlaps = [
        Overlap(what="input", entry_id=f"e{n}23456789", task_id=f"t{n % 2}", source=f"test.jsonl:{n % 2}", words="a b " * 40, share=0.5)
        for n in range(7)
    ]
    overlaps += [
        Overlap(what="canary", entry_id=INSTRUCTIONS, words=GUID),
        Overlap(what="reference", entry_id="e0", task_id="t", words="x"),
    ]
    lines = contamination_lines(overlaps)
    assert lines[:2] == [
        "A canary of test data stands in the instructions: whoever wrote it had the test data at hand.",
        f"- the instructions: `{GUID}` (of no test task here)",
    ]
    assert lines[2].startswith("The questions of 2 test tasks stand in 7 entries")
    assert lines[3].startswith("- entry e0234567: `a b a b") and lines[3].endswith("...` (test.jsonl:0, 50% of it)")
    assert lines[8] == "- and 2 more"
    assert lines[9].startswith("The reference answers of 1 test task stand in 1 entry,")
    assert lines[10] == "- entry e0: `x` (task t, 100% of it)"


@pytest.mark.data
def test_real_tasks_in_good_time(data):
    rows = [json.loads(line) for line in (data / "gsm8k" / "train.jsonl").read_text().splitlines()]
    tasks = [task(row["question"], row["answer"], f"train.jsonl:{number}") for number, row in enumerate(rows, 1)]
    taught = Knowledge(exemplars=tuple(reference_exemplars(tasks[:6400])))
    begun = time.perf_counter()
    found = find_contamination(taught, "", tasks[6400:7400], common=tasks[:6400])
    assert time.perf_counter() - begun < 30  # about 3 s on an idle core
    assert {overlap.what for overlap in found} == {"input", "reference"}
    assert len(found) < 30  # a few questions of this set are variants of others
    assert found[0].share > 0.9
    own = find_contamination(taught, "", tasks[6390:6400], common=tasks[:6400])
    assert {overlap.task_id for overlap in own if overlap.share == 1.0 and overlap.what == "input"} == {t.id for t in tasks[6390:6400]}
