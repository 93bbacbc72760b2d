"""What people do to single entries: weigh, pin, release."""

from __future__ import annotations

from tutelage.errors import InputError
from tutelage.history.changes import replace
from tutelage.history.entries import held_entry, is_person, kind_of, standing
from tutelage.history.record import Author, let_go, set_pin
from tutelage.knowledge import Insight, Knowledge


def promote(knowledge: Knowledge, entry_id: str, *, by: str, steps: int = 1, note: str = "") -> Knowledge:
    """Let an insight count more by so many steps. Raises `InputError` where it is no insight, or steps is below 1."""
    return _weigh(knowledge, entry_id, steps, by, note)


def demote(knowledge: Knowledge, entry_id: str, *, by: str, steps: int = 1, note: str = "") -> Knowledge:
    """Let an insight count less by so many steps, but at least 1. Raises as `promote` does, and where it counts 1 already."""
    return _weigh(knowledge, entry_id, -steps, by, note)


def _weigh(knowledge: Knowledge, entry_id: str, steps: int, by: str, note: str) -> Knowledge:
    entry = standing(knowledge, entry_id)
    if not isinstance(entry, Insight):
        raise InputError(f"only insights have a count, and `{entry_id}` is of kind {kind_of(entry)}; `pin` keeps an entry as it is")
    if steps == 0:
        raise InputError("by how many steps? A whole number from 1")
    if entry.count <= 1 and steps < 0:
        raise InputError(f"`{entry_id}` counts {entry.count}, the least; `tutelage knowledge remove` takes it out")
    weighed = entry.model_copy(update={"count": max(1, entry.count + steps)})
    return replace(knowledge, entry_id, weighed, by=by, action="promote" if steps > 0 else "demote", note=note)


def pin(knowledge: Knowledge, entry_id: str, *, by: str, note: str = "") -> Knowledge:
    """Keep an entry from everything but people. Raises `InputError` where there is no such entry, or `by` is no person."""
    return _pin(knowledge, entry_id, by, note, pinned=True)


def unpin(knowledge: Knowledge, entry_id: str, *, by: str, note: str = "") -> Knowledge:
    """Undo a pin; what a person added or edited stays protected. Raises as `pin` does."""
    return _pin(knowledge, entry_id, by, note, pinned=False)


def _pin(knowledge: Knowledge, entry_id: str, by: str, note: str, *, pinned: bool) -> Knowledge:
    _only_a_person(by, "pin or unpin an entry")
    entry = standing(knowledge, entry_id)
    if (entry.id in knowledge.pinned) == pinned:
        return knowledge
    return set_pin(knowledge, entry.id, Author(by, note=note), pinned=pinned)


def release(knowledge: Knowledge, entry_id: str, *, by: str, note: str = "") -> Knowledge:
    """Show an entry that was held; where it is another wording of one that stands, it takes that one's place.

    Raises `InputError` where nothing of that id is held, or `by` is no person.
    """
    _only_a_person(by, "release an entry that is held")
    entry = held_entry(knowledge, entry_id)
    if entry is None:
        raise InputError(f"no entry `{entry_id}` is held; `tutelage knowledge list` shows what is")
    return let_go(knowledge, entry, Author(by, note=note))


def _only_a_person(by: str, what: str) -> None:
    if not is_person(by):
        raise InputError(f"only a person may {what}, and `{by}` is none; people are written `person:NAME`")
