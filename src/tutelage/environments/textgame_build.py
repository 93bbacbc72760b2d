"""Building text games with the package `textworld`, and keeping them on disk.

A game is decided by its `GameParameters` and the package's version alone (checked by building it in processes with other hash seeds).
Building runs the package's own compiler and needs no network: about .6 s for 3 rooms, 1 s for 10 rooms and a walkthrough
of 10, more than 10 s beyond 20 rooms. Built games lie in the user's cache folder, one folder each, which appears whole or not at all; so
processes may build at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from pydantic import Field

from tutelage.errors import InputError, MissingExtra, StoreError
from tutelage.records import Record, content_id

Goal = Literal["steps", "last", "hidden"]

HIDDEN_GOAL = "Nobody says what the goal is. Find out what earns points."

_FORMAT = 1  # of the folder; a number higher leaves older games aside
_building = Lock()  # the package's generator shares state within a process


class GameParameters(Record):
    """What decides a game.

    rooms, objects: how many there are. length: commands that the shortest known solution of one quest has. quests: each is worth one point.
    goal: the game's own words tell every step, only the last one, or nothing.
    """

    seed: int = Field(ge=0, lt=2**31)
    rooms: int = Field(3, ge=1, le=40)
    objects: int = Field(6, ge=1, le=80)
    length: int = Field(4, ge=1, le=40)
    quests: int = Field(1, ge=1, le=5)
    goal: Goal = "steps"


class Game(Record):
    """A built game. `walkthrough` are commands that win it, where `sound`: they were played, and they won."""

    file: str
    objective: str
    walkthrough: tuple[str, ...]
    sound: bool


def textworld() -> Any:
    """The package; raises `MissingExtra` where it is absent."""
    try:
        return import_module("textworld")
    except ImportError:
        raise MissingExtra("textworld", "pip install 'tutelage[textgame]'", why="the environment `textgame`") from None


def cache_folder() -> Path:
    """Where built games are kept: `tutelage/textgame` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage" / "textgame"


def build_game(parameters: GameParameters) -> Game:
    """The game, from the cache or built now.

    Raises `MissingExtra` without the package, `InputError` where the package knows no quest of that kind, `StoreError` where the cache
    folder cannot be written.
    """
    package = textworld()
    place = cache_folder() / content_id([_FORMAT, version("textworld"), parameters.model_dump()])
    try:
        if not place.is_dir():
            _fill(package, parameters, place)
        facts = json.loads((place / "facts.json").read_text(encoding="utf-8"))
    except OSError as failed:
        raise StoreError(f"{place} cannot be used ({failed.strerror}). Delete it, or set XDG_CACHE_HOME to another folder") from None
    return Game(file=str(place / "game.z8"), **facts)


def _fill(package: Any, parameters: GameParameters, place: Path) -> None:
    """Build in a neighbouring folder, play the walkthrough, and rename the folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        with _building:
            facts = _compile(package, parameters, beside / "game.z8")
        (beside / "game.ni").unlink(missing_ok=True)
        (beside / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            beside.rename(place)
        except OSError:
            if not place.is_dir():  # otherwise another process was first, with the same game
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _compile(package: Any, parameters: GameParameters, file: Path) -> dict[str, Any]:
    options = package.GameOptions()
    options.nb_rooms, options.nb_objects = parameters.rooms, parameters.objects
    options.quest_length, options.nb_parallel_quests = parameters.length, parameters.quests
    options.grammar.only_last_action = parameters.goal == "last"
    options.seeds, options.path = parameters.seed, str(file)
    try:
        game = package.generator.make_game(options)
    except package.generator.QuestGenerationError:
        raise InputError("no quest can be made of these rooms, objects and this length; choose others", field="length") from None
    if parameters.goal == "hidden":
        game.objective = HIDDEN_GOAL
    package.generator.compile_game(game, options)
    walkthrough = list(game.metadata["walkthrough"])
    return {"objective": game.objective, "walkthrough": walkthrough, "sound": _wins(package, file, walkthrough)}


def _wins(package: Any, file: Path, commands: list[str]) -> bool:
    """Whether these commands win: a few of the largest games are not won by their own walkthrough."""
    game = package.start(str(file), package.EnvInfos(won=True))
    try:
        state = game.reset()
        for command in commands:
            state, _, over = game.step(command)
            if over:
                break
        return bool(state.won)
    finally:
        game.close()
