"""A learned agent as a file: what it knows, and what learning it cost.

Written when learning ends, so that a repeated run takes it from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from tutelage.adapter import Adapter
from tutelage.experience.store import to_json
from tutelage.files import write_atomically
from tutelage.knowledge import Knowledge
from tutelage.practice import Cost
from tutelage.records import Record


class LearnedAgent(Record):
    """`fingerprint` is the hash of everything that learning depended on; `agent` describes the learned agent for people.

    facts: what the learner noted of its own work.
    """

    fingerprint: str
    arm: str
    seed: int
    cost: Cost
    knowledge: Knowledge
    adapter: Adapter | None = None
    agent: dict[str, Any] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)


def read_learned(path: Path, fingerprint: str) -> LearnedAgent | None:
    """The learned agent in the file; None where there is none, it is unreadable, or it was learned from something else."""
    learned = read_any_learned(path)
    return learned if learned is not None and learned.fingerprint == fingerprint else None


def read_any_learned(path: Path) -> LearnedAgent | None:
    """The learned agent in the file, whatever it was learned from; None where there is none or it is unreadable."""
    try:
        return LearnedAgent.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def write_learned(path: Path, learned: LearnedAgent) -> None:
    """Write the file, whole or not at all."""
    write_atomically(path, to_json(learned))
