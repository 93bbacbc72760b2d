"""Questions with options: reading them from files, reading an option from an answer, and grading it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutelage as tt
from tutelage.advice import Question, ReferenceAdvisor
from tutelage.errors import InputError
from tutelage.graders.choice import Choice
from tutelage.records import Episode, Grade, StopReason, Task
from tutelage.task_formats.choices import choices_of, read_choices
from tutelage.tasks import read_tasks, write_tasks

Write = Callable[..., Path]
DRUGS = {"A": "aspirin", "B": "ibuprofen", "C": "vitamin C", "D": "None of the above"}
MEDICAL = {
    "id": "x1",
    "question": "Which drug inhibits platelets for their whole life?",
    "opa": "aspirin",
    "opb": "ibuprofen",
    "opc": "vitamin C",
    "opd": "None of the above",
    "cop": 1,
    "choice_type": "single",
    "exp": "Aspirin acetylates the enzyme.",
    "subject_name": "Pharmacology",
    "topic_name": None,
}


def medical(**changes: Any) -> dict[str, Any]:
    return {**MEDICAL, **changes}


def generic(**changes: Any) -> dict[str, Any]:
    return {"question": "Which is the capital of France?", "options": ["Paris", "Rome", "Oslo"], "answer": "Paris", **changes}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*rows: Any, name: str = "questions.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
        return path

    return written


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_tasks(path, **options)
    return str(caught.value)


class TestReading:
    def test_a_row_of_medmcqa(self, write: Write) -> None:
        (task,) = read_tasks(write(medical()), format="multiple_choice:1")
        assert task.text == (
            "Which drug inhibits platelets for their whole life?\n\nA) aspirin\nB) ibuprofen\nC) vitamin C\nD) None of the above"
        )
        assert task.reference == "A"
        assert task.kind == "Pharmacology"
        assert task.environment == {"choices": DRUGS}
        assert choices_of(task) == DRUGS
        assert task.source is not None
        assert task.source.endswith("questions.jsonl:1")

    @pytest.mark.parametrize(
        ("answers", "references"),
        [
            ((1, 2, 4), ["A", "B", "D"]),  # a 4 says that they count from 1
            ((1, 2, 0), ["B", "C", "A"]),  # a 0 that they count from 0
            (("1", "4", 2.0), ["A", "D", "B"]),
            ((-1, 0, 3), [None, "A", "D"]),  # hidden answers have none
            ((None, -1, ""), [None, None, None]),
            (("b", "D", "a"), ["B", "D", "A"]),  # letters need no counting
        ],
    )
    def test_the_file_says_how_its_answers_count(self, write: Write, answers: Any, references: Any) -> None:
        rows = [medical(cop=answer, question=f"Question {number}?") for number, answer in enumerate(answers)]
        assert [task.reference for task in read_tasks(write(*rows))] == references
        assert [task.reference for task in read_tasks(write(*rows), limit=1)] == references[:1], "rows behind the limit tell it too"

    def test_where_it_does_not_the_user_has_to(self, write: Write) -> None:
        path = write(medical(cop=1), medical(cop=3, question="Another?"))
        assert "multiple_choice:0 or multiple_choice:1" in refused(path)
        assert ":1: field `cop`" in refused(path)
        assert [task.reference for task in read_tasks(path, format="multiple_choice:1")] == ["A", "C"]
        assert [task.reference for task in read_tasks(path, format="multiple_choice:0")] == ["B", "D"]

    def test_a_number_that_is_no_option_is_refused(self, write: Write) -> None:
        assert ":2: field `cop`: 0 is no option: the answers of this file count from 1" in refused(write(medical(cop=4), medical(cop=0)))
        assert "4 is no option: the answers of this file count from 0" in refused(write(medical(cop=0), medical(cop=4)))
        assert "9 is no option" in refused(write(medical(cop=9)), format="multiple_choice:1")
        assert "count from 0 or from 1" in refused(write(medical()), format="multiple_choice:2")

    @pytest.mark.parametrize(
        ("row", "reference"),
        [
            (generic(), "A"),
            (generic(answer="b"), "B"),
            (generic(answer="(C) Oslo"), "C"),
            (generic(answer=0), "A"),
            (generic(answer=3), "C"),
            (generic(options={"x": "Paris", "y": "Rome"}, answer="Rome"), "y"),
            (generic(options=[3, 4, 5], answer="4"), "B"),  # a text is an option's before it is a number
            ({"question": "2 + 2?", "choices": [3, 4, 5.5], "answer": 0, "subject": "sums", "id": 7}, "A"),
        ],
    )
    def test_generic_rows(self, write: Write, row: Any, reference: str) -> None:
        (task,) = read_tasks(write(row))
        assert task.reference == reference

    def test_subject_and_labels_of_generic_rows(self, write: Write) -> None:
        (sums, capitals) = read_tasks(
            write(
                {"question": "2 + 2?", "choices": [3, 4, 5.5], "answer": "4", "subject": "sums"},
                generic(options={"x": "Paris", "y": "Rome"}, kind="capitals"),
            )
        )
        assert (sums.kind, sums.environment) == ("sums", {"choices": {"A": "3", "B": "4", "C": "5.5"}})
        assert (capitals.kind, capitals.text) == ("capitals", "Which is the capital of France?\n\nx) Paris\ny) Rome")

    def test_an_empty_option_keeps_its_letter_from_the_others(self, write: Write) -> None:
        (task,) = read_tasks(write(medical(opb=" ", cop=4)))
        assert choices_of(task) == {"A": "aspirin", "C": "vitamin C", "D": "None of the above"}
        assert task.reference == "D"
        assert "2 is none of the options: A, C, D" in refused(write(medical(opb=None, cop=2)), format="multiple_choice:1")

    def test_csv(self, write: Write) -> None:
        rows = ["question,opa,opb,opc,opd,cop,subject_name", "Who?,me,you,we,they,4,Grammar", 'Why?,"so, so",no,yes,maybe,,']
        first, second = read_tasks(write(*rows, name="questions.csv"))
        assert (first.reference, first.kind) == ("D", "Grammar")
        assert (second.reference, second.kind, choices_of(second)["A"]) == (None, None, "so, so")
        (third,) = read_tasks(write("question,options,answer", 'Who?,"[""me"", ""you""]",you', name="generic.csv"))
        assert (third.reference, choices_of(third)) == ("B", {"A": "me", "B": "you"})

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            (medical(question=" "), "field `question`"),
            (medical(explanation="because"), "field `explanation`: unknown key. Known: question, opa"),
            (medical(cop="aspirin"), "field `cop`: 'aspirin' is none of the options: A, B, C, D"),
            (medical(cop=True), "True is none"),
            (medical(cop=1.5), "1.5 is none"),
            (medical(opb="", opc="", opd=""), "field `opa`: a question needs two options or more, and has 1"),
            (generic(options=["one"]), "field `options`: a question needs two"),
            (generic(options="one"), "field `options`: not valid JSON"),
            (generic(options=7), "field `options`: a list of options"),
            (generic(options=None), "field `choices`: a list of options"),
            (generic(options=[["Paris"], "Rome"]), "an option is a text or a number, and one is ['Paris']"),
            (generic(options=[str(number) for number in range(27)]), "27 options and only 26 letters"),
            (generic(answer="Berlin"), "field `answer`: 'Berlin' is none of the options"),
            (generic(answer="Paris or Rome"), "'Paris or Rome' is none"),
            (generic(answer=["A"]), "is none of the options"),
        ],
    )
    def test_wrong_rows(self, write: Write, row: Any, says: str) -> None:
        said = refused(write(row))
        assert says in said
        assert "questions.jsonl:1" in said

    def test_other_formats_are_still_recognised(self, write: Write) -> None:
        assert read_tasks(write({"input": "Who?", "reference": "me"}))[0].reference == "me"
        assert "unknown" in refused(write(medical()), format="multiple").lower() or "format" in refused(write(medical()), format="multiple")
        assert "plain files" in refused(write(medical()), format="multiple_choice", columns={"input": "question"})
        assert read_tasks(write(medical()), columns={"input": "question", "reference": "opa"})[0].reference == "aspirin"

    def test_what_is_written_reads_back(self, write: Write, tmp_path: Path) -> None:
        tasks = read_tasks(write(medical(cop=4), generic()))
        write_tasks(tmp_path / "own.jsonl", tasks)
        assert [task.id for task in read_tasks(tmp_path / "own.jsonl")] == [task.id for task in tasks]


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("B", "B"),
        ("b", "B"),
        (" b) ", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        (r"\boxed{B}", "B"),
        ("(b) ibuprofen", "B"),
        ("B) Ibuprofen.", "B"),
        ("B ibuprofen", "B"),
        ("B: ibuprofen", "B"),
        ("IBUPROFEN", "B"),
        ("ibuprofen!", "B"),
        ("none of   the above", "D"),
        ("vitamin C", "C"),
        ("The answer is vitamin C.", "C"),
        ("The answer is B", "B"),
        ("the answer is b.", "B"),
        ("Answer: **B**", "B"),
        ("The answer is (b), of course", "B"),
        ("Option b is right", "B"),
        ("I think B.", "B"),
        ("<answer>b</answer>", "B"),
        ("A is the right one", "A"),
        ("B is wrong, A is right", "AB"),
        ("It is A.", "A"),
        ("B because aspirin bleeds", "B"),
        ("B, since aspirin bleeds", "B"),
        ("It bleeds.\n\nB", "B"),
        ("I would give ibuprofen to her", "B"),
        ("The full-width Ｂ", ""),
        ("Ｂ", "B"),
        ("", ""),
        ("...", ""),
        ("I do not know", ""),
        ("A patient may take anything", ""),
        ("E", ""),
        ("paracetamol", ""),
        ("ibuprofens", ""),
        ("B) aspirin", "BA"),
        ("(A) ibuprofen", "AB"),
        ("B or C", "BC"),
        ("A and B", "AB"),
        ("A/B", "AB"),
        ("a, b or d", "ABD"),
        ("Answer: A. Or the answer is B.", "AB"),
        ("(a) (b)", "AB"),
        ("aspirin or ibuprofen", "AB"),
        ("not aspirin but ibuprofen", "AB"),
    ],
)
def test_what_an_answer_names(answer: str, labels: str) -> None:
    assert "".join(sorted(read_choices(answer, DRUGS))) == "".join(sorted(labels))


def test_options_that_look_like_labels_or_like_each_other() -> None:
    vitamins = {"A": "D", "B": "C", "C": "B12", "D": "A"}
    assert read_choices("C", vitamins) == ("C",), "a label before a text"
    assert read_choices("B12", vitamins) == ("C",)
    longer = {"A": "diabetes", "B": "diabetes mellitus", "C": "none"}
    assert read_choices("It is diabetes mellitus.", longer) == ("B",)
    assert read_choices("It is diabetes.", longer) == ("A",)
    twice = {"A": "yes", "B": "no", "C": "Yes"}
    assert read_choices("yes", twice) == ("A",)
    assert read_choices("C", twice) == ("A",), "options with the same text are one"
    digits = {"1": "two", "2": "one"}
    assert read_choices("2", digits) == ("2",)
    assert read_choices("2) one", digits) == ("2",)
    assert read_choices("one", digits) == ("2",)
    assert read_choices("anything", {}) == ()


def test_options_without_labels() -> None:
    task = tt.Task(messages=(tt.Message(role="user", content="Is it?"),), reference="no", environment={"choices": ["yes", "no", "A"]})
    choices = choices_of(task)
    assert tuple(choices) == ("yes", "no", "A")
    assert read_choices("No.", choices) == ("no",)
    assert read_choices("No, it is not", choices) == ("no",)
    assert read_choices("yes and no", choices) == ("yes", "no")
    assert read_choices("B", choices) == ()


@pytest.mark.parametrize("written", [None, 3, "A", {"A": 3}, ["yes", 3], {}, []])
def test_what_holds_no_options(written: Any) -> None:
    task = tt.Task(messages=(tt.Message(role="user", content="?"),), environment={"choices": written})
    assert choices_of(task) == {}


@given(st.text(max_size=60))
def test_any_text_is_read(answer: str) -> None:
    named = read_choices(answer, DRUGS)
    assert set(named) <= set(DRUGS)
    assert len(set(named)) == len(named)


@given(
    st.sampled_from(list(DRUGS)), st.sampled_from(["{}", "{})", "({})", "{}.", "Answer: {}", "The answer is {}.", "**{}**", "option {}"])
)
def test_every_form_names_every_label(label: str, form: str) -> None:
    assert read_choices(form.format(label), DRUGS) == (label,)
    assert read_choices(f"{form.format(label)} {DRUGS[label]}", DRUGS) == (label,)


def question(**changes: Any) -> Task:
    fields: dict[str, Any] = {"reference": "B", "environment": {"choices": DRUGS}, **changes}
    return tt.Task(messages=(tt.Message(role="user", content="Which?"),), **fields)


async def graded(answer: str | None, task: Task | None = None) -> Grade:
    task = task or question()
    episode = Episode(task_id=task.id, agent_version="v", segments=(), answer=answer, stop=StopReason.ANSWERED)
    return await Choice().grade(task, episode)


async def test_the_grader() -> None:
    assert await graded("(b) ibuprofen") == Grade(score=1.0, words="correct")
    assert await graded("A") == Grade(score=0.0, words="expected B) 'ibuprofen', got A) 'aspirin'")
    assert await graded("B or C") == Grade(
        score=0.0, words="expected B) 'ibuprofen', got B) 'ibuprofen' and C) 'vitamin C'; one option is wanted"
    )
    assert (await graded("perhaps")).words == "the answer 'perhaps' names none of the options; expected B) 'ibuprofen'"
    assert (await graded(None)).score == 0.0
    assert (await graded("  ")).score == 0.0


async def test_the_reference_may_be_a_text_or_several() -> None:
    assert (await graded("B", question(reference="ibuprofen"))).score == 1.0
    assert (await graded("C", question(reference=["B", "vitamin C"]))).score == 1.0
    assert (await graded("A", question(reference=["B", "vitamin C"]))).score == 0.0
    assert (await graded("B and C", question(reference=["B", "C"]))).score == 0.0
    plain = question(reference="no", environment={"choices": ["yes", "no"]})
    assert (await graded("No!", plain)).score == 1.0
    assert (await graded("yes", plain)).words == "expected 'no', got 'yes'"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"environment": {}}, "field `environment.choices`: the task lists no options"),
        ({"reference": None}, "field `reference`: the task has no reference"),
        ({"reference": "E"}, "'E' is none of the options: A, B, C, D"),
        ({"reference": "A or B"}, "is none of the options"),
    ],
)
def test_a_task_that_cannot_be_graded_is_refused(changes: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Choice().check(question(**changes))
    assert says in str(caught.value)


async def test_an_advisor_errs_with_another_option() -> None:
    task = question()
    advisor = ReferenceAdvisor([task], error_rate=1.0)
    for seed in range(10):
        advisor = ReferenceAdvisor([task], error_rate=1.0, seed=seed)
        advice = await advisor.ask(Question(text=task.text, choices=tuple(choices_of(task)), task_id=task.id))
        assert advice is not None
        assert advice.answer in ("A", "C", "D")
