"""The checker of environments: a sound one passes, and each way of being broken is found and named."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.environments.check import CheckReport, check_environment, examine
from tutelage.environments.check_bench import CHECKS, Severity
from tutelage.environments.random_calls import malformed_calls, valid_arguments
from tutelage.errors import InputError, ToolError
from tutelage.records import Episode, Grade, Message, Task, ToolCall, ToolSpec
from tutelage.tool import Tool, validate_arguments


def make_task(number: int = 1, **fields: Any) -> Task:
    calls = [{"name": "move", "arguments": {"where": "up"}}] * number
    known = {"reference": {"calls": calls}, "environment": {"floors": number}, "source": f"t{number}"}
    return Task(messages=(Message(role="user", content=f"Go up {number} floors."),), **{**known, **fields})


TASKS = (make_task(1), make_task(2), make_task(3))


class Tower:
    """A sound environment: reach the top."""

    def __init__(self) -> None:
        self.done, self.floor, self.top = False, 0, 0

    def reset(self, task: Task) -> str:
        """Start below."""
        self.top = int(str(task.environment["floors"]))
        return "You stand below."

    def move(self, where: Literal["up", "down"]) -> str:
        """Go one floor up or down.

        Args:
            where: The direction.
        """
        if self.done:
            raise ToolError("you have arrived")
        self.floor = max(0, self.floor + (1 if where == "up" else -1))
        self.done = self.floor == self.top
        return f"You are on floor {self.floor}."

    def say(self, what: str) -> str:
        """Say something.

        Args:
            what: The words.
        """
        return f"Echo: {what}"

    def grade(self, episode: Episode) -> Grade | float | None:
        """1 at the top."""
        return 1.0 if self.done else 0.0

    def close(self) -> None:
        """Nothing to close."""


def check(factory: Any, tasks: tuple[Task, ...] = TASKS, **options: Any) -> CheckReport:
    return check_environment(factory, tasks, **{"steps": 12, **options})


def found(report: CheckReport, name: str) -> list[tuple[str, str]]:
    return [(finding.severity.value, finding.words) for finding in report.findings if finding.check == name]


def only_error(report: CheckReport, name: str) -> str:
    """The words of the one error, which must be of this check; other checks may not be led astray by it."""
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    assert [finding.check for finding in errors] == [name], errors
    assert not report.ok
    return errors[0].words


def test_a_sound_environment_passes_all_checks() -> None:
    report = check(Tower)
    assert report.findings == ()
    assert report.ok
    assert report.checked == tuple(CHECKS)
    assert report.tasks == 3
    assert report.reset_ms is not None and 0 < report.reset_ms < 50
    assert report.step_ms is not None and 0 < report.step_ms < 50


def test_the_same_seed_finds_the_same() -> None:
    class Moody(Tower):
        def say(self, what: str) -> str:
            """Say something."""
            if len(what) > 12:
                raise KeyError(what)
            return what

    assert check(Moody, seed=4).findings == check(Moody, seed=4).findings


async def test_it_can_be_awaited() -> None:
    assert (await examine(Tower, TASKS[:1])).ok


def test_no_task_is_refused() -> None:
    with pytest.raises(InputError, match="there is none"):
        check(Tower, ())


# --- reset


class BadStart(Tower):
    def reset(self, task: Task) -> str:
        if task.environment["floors"] == 2:
            raise KeyError("second floor")
        return super().reset(task)


def test_a_reset_that_raises_names_the_task_and_the_line() -> None:
    report = check(BadStart)
    words = only_error(report, "reset")
    assert "KeyError: 'second floor'" in words
    assert 'raise KeyError("second floor")' in words
    assert next(finding.tasks for finding in report.findings if finding.check == "reset") == ("t2",)


def test_what_could_not_be_checked_is_not_called_checked() -> None:
    report = check(BadStart, (TASKS[1],))
    assert report.checked == ("reset",)
    assert report.reset_ms is None


def test_a_constructor_that_raises() -> None:
    class Unbuildable(Tower):
        def __init__(self) -> None:
            raise OSError("no world")

    assert "OSError: no world" in only_error(check(Unbuildable), "reset")


def test_an_opening_that_is_no_text() -> None:
    class Listing(Tower):
        def reset(self, task: Task) -> Any:
            super().reset(task)
            return ["a", "list"]

    assert "`reset` gave list" in only_error(check(Listing), "reset")


def test_a_factory_that_gives_the_same_object_twice() -> None:
    class Again(Tower):
        def reset(self, task: Task) -> str:
            self.done, self.floor = False, 0
            return super().reset(task)

    only = Again()
    report = check(lambda: only, TASKS[:1])
    assert any("the same object twice" in words for _, words in found(report, "reset"))
    assert not report.ok


def test_a_second_fresh_object_that_fails() -> None:
    made: list[int] = []

    class Once(Tower):
        def reset(self, task: Task) -> str:
            made.append(1)
            if len(made) > 1:
                raise RuntimeError("port 8080 is in use")
            return super().reset(task)

    report = check(Once, TASKS[:1])
    assert any("the second fresh environment raised RuntimeError: port 8080 is in use" in words for _, words in found(report, "reset"))


# --- tools


def test_a_tool_without_a_docstring() -> None:
    class Mute(Tower):
        def wave(self) -> str:
            return "ok"

    Mute.wave.__doc__ = None
    assert "docstring" in only_error(check(Mute), "tools")


def hand_made(parameters: dict[str, Any], description: str = "Does it.") -> type[Tower]:
    class Handmade(Tower):
        @property
        def handle(self) -> Tool:
            return Tool(ToolSpec(name="handle", description=description, parameters=parameters), lambda **_: "ok")

    return Handmade


def test_a_broken_schema() -> None:
    report = check(hand_made({"type": "object", "properties": {"a": {"type": "strnig"}}}))
    assert any("the schema of `handle` is broken" in words for severity, words in found(report, "tools") if severity == "error")


def test_a_tool_that_does_not_say_what_it_does() -> None:
    report = check(hand_made({"type": "object", "properties": {"a": {"type": "string"}}}, description=" "))
    assert found(report, "tools") == [
        ("warning", "`handle` has no description; the model will not know what it does"),
        ("note", "`handle` does not say what a is; describe it under `Args:`"),
    ]
    assert report.ok


def test_an_environment_without_tools_is_checked_on_answers() -> None:
    class Quiz:
        def reset(self, task: Task) -> None:
            pass

        def grade(self, episode: Episode) -> bool:
            return episode.answer == "4"

    report = check(Quiz, (make_task(reference="4"),))
    assert report.ok
    assert [severity for severity, _ in found(report, "tools")] == ["note"]
    assert {"silence", "reference"} <= set(report.checked)
    assert not {"actions", "isolation"} & set(report.checked)
    assert "is graded 0" in only_error(check(Quiz, (make_task(reference="5"),)), "reference")


# --- determinism


def test_chance_that_no_seed_decides() -> None:
    class Dice(Tower):
        def say(self, what: str) -> str:
            """Say something."""
            return f"You throw {random.random()}."

    report = check(Dice)
    words = only_error(report, "determinism")
    assert "the answer to call" in words
    assert "You throw 0." in words
    assert ("note", "not checked: the environment is not deterministic") in found(report, "isolation")


def test_an_opening_that_changes() -> None:
    class Clock(Tower):
        def reset(self, task: Task) -> str:
            return super().reset(task) + f" It is {time.perf_counter()}."

    assert "the opening was" in only_error(check(Clock), "determinism")


# --- actions


def test_a_tool_that_raises_is_found_with_its_line_and_call() -> None:
    class Fragile(Tower):
        def lift(self, floors: int) -> str:
            """Take the lift.

            Args:
                floors: How many.
            """
            return ["a", "b"][floors]

    words = only_error_of_kind(check(Fragile), "actions")
    assert words.startswith("`lift` raised IndexError: list index out of range (test_check_environment.py:")
    assert 'return ["a", "b"][floors]' in words
    assert "raise ToolError" in words


def only_error_of_kind(report: CheckReport, name: str) -> str:
    words = [words for severity, words in found(report, name) if severity == "error"]
    assert len(words) == 1
    assert not report.ok
    return words[0]


def test_an_async_tool_that_raises_is_found_too() -> None:
    class Fragile(Tower):
        async def lift(self) -> str:
            """Take the lift."""
            raise AttributeError("no lift")

    assert "`lift` raised AttributeError: no lift" in only_error_of_kind(check(Fragile), "actions")


def test_tool_errors_are_no_finding() -> None:
    class Strict(Tower):
        def say(self, what: str) -> str:
            """Say something.

            Args:
                what: The words.
            """
            raise ToolError("be quiet")

    assert check(Strict).findings == ()


def test_a_tool_that_hangs() -> None:
    class Slow(Tower):
        @property
        def wait(self) -> Tool:
            spec = ToolSpec(name="wait", description="Wait.", parameters={"type": "object", "properties": {}})
            return Tool(spec, lambda: time.sleep(0.3), seconds=0.02)

    assert "`wait` was stopped: it took more than 0.02 seconds" in only_error_of_kind(check(Slow, TASKS[:1], steps=6), "actions")


# --- malformed


def test_texts_that_only_look_harmless() -> None:
    class Lazy(Tower):
        def say(self, what: str) -> str:
            """Say something.

            Args:
                what: The words.
            """
            return what.split(maxsplit=1)[0]

    report = check(Lazy)
    assert "`say` raised IndexError" in only_error(report, "malformed")


def test_a_call_after_the_end_that_crashes() -> None:
    class Over(Tower):
        def move(self, where: Literal["up", "down"]) -> str:
            """Go.

            Args:
                where: The direction.
            """
            if self.done:
                raise RuntimeError("nobody is there")
            return super().move(where)

    report = check(Over)
    assert "RuntimeError: nobody is there" in only_error_of_kind(report, "actions")


# --- grade


@pytest.mark.parametrize(
    ("grade", "words"),
    [
        (1.5, "the score is 1.5"),
        (-0.1, "the score is -0.1"),
        (float("nan"), "the score is nan"),
        ("good", "GraderError: a grader returned str"),
        (Grade(score=float("inf")), "the score is inf"),
    ],
)
def test_grades_out_of_range(grade: Any, words: str) -> None:
    class Odd(Tower):
        def grade(self, episode: Episode) -> Any:
            return grade

    assert words in only_error_of_kind(check(Odd), "grade")


def test_a_grade_that_raises() -> None:
    class Odd(Tower):
        def grade(self, episode: Episode) -> float:
            return 1 / len(episode.answer or "")

    assert "ZeroDivisionError" in only_error_of_kind(check(Odd), "grade")


def test_none_and_async_grades_are_fine() -> None:
    class Unsure(Tower):
        async def grade(self, episode: Episode) -> None:  # type: ignore[override]
            return None

    assert check(Unsure).ok


def test_no_grade_is_noted() -> None:
    class Ungraded:
        done = False

        def reset(self, task: Task) -> None:
            pass

        def wait(self) -> str:
            """Wait."""
            self.done = True
            return "Time passes."

    report = check(Ungraded)
    assert report.ok
    assert [severity for severity, _ in found(report, "grade")] == ["note"]
    assert not {"grade", "silence", "reference"} & set(report.checked)


# --- silence


def test_silence_that_is_graded_as_success() -> None:
    class Generous(Tower):
        def grade(self, episode: Episode) -> float:
            return 1.0

    assert "says nothing, or garbage, is graded 1" in only_error(check(Generous), "silence")


def test_garbage_that_is_graded_as_success() -> None:
    class Generous(Tower):
        def grade(self, episode: Episode) -> float:
            return 1.0 if episode.answer or self.done else 0.0

    only_error(check(Generous), "silence")


def test_silence_that_is_right_for_few_tasks_is_a_warning() -> None:
    class Sometimes(Tower):
        def grade(self, episode: Episode) -> float:
            return 1.0 if self.top == 1 or self.done else 0.0

    report = check(Sometimes)
    assert report.ok
    assert [severity for severity, _ in found(report, "silence")] == ["warning"]
    assert report.findings[0].tasks == ("t1",)


# --- reference


def test_a_reference_that_does_not_win() -> None:
    wrong = make_task(2, reference={"calls": [{"name": "move", "arguments": {"where": "down"}}]})
    assert "the reference (1 calls and 'Done.') is graded 0" in only_error(check(Tower, (TASKS[0], wrong)), "reference")


def test_a_reference_that_cannot_be_read() -> None:
    broken = make_task(2, reference={"calls": [{"nmae": "move"}]})
    assert "the reference cannot be read" in only_error(check(Tower, (broken,)), "reference")


def test_tasks_without_a_reference_are_counted() -> None:
    report = check(Tower, (TASKS[0], make_task(2, reference=None)))
    words = "the reference of 1 of 2 tasks shows no answer: whether they can be solved was not checked"
    assert found(report, "reference") == [("note", words)]


def test_a_reference_that_only_a_grader_reads_shows_no_answer() -> None:
    task = make_task(2, reference={"tests": "assert f(1) == 2"})
    assert [severity for severity, _ in found(check(Tower, (task,)), "reference")] == ["note"]


def test_a_solution_may_be_given_in_its_place() -> None:
    up = ToolCall(id="", name="move", arguments='{"where": "up"}')
    task = make_task(2, reference=None)
    assert check(Tower, (task,), solution=lambda task: [up, up, "There."]).findings == ()
    assert "the reference (1 calls and 'There.') is graded 0" in only_error(
        check(Tower, (task,), solution=lambda task: [up, "There."]), "reference"
    )


# --- isolation


class Shared(Tower):
    floors: dict[str, int] = {}  # noqa: RUF012 -- the mistake that is to be found

    def reset(self, task: Task) -> str:
        self.floors["now"] = 0
        return super().reset(task)

    def move(self, where: Literal["up", "down"]) -> str:
        """Go.

        Args:
            where: The direction.
        """
        self.floors["now"] += 1 if where == "up" else -1
        self.floor, self.done = self.floors["now"], self.floors["now"] == self.top
        return f"You are on floor {self.floor}."


def test_state_that_two_environments_share() -> None:
    words = only_error(check(Shared, (make_task(8), make_task(9))), "isolation")
    assert "environments that are alive together share something" in words
    assert "alone" in words


def test_a_second_one_that_cannot_live_beside_the_first() -> None:
    class Locked(Tower):
        taken = False

        def reset(self, task: Task) -> str:
            if Locked.taken:
                raise RuntimeError("locked")
            Locked.taken = True
            return super().reset(task)

        def close(self) -> None:
            Locked.taken = False

    report = check(Locked)
    assert any("while others were alive, it raised RuntimeError: locked" in words for _, words in found(report, "isolation"))
    assert not report.ok


# --- resources


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are counted on Linux")
def test_files_that_stay_open() -> None:
    opened: list[int] = []

    class Leaky(Tower):
        def reset(self, task: Task) -> str:
            opened.append(os.open(os.devnull, os.O_RDONLY))
            return super().reset(task)

    try:
        assert "20 file descriptors more are open after 20 episodes" in only_error(check(Leaky, TASKS[:1]), "resources").replace("21", "20")
    finally:
        for number in opened:
            os.close(number)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="child processes are counted on Linux")
def test_processes_that_are_left_behind() -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Server(Tower):
        def reset(self, task: Task) -> str:
            started.append(subprocess.Popen(["sleep", "60"]))
            return super().reset(task)

    try:
        assert "child processes" in only_error(check(Server, TASKS[:1], steps=2), "resources")
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_threads_that_are_left_behind() -> None:
    stop = threading.Event()

    class Threaded(Tower):
        def reset(self, task: Task) -> str:
            threading.Thread(target=stop.wait, daemon=True).start()
            return super().reset(task)

    try:
        assert "threads" in only_error(check(Threaded, TASKS[:1], steps=2), "resources")
    finally:
        stop.set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are counted on Linux")
def test_something_held_without_a_close() -> None:
    class Holder:
        def __init__(self) -> None:
            self.file: Any = None
            self.done = False

        def reset(self, task: Task) -> None:
            self.file = open(os.devnull)  # noqa: PTH123, SIM115 -- the mistake that is to be found

        def look(self) -> str:
            """Look."""
            self.done = True
            return "Dark."

    report = check(Holder)
    assert ("warning", "it holds 1 file descriptors while it lives, and has no `close`") in found(report, "resources")


def test_what_close_gives_back_is_fine() -> None:
    class Holder(Tower):
        file: Any = None

        def reset(self, task: Task) -> str:
            self.file = open(os.devnull)  # noqa: PTH123, SIM115 -- closed below
            return super().reset(task)

        def close(self) -> None:
            if self.file:
                self.file.close()

    assert check(Holder).findings == ()


def test_a_close_that_raises() -> None:
    class Slam(Tower):
        def close(self) -> None:
            raise RuntimeError("stuck")

    report = check(Slam)
    assert any("`close` raised RuntimeError: stuck" in words for _, words in found(report, "resources"))


def test_a_close_before_reset_that_raises() -> None:
    class Hasty(Tower):
        def close(self) -> None:
            del self.opened

        def reset(self, task: Task) -> str:
            self.opened = True
            return super().reset(task)

    assert "`close` before `reset` raised AttributeError" in only_error(check(Hasty), "resources")


# --- done, speed


def test_done_before_the_first_action() -> None:
    class Over(Tower):
        def reset(self, task: Task) -> str:
            opening = super().reset(task)
            self.done = True
            return opening

        def grade(self, episode: Episode) -> None:  # type: ignore[override]
            return None

    assert "`done` is True before the first action" in only_error(check(Over), "done")


def test_a_done_that_is_no_bool() -> None:
    class Odd(Tower):
        def reset(self, task: Task) -> str:
            opening = super().reset(task)
            self.done = 0  # type: ignore[assignment]
            return opening

    assert found(check(Odd), "done")[0] == ("warning", "`done` is 0; let it be True or False")


def test_a_done_that_never_comes() -> None:
    class Endless(Tower):
        def move(self, where: Literal["up", "down"]) -> str:
            """Go.

            Args:
                where: The direction.
            """
            return "You walk and walk."

        def grade(self, episode: Episode) -> None:  # type: ignore[override]
            return None

    assert "`done` never became True, in 12 random calls" in found(check(Endless), "done")[0][1]


def test_no_done_is_noted() -> None:
    class Room:
        def reset(self, task: Task) -> None:
            pass

        def look(self) -> str:
            """Look."""
            return "A room."

    assert found(check(Room), "done")[0][0] == "note"


def test_a_slow_reset_and_slow_steps_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.environments.check._SLOW", 0.005)

    class Sleepy(Tower):
        def reset(self, task: Task) -> str:
            time.sleep(0.01)
            return super().reset(task)

        def say(self, what: str) -> str:
            """Say something.

            Args:
                what: The words.
            """
            time.sleep(0.01)
            return what

        def move(self, where: Literal["up", "down"]) -> str:
            """Go.

            Args:
                where: The direction.
            """
            time.sleep(0.01)
            return super().move(where)

    report = check(Sleepy, TASKS[:1])
    assert report.ok
    assert [severity for severity, _ in found(report, "speed")] == ["warning", "warning"]
    assert report.reset_ms is not None and report.reset_ms >= 10


# --- calls made up from schemas

LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(-50, 50), st.integers(0, 9)),
    st.builds(lambda low, more: {"type": "number", "minimum": low, "maximum": low + more}, st.integers(-50, 50), st.integers(0, 9)),
    st.builds(lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more}, st.integers(0, 9), st.integers(0, 9)),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.text(max_size=4), st.integers()), min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, st.text(max_size=4)),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 2)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda parts: {"type": "object", "properties": parts, "required": list(parts)[:1], "additionalProperties": False},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("xyz"), SCHEMAS, max_size=3), st.integers(0, 1000))
def test_random_arguments_fit_their_schema(parts: dict[str, Any], seed: int) -> None:
    spec = ToolSpec(name="t", parameters={"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False})
    arguments = valid_arguments(spec, random.Random(seed), ["red", "door"])
    assert validate_arguments(spec, ToolCall(id="1", name="t", arguments=json.dumps(arguments))) is None


def test_references_into_definitions_are_followed() -> None:
    spec = ToolSpec(
        name="t",
        parameters={
            "type": "object",
            "$defs": {"Colour": {"enum": ["red"]}},
            "properties": {"colour": {"$ref": "#/$defs/Colour"}},
            "required": ["colour"],
        },
    )
    assert valid_arguments(spec, random.Random(0), []) == {"colour": "red"}


def test_malformed_calls_leave_no_common_mistake_out() -> None:
    spec = ToolSpec(name="t", parameters={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    texts = [call.arguments for call in malformed_calls(spec, random.Random(0), ["x"])]
    assert {"", "not json", "[]", "null", "{}", '{"a": ""}', '{"a": "\\u0000"}'} <= set(texts)
    assert any("no_such_argument" in text for text in texts)
    assert len({call.id for call in malformed_calls(spec, random.Random(0), ["x"])}) == len(texts)


def test_a_partial_is_a_factory() -> None:
    class Named(Tower):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    assert check(partial(Named, name="a")).ok
