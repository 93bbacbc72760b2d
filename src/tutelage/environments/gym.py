"""The environment `gym`: any Gymnasium environment that can be played in text.

    GymTextEnvironment("FrozenLake-v1", actions=["left", "down", "right", "up"], options={"is_slippery": False})
    GymTextEnvironment("Taxi-v4", actions=["south", "north", "east", "west", "pick up", "drop off"], score="terminated")
    GymTextEnvironment("Blackjack-v1", actions=["stick", "hit"], show="Your sum is {0}, the dealer shows {1}.", range=(-1, 1))

Actions are texts (a `Text` space) or the numbers of a `Discrete` space, which may be given names. What the agent sees is the observation
where it is text, else a picture in characters (`render_mode="ansi"`), else the observation as Python writes it, or as `show` words it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from random import Random
from typing import Any

from tutelage.errors import InputError, MissingExtra, ToolError
from tutelage.grader import GradeLike, as_grade
from tutelage.records import Episode, Grade, Message, Task, ToolSpec
from tutelage.suggest import did_you_mean
from tutelage.tool import Tool

PROMPT = "Play until the episode is over. Take one action at a time with the tool `act`."

_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


@dataclass(frozen=True)
class GymRun:
    """What happened in one episode, for a scoring function.

    info: of the last step. terminated: the environment came to its own end; truncated: it was cut off.
    """

    total_reward: float = 0.0
    steps: int = 0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] | None = None


Score = str | Callable[[GymRun], GradeLike]


def gym_tasks(n: int, seed: int, *, prompt: str = PROMPT, options: Mapping[str, Any] | None = None) -> tuple[Task, ...]:
    """`n` tasks that differ in the seed of the environment's `reset`. options: of `reset`, the same for all.

    What the seed decides is up to the environment: FrozenLake always begins at the same place.
    """
    seeds = Random(seed).sample(range(2**31), n)
    return tuple(
        Task(
            messages=(Message(role="user", content=prompt),),
            kind="gym",
            environment={"seed": one, "options": dict(options or {})},
            source=f"gym:{one}",
        )
        for one in seeds
    )


class GymTextEnvironment:
    """A Gymnasium environment with one tool, `act`.

    make: an id (`FrozenLake-v1`) or a function that makes the environment. options: arguments of `gymnasium.make`. actions: names of a
    Discrete space's numbers, from its first. actions_key: where `info` lists the actions possible now, which are then shown. text_key: of
    the text in observations that are dicts. show: words for an observation, `str.format` of its parts or a function of it.

    score: `return` (the sum of rewards), `terminated` (1 where the environment came to its own end), the key of `info` that says at the end
    whether it was a success, or a function of a `GymRun`. range: lowest and highest return, which become 0 and 1; without it a return
    outside of [0, 1] is an `InputError`.
    """

    def __init__(
        self,
        make: str | Callable[[], Any],
        *,
        options: Mapping[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        actions_key: str | None = None,
        text_key: str | None = None,
        show: str | Callable[[Any], str] | None = None,
        score: Score = "return",
        range: tuple[float, float] | None = None,
    ) -> None:
        if range is not None and not range[0] < range[1]:
            raise InputError(f"the lowest return must be below the highest, and here is {list(range)}", field="range")
        self.done = False
        self._actions_key, self._text_key, self._show, self._score, self._range = actions_key, text_key, show, score, range
        self._run: GymRun | None = None
        self._gym = _make(make, dict(options or {}), drawn=show is None and text_key is None)
        try:
            self._names = _action_names(self._gym.action_space, actions)
        except InputError:
            self._gym.close()
            raise

    def reset(self, task: Task) -> str:
        """Begin with `task.environment`'s `seed` and `options`, and give the first observation."""
        self.done, self._run = False, GymRun()
        observation, info = self._gym.reset(seed=task.environment.get("seed"), options=task.environment.get("options") or None)
        return self._text(observation, info)

    @property
    def act(self) -> Tool:
        """The tool; its schema lists the names of the actions."""
        known: dict[str, Any] = {"enum": list(self._names)} if self._names else {}
        action = {"type": "string", "description": "The action to take.", **known}
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {"action": action},
            "required": ["action"],
            "additionalProperties": False,
        }
        return Tool(ToolSpec(name="act", description="Take one action and see what follows.", parameters=parameters), self._act)

    def grade(self, episode: Episode) -> Grade | None:
        """The score that was asked for; None before `reset`, and where `info` never told of success."""
        run = self._run
        if run is None:
            return None
        ended = "terminated" if run.terminated else "truncated" if run.truncated else "not over"
        words = f"{ended} after {run.steps} actions, return {run.total_reward:g}"
        parts = {
            "return": run.total_reward,
            "steps": float(run.steps),
            "terminated": float(run.terminated),
            "truncated": float(run.truncated),
        }
        if callable(self._score):
            own = as_grade(self._score(run))
            return Grade(score=own.score, words=own.words or words, parts={**parts, **own.parts})
        return Grade(
            score=self._scaled(run.total_reward) if self._score == "return" else _success(run, self._score), words=words, parts=parts
        )

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self._gym.close()

    def _act(self, action: str) -> str:
        if self._run is None:
            raise ToolError("the episode has not begun")
        if self.done:
            raise ToolError("the episode is over")
        observation, reward, terminated, truncated, info = self._gym.step(self._read(action))
        total = self._run.total_reward + float(reward)
        self._run = GymRun(total, self._run.steps + 1, bool(terminated), bool(truncated), info)
        self.done = bool(terminated or truncated)
        over = f"\n\nThe episode is over. Total reward: {total:g}" if self.done else ""
        return self._text(observation, info) + over

    def _read(self, action: str) -> Any:
        if self._names is None:
            if not self._gym.action_space.contains(action):
                raise ToolError(f"this is no possible action; possible is: {self._gym.action_space}")
            return action
        named = {name.lower(): number for name, number in self._names.items()}
        if action.strip().lower() not in named:
            raise ToolError(
                f"`{action[:80]}` is no action.{did_you_mean(action.strip().lower(), named)} Possible: {', '.join(self._names)}"
            )
        return named[action.strip().lower()]

    def _text(self, observation: Any, info: Mapping[str, Any]) -> str:
        text = self._seen(observation)
        if self._actions_key is None or self.done:
            return text
        return f"{text}\n\nPossible actions: {', '.join(str(name) for name in info.get(self._actions_key) or ())}"

    def _seen(self, observation: Any) -> str:
        if callable(self._show):
            return self._show(observation)
        if self._show is not None:
            parts = observation if isinstance(observation, tuple | list) else (observation,)
            return self._show.format(*parts, **(observation if isinstance(observation, dict) else {}))
        if self._text_key is not None:
            return str(observation[self._text_key])
        if isinstance(observation, str):
            return observation
        drawn = self._gym.render() if getattr(self._gym, "render_mode", None) == "ansi" else None
        return _in_words(drawn) if isinstance(drawn, str) else str(observation)

    def _scaled(self, total: float) -> float:
        low, high = self._range or (0.0, 1.0)
        if self._range is None and not low <= total <= high:
            raise InputError(f"a return of {total:g} is no score; give the lowest and highest return: range: [-1, 1]", field="range")
        return min(1.0, max(0.0, (total - low) / (high - low)))


def _make(make: str | Callable[[], Any], options: dict[str, Any], *, drawn: bool) -> Any:
    """The environment; with a picture in characters where it knows one and its observations are no text."""
    if not isinstance(make, str):
        return make()
    try:
        gymnasium = import_module("gymnasium")
    except ImportError:
        raise MissingExtra("gymnasium", "pip install 'tutelage[gym]'", why="the environment `gym`") from None
    try:
        made = gymnasium.make(make, **options)
        textual = isinstance(made.observation_space, gymnasium.spaces.Text)
        if drawn and not textual and "render_mode" not in options and "ansi" in made.metadata.get("render_modes", ()):
            made.close()
            made = gymnasium.make(make, render_mode="ansi", **options)
    except (gymnasium.error.Error, TypeError) as wrong:
        raise InputError(f"Gymnasium cannot make this environment: {wrong}", field="make") from None
    return made


def _action_names(space: Any, actions: Sequence[str] | None) -> dict[str, int] | None:
    """Name to number for a Discrete space; None for texts. Raises `InputError` for other spaces, or names that do not fit."""
    kind = type(space).__name__
    if kind == "Text":
        if actions is not None:
            raise InputError("the environment's actions are texts of their own; leave `actions` out", field="actions")
        return None
    if kind != "Discrete":
        raise InputError(f"actions must be texts or one of a list (Text, Discrete), and this environment's are {space}", field="make")
    names = [str(int(space.start) + number) for number in range(int(space.n))] if actions is None else [str(name) for name in actions]
    if len(names) != space.n or len({name.lower() for name in names}) < len(names):
        raise InputError(f"there are {space.n} actions, which need as many different names; here are {names}", field="actions")
    return {name: int(space.start) + number for number, name in enumerate(names)}


def _success(run: GymRun, key: str) -> float | None:
    value = run.terminated if key == "terminated" else (run.info or {}).get(key)
    return None if value is None else min(1.0, max(0.0, float(value)))


def _in_words(drawn: str) -> str:
    """The picture without its colour codes, and below it what was coloured how, and where: colours may be all that shows the player."""
    plain, notes, colour = "", [], ""
    pieces = _COLOUR.split(drawn.strip("\n"))
    for number, piece in enumerate(pieces):
        if number % 2:
            colour = _mixed(colour, piece)
            continue
        if colour and piece:
            line, column = plain.count("\n") + 1, len(plain) - plain.rfind("\n")
            notes.append(f"{piece!r} {colour} (line {line}, column {column})")
        plain += piece
    return f"{plain}\nColoured: {', '.join(notes)}" if notes else plain


def _mixed(before: str, codes: str) -> str:
    """The colours in words after a code such as `35` (magenta) or `43` (on yellow); `0` and an empty one end them."""
    words = before
    for code in (int(part or 0) for part in codes.split(";")):
        if code == 0:
            words = ""
        elif code // 10 in (3, 4) and code % 10 < len(_COLOURS):
            words = f"{words} {'on ' if code // 10 == 4 else ''}{_COLOURS[code % 10]}".strip()
    return words
