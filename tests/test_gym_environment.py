"""The Gymnasium adapter, on Gymnasium's own toys and on environments of text."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from typing import Any

import pytest

from tutelage.agent import Agent, Limits
from tutelage.environment import environment_tools
from tutelage.environments.check import check_environment
from tutelage.environments.gym import GymRun, GymTextEnvironment, gym_tasks
from tutelage.episode import run_episode
from tutelage.errors import InputError, MissingExtra, ToolError
from tutelage.models.scripted import Scripted
from tutelage.records import Episode, Grade, StopReason, Task, ToolCall

gymnasium = pytest.importorskip("gymnasium", reason="adapts the package `gymnasium` (extra `gym`)")

LAKE = ["left", "down", "right", "up"]
WAY = ["down", "down", "right", "right", "down", "right"]
EPISODE = Episode(task_id="t", agent_version="a", segments=(), answer=None, stop=StopReason.STEPS)

(TASK,) = gym_tasks(1, 0)
lake = partial(GymTextEnvironment, "FrozenLake-v1", actions=LAKE, options={"is_slippery": False})


class Parrot(gymnasium.Env):
    """Text in, text out: a reward for each new word, over after "stop", cut off after three steps."""

    observation_space = gymnasium.spaces.Text(100)
    action_space = gymnasium.spaces.Text(20)
    render_mode = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.said: list[str] = []
        self.options = options
        return f"Talk to me, {int(self.np_random.integers(1000))}.", {"possible": ["hi", "stop"]}

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        new = action not in self.said
        self.said.append(action)
        over = action == "stop"
        return f"You said {action}.", 0.25 * new, over, len(self.said) >= 3 and not over, {"possible": ["stop"], "won": over}


class Wordy(Parrot):
    """The same, with the text under a key."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        text, info = super().reset(**options)
        return {"text": text, "mood": 1}, info

    def step(self, action: str) -> Any:
        text, *rest = super().step(action)
        return {"text": text, "mood": 2}, *rest


def score(world: GymTextEnvironment) -> Grade:
    grade = world.grade(EPISODE)
    assert grade is not None
    return grade


# --- Gymnasium's toys


def test_frozen_lake_is_drawn_and_won() -> None:
    world = lake()
    assert world.reset(TASK) == "SFFF\nFHFH\nFFFH\nHFFG\nColoured: 'S' on red (line 1, column 1)"
    for action in WAY[:-1]:
        assert "over" not in world.act(action)
    assert "Total reward: 1" in world.act(WAY[-1].upper())
    assert world.done
    grade = score(world)
    assert grade.score == 1.0
    assert grade.parts == {"return": 1.0, "steps": 6.0, "terminated": 1.0, "truncated": 0.0}
    assert grade.words == "terminated after 6 actions, return 1"
    world.close()


def test_a_hole_ends_it_without_a_point() -> None:
    world = lake()
    world.reset(TASK)
    world.act("right")
    assert "The episode is over" in world.act("down")
    assert score(world).score == 0.0
    with pytest.raises(ToolError, match="the episode is over"):
        world.act("up")


def test_cut_off_is_not_terminated() -> None:
    world = GymTextEnvironment("FrozenLake-v1", actions=LAKE, options={"is_slippery": False, "max_episode_steps": 2}, score="terminated")
    world.reset(TASK)
    world.act("left")
    world.act("left")
    assert world.done
    assert score(world).score == 0.0
    assert score(world).words == "truncated after 2 actions, return 0"


def test_taxi_shows_in_words_what_is_only_coloured() -> None:
    world = GymTextEnvironment("Taxi-v4", actions=["south", "north", "east", "west", "pick up", "drop off"], score="terminated")
    seen = world.reset(TASK)
    assert "\x1b" not in seen
    assert "on yellow" in seen  # the taxi
    assert "blue" in seen  # where the passenger waits
    assert "magenta" in seen  # and wants to go
    assert "\x1b" not in world.act("Pick Up")
    assert score(world).score == 0.0
    assert score(world).parts["return"] in (-1.0, -10.0)


def test_a_return_out_of_range_needs_a_range() -> None:
    world = GymTextEnvironment("Taxi-v4")
    world.reset(TASK)
    world.act("4")
    with pytest.raises(InputError, match=r"range: \[-1, 1\]"):
        world.grade(EPISODE)
    ranged = GymTextEnvironment("Taxi-v4", range=(-200, 20))
    ranged.reset(TASK)
    before = score(ranged).score
    ranged.act("0")
    assert before == pytest.approx(200 / 220)
    assert score(ranged).score == pytest.approx(199 / 220)


def test_blackjack_has_no_picture_and_is_worded() -> None:
    words = "Your sum is {0}, the dealer shows {1}, a usable ace: {2}."
    world = GymTextEnvironment("Blackjack-v1", actions=["stick", "hit"], show=words, range=(-1, 1))
    hands = {world.reset(task) for task in gym_tasks(8, 0)}
    assert len(hands) > 4  # the seed decides the hand
    assert all(hand.startswith("Your sum is ") for hand in hands)
    assert "The episode is over" in world.act("stick")
    assert score(world).score in (0.0, 0.5, 1.0)
    assert GymTextEnvironment("Blackjack-v1").reset(TASK).startswith("(")
    shown = GymTextEnvironment("Blackjack-v1", show=lambda observation: f"{observation[0]} points")
    assert shown.reset(TASK).endswith(" points")


# --- texts


def test_text_environments_take_texts_as_they_are() -> None:
    world = GymTextEnvironment(Parrot, actions_key="possible")
    assert world.reset(TASK) == f"{GymTextEnvironment(Parrot).reset(TASK)}\n\nPossible actions: hi, stop"
    assert world.act("hello") == "You said hello.\n\nPossible actions: stop"
    with pytest.raises(ToolError, match="no possible action"):
        world.act("x" * 21)
    assert "Possible" not in world.act("stop")
    assert (world.done, score(world).score) == (True, 0.5)


def test_observations_under_a_key() -> None:
    world = GymTextEnvironment(Wordy, text_key="text")
    assert world.reset(TASK).startswith("Talk to me")
    assert world.act("hi") == "You said hi."
    assert GymTextEnvironment(Wordy, show="{text} ({mood})").reset(TASK).endswith(". (1)")


def test_the_seed_and_options_of_a_task_reach_reset() -> None:
    one, other = gym_tasks(2, 3, prompt="Talk.", options={"loud": True})
    assert (one.text, one.id != other.id) == ("Talk.", True)
    world = GymTextEnvironment(Parrot)
    assert world.reset(one) == world.reset(one) != world.reset(other)
    assert world._gym.options == {"loud": True}
    assert gym_tasks(2, 3) == gym_tasks(2, 3)


# --- scores


def test_success_by_a_key_of_info() -> None:
    world = GymTextEnvironment(Parrot, score="won")
    world.reset(TASK)
    assert score(world).score is None  # nothing was said of it yet
    world.act("hi")
    assert score(world).score == 0.0
    world.act("stop")
    assert score(world).score == 1.0


def test_a_function_scores() -> None:
    def few(run: GymRun) -> tuple[float, str]:
        return (1.0 if run.terminated and run.steps < 3 else 0.0), f"{run.steps} words"

    world = GymTextEnvironment(Parrot, score=few)
    world.reset(TASK)
    world.act("stop")
    assert (score(world).score, score(world).words) == (1.0, "1 words")
    assert score(world).parts["return"] == 0.25


# --- the tool


def test_the_schema_lists_the_names() -> None:
    (tool,) = environment_tools(lake())
    assert tool.spec.parameters["properties"] == {"action": {"type": "string", "description": "The action to take.", "enum": LAKE}}
    (tool,) = environment_tools(GymTextEnvironment(Parrot))
    assert "enum" not in json.dumps(tool.spec.parameters)


def test_an_unknown_action_is_told_to_the_agent() -> None:
    world = lake()
    with pytest.raises(ToolError, match="not begun"):
        world.act("down")
    world.reset(TASK)
    with pytest.raises(ToolError, match="Did you mean `down`"):
        world.act("dwn")


def test_actions_of_a_space_that_begins_elsewhere() -> None:
    class Late(Parrot):
        action_space = gymnasium.spaces.Discrete(2, start=5)

        def step(self, action: Any) -> Any:
            return super().step(f"number {action}")

    world = GymTextEnvironment(Late, actions=["first", "second"])
    world.reset(TASK)
    assert world.act("second") == "You said number 6."
    assert list(GymTextEnvironment(Late)._names or ()) == ["5", "6"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"make": "NoSuchLake-v1"}, "Gymnasium cannot make this environment"),
        ({"make": "FrozenLake-v1", "options": {"slippery": 1}}, "Gymnasium cannot make this environment"),
        ({"make": "FrozenLake-v1", "actions": ["left"]}, "there are 4 actions"),
        ({"make": "FrozenLake-v1", "actions": ["a", "b", "c", "A"]}, "different names"),
        ({"make": Parrot, "actions": ["hi"]}, "leave `actions` out"),
        ({"make": "FrozenLake-v1", "range": (1, 0)}, "lowest return"),
    ],
)
def test_what_cannot_be_adapted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GymTextEnvironment(**options)


def test_actions_that_are_neither_texts_nor_listed() -> None:
    class Wheel(Parrot):
        action_space = gymnasium.spaces.Box(-1, 1)

    with pytest.raises(InputError, match="Text, Discrete"):
        GymTextEnvironment(Wheel)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tutelage\[gym\]'"):
        GymTextEnvironment("FrozenLake-v1")


# --- as a whole


def test_an_agent_plays_it() -> None:
    calls = [ToolCall(id="", name="act", arguments=json.dumps({"action": action})) for action in WAY]
    episode = asyncio.run(run_episode(Agent(model=Scripted(calls), limits=Limits(steps=9)), TASK, environment=lake))
    assert episode.stop is StopReason.ENVIRONMENT
    assert episode.environment_grade is not None and episode.environment_grade.score == 1.0


@pytest.mark.parametrize(
    "factory",
    [
        lake,
        partial(GymTextEnvironment, "FrozenLake-v1"),
        partial(GymTextEnvironment, "Taxi-v4", score="terminated"),
        partial(GymTextEnvironment, "Blackjack-v1", actions=["stick", "hit"], range=(-1, 1)),
        partial(GymTextEnvironment, Parrot, actions_key="possible"),
    ],
)
def test_the_checker_finds_no_fault(factory: Any) -> None:
    tasks: tuple[Task, ...] = gym_tasks(2, 0)
    report = check_environment(factory, tasks)
    assert report.ok
    assert {finding.check for finding in report.findings} <= {"reference", "done"}
