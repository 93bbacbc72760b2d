"""The executor of an agent: from what `executor:` in its file says, and what was learned about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.executor import Action, AgileExecutor
from tutelage.python_file import load_attribute
from tutelage.suggest import unknown

WITHOUT = "without"
PARTS = ("actions", "opening")


def build_executor(section: Mapping[str, Any], folder: Path, learned: Mapping[str, JsonValue] | None = None) -> AgileExecutor:
    """The executor with these settings; `without` leaves out actions that it would have, of the opening too.

    learned: what was learned about it, see `executor_changes`; the section's own settings go before. An action may be `file.py:function`,
    looked for in `folder`. Raises `InputError` with the field below `executor`.
    """
    settings, known = dict(section), [*AgileExecutor.model_fields, WITHOUT]
    for option in settings:
        if option not in known:
            raise InputError(unknown("a setting of an executor", str(option), known), field=f"executor.{option}")
    left_out = _names(settings.pop(WITHOUT, None) or [], WITHOUT)
    for part in PARTS:
        if part in settings:
            settings[part] = [_action(name, folder) for name in _names(settings[part], part)]
    whole = _made(settings)
    for name in left_out:
        if name not in (there := names_of(whole)):
            raise InputError(unknown("an action of this executor", name, sorted(there)), field=f"executor.{WITHOUT}")
    taught = {name: value for name, value in (learned or {}).items() if name not in settings}
    return executor_with(_less(whole, left_out), taught)


def executor_changes(agent: Agent, base: Agent) -> dict[str, JsonValue]:
    """What was learned about the executor: the settings that differ from those of the agent that it was learned from.

    Actions stand there by their names: those that were left out as `without`, or all of them where new ones came.
    """
    mine, before = agent.executor, base.executor
    if not isinstance(mine, AgileExecutor) or not isinstance(before, AgileExecutor):
        return {}
    changed = {name for name in AgileExecutor.model_fields if getattr(mine, name) != getattr(before, name)}
    found: dict[str, JsonValue] = mine.model_dump(mode="json", include=changed - {*PARTS})
    gone = sorted(names_of(before) - names_of(mine))
    less = _less(before, gone) if gone and changed & {*PARTS} else before
    if gone and all(getattr(less, part) == getattr(mine, part) for part in PARTS):
        return {**found, WITHOUT: [*gone]}
    return {**found, **{part: [_name(item) for item in getattr(mine, part)] for part in PARTS if part in changed}}


def executor_with(executor: AgileExecutor, changes: Mapping[str, Any]) -> AgileExecutor:
    """The executor with what was learned about it; what it does not have need not be left out."""
    changes = dict(changes)
    here = {_name(item): item for item in (*executor.actions, *executor.opening)}
    gone = [name for name in changes.pop(WITHOUT, ()) if name in here]
    for part in {*PARTS} & changes.keys():
        changes[part] = [here.get(name, name) for name in changes[part]]
    return _less(_made({**_fields(executor), **changes}) if changes else executor, gone)


def names_of(executor: AgileExecutor) -> frozenset[str]:
    """The names of the actions that its sessions may take, those of the opening included."""
    return frozenset(map(_name, (*executor.actions, *executor.opening)))


def _less(executor: AgileExecutor, names: Iterable[str]) -> AgileExecutor:
    """Without these actions."""
    gone = frozenset(names)
    if not gone:
        return executor
    return _made({**_fields(executor), **{part: [x for x in getattr(executor, part) if _name(x) not in gone] for part in PARTS}})


def _fields(executor: AgileExecutor) -> dict[str, Any]:
    return {name: getattr(executor, name) for name in AgileExecutor.model_fields}


def _made(settings: Mapping[str, Any]) -> AgileExecutor:
    try:
        return AgileExecutor(**settings)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise InputError(first["msg"], field=".".join(map(str, ("executor", *first["loc"])))) from None


def _names(value: Any, part: str) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        said = f"write a list of names of actions, such as [retrieve_memory, seek_advice], not {value!r}"
        raise InputError(said, field=f"executor.{part}")
    return tuple(value)


def _action(name: str, folder: Path) -> str | Action:
    if ".py:" not in name:
        return name
    found = load_attribute(name, folder)
    if not isinstance(found, Action):
        raise InputError(f"{name} is no action; decorate the function with @tutelage.action", field="executor.actions")
    return found


def _name(action: str | Action) -> str:
    return action if isinstance(action, str) else action.name
