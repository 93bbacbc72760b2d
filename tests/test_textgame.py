"""Text games: built by seed, cached whole, played by commands, and kept from harming the process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tutelage.agent import Agent, Limits
from tutelage.environment import environment_tools
from tutelage.environments import textgame_build
from tutelage.environments.check import check_environment
from tutelage.environments.textgame import SIZES, TextGameEnvironment, textgame_tasks
from tutelage.environments.textgame_build import HIDDEN_GOAL, GameParameters, build_game
from tutelage.episode import run_episode
from tutelage.errors import InputError, MissingExtra, StoreError, ToolError
from tutelage.models.scripted import Scripted
from tutelage.records import Episode, Message, StopReason, Task, ToolCall
from tutelage.tool import call_tool

pytestmark = pytest.mark.filterwarnings("ignore:Game .* is not fully supported")  # which the package itself ignores

REASON = "builds games with the package `textworld` (extra `textgame`)"


@pytest.fixture(scope="session")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of games for all tests."""
    pytest.importorskip("textworld", reason=REASON)
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = request.getfixturevalue("games") if "games" in request.fixturenames else tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def tasks(games: Path) -> tuple[Task, ...]:
    return textgame_tasks(3, 0)


def commands(task: Task) -> list[str]:
    reference: Any = task.reference
    return [call["arguments"]["command"] for call in reference["calls"]]


def begun(task: Task, **options: Any) -> TextGameEnvironment:
    world = TextGameEnvironment(**options)
    world.reset(task)
    return world


EPISODE = Episode(task_id="t", agent_version="a", segments=(), answer=None, stop=StopReason.STEPS)


# --- tasks


def test_tasks_are_different_repeatable_and_hold_the_goal(tasks: tuple[Task, ...]) -> None:
    assert len({task.input_id for task in tasks}) == len({task.text for task in tasks}) == 3
    assert textgame_tasks(3, 0) == tasks
    assert textgame_tasks(2, 0) == tasks[:2]
    assert textgame_tasks(1, 1)[0].id not in {task.id for task in tasks}
    for task in tasks:
        about = GameParameters.model_validate(task.environment)
        assert (about.rooms, about.objects, about.length) == (3, 6, 4)
        assert len(commands(task)) == 4
        assert build_game(about).objective.strip() in task.text


def test_goals_may_be_told_in_part_or_not_at_all(games: Path) -> None:
    told, last, hidden = (textgame_tasks(1, 0, goal=goal)[0] for goal in ("steps", "last", "hidden"))
    assert len(told.text) > len(last.text)
    assert HIDDEN_GOAL in hidden.text
    assert commands(told) == commands(last) == commands(hidden)
    assert HIDDEN_GOAL in begun(hidden).act("goal")  # the game itself does not tell it either


def test_sizes_and_their_changes(games: Path) -> None:
    (task,) = textgame_tasks(1, 0, size="tiny", length=3)
    assert {key: task.environment[key] for key in ("rooms", "objects", "length")} == {**SIZES["tiny"], "length": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "smal"}, "Did you mean `small`"),
        ({"rooms": 0}, "field `rooms`"),
        ({"quests": 9}, "field `quests`"),
        ({"goal": "some"}, "field `goal`"),
        ({"length": "long"}, "field `length`"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        textgame_tasks(1, 0, **options)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tutelage\[textgame\]'"):
        textgame_tasks(1, 0)


# --- the cache


def test_a_game_is_built_once_and_leaves_nothing_beside_it(games: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (task,) = textgame_tasks(1, 5, size="tiny")
    (folder,) = (tmp_path / "tutelage" / "textgame").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["facts.json", "game.json", "game.z8"]
    monkeypatch.setattr(textgame_build, "_fill", lambda *_: pytest.fail("it was built again"))
    assert textgame_tasks(1, 5, size="tiny") == (task,)


def test_processes_that_build_the_same_game_at_once_agree(games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from tutelage.environments.textgame import textgame_tasks\n"
        "print(textgame_tasks(1, 7, size='tiny')[0].model_dump_json())"
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {run.communicate(timeout=60)[0] for run in runs}
    assert len(said) == 1
    assert Task.model_validate_json(said.pop()).kind == "textgame"
    assert len(list((tmp_path / "tutelage" / "textgame").iterdir())) == 1


def test_a_failed_build_leaves_no_folder(games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(textgame_build, "_compile", fail)
    with pytest.raises(KeyboardInterrupt):
        build_game(GameParameters(seed=1))
    assert list((tmp_path / "tutelage" / "textgame").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_named(games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tutelage").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="XDG_CACHE_HOME"):
        build_game(GameParameters(seed=1))


def test_games_that_their_walkthrough_does_not_win_are_left_out(games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = textgame_tasks(2, 0)
    unsound = build_game(GameParameters.model_validate(first.environment)).model_copy(update={"sound": False})

    def build(parameters: GameParameters) -> Any:
        return unsound if parameters.seed == first.environment["seed"] else build_game(parameters)

    monkeypatch.setattr("tutelage.environments.textgame.build_game", build)
    assert textgame_tasks(1, 0) == (second,)


# --- playing


def test_the_walkthrough_wins(tasks: tuple[Task, ...]) -> None:
    for task in tasks:
        world = TextGameEnvironment()
        opening = world.reset(task)
        assert opening.startswith("-= ")
        assert "$" not in opening and ">" not in opening
        *before, last = commands(task)
        for command in before:
            world.act(command)
            assert not world.done
        assert "*** The End ***" in world.act(last)
        assert world.done
        grade = world.grade(EPISODE)
        assert grade is not None
        assert (grade.score, grade.parts) == (1.0, {"won": 1.0, "points": 1.0, "commands": 4.0})
        with pytest.raises(ToolError, match="the game is over"):
            world.act("look")
        world.close()


def test_points_are_a_share_of_the_maximum(games: Path) -> None:
    (task,) = textgame_tasks(1, 3, rooms=3, objects=8, length=2, quests=2)
    world = begun(task)
    seen = [0.0]
    for command in commands(task):
        world.act(command)
        grade = world.grade(EPISODE)
        assert grade is not None and grade.score is not None
        seen.append(grade.score)
    assert sorted(set(seen)) == [0.0, 0.5, 1.0]
    assert seen == sorted(seen)


def test_the_game_ends_when_the_commands_are_used(tasks: tuple[Task, ...]) -> None:
    world = begun(tasks[0], steps=2)
    assert "over" not in world.act("look")
    assert world.act("look").endswith("The game is over: all 2 commands are used.")
    assert world.done
    grade = world.grade(EPISODE)
    assert grade is not None
    assert (grade.score, grade.words) == (0.0, "not won, 0 of 1 points after 2 commands")


def test_admissible_commands_are_listed_and_work(tasks: tuple[Task, ...]) -> None:
    world = TextGameEnvironment(admissible=True)
    seen = world.reset(tasks[0])
    for command in commands(tasks[0]):
        assert command in seen.partition("Possible commands: ")[2].split("; ")
        seen = world.act(command)
    assert "Possible commands" not in seen


def test_a_world_can_be_begun_again(tasks: tuple[Task, ...]) -> None:
    world = TextGameEnvironment()
    first = world.reset(tasks[0])
    world.act("inventory")
    assert world.reset(tasks[1]) != first
    assert world.reset(tasks[0]) == first
    assert (world.grade(EPISODE) or pytest.fail("no grade")).parts["commands"] == 0


def test_an_agent_plays_it(tasks: tuple[Task, ...]) -> None:
    calls = [ToolCall(id="", name="act", arguments=json.dumps({"command": command})) for command in ["dance", *commands(tasks[0])]]
    agent = Agent(model=Scripted(calls), limits=Limits(steps=9))
    episode = asyncio.run(run_episode(agent, tasks[0], environment=TextGameEnvironment))
    assert episode.stop is StopReason.ENVIRONMENT
    assert episode.environment_grade is not None and episode.environment_grade.score == 1.0
    assert "That's not a verb I recognise." in next(iter(episode.steps)).observations[0].text


def test_a_task_of_another_kind_is_refused() -> None:
    with pytest.raises((InputError, MissingExtra)):
        TextGameEnvironment().reset(Task(messages=(Message(role="user", content="hi"),), environment={"rooms": 3}))


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="steps"):
        TextGameEnvironment(steps=0)


def test_acting_before_reset() -> None:
    with pytest.raises(ToolError, match="not begun"):
        TextGameEnvironment().act("look")
    assert TextGameEnvironment().grade(EPISODE) is None
    TextGameEnvironment().close()


# --- what could harm the interpreter, or leave the game

HARMFUL = ["\x00", "look\x00", "a" * 121, "é", "look. quit", "\x1b[A", "", "   ", "print_state", "take key; quit"]
OUTSIDE = ["quit", "QUIT", "q", "restart", "save", "restore", "undo", "script", "look then quit", "oops quit", "tw-print player id"]
OUTSIDE += ["enable print state option", "restrict commands", " restart "]


@pytest.mark.parametrize("command", HARMFUL + OUTSIDE)
def test_such_commands_never_reach_the_game(tasks: tuple[Task, ...], command: str) -> None:
    world = begun(tasks[0])
    with pytest.raises(ToolError, match=r"a command has|only commands within"):
        world.act(command)
    assert (world.grade(EPISODE) or pytest.fail("no grade")).parts["commands"] == 0
    assert world.act("inventory").startswith("You are carrying nothing")


async def test_several_games_at_once_do_not_disturb_each_other(tasks: tuple[Task, ...]) -> None:
    async def play(task: Task) -> tuple[list[str], float | None]:
        world = begun(task)
        (tool,) = environment_tools(world)
        seen = []
        for command in ["look", "inventory", *commands(task)]:
            call = ToolCall(id="c", name="act", arguments=json.dumps({"command": command}))
            seen.append((await call_tool(tool, call)).text)
        grade = world.grade(EPISODE)
        world.close()
        return seen, grade.score if grade else None

    alone = [await play(task) for task in tasks]
    together = await asyncio.gather(*(play(task) for task in tasks * 4))
    assert together == alone * 4
    assert {score for _, score in together} == {1.0}


def test_threads_that_build_and_play_at_once(games: Path) -> None:
    found: list[tuple[Task, ...]] = []
    threads = [Thread(target=lambda: found.append(textgame_tasks(2, 11, size="tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_the_checker_finds_nothing(tasks: tuple[Task, ...]) -> None:
    report = check_environment(TextGameEnvironment, tasks[:2], steps=10)
    assert report.findings == ()
    assert "reference" in report.checked
