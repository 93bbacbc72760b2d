"""Changing what an agent knows, on the record: every change gives a new snapshot whose history says who did what, when and why.

The only doors through which entries come into a snapshot, so that each is screened and nothing that a person did is undone by a learner:
an entry that a person added, edited or pinned is left as it is by everyone else, and a text that a person removed is not taken in again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from tutelage.errors import InputError
from tutelage.knowledge import Action, Change, Entry, Held, Insight, Knowledge, Reflection
from tutelage.screening import screen


def is_person(by: str) -> bool:
    """Whether `by` names a person: `person` or `person:NAME`."""
    return by.partition(":")[0] == "person"


def text_of(entry: Entry) -> str:
    """All the words of an entry that a model would read."""
    if isinstance(entry, Insight):
        return entry.text
    if isinstance(entry, Reflection):
        return "\n".join(part for part in (entry.text, entry.trajectory) if part)
    return "\n".join(part for message in entry.messages for part in (message.text, *(call.arguments for call in message.tool_calls)))


def protected(knowledge: Knowledge) -> frozenset[str]:
    """Ids of the entries that only a person may change: pinned, added, edited or released by one."""
    kept = {"add", "edit", "promote", "demote", "pin", "release"}
    mine = {change.entry_id for change in knowledge.history if change.by_person and change.action in kept}
    return frozenset(mine) | knowledge.pinned


def removed_by_people(knowledge: Knowledge) -> frozenset[str]:
    """Texts that a person removed last, so that no learner brings them back."""
    gone: dict[str, bool] = {}
    for change in knowledge.history:
        if change.action == "remove" and change.before is not None and change.by_person:
            gone[text_of(change.before)] = True
    back = {text_of(entry) for entry in knowledge.entries}
    return frozenset(text for text in gone if text not in back)


def add(
    knowledge: Knowledge, entries: Iterable[Entry], *, by: str, episodes: Iterable[str] = (), note: str = "", when: datetime | None = None
) -> Knowledge:
    """Take entries in, at the end of their kind.

    What the screen finds fault with is held instead (also what a person adds: they may `release` it). An entry that is there already, is
    held already, or whose text a person removed is passed over, unless a person adds it.
    """
    moment, refs = when or datetime.now(UTC), tuple(episodes)
    taken: dict[str, list[Any]] = {
        "exemplar": list(knowledge.exemplars),
        "insight": list(knowledge.insights),
        "reflection": list(knowledge.reflections),
    }
    held, changes = list(knowledge.held), list(knowledge.history)
    known = {entry.id for entry in knowledge.entries} | {item.entry.id for item in held}
    unwanted = frozenset() if is_person(by) else removed_by_people(knowledge)
    for entry in entries:
        if entry.id in known or text_of(entry) in unwanted:
            continue
        known.add(entry.id)
        reasons = screen(text_of(entry))
        if reasons:
            held.append(Held(entry=entry, reasons=reasons))
        else:
            taken[kind_of(entry)].append(entry)
        action: Action = "hold" if reasons else "add"
        changes.append(Change(when=moment, by=by, action=action, entry_id=entry.id, episodes=refs, note=note or "; ".join(reasons)))
    return knowledge.model_copy(
        update={
            "exemplars": tuple(taken["exemplar"]),
            "insights": tuple(taken["insight"]),
            "reflections": tuple(taken["reflection"]),
            "held": tuple(held),
            "history": tuple(changes),
        }
    )


def remove(
    knowledge: Knowledge,
    entry_id: str,
    *,
    by: str,
    episodes: Iterable[str] = (),
    note: str = "",
    action: Literal["remove", "merge"] = "remove",
) -> Knowledge:
    """Take an entry out (also one that is held). A learner's wish to remove a protected entry changes nothing.

    Raises `InputError` where there is no such entry.
    """
    if entry_id in protected(knowledge) and not is_person(by):
        return knowledge
    entry = _found(knowledge, entry_id)
    fields: dict[str, Any] = {name: tuple(item for item in getattr(knowledge, name) if item.id != entry_id) for name in FIELD.values()}
    fields["held"] = tuple(item for item in knowledge.held if item.entry.id != entry_id)
    fields["pinned"] = knowledge.pinned - {entry_id}
    place = next((n for n, item in enumerate(getattr(knowledge, FIELD[kind_of(entry)])) if item.id == entry_id), None)
    change = Change(
        when=datetime.now(UTC), by=by, action=action, entry_id=entry_id, before=entry, place=place, episodes=tuple(episodes), note=note
    )
    return _recorded(knowledge, fields, change)


def replace(
    knowledge: Knowledge, entry_id: str, entry: Entry, *, by: str, action: Action = "edit", episodes: Iterable[str] = (), note: str = ""
) -> Knowledge:
    """Put another entry of the same kind in an entry's place; insights are put in the order of their counts again.

    A learner's wish to change a protected one changes nothing, but it may `agree` with it (the same text, a higher count).

    What the screen finds fault with is held, and the old entry stays. `InputError`: no such entry, or another kind.
    """
    old = _found(knowledge, entry_id)
    agrees = action == "agree" and text_of(entry) == text_of(old)
    if entry_id in protected(knowledge) and not is_person(by) and not agrees:
        return knowledge
    if type(entry) is not type(old):
        raise InputError(f"an entry of kind {kind_of(old)} cannot become one of kind {kind_of(entry)}")
    reasons = screen(text_of(entry)) if text_of(entry) != text_of(old) else ()
    if reasons:
        holding = {"held": (*knowledge.held, Held(entry=entry, reasons=reasons))}
        words = "; ".join(reasons)
        return _recorded(
            knowledge,
            holding,
            Change(when=datetime.now(UTC), by=by, action="hold", entry_id=entry.id, episodes=tuple(episodes), note=words),
        )
    name = FIELD[kind_of(entry)]
    changed: list[Any] = [entry if item.id == entry_id else item for item in getattr(knowledge, name)]
    if isinstance(entry, Insight):
        changed.sort(key=lambda insight: -insight.count)
    pinned = knowledge.pinned - {entry_id} | {entry.id} if entry_id in knowledge.pinned else knowledge.pinned
    changing = {name: tuple(changed), "pinned": pinned}
    return _recorded(
        knowledge,
        changing,
        Change(when=datetime.now(UTC), by=by, action=action, entry_id=entry.id, before=old, episodes=tuple(episodes), note=note),
    )


def kind_of(entry: Entry) -> str:
    """`exemplar`, `insight` or `reflection`."""
    return type(entry).__name__.lower()


FIELD = {"exemplar": "exemplars", "insight": "insights", "reflection": "reflections"}


def _found(knowledge: Knowledge, entry_id: str) -> Entry:
    held = {item.entry.id: item.entry for item in knowledge.held}
    entry = knowledge.find(entry_id) or held.get(entry_id)
    if entry is None:
        raise InputError(f"there is no entry `{entry_id}`; `tutelage knowledge list` shows the ids")
    return entry


def _recorded(knowledge: Knowledge, fields: dict[str, Any], change: Change) -> Knowledge:
    return knowledge.model_copy(update={**fields, "history": (*knowledge.history, change)})


def people_part(knowledge: Knowledge) -> Knowledge:
    """What people did: their entries, pins and removals, to carry into a fresh learning."""
    kept = protected(knowledge)
    fields: dict[str, Any] = {name: tuple(item for item in getattr(knowledge, name) if item.id in kept) for name in FIELD.values()}
    mine = tuple(change for change in knowledge.history if change.by_person)
    return Knowledge(**fields, pinned=knowledge.pinned, history=mine)


def merge(mine: Knowledge, theirs: Knowledge) -> Knowledge:
    """`mine` with the entries of `theirs` that it lacks, their pins and their history."""
    known = {entry.id for entry in mine.entries}
    fields: dict[str, Any] = {
        name: (*getattr(mine, name), *(item for item in getattr(theirs, name) if item.id not in known)) for name in FIELD.values()
    }
    return mine.model_copy(update={**fields, "pinned": mine.pinned | theirs.pinned, "history": (*mine.history, *theirs.history)})
