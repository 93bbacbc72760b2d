"""Chains of digit changes: answers worked out by hand, splits that never meet, and how little guessing helps."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutelage as tt
from tutelage.environments.multi_step import OPERATIONS, Operation, chance_level, multi_step_tasks, side_of
from tutelage.errors import InputError
from tutelage.graders.rules import Numeric
from tutelage.prompt import build_messages
from tutelage.records import StopReason
from tutelage.tasks import read_tasks, reference_messages, write_tasks
from tutelage.training.steps_text import split_steps

BY_NAME = {operation.name: operation for operation in OPERATIONS}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("reverse", "4821", "1284"),
        ("swap", "4821", "8421"),
        ("rotate", "4821", "8214"),
        ("raise", "4891", "5912"),
        ("lower", "4121", "3919"),
        ("mirror", "4891", "6219"),
        ("bump", "4829", "4821"),
        ("bump", "4821", "4822"),
        ("reverse", "47", "74"),
        ("swap", "47", "74"),
    ],
)
def test_each_operation_does_what_it_says(name: str, before: str, after: str):
    assert BY_NAME[name].apply(before) == after


@given(st.text("123456789", min_size=2, max_size=6), st.sampled_from(OPERATIONS))
def test_numbers_keep_their_length_and_have_no_zero(number: str, operation: Operation):
    assert re.fullmatch(f"[1-9]{{{len(number)}}}", operation.apply(number))


def test_signs_and_names_tell_operations_apart():
    assert len({operation.sign for operation in OPERATIONS}) == len({operation.name for operation in OPERATIONS}) == len(OPERATIONS) == 7


def replay(task: tt.Task) -> list[str]:
    """The steps of a task in words, carried out from its question alone by the words' own meaning."""
    number = re.search(r"number (\d+)", task.text)[1]
    meaning = {
        "write the digits in the opposite order": lambda n: "".join(reversed(n)),
        "exchange the first digit and the second digit": lambda n: n[1] + n[0] + n[2:],
        "move the first digit to the end": lambda n: n[1:] + n[:1],
        "add 1 to every digit; 9 becomes 1": lambda n: n.translate(str.maketrans("123456789", "234567891")),
        "take 1 from every digit; 1 becomes 9": lambda n: n.translate(str.maketrans("123456789", "912345678")),
        "replace every digit by 10 minus that digit": lambda n: n.translate(str.maketrans("123456789", "987654321")),
        "add 1 to the last digit; 9 becomes 1": lambda n: n[:-1] + n[-1].translate(str.maketrans("123456789", "234567891")),
    }
    results = []
    for words in re.findall(r"^\d+\. \w+: (.*)$", task.text, re.MULTILINE):
        number = meaning[words](number)
        results.append(number)
    return results


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 6))
def test_the_solution_follows_from_the_question(seed: int, steps: int, digits: int):
    for task in multi_step_tasks(3, seed, steps=steps, digits=digits):
        found = replay(task)
        assert len(found) == steps
        assert re.findall(r"^\d+\. \w+: (\d+)$", task.reference, re.MULTILINE) == found
        assert task.reference.endswith(f"\n#### {found[-1]}")
        assert task.kind == f"{steps} steps"


def test_signs_write_the_same_tasks():
    (words,), (signs,) = multi_step_tasks(1, 7, steps=3), multi_step_tasks(1, 7, steps=3, form="signs")
    results = replay(words)
    named = re.findall(r"^(\d+)\. (\w+):", words.text, re.MULTILINE)
    start = re.search(r"number (\d+)", words.text)[1]
    assert signs.text == " ".join([start, *(number + BY_NAME[name].sign for number, name in named)])
    lines = [f"{number}. {BY_NAME[name].sign}{result}" for (number, name), result in zip(named, results, strict=True)]
    assert signs.reference == "\n".join([*lines, f"#### {results[-1]}"])


def test_the_solution_splits_into_its_steps_and_the_agent_does_not_see_it():
    for form in ("words", "signs"):
        (task,) = multi_step_tasks(1, 0, steps=5, form=form)
        lines = task.reference.splitlines()
        assert split_steps(task.reference) == [*lines[:4], "\n".join(lines[4:])], "the answer belongs to the last step"
        seen = "\n".join(message.text for message in build_messages("", task, (), native_tools=True))
        assert lines[0] not in seen
        assert lines[-1] not in seen
        assert reference_messages(task)[0].text == task.reference


async def test_the_numeric_grader_reads_the_number_after_the_mark():
    (task,) = multi_step_tasks(1, 0, steps=4)
    last = task.reference.rpartition(" ")[2]
    wrong = str(int(last) + 1)
    answers = {task.reference: 1.0, f"#### {last}": 1.0, f"It is {last}": 1.0, f"{last}, so #### {wrong}": 0.0, wrong: 0.0, "": 0.0}
    for answer, score in answers.items():
        episode = tt.Episode(task_id=task.id, agent_version="v", segments=(), answer=answer, stop=StopReason.ANSWERED)
        assert (await Numeric().grade(task, episode)).score == score, answer


def test_tasks_differ_repeat_under_their_seed_and_survive_a_file(tmp_path):
    tasks = multi_step_tasks(300, 3, steps=(2, 3), digits=3)
    assert len({task.input_id for task in tasks}) == 300
    assert {task.kind for task in tasks} == {"2 steps", "3 steps"}
    assert multi_step_tasks(300, 3, steps=(2, 3), digits=3) == tasks
    assert multi_step_tasks(300, 4, steps=(2, 3), digits=3) != tasks
    write_tasks(tmp_path / "tasks.jsonl", tasks)
    assert [task.id for task in read_tasks(tmp_path / "tasks.jsonl")] == [task.id for task in tasks]


@pytest.mark.parametrize("form", ["words", "signs"])
def test_sides_never_meet_under_any_seed(form: str):
    sides = {
        side: {task.text for seed in range(4) for task in multi_step_tasks(60, seed, steps=1, form=form, side=side)}
        for side in ("train", "test")
    }
    assert not sides["train"] & sides["test"]
    drawn = [side_of(str(number), signs) for number in range(1111, 1911) for signs in ("r", "us")]
    assert 0.16 < drawn.count("test") / len(drawn) < 0.24


def test_no_step_takes_back_the_one_before_it():
    for task in multi_step_tasks(200, 0, steps=8, form="signs"):
        chain = "".join(re.findall(r"\d([a-z])", task.text))
        assert not re.search(r"rr|ss|mm|ud|du", chain), chain


def test_guessing_does_not_help():
    by_steps = [chance_level(steps, draws=4_000) for steps in (1, 2, 4, 6, 8)]
    assert by_steps[0] == pytest.approx(1 / 7, abs=0.02), "one of seven operations, each another way"
    assert by_steps == sorted(by_steps, reverse=True)
    assert by_steps[3] < 0.012, "measured over 20,000 chains: .0066"


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"n": 0}, "n", "at least one task"),
        ({"steps": 0}, "steps", "one step or more"),
        ({"steps": ()}, "steps", "one step or more"),
        ({"digits": 1}, "digits", "two digits"),
        ({"operations": ["revers"]}, "operations", "reverse"),
        ({"operations": ["mirror"]}, "operations", "two operations"),
        ({"operations": []}, "operations", "two operations"),
        ({"form": "letters"}, "form", "signs"),
        ({"side": "dev"}, "side", "train"),
        ({"n": 600, "steps": 1, "digits": 2, "operations": ["raise"]}, "n", "only 81"),
    ],
)
def test_bad_options_are_refused(options: dict, field: str, words: str):
    with pytest.raises(InputError, match=words) as refused:
        multi_step_tasks(**{"n": 5, "seed": 0, **options})
    assert refused.value.field == field


def test_one_operation_that_does_not_undo_itself_is_enough():
    (task,) = multi_step_tasks(1, 0, steps=3, operations=["rotate"], form="signs")
    start, *results = re.findall(r"\d{4}", task.text + task.reference)
    assert results == [start[1:] + start[:1], start[2:] + start[:2], start[3:] + start[:3], start[3:] + start[:3]]
