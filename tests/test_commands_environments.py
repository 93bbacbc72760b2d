"""Listing, checking and playing environments from the command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tutelage import registry
from tutelage.commands.environments import check_named, load_environment, play_named, print_environments
from tutelage.errors import InputError
from tutelage.records import Task

WORLD = '''
from tutelage import Task, ToolError
from tutelage.records import Message


class World:
    """A door."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.done = broken, False

    def reset(self, task):
        return "A closed door."

    def open(self, gently: bool) -> str:
        """Open the door.

        Args:
            gently: Without noise.
        """
        if self.broken:
            raise RuntimeError("the handle is off")
        self.done = True
        return "It is open."

    def grade(self, episode):
        return float(self.done)


def doors(n, seed, colour="red"):
    """Tasks with doors."""
    reference = {"calls": [{"name": "open", "arguments": {"gently": True}}]}
    return [Task(messages=(Message(role="user", content=f"Open the {colour} door {seed + i}."),), reference=reference) for i in range(n)]
'''

STUDY = """\
name: doors
agent: {model: scripted:imitate}
tasks: {from: world.py:doors, train: 3, test: 2}
grader: environment
environment: {world.py:World: {broken: false}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "world.py").write_text(WORLD)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "tasks.jsonl").write_text('{"input": "Open it."}\n{"input": "Open it too."}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The world as a built-in environment with a source of tasks."""
    from tutelage.python_file import load_python

    module = load_python(folder / "world.py")
    monkeypatch.setitem(sys.modules, "doors_world", module)
    monkeypatch.setitem(registry.ENVIRONMENTS, "doors", "doors_world:World")
    monkeypatch.setitem(registry.TASK_SOURCES, "doors", "doors_world:doors")


def test_built_in_environments_are_listed(named: None, capsys: pytest.CaptureFixture[str]) -> None:
    print_environments()
    printed = capsys.readouterr().out
    assert any(all(word in line for word in ("doors", "A door.", "colour")) for line in printed.splitlines())


def test_a_sound_one_is_said_to_be_fit(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_named("world.py:World", tasks="world.py:doors", count=3)
    printed = capsys.readouterr().out
    assert report.ok
    assert report.tasks == 3
    assert "Fit to learn in: 0 errors, 0 warnings, on 3 tasks." in printed
    assert "reset 0." in printed
    assert printed.count("ok") >= 10


def test_a_broken_one_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_named("world.py:World", options=["broken=true"], tasks="world.py:doors")
    printed = capsys.readouterr().out
    assert not report.ok
    assert "Not fit to learn in:" in printed
    assert "RuntimeError: the handle is off" in printed
    assert "(in 5 of 5 tasks: task 1, task 2, task 3, ...)" in " ".join(printed.replace("│", " ").split())


def test_what_could_not_be_checked_is_not_called_ok(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.py").write_text("class Bad:\n    def reset(self, task):\n        raise OSError('no world')\n")
    assert not check_named("bad.py:Bad").ok
    printed = capsys.readouterr().out
    assert "OSError: no world" in printed
    assert "not checked" in printed
    assert " ok " not in printed


def test_options_go_to_the_tasks_or_to_the_environment(named: None) -> None:
    factory, tasks = load_environment("doors", options=["colour=blue", "broken=true"], count=2, seed=7)
    assert [task.text for task in tasks] == ["Open the blue door 7.", "Open the blue door 8."]
    assert factory().broken is True  # type: ignore[attr-defined]


def test_a_study_is_checked_on_its_training_tasks() -> None:
    factory, tasks = load_environment("study.yaml", count=5)
    assert [task.text for task in tasks] == [f"Open the red door {number}." for number in range(3)]
    assert type(factory()).__name__ == "World"


def test_tasks_of_a_file_and_no_tasks_at_all() -> None:
    assert [task.text for task in load_environment("world.py:World", tasks="tasks.jsonl", count=1)[1]] == ["Open it."]
    (task,) = load_environment("world.py:World", count=3)[1]
    assert isinstance(task, Task)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrold", [], "not an environment"),
        ("world.py:Wrold", [], "Did you mean `World`"),
        ("nothing.py:World", [], "no such file"),
        ("world.py:World", ["broken"], "key=value"),
        ("world.py:World", ["borken=1"], "Did you mean `broken`"),
        ("world.py:World", ["broken={"], "not valid YAML"),
        ("study.yaml", ["environment=null"], "names no environment"),
    ],
)
def test_what_cannot_be_loaded(name: str, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_environment(name, options=options)


def test_it_is_played_by_hand(named: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("open(gently=1)\nopen(gently=True)\n"))
    play_named("doors", options=["colour=green"], seed=2)
    printed = capsys.readouterr().out
    assert "Open the green door 2." in printed
    assert "A closed door." in printed
    assert "`gently` must be boolean" in printed or "boolean" in printed
    assert "[result] It is open." in printed
    assert "Ended: environment. Score: 1." in printed


def test_giving_up_is_no_grade(named: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\n"))
    with pytest.raises(InputError, match="given up"):
        play_named("doors")
