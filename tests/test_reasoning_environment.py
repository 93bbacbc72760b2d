"""Reasoning puzzles: made by seed, answers read leniently, and graded so that wrong is 0."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.agent import Agent
from tutelage.environments import reasoning_verify
from tutelage.environments.check import check_environment
from tutelage.environments.expressions import exact_value, is_harmless, is_integral
from tutelage.environments.reasoning import ReasoningEnvironment, read_answer, reasoning_tasks
from tutelage.environments.reasoning_verify import LEFT_OUT, PARTIAL, families, verify
from tutelage.episode import run_episode
from tutelage.errors import InputError, MissingExtra
from tutelage.models.scripted import Scripted
from tutelage.records import Episode, Grade, Message, StopReason, Task

REASON = "makes puzzles with the package `reasoning-gym` (extra `reasoning`)"

RIGHT_BY_CHANCE = ("no", "0", "True", "x", "A B C D")


@pytest.fixture
def gym() -> Any:
    return pytest.importorskip("reasoning_gym", reason=REASON)


def graded(task: Task, answer: str | None, **options: Any) -> Grade:
    world = ReasoningEnvironment(**options)
    world.reset(task)
    grade = world.grade(Episode(task_id=task.id, agent_version="a", segments=(), answer=answer, stop=StopReason.ANSWERED))
    assert grade is not None
    return grade


def entry(answer: str | None = None, **metadata: Any) -> dict[str, Any]:
    return {"question": "?", "answer": answer, "metadata": metadata}


# --- reading the answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        ("I add.\nAnswer: 42", "42"),
        ("Answer: 1\nNo, wrong.\nAnswer: 2\n", "2"),
        ("answer:42", "42"),
        ("**Answer:** 42", "42"),
        ("**Final answer: 42**", "42"),
        ("### Answer: `x + 1`", "x + 1"),
        ("The answer is: 7", "7"),
        ("Hm.\n<answer>12</answer> That is it.", "12"),
        ("Answer: first guess\n<answer>12</answer>", "12"),
        ("<answer>3</answer>\nAnswer: 4", "4"),
        ("Answer: <answer>5</answer>", "5"),
        ("<answer>Answer: 5</answer>", "5"),
        ("<answer>not closed", "not closed"),
        ("Answer:\n\n12\n", "12"),
        ("So we see that the answer is 12", "12"),
        ("The final result is\n12", "12"),
        ("Answer: \\boxed{12}", "12"),
        ("Answer: $\\boxed{x^2}$", "x^2"),
        ("Answer: $12$", "12"),
        ("", ""),
        ("Answer:", ""),
    ],
)
def test_one_line_answers(text: str, answer: str) -> None:
    assert read_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4",
        "Answer: 1 2\n3 4",
        "Hm.\n<answer>\n1 2\n3 4\n</answer>",
        "Answer:\n```\n1 2\n3 4\n```",
        "<answer>```text\n1 2\n3 4\n```</answer>",
    ],
)
def test_answers_of_several_lines(text: str) -> None:
    assert read_answer(text, several_lines=True) == "1 2\n3 4"


def test_blanks_that_begin_the_first_line_of_a_board_are_kept() -> None:
    assert read_answer("<answer>\n  Q\nQ\n</answer>", several_lines=True) == "  Q\nQ"


@given(st.text(max_size=80))
def test_reading_never_fails(text: str) -> None:
    assert isinstance(read_answer(text), str)
    assert isinstance(read_answer(text, several_lines=True), str)


# --- expressions


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [("2*(3+4)", 14, [2, 3, 4]), ("8/3*3 - -1", 9, [8, 3, 3, 1]), (" 24 ", 24, [24])],
)
def test_exact_values(text: str, value: int, numbers: list[int]) -> None:
    assert exact_value(text) == (value, numbers)


@pytest.mark.parametrize(
    "text", ["1/0", "2**3", "x", "1.5", "abs(1)", "__import__('os')", "1 if 1 else 2", "", "(" * 5000, "True", "9" * 900]
)
def test_what_has_no_exact_value(text: str) -> None:
    assert exact_value(text) is None


@pytest.mark.parametrize("text", ["x**2/2 + C", "-cos(3*x - 10)**3/3", "2*sqrt(x + 1)", "exp(x)*sin(x)", "x**(3/2)", "2**x", "pi*x"])
def test_what_integrals_look_like_is_harmless(text: str) -> None:
    assert is_harmless(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "x.__class__",
        "().__class__.__bases__[0]",
        "[x for x in (1,)]",
        "lambda: 1",
        "9**9**9**9",
        "(9**99)**99",
        "x**1000",
        "factorial(10)",
        "Integral(x, x)",
        "sin(x, evaluate=False)",
        "'text'",
        "x" * 700,
        "(" * 500,
    ],
)
def test_what_is_not_let_through(text: str) -> None:
    assert not is_harmless(text)


@pytest.mark.parametrize(
    ("text", "integrand", "right"),
    [
        ("x**2/2 + C", "x", True),
        ("x**2/2", "x", True),
        ("x**2/2 + x", "x", False),
        ("(x**2 + 2*x + 1)/2", "x + 1", True),
        ("-cos(x)**2/2", "sin(x)*cos(x)", True),
        ("sin(x)**2/2", "sin(x)*cos(x)", True),
        ("cos(x)**2/2", "sin(x)*cos(x)", False),
        ("x*log(x) - x", "log(x)", True),
        ("x*asin(2*x) + sqrt(1 - 4*x**2)/2", "asin(2*x)", True),
        ("2*(4*x + 2)**(3/2)/3", "4*sqrt(4*x + 2)", True),
        ("-2*(-4*x - 9)**(3/2)/3 + C", "4*sqrt(-4*x - 9)", True),
        ("x*atan(x) - log(x**2 + 1)/2", "atan(x)", True),
        ("2**x/log(2)", "2**x", True),
        ("Integral(x, x)", "x", False),
        ("1/0", "x", False),
        ("", "x", False),
    ],
)
def test_integrals(text: str, integrand: str, right: bool) -> None:
    assert is_integral(text, integrand, "x") is right


# --- verification, without the package


@pytest.mark.parametrize(
    ("family", "about", "answer", "score"),
    [
        ("puzzle24", entry("4*8 - 6 - 2", numbers=[4, 8, 6, 2]), "(8 - 2)*(6 - 4) + 12", 0),
        ("puzzle24", entry("4*8 - 6 - 2", numbers=[4, 8, 6, 2]), "4*8 - (6 + 2)", 1),
        ("puzzle24", entry("4*8 - 6 - 2", numbers=[4, 8, 6, 2]), "6*4*1*1", 0),
        ("puzzle24", entry("3*8 + 0*1", numbers=[3, 8, 1, 2]), "3*8 + 1/2", 0),  # 24.5
        ("countdown", entry("5*3 + 1", numbers=[5, 3, 1], target=16), "1 + 3*5", 1),
        ("countdown", entry("5*3 + 1", numbers=[5, 3, 1], target=16), "5*3", 0),
        ("game_of_life_halting", entry("False"), "false", 1),
        ("game_of_life_halting", entry("False"), "anything", 0),
        ("figlet_font", entry("BABBLED"), "babbled", 1),
        ("figlet_font", entry("BABBLEDBABBLED"), "BABBLEDBABBLEX", 0),
        ("n_queens", entry("Q _\n_ Q", valid_answers=["Q _\n_ Q", "_ Q\nQ _"]), "_ Q\nQ _", 1),
        ("n_queens", entry("Q _\n_ Q", valid_answers=["Q _\n_ Q"]), "[['Q', '_'], ['_', 'Q']]", 0),
        ("number_sorting", entry("['1.0', '2.5']"), "[1, 2.5]", 1),
        ("number_sorting", entry("['1.0', '2.5']"), "['1.5', '2.5']", 0),
        ("number_sorting", entry("['1.0', '2.5']"), "nonsense", 0),
        ("binary_matrix", entry("0 1\n1 0"), "0 1 \n\n1  0", 1),
        ("binary_matrix", entry("0 1\n1 0"), "[[0, 1], [1, 0]]", 0),
        ("simple_integration", entry("x**2 + C", integrand="2*x", variable="x"), "x^2 + 7", 1),
        ("sudoku", entry("1 2\n2 1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "1 2\n2 1", 1),
        ("sudoku", entry("1 2\n2 1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "1 2\n1 1", 2 / 3),
        ("sudoku", entry("1 2\n2 1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "1 _\n_ _", 0),
        ("sudoku", entry("1 2\n2 1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "2 2\n2 1", 0),  # a given number was changed
        ("sudoku", entry("1 2\n2 1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "1 2", 0),
        ("futoshiki", entry("1 < 2\n\n2   1", puzzle=[[1, 0], [0, 0]], solution=[[1, 2], [2, 1]]), "1 < 2\n    \n1   1", 2 / 3),
        ("spiral_matrix", entry("1 2"), "__import__('os').system('touch PWNED')", 0),
        ("string_insertion", entry("AB"), "['A', 'B']", 0),
        ("rubiks_cube", entry(None), "R999999999", 0),
        ("coin_flip", entry("0.5"), "1e999999999", 0),
        ("complex_arithmetic", entry("1.0 + 2.0i", result=[1.0, 2.0]), "nan", 0),
        ("polynomial_multiplication", entry("x**2"), "__import__('os').system('touch PWNED')", 0),
        ("chain_sum", entry("5"), "", 0),
        ("chain_sum", entry("5"), "5 " * 3000, 0),
    ],
)
def test_verification_by_hand(family: str, about: dict[str, Any], answer: str, score: float, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reasoning_verify, "package", lambda: pytest.fail("the package's verifier was asked"))
    assert verify(family, {}, answer, about)[0] == pytest.approx(score)
    assert not Path("PWNED").exists()


# --- with the package


@pytest.mark.parametrize(
    ("family", "answer_of", "score", "raw"),
    [
        ("chain_sum", lambda task: task.reference, 1.0, 1.0),
        ("chain_sum", lambda task: f"{task.reference}.", 1.0, 1.0),
        ("chain_sum", lambda task: f"{task.reference}.0", 1.0, 1.0),
        ("chain_sum", lambda task: f"12345{task.reference}", 0.0, None),  # the package pays for containing the answer
        ("power_function", lambda task: "0.5", 0.0, 0.01),
        ("countdown", lambda task: "1+1", 0.0, None),
        ("emoji_mystery", lambda task: "no", 0.0, 0.01),
        ("rectangle_count", lambda task: str(int(task.reference) + 1), 0.0, None),
        ("prime_factorization", lambda task: "abc", 0.0, 0.0),  # where the package's verifier raises
    ],
)
def test_wrong_is_nought_and_the_raw_score_is_kept(gym: Any, family: str, answer_of: Any, score: float, raw: float | None) -> None:
    (task,) = reasoning_tasks(1, 3, family=family)
    grade = graded(task, f"Let me think.\nAnswer: {answer_of(task)}")
    assert grade.score == score
    if raw is not None:
        assert grade.parts["raw"] == pytest.approx(raw)
    if family == "rectangle_count":
        assert 0 < (grade.parts["raw"] or 0) < 1  # the package pays for being near


def test_true_partial_credit_counts_unless_it_is_switched_off(gym: Any) -> None:
    (task,) = reasoning_tasks(1, 0, family="word_sorting")
    words = str(task.reference).split(", ")
    swapped = ", ".join([words[1], words[0], *words[2:]])
    share = max((len(words) - 2) / len(words), 0.2)
    assert graded(task, f"Answer: {swapped}").score == pytest.approx(share)
    assert graded(task, f"Answer: {swapped}", partial=False).score == 0.0
    assert graded(task, f"Answer: {', '.join(words)}", partial=False).score == 1.0


def test_the_right_answer_may_be_kept_out_of_the_words(gym: Any) -> None:
    (task,) = reasoning_tasks(1, 0, family="chain_sum")
    assert str(task.reference) in graded(task, "Answer: 123456789").words
    assert str(task.reference) not in graded(task, "Answer: 123456789", show_answer=False).words
    assert graded(task, f"Answer: {task.reference}", show_answer=False).score == 1


def test_consolation_of_families_with_partial_credit_is_nought(gym: Any) -> None:
    (task,) = reasoning_tasks(1, 0, family="sentence_reordering")
    grade = graded(task, "Answer: something else altogether, of quite another length than that sentence has, I am sure of it")
    assert (grade.score, grade.parts) == (0.0, {"raw": 0.05})


def test_tasks_are_different_repeatable_and_hold_all_that_grading_needs(gym: Any) -> None:
    tasks = reasoning_tasks(12, 4, family=["chain_sum", "mini_sudoku", "arc_agi", "gsm_symbolic"])
    assert reasoning_tasks(12, 4, family=["chain_sum", "mini_sudoku", "arc_agi", "gsm_symbolic"]) == tasks
    assert len({task.input_id for task in tasks}) == len({task.text for task in tasks}) == 12
    assert sorted(task.kind or "" for task in tasks) == sorted(["chain_sum", "mini_sudoku", "arc_agi", "gsm_symbolic"] * 3)
    assert [task.kind for task in tasks] != sorted(task.kind or "" for task in tasks)
    assert not {task.id for task in tasks} & {task.id for task in reasoning_tasks(12, 5, family="chain_sum")}
    for task in tasks:
        read = Task.model_validate_json(task.model_dump_json())
        assert read == task
        several = "\n" in str(task.reference)
        assert ("between <answer> and </answer>" if several else 'after "Answer:"') in task.text
        said = f"<answer>\n{task.reference}\n</answer>" if several else f"Answer: {task.reference}"
        assert graded(read, said).score == 1.0
        assert graded(read, "I do not know.").score == 0.0
        assert graded(read, None).score == 0.0


@pytest.mark.parametrize("batch", range(5))
def test_every_family_grades_its_references_1_and_garbage_0(gym: Any, batch: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    garbage = [
        "banana",
        "-987654321",
        "nan",
        "inf",
        "[]",
        "{}",
        "9**9**9**9",
        "1e999999999",
        "R999999999",
        "__import__('os').mkdir('PWNED')",
    ]
    for family in families()[batch::5]:
        for task in reasoning_tasks(2, 1, family=family):
            if task.reference is not None:
                assert graded(task, str(task.reference)).score == 1.0, family
            for text in garbage:
                score = graded(task, text).score
                assert score == 0.0 or family in PARTIAL, (family, text, score)
                assert score is not None and score < 1.0, (family, text)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_the_families_are_those_of_the_package(gym: Any) -> None:
    assert len(families()) > 90
    assert not set(LEFT_OUT) & set(families())
    assert set(PARTIAL) <= set(families())


def test_options_of_a_family(gym: Any) -> None:
    tasks = reasoning_tasks(5, 0, family={"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, "gcd": None})
    sums = [task for task in tasks if task.kind == "chain_sum"]
    assert len(sums) == 3
    assert all(task.environment["options"] == {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1} for task in sums)
    assert all(len(json.dumps(task.text)) < 250 for task in sums)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("chain_sums", "Did you mean `chain_sum`"),
        ("composite", "name these instead"),
        ([], "at least one family"),
        ({"chain_sum": {"terms": 2}}, "does not take these options"),
        ({"chain_sum": {"min_terms": -2}}, "does not take these options"),
        ({"coin_flip": {"min_trials": 3, "max_trials": 3}}, "different puzzles were found, and 40 are asked for"),
    ],
)
def test_what_cannot_be_asked_for(gym: Any, family: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reasoning_tasks(40, 0, family=family)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tutelage\[reasoning\]'"):
        reasoning_tasks(1, 0)


def test_a_task_without_a_puzzle_is_refused() -> None:
    with pytest.raises(InputError, match="reasoning_tasks"):
        ReasoningEnvironment().reset(Task(messages=(Message(role="user", content="hi"),)))
    episode = Episode(task_id="t", agent_version="a", segments=(), answer="1", stop=StopReason.ANSWERED)
    assert ReasoningEnvironment().grade(episode) is None


def test_an_agent_is_graded(gym: Any) -> None:
    (task,) = reasoning_tasks(1, 0, family="gcd")
    episode = asyncio.run(
        run_episode(Agent(model=Scripted(f"It divides both. Answer: {task.reference}")), task, environment=ReasoningEnvironment)
    )
    assert episode.environment_grade is not None
    assert episode.environment_grade.score == 0.0  # "Answer:" does not begin the line, and the last line is no number
    episode = asyncio.run(
        run_episode(Agent(model=Scripted(f"It divides both.\nAnswer: {task.reference}")), task, environment=ReasoningEnvironment)
    )
    assert episode.environment_grade is not None
    assert (episode.environment_grade.score, episode.environment_grade.words) == (1.0, "right")


def test_the_checker_finds_nothing_but_notes(gym: Any) -> None:
    report = check_environment(ReasoningEnvironment, reasoning_tasks(8, 0, family=["chain_sum", "sudoku", "graph_color", "arc_1d"]))
    assert report.ok
    assert [(finding.severity.value, finding.check) for finding in report.findings] == [("note", "tools")]
