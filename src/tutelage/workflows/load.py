"""Workflows from what a study file says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tutelage import workflows
from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.python_file import load_attribute
from tutelage.suggest import unknown

PATTERNS: dict[str, Callable[..., Agent]] = {name: getattr(workflows, name) for name in workflows.__all__}

Part = Callable[[Any], Agent]
"""Builds a part from the keys of an agent."""


def make_workflow(spec: Mapping[str, Any], part: Part, folder: str | Path = "") -> Agent:
    """The agent that {pattern: {options}} describes.

    Options are those of the pattern's function; a part is given by the keys in which it differs from the agent itself, and a function (a
    gate, a router, `normalise`) as `file.py:function`. Raises `InputError`.
    """
    if len(spec) != 1:
        raise InputError(f"write one pattern with its options below it; here are {len(spec)} keys", field="workflow")
    ((name, options),) = spec.items()
    if name not in PATTERNS:
        raise InputError(unknown("a workflow", str(name), PATTERNS), field="workflow")
    if not isinstance(options, dict):
        raise InputError(f"the options of {name} are `key: value` pairs, and here is {options!r}", field=f"workflow.{name}")
    return _make(name, options, part, folder)


def _make(name: str, options: dict[str, Any], part: Part, folder: str | Path) -> Agent:
    pattern = PATTERNS[name]
    known = inspect.signature(pattern).parameters
    for option in options:
        if option not in known:
            raise InputError(unknown(f"an option of {name}", str(option), known), field=f"workflow.{name}.{option}")
    values = {option: _value(option, value, part, folder) for option, value in options.items()}
    positional = values.pop("agents", ()) if name == "chain" else ()  # chain takes its agents one by one
    try:
        return pattern(*positional, **values)
    except TypeError as wrong:
        raise InputError(f"{name}: {str(wrong).partition('() ')[2] or wrong}", field=f"workflow.{name}") from None


def _value(option: str, value: Any, part: Part, folder: str | Path) -> Any:
    if isinstance(value, str) and ".py:" in value:
        return load_attribute(value, folder)
    if option == "gates":
        return tuple(load_attribute(gate, folder) if gate else None for gate in value)
    if option == "agents":
        parts = value if isinstance(value, list | dict) else [value]
        return {key: part(keys) for key, keys in parts.items()} if isinstance(parts, dict) else [part(keys) for keys in parts]
    if option == "routes" and isinstance(value, dict):
        return {key: part(keys) for key, keys in value.items()}
    return part(value or {}) if option in ("worker", "evaluator", "planner", "router", "join") else value
