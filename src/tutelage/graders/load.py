"""Graders from what a study file says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from tutelage.errors import InputError
from tutelage.grader import Grader, as_grader
from tutelage.graders.combine import Weighted, grade_episode
from tutelage.python_file import load_attribute
from tutelage.registry import GRADERS, load
from tutelage.suggest import unknown

__all__ = ["grade_episode", "make_grader"]


_FROM_FILES = ("calibrated", "cascade")
"""Graders that were calibrated before, and are read from a file."""


def make_grader(spec: Any, folder: str | Path = "") -> Grader:
    """The grader that a YAML value names; `file.py:function` is looked for in `folder`.

    spec: a name (`toolcall`), a name with options (`{numeric: {tolerance: 0.01}}`), a function or class in a Python file
    (`grader.py:polite`), or a weighted mean: `{weighted: {toolcall: 0.8, grader.py:polite: 0.2}}`, where an entry may also be
    `NAME: {grader: SPEC, weight: 0.2}`. A Grader or a function is taken as it is. Raises `InputError` for anything else.
    """
    if isinstance(spec, str):
        return _named(spec, {}, folder)
    if isinstance(spec, Mapping):
        if len(spec) != 1:
            raise InputError(f"one grader is needed, with its options under its name, and here are {len(spec)} keys", field="grader")
        name, options = next(iter(spec.items()))
        return _named(str(name), {} if options is None else options, folder)
    if isinstance(spec, Grader) or callable(spec):
        return as_grader(spec)
    raise InputError(f"write a grader's name, or {{name: {{options}}}}; this is a {type(spec).__name__}", field="grader")


def _named(name: str, options: Any, folder: str | Path) -> Grader:
    if not isinstance(options, Mapping):
        raise InputError(f"the options of a grader are `key: value` pairs, and this is {options!r}", field=f"grader.{name}")
    if name == "weighted":
        return _weighted(options, folder)
    if name in GRADERS:
        options = _placed(options, folder) if name in _FROM_FILES else options
        return cast(Grader, _built(name, load(GRADERS[name]), dict(options)))
    if ".py:" in name:
        return _from_file(name, dict(options), folder)
    raise InputError(f"{unknown('a grader', name, [*GRADERS, 'weighted'])}, or file.py:function", field="grader")


def _placed(options: Mapping[Any, Any], folder: str | Path) -> dict[str, Any]:
    """Options whose file is looked for beside the study file, and whose last resort is a grader."""
    placed = {str(key): value for key, value in options.items()}
    if "file" in placed:
        placed["file"] = Path(folder) / str(placed["file"])
    if "then" in placed:
        placed["then"] = make_grader(placed["then"], folder)
    return placed


def _weighted(entries: Mapping[Any, Any], folder: str | Path) -> Weighted:
    graders: dict[str, tuple[Any, float]] = {}
    for name, entry in entries.items():
        place = f"grader.weighted.{name}"
        spec, weight = name, entry
        if isinstance(entry, Mapping):
            if set(entry) - {"grader", "weight"} or "weight" not in entry:
                raise InputError("write a number, or {grader: SPEC, weight: NUMBER}", field=place)
            spec, weight = entry.get("grader", name), entry["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise InputError(f"the weight must be a number, and is {weight!r}", field=place)
        graders[str(name)] = (make_grader(spec, folder), weight)
    return Weighted(graders)


def _from_file(place: str, options: dict[str, Any], folder: str | Path) -> Grader:
    found = load_attribute(place, folder)
    if inspect.isclass(found):
        found = _built(place, found, options)
    elif options:
        raise InputError("a function takes no options; write a class with a method `grade`", field=f"grader.{place}")
    if not (isinstance(found, Grader) or callable(found)):
        raise InputError("neither a function (task, episode) nor a class with `name`, `grade` and `check`", field=f"grader.{place}")
    return as_grader(found)


def _built(name: str, kind: type, options: dict[str, Any]) -> Any:
    """An instance with these options, each checked by its type."""
    known = inspect.signature(kind).parameters
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    for option in options:
        if option not in known and not anything:
            raise InputError(unknown(f"an option of `{name}`", str(option), known), field=f"grader.{name}.{option}")
    try:
        return TypeAdapter(kind).validate_python(options) if is_dataclass(kind) else kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{first['msg']} (given: {first['input']!r})", field=f"grader.{name}.{option}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be made with these options: {error}", field=f"grader.{name}") from error
