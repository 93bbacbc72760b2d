"""Functions to write: tasks, finding the code in an answer, the grader, the environment and the tool, with a scripted agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tutelage as tt
from tutelage.environments.code import CodeEnvironment, code_tasks, self_tests
from tutelage.environments.code_families import FAMILIES
from tutelage.errors import GraderError, InputError
from tutelage.graders import code as code_module
from tutelage.graders.code import HiddenTests
from tutelage.graders.python_text import blocks, find_code
from tutelage.records import Episode, Message, StopReason, Task
from tutelage.sandbox import SandboxFailed, SandboxLimits, run_tests
from tutelage.tool import call_tool
from tutelage.tools.python import python_tool

PROMPT = 'from typing import List\n\ndef double(items: List[int]) -> List[int]:\n    """Double every item."""\n'
TESTS = "assert double([1, 2]) == [2, 4]\nassert double([]) == []\nassert double([-7]) == [-14]\n"
BODY = "    return [2 * item for item in items]"


def task(tests: str = TESTS, entry: str = "double", prompt: str = PROMPT) -> Task:
    reference = {"tests": tests, "entry": entry, "prompt": prompt}
    return Task(messages=(Message(role="user", content=prompt or "?"),), reference=reference, source="tasks.jsonl:3")


def episode(answer: str | None) -> Episode:
    stop = StopReason.ANSWERED if answer else StopReason.EMPTY
    return Episode(task_id="t", agent_version="a", segments=(), answer=answer, stop=stop)


def fenced(code: str, language: str = "python") -> str:
    return f"Here it is:\n\n```{language}\n{code}\n```\nIt doubles."


# Finding the code


@pytest.mark.parametrize(
    "answer",
    [
        fenced(PROMPT + BODY),
        fenced(f"def double(items):\n{BODY}"),
        fenced(f"def double(items: List[int]) -> List[int]:\n{BODY}", ""),
        f"def double(items):\n{BODY}",
        f"```python\ndef double(items):\n{BODY}",
        f"```py\ndef double(items):\n{BODY}\n```\nFor instance:\n```python\nprint(double([1]))\n```",
        f"```\nexpected: [2, 4]\n```\n```python\ndef double(items):\n{BODY}\n```",
        "```python\ndef double(items):\n    return items\n```\nNo, rather:\n```python\ndef double(items):\n" + BODY + "\n```",
        BODY,
        BODY.strip(),
        "    result = []\n    for item in items:\n        result.append(2 * item)\n    return result\n",
        "result = []\n    for item in items:\n        result.append(2 * item)\n    return result",
        "result = []\nfor item in items:\n    result.append(2 * item)\nreturn result",
        fenced(BODY),
        fenced("double = lambda items: [2 * item for item in items]"),
        f"from __future__ import annotations\ndef double(items: List[int]):\n{BODY}",
    ],
)
async def test_the_code_is_found_however_it_is_written(answer):
    grade = await HiddenTests().grade(task(), episode(answer))
    assert grade.score == 1.0, (find_code(answer, "double", PROMPT), grade.words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("I cannot do that.", "there is no Python program in the answer"),
        (fenced("def double(items:"), "there is no Python program"),
        ("def double(items): return items * 2", "an assertion does not hold, line 1 of the tests"),
        ("def double(items): return 1 / 0", "double([1, 2]) raised ZeroDivisionError: division by zero"),
        ("def triple(items): return items", "the code defines no function `double`"),
        ("double = 3", "the code defines no function `double`"),
        ("raise ValueError('x')\ndef double(items): return items", "the code does not load: ValueError: x"),
        ("hello", "the code does not load: NameError"),
        ("x = '" + "\0" + "'", "there is no Python program"),
        ("(" * 100_000, "there is no Python program"),
        ("-" * 150_000 + "1", "there is no Python program"),
        ("a." * 90_000 + "b", "there is no Python program"),
        ("def double(items):\n    return items\n" * 100_000, "there is no Python program"),
        (None, "there is no answer in text"),
        ("  ", "there is no answer in text"),
    ],
)
async def test_bad_code_scores_0_and_says_why(answer, words):
    grade = await HiddenTests().grade(task(), episode(answer))
    assert grade.score == 0.0
    assert words in grade.words


def test_blocks_end_where_they_end():
    assert blocks("```\na\n```\ntext\n~~~python\nb\n~~~\n```py\nc") == ["a\n", "b\n", "c"]
    assert blocks("  - x:\n    ```python\n    def f():\n        pass\n    ```") == ["def f():\n    pass\n"]
    assert blocks("no `code` at all") == []


# The grader


async def test_words_without_the_hidden_tests():
    cases = {
        "def double(items): return [424242]": "`double` returns a wrong value in a hidden test",
        "def double(items): raise ValueError(items)": "`double` raises an exception in a hidden test",
        "def double(items): return double": "`double` returns something else than plain data in a hidden test",
        "import os\ndef double(items): os._exit(1)": "the program ended within a hidden test",
        "def double(items):\n    while True: pass": "a limit was reached in a hidden test (time)",
    }
    grader = HiddenTests(show_tests=False, seconds=0.5)
    for answer, words in cases.items():
        grade = await grader.grade(task(), episode(answer))
        assert (grade.score, grade.words) == (0.0, words)
    shown = await HiddenTests().grade(task(), episode("def double(items): return [424242]"))
    assert "assert double([1, 2]) == [2, 4]" in shown.words and "424242" in shown.words


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (None, "the reference must be"),
        ("text", "the reference must be"),
        ({"entry": "f"}, "`tests` must be a text"),
        ({"tests": TESTS}, "`entry` must be a text"),
        ({"tests": " ", "entry": "f"}, "`tests` must be a text"),
        ({"tests": TESTS, "entry": "f", "prompt": 3}, "`prompt` must be a text"),
        ({"tests": "assert f(", "entry": "f"}, "the tests are no Python"),
    ],
)
def test_a_task_that_cannot_be_graded_is_refused_before_anything_is_spent(reference, says):
    with pytest.raises(InputError, match=says) as raised:
        HiddenTests().check(Task(messages=(), reference=reference, source="tasks.jsonl:3"))
    assert "tasks.jsonl:3" in str(raised.value) and "reference" in str(raised.value)


async def test_our_own_failures_are_not_the_agents(monkeypatch):
    good = episode(fenced(PROMPT + BODY))
    with pytest.raises(GraderError, match=r"tests of the task tasks\.jsonl:3 are broken"):
        await HiddenTests().grade(task(tests="import sys\nsys.exit(0)"), good)

    async def fails(*_, **__):
        raise SandboxFailed("no processes are left")

    monkeypatch.setattr(code_module, "run_tests", fails)
    with pytest.raises(GraderError, match="no processes are left"):
        await HiddenTests().grade(task(), good)


def test_options_that_make_no_sense():
    with pytest.raises(InputError, match=r"limits\.seconds"):
        HiddenTests(seconds=0)
    with pytest.raises(InputError, match=r"limits\.memory_mb"):
        HiddenTests(memory_mb=1)


# Self-written tests


def test_self_written_tests_are_taken_from_what_parses():
    reply = fenced(
        "assert double([1]) == [2]\nassert double([]) == []  # empty\nassert triple([1]) == [3]\nassert True\nx = 1\n"
        "assert double(\n    [5],\n) == [10], 'five'\nassert double([1]) == [2]\ndef test():\n    assert double([9]) == [18]\nassert double"
    )
    assert self_tests(reply, "double") == (
        "assert double([1]) == [2]",
        "assert double([]) == []",
        "assert double(\n    [5],\n) == [10], 'five'",
        "assert double([9]) == [18]",
    )
    assert len(self_tests(reply, "double", cap=2)) == 2
    assert self_tests(reply, "double", cap=0) == ()


def test_self_written_tests_in_prose_and_broken_ones():
    reply = (
        "My tests:\n- assert double([1]) == [2]\n2. `assert double([2]) == [4]`\n"
        "assert double([3] ==\nassert other(1) == 2\nassert me, double it"
    )
    assert self_tests(reply, "double") == ("assert double([1]) == [2]", "assert double([2]) == [4]")
    many = "\n".join(f"assert double([{n}]) == [{2 * n}]" for n in range(20))
    assert len(self_tests(many, "double")) == 6
    assert self_tests("nothing", "double") == self_tests("", "double") == self_tests("assert " * 100_000, "double") == ()


# Tasks


def test_own_tasks_repeat_by_seed_and_have_a_reference():
    count = sum(len(family.params) for family in FAMILIES)
    assert len(FAMILIES) >= 12
    first, again, other = code_tasks(40, 1), code_tasks(40, 1), code_tasks(40, 2)
    assert first == again
    assert [one.id for one in first] != [one.id for one in other]
    every = code_tasks(count, 3)
    assert len({one.input_id for one in every}) == count
    assert {one.id for one in first} <= {one.id for one in every}
    for one in every:
        HiddenTests().check(one)
        assert one.reference["entry"] == one.kind
        hidden = one.reference["tests"].splitlines()
        assert len(hidden) == 8
        assert not any(line in one.text for line in hidden)


HAND_MADE = {
    "rotate_list": ((2, [1, 2, 3]), [3, 1, 2]),
    "shift_letters": ((3, "xyz, A!"), "abc, A!"),
    "join_long_words": (((2, "-"), "go tea a sun"), "tea-sun"),
    "sum_every": ((3, [1, 2, 3, 4, 5, 6]), 9),
    "mask_vowels": (("*", "EasY go"), "**sY g*"),
    "running": (("product", [2, -3, 4]), [2, -6, -24]),
    "chunks": ((2, [1, 2, 3]), [[1, 2], [3]]),
    "frequent_letters": ((2, "Tea tent  "), ["e", "t"]),
    "digit_sum": ((16, 255), 30),
    "clamp": (((0, 10), [-4, 4, 14]), [0, 4, 10]),
    "remove_repeats": (("last", [1, 2, 1, 3]), [2, 1, 3]),
    "top_words": ((2, "b a b c a d"), ["a", "b"]),
    "interleave": (("second", "abc", "XY"), "XaYbc"),
    "steps_to_one": ((3, 10), 3),
    "encode_runs": ((False, "aabccc"), "a2bc3"),
    "turn_grid": (("clockwise", [[1, 2], [3, 4]]), [[3, 1], [4, 2]]),
    "weigh_places": (((2, 1), [5, 3, 1]), 9),
    "count_multiples": ((3, [0, 3, 4, -6]), 3),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_reference_implementations_are_right(family):
    arguments, expected = HAND_MADE[family.name]
    assert family.solve(*arguments) == expected


async def test_the_hidden_tests_of_one_parameter_refuse_the_next():
    """The tests tell the parameters of a family apart: otherwise a task could be solved by guessing."""
    one, other = (
        next(task for task in code_tasks(95, 0, families=None) if task.source == f"code/count_multiples:{number}") for number in (1, 2)
    )
    right = "def count_multiples(numbers): return sum(n % 2 == 0 for n in numbers)"
    assert (await run_tests(right, one.reference["tests"])).passed
    assert not (await run_tests(right, other.reference["tests"])).passed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "at least one task"),
        ({"n": 10_000}, "there are 95"),
        ({"n": 5, "families": ["chunk"]}, "Did you mean `chunks`"),
        ({"n": 5, "families": ["chunks"]}, "there are 4"),
        ({"n": 1, "file": "nowhere.jsonl"}, "set TUTELAGE_DATA"),
        ({"n": 1, "file": "humaneval", "families": ["chunks"]}, "leave out `file`"),
    ],
)
def test_tasks_that_cannot_be_had(options, says, monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=says):
        code_tasks(seed=0, **options)


def test_a_file_with_a_broken_row_names_line_and_field(tmp_path):
    file = tmp_path / "problems.jsonl"
    row = {"prompt": PROMPT, "test": TESTS, "entry_point": "double"}
    file.write_text("\n".join(json.dumps(one) for one in (row, {**row, "test": None})))
    with pytest.raises(InputError, match=r"problems.jsonl:2: field `test`"):
        code_tasks(1, 0, file=str(file))


@pytest.mark.data
async def test_humaneval(data: Path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    tasks = code_tasks(161, 5, file="humaneval")
    assert code_tasks(20, 5, file="humaneval") == tasks[:20]
    one = next(task for task in tasks if task.reference["entry"] == "strlen")
    assert (await HiddenTests().grade(one, episode("    return len(string)"))).score == 1.0
    assert (await HiddenTests().grade(one, episode("    return len(string) + (string == 'x')"))).score == 0.0
    assert one.text.startswith("Write this Python function") and "candidate" not in one.text
    with pytest.raises(InputError, match="there are 161"):
        code_tasks(162, 0, file="humaneval")


# The environment and the tool


async def test_an_agent_tries_its_code_and_is_graded_by_tests_that_it_never_sees():
    call = tt.ToolCall(id="a", name="run", arguments=json.dumps({"code": "print([2 * item for item in [1, 2]])"}))
    agent = tt.Agent(model=tt.Scripted([call, fenced(f"def double(items):\n{BODY}")]))
    played = await tt.run_episode(agent, task(), environment=CodeEnvironment)
    assert played.calls[0][1].text == "[2, 4]"
    assert (played.environment_grade.score, played.stop) == (1.0, StopReason.ANSWERED)
    seen = json.dumps(played.model_dump(mode="json", exclude={"environment_grade"}))
    assert "double([-7])" not in seen and "assert" not in seen
    wrong = await tt.run_episode(tt.Agent(model=tt.Scripted("def double(items): return items")), task(), environment=CodeEnvironment)
    assert (wrong.environment_grade.score, wrong.environment_grade.words) == (0.0, "`double` returns a wrong value in a hidden test")


async def test_an_environment_without_tests_is_refused():
    with pytest.raises(InputError, match="the reference must be"):
        await tt.run_episode(tt.Agent(model=tt.Scripted("x")), Task(messages=()), environment=CodeEnvironment)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('a'); print('b')", "a\nb"),
        ("x = 1", "(nothing was printed; use print to see a value)"),
        ("raise SystemExit(3)", "[ended with exit code 3]"),
        ("print('x')\nprint(1 / 0)", 'x\nTraceback (most recent call last):\n  File "<code>", line 2, in <module>\n'),
        ("print('y')\nwhile True: pass", "y\n[stopped: a limit was reached (time); 0.5 s and 512 MB are allowed]"),
        ("print('z' * 200)", "z" * 100 + "\n[the output was longer than 100 characters and is cut]"),
    ],
)
async def test_what_a_model_sees_of_a_run(code, text):
    chosen = python_tool(SandboxLimits(seconds=0.5, output_chars=100) if "z" in code else SandboxLimits(seconds=0.5), name="interpreter")
    seen = await call_tool(chosen, tt.ToolCall(id="1", name="interpreter", arguments=json.dumps({"code": code})))
    assert seen.text.startswith(text) and seen.failure is None
    assert chosen.spec.name == "interpreter" and list(chosen.spec.parameters["properties"]) == ["code"]
