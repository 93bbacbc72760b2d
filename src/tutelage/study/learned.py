"""A learned agent as a file: what it knows, which weights it wears, and what learning it cost.

Written when learning ends, so that a repeated run takes it from there. Learned weights lie beside, in RUN/adapters/ID; the file names
their folder from its own, so that a run's folder can be moved.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from tutelage.adapter import Adapter, read_adapter, verify
from tutelage.agent import Agent
from tutelage.budget import Cost
from tutelage.errors import InputError, StoreError
from tutelage.executor import AgileExecutor
from tutelage.experience.store import to_json
from tutelage.files import write_atomically
from tutelage.knowledge import Knowledge
from tutelage.records import Record
from tutelage.study.executors import executor_with


class LearnedAgent(Record):
    """`fingerprint` is the hash of everything that learning depended on; `agent` describes the learned agent for people.

    executor: the settings of the agent's executor that were learned. facts: what the learner noted of its own work. episodes: by `ref`,
    the part of the cost that each had.
    """

    fingerprint: str
    arm: str
    seed: int
    cost: Cost
    knowledge: Knowledge
    adapter: Adapter | None = None
    executor: dict[str, JsonValue] = Field(default_factory=dict)
    agent: dict[str, Any] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    episodes: dict[str, Cost] = Field(default_factory=dict)


def read_learned(path: Path, fingerprint: str, base: Agent) -> LearnedAgent | None:
    """The learned agent in the file; None where there is none, it is unreadable, or it was learned from something else.

    None, too, where its weights are gone or damaged: then they are learned anew. base: the agent it was learned from.
    """
    learned = read_any_learned(path)
    if learned is None or learned.fingerprint != fingerprint:
        return None
    with suppress(InputError):
        adapter = wearing(base, learned).adapter
        if adapter is not None:
            verify(adapter)
        return learned
    return None


def read_any_learned(path: Path) -> LearnedAgent | None:
    """The learned agent in the file, whatever it was learned from; None where there is none or it is unreadable."""
    try:
        return parse_learned(path.read_text(encoding="utf-8"), path)
    except (OSError, ValidationError):
        return None


def parse_learned(text: str, path: Path) -> LearnedAgent:
    """The learned agent in a file's text; the folder of its weights is found from the file's own. Raises `ValidationError`."""
    learned = LearnedAgent.model_validate_json(text)
    if learned.adapter is None:
        return learned
    folder = path.parent / learned.adapter.folder
    return learned.model_copy(update={"adapter": learned.adapter.model_copy(update={"folder": os.path.normpath(folder.absolute())})})


def write_learned(path: Path, learned: LearnedAgent) -> None:
    """Write the file, whole or not at all."""
    adapter, run = learned.adapter, path.parent.parent.absolute()
    if adapter is not None and Path(adapter.folder).is_relative_to(run):
        inside = os.path.relpath(adapter.folder, path.parent.absolute())
        learned = learned.model_copy(update={"adapter": adapter.model_copy(update={"folder": inside})})
    write_atomically(path, to_json(learned))


def wearing(base: Agent, learned: LearnedAgent) -> Agent:
    """The agent with what was learned. Raises `InputError` where the learned weights are no longer there."""
    adapter = learned.adapter
    if adapter is not None and base.adapter is not None and adapter.id == base.adapter.id:
        adapter = base.adapter  # learning left the weights as they were
    elif adapter is not None:
        adapter = found_adapter(adapter, f"`{learned.arm}`")
    executor = base.executor
    if learned.executor and isinstance(executor, AgileExecutor):
        executor = executor_with(executor, learned.executor)
    return base.but(knowledge=learned.knowledge, adapter=adapter, executor=executor)


def found_adapter(adapter: Adapter, whose: str) -> Adapter:
    """The adapter, read from its folder. Raises `InputError` where it is no longer there."""
    try:
        found = read_adapter(adapter.folder)
    except InputError:
        found = None
    if found is None or found.id != adapter.id:
        raise InputError(
            f"the weights that {whose} learned ({adapter.id}) are no longer here; put their folder back, or run the study again, "
            "which trains them anew",
            file=adapter.folder,
        )
    return found


def keep_adapter(agent: Agent, base: Agent, run: Path) -> Agent:
    """The agent with its learned weights in RUN/adapters/ID, where they stay; those of `base` stay where they are. Raises `StoreError`."""
    adapter = agent.adapter
    if adapter is None or (base.adapter is not None and adapter.id == base.adapter.id):
        return agent
    place = run / "adapters" / adapter.id
    if not _is_whole(place, adapter.id):
        _copy_whole(Path(adapter.folder), place)
    return agent.but(adapter=read_adapter(place))


def _is_whole(place: Path, which: str) -> bool:
    with suppress(InputError):
        found = read_adapter(place)
        verify(found)
        return found.id == which
    return False


def _copy_whole(source: Path, place: Path) -> None:
    """Copy a folder, whole or not at all, over whatever is there; without taking room twice where the disk can do that."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside, copy_function=_link_or_copy)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    except OSError as failed:
        raise StoreError(f"{place} cannot be written: {failed}. Free some space or choose another folder, then run again") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def drop_checkpoints(workplace: Path) -> None:
    """Remove what training needed to go on from: checkpoints and adapters on the way. What it noted for people stays."""
    for name in ("checkpoints", "adapters"):
        shutil.rmtree(workplace / name, ignore_errors=True)
    with suppress(OSError):
        workplace.rmdir()  # where nothing is left
