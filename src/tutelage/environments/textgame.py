"""The environment `textgame`: text adventures that the package `textworld` builds from a seed (Côté et al. 2018).

    tasks = textgame_tasks(60, seed=0, size="small")
    run_episode(agent, tasks[0], environment=TextGameEnvironment)

The agent sends commands ("open chest") with one tool and reads what the game says. Give it `limits.steps` above the length of the
walkthrough (which is the task's reference): the default of 8 is too few for all but the smallest games.

The games run inside this process, in the native library of the package `jericho`, of which every episode loads its own copy: several at
once neither share state nor leave files or memory behind. That library crashes the whole process on a NUL character. So only letters,
digits, blanks, hyphens and apostrophes reach it, which are all that commands need; 150,000 random ones of them did it no harm.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any, Literal

from pydantic import ValidationError

from tutelage.environments.textgame_build import HIDDEN_GOAL, Game, GameParameters, Goal, build_game, textworld
from tutelage.errors import InputError, ToolError
from tutelage.records import Episode, Grade, Message, Task
from tutelage.suggest import unknown

Size = Literal["tiny", "small", "medium", "large"]

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"rooms": 1, "objects": 4, "length": 2},
    "small": {"rooms": 3, "objects": 6, "length": 4},
    "medium": {"rooms": 6, "objects": 12, "length": 6},
    "large": {"rooms": 10, "objects": 20, "length": 10},
}

PROMPT = """\
You play a text adventure. Send one short command at a time with the tool `act`, and read what happens. Typical commands: look, inventory, \
examine THING, go DIRECTION, open THING, close THING, take THING, take THING from THING, put THING on THING, insert THING into THING, \
unlock THING with THING, eat THING, drop THING. Go on until the game says that it has ended.

What is to be done:
{goal}"""

LONGEST = 120
"""Characters of a command; the interpreter cuts them at 198 bytes."""

_COMMAND = re.compile(r"[A-Za-z0-9' -]+")
_STATUS_LINE = re.compile(r"\n*>[^\n]*\Z")
_AFTER_THE_END = re.compile(r"\s*Would you like to RESTART.*\Z", re.DOTALL)
_OUTSIDE = {"quit", "q", "restart", "restore", "save", "undo", "script", "transcript", "noscript", "unscript", "verify", "version"}
_OUTSIDE |= {"oops", "notify", "restrict", "enable", "disable"}


def textgame_tasks(
    n: int,
    seed: int,
    *,
    size: Size = "small",
    rooms: int | None = None,
    objects: int | None = None,
    length: int | None = None,
    quests: int = 1,
    goal: Goal = "steps",
) -> tuple[Task, ...]:
    """`n` different games, all of which their walkthrough wins. They are built now, unless they are in the cache (see `textgame_build`).

    size: `tiny`, `small`, `medium` or `large`; rooms, objects and length change one number of it. quests: each is worth one point. goal:
    the task tells every step (`steps`), only the last one (`last`) or nothing (`hidden`).

    The reference holds the walkthrough, as calls. Raises `InputError` for what the package cannot build.
    """
    if size not in SIZES:
        raise InputError(unknown("a size", str(size), SIZES), field="size")
    own = {name: value for name, value in {"rooms": rooms, "objects": objects, "length": length}.items() if value is not None}
    fixed = {**SIZES[size], **own, "quests": quests, "goal": goal}
    found: dict[tuple[str, tuple[str, ...]], Task] = {}
    seeds = Random(seed)
    for _ in range(10 * n + 10):
        if len(found) == n:
            return tuple(found.values())
        parameters = _parameters({**fixed, "seed": seeds.randrange(2**31)})
        game = build_game(parameters)
        if game.sound:
            found.setdefault((game.objective, game.walkthrough), _task(parameters, game))
    raise InputError(
        f"only {len(found)} different games of this size were found, and {n} are asked for; choose a larger size", field="size"
    )


def _parameters(values: dict[str, Any]) -> GameParameters:
    try:
        return GameParameters.model_validate(values)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise InputError(f"{first['msg']}, and it is {first['input']!r}", field=".".join(map(str, first["loc"]))) from None


def _task(parameters: GameParameters, game: Game) -> Task:
    goal = HIDDEN_GOAL if parameters.goal == "hidden" else game.objective.strip()
    return Task(
        messages=(Message(role="user", content=PROMPT.format(goal=goal)),),
        reference={"calls": [{"name": "act", "arguments": {"command": command}} for command in game.walkthrough]},
        kind="textgame",
        environment=parameters.model_dump(),
        source=f"textworld:{parameters.seed}",
    )


class TextGameEnvironment:
    """One game. It ends when it is won or lost, or after `steps` commands.

    admissible: after each turn, list the commands that the game would accept now (makes games much easier, and prompts longer). The score
    is the game's points over its maximum, and 1 where it is won.
    """

    def __init__(self, admissible: bool = False, steps: int = 50) -> None:
        if steps < 1:
            raise InputError(f"at least one command must be allowed, not {steps}", field="steps")
        self.admissible, self.steps = admissible, steps
        self.done = False
        self._used = 0
        self._game: Any = None
        self._state: Any = None

    def reset(self, task: Task) -> str:
        """Start the game of `task.environment` and give the first room. Raises `InputError` where the task describes no game."""
        package = textworld()
        built = build_game(_parameters(dict(task.environment)))
        self.close()
        self.done, self._used = False, 0
        infos = package.EnvInfos(score=True, max_score=True, won=True, lost=True, admissible_commands=self.admissible)
        self._game = package.start(built.file, infos)
        self._state = self._game.reset()
        text = self._seen()
        return text[max(text.find("-= "), 0) :]  # without the title and the goal, which the task tells

    def act(self, command: str) -> str:
        """Do one thing in the game.

        Args:
            command: A short command in English, such as "open chest" or "go north".
        """
        if self._game is None:
            raise ToolError("the game has not begun")
        if self.done:
            raise ToolError("the game is over")
        self._state, _, over = self._game.step(_checked(command))
        self._used += 1
        self.done = bool(over or self._state.won or self._state.lost)
        if not self.done and self._used >= self.steps:
            self.done = True
            return f"{self._seen()}\n\nThe game is over: all {self.steps} commands are used."
        return self._seen()

    def grade(self, episode: Episode) -> Grade | None:
        """Points over the maximum, 1 where the game is won; None before `reset`."""
        if self._state is None:
            return None
        won, points, most = bool(self._state.won), self._state.score or 0, self._state.max_score or 1
        score = 1.0 if won else min(1.0, max(0.0, points / most))
        words = f"{'won' if won else 'lost' if self._state.lost else 'not won'}, {points} of {most} points after {self._used} commands"
        return Grade(score=score, words=words, parts={"won": float(won), "points": float(points), "commands": float(self._used)})

    def close(self) -> None:
        """Leave the game; its memory is freed."""
        if self._game is not None:
            self._game.close()
            self._game = None

    def _seen(self) -> str:
        text = _STATUS_LINE.sub("", str(self._state.feedback))
        text = re.sub(r"\n{3,}", "\n\n", _AFTER_THE_END.sub("", text)).strip()
        if self.admissible and not self.done:
            text += "\n\nPossible commands: " + "; ".join(self._state.admissible_commands)
        return text


def _checked(command: str) -> str:
    """The command with single blanks. Raises `ToolError` for what could harm the interpreter, or leave the game instead of playing it."""
    words = command.strip().split()
    text = " ".join(words)
    if not text or len(text) > LONGEST or not _COMMAND.fullmatch(text):
        raise ToolError(f"a command has 1 to {LONGEST} characters: letters, digits, blanks, hyphens and apostrophes, and no others")
    lowered = [word.lower() for word in words]
    if lowered[0] in _OUTSIDE or lowered[0].startswith("tw-") or "then" in lowered:
        raise ToolError("only commands within the game are possible, one at a time")
    return text
