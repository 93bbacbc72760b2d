"""One change at a time, carried out on a snapshot and written into its history: no screening, no asking who may."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tutelage.history.entries import FIELD, kind_of
from tutelage.knowledge import Action, Change, Entry, Held, Insight, Knowledge

NOWHERE = -1
"""The place of what a person removed elsewhere and that did not stand here: the wish is kept, nothing changed."""


@dataclass(frozen=True)
class Author:
    """Who makes a change, because of which episodes, with which words, and when (None: now)."""

    by: str
    episodes: tuple[str, ...] = ()
    note: str = ""
    when: datetime | None = None

    def change(self, action: Action, entry_id: str, *, before: Entry | None = None, place: int | None = None, note: str = "") -> Change:
        """The line of history; `note` is said where the author says nothing."""
        return Change(
            when=self.when or datetime.now(UTC),
            by=self.by,
            action=action,
            entry_id=entry_id,
            before=before,
            place=place,
            episodes=self.episodes,
            note=self.note or note,
        )


def written(knowledge: Knowledge, fields: dict[str, Any], *changes: Change) -> Knowledge:
    """The next snapshot."""
    return knowledge.model_copy(update={**fields, "history": (*knowledge.history, *changes)})


def place_of(knowledge: Knowledge, entry: Entry) -> int:
    """Where an entry stands among its kind."""
    return next(place for place, item in enumerate(getattr(knowledge, FIELD[kind_of(entry)])) if item.id == entry.id)


def put_in(knowledge: Knowledge, entry: Entry, author: Author, place: int | None = None) -> Knowledge:
    """Add an entry at a place (None: where it belongs)."""
    entries = list(getattr(knowledge, FIELD[kind_of(entry)]))
    insert(entries, entry, place)
    return written(knowledge, {FIELD[kind_of(entry)]: tuple(entries)}, author.change("add", entry.id))


def insert(entries: list[Any], entry: Entry, place: int | None = None) -> None:
    """Insert at a place; None is at the end, and for an insight behind the last that counts at least as much."""
    if place is None:
        place = len(entries)
        while isinstance(entry, Insight) and place > 0 and entries[place - 1].count < entry.count:
            place -= 1
    entries.insert(place, entry)


def take_out(knowledge: Knowledge, entry: Entry, author: Author, action: Action = "remove") -> Knowledge:
    """Remove an entry that stands; its pin goes first, as a change of its own."""
    if entry.id in knowledge.pinned:
        knowledge = set_pin(knowledge, entry.id, author, pinned=False)
    name = FIELD[kind_of(entry)]
    fields = {name: tuple(item for item in getattr(knowledge, name) if item.id != entry.id)}
    return written(knowledge, fields, author.change(action, entry.id, before=entry, place=place_of(knowledge, entry)))


def exchange(knowledge: Knowledge, old: Entry, new: Entry, author: Author, action: Action, place: int | None = None) -> Knowledge:
    """Put `new` in the place of `old`; an insight whose count changed moves past those that now count less, or more."""
    name = FIELD[kind_of(old)]
    entries = list(getattr(knowledge, name))
    began = place_of(knowledge, old)
    entries.pop(began)
    entries.insert(_settled(entries, began, new) if place is None else place, new)
    pinned = knowledge.pinned - {old.id} | {new.id} if old.id in knowledge.pinned else knowledge.pinned
    return written(knowledge, {name: tuple(entries), "pinned": pinned}, author.change(action, new.id, before=old, place=began))


def _settled(entries: list[Any], place: int, entry: Entry) -> int:
    if not isinstance(entry, Insight):
        return place
    while place > 0 and entries[place - 1].count < entry.count:
        place -= 1
    while place < len(entries) and entries[place].count > entry.count:
        place += 1
    return place


def set_pin(knowledge: Knowledge, entry_id: str, author: Author, *, pinned: bool) -> Knowledge:
    """Pin or unpin."""
    ids = knowledge.pinned | {entry_id} if pinned else knowledge.pinned - {entry_id}
    return written(knowledge, {"pinned": ids}, author.change("pin" if pinned else "unpin", entry_id))


def hold(knowledge: Knowledge, entry: Entry, reasons: Iterable[str], author: Author) -> Knowledge:
    """Hold an entry for a person; an earlier one of the same id that is held goes first. The same one held twice changes nothing."""
    earlier = next((item for item in knowledge.held if item.entry.id == entry.id), None)
    if earlier is not None:
        if earlier.entry == entry:
            return knowledge
        knowledge = drop_held(knowledge, earlier.entry, author)
    why = tuple(reasons)
    held = (*knowledge.held, Held(entry=entry, reasons=why))
    return written(knowledge, {"held": held}, holding(author, why).change("hold", entry.id))


def holding(author: Author, reasons: tuple[str, ...]) -> Author:
    """The author with the reasons as the words, which is what a `hold` says; going back is said before them."""
    said = (author.note, *reasons) if BACK.fullmatch(author.note) else reasons
    return Author(author.by, author.episodes, REASON_MARK.join(said), author.when)


def reasons_for(entry_id: str, history: tuple[Change, ...]) -> tuple[str, ...]:
    """Why an entry was held, out of the words of its last `hold`."""
    notes = (change.note for change in reversed(history) if change.action == "hold" and change.entry_id == entry_id)
    first, *rest = next(notes, "held before").split(REASON_MARK)
    return tuple(rest) if rest and BACK.fullmatch(first) else (first, *rest)


REASON_MARK = "; "
"""Between the reasons in the words of a `hold`; no reason contains it."""

BACK = re.compile(r"undoes change (?P<number>\d+)|back to snapshot \d+")
"""What a change says that takes others back."""


def drop_held(knowledge: Knowledge, entry: Entry, author: Author) -> Knowledge:
    """Remove an entry that is held."""
    fields = {"held": tuple(item for item in knowledge.held if item.entry.id != entry.id)}
    return written(knowledge, fields, author.change("remove", entry.id, before=entry))


def let_go(knowledge: Knowledge, entry: Entry, author: Author) -> Knowledge:
    """Show an entry that was held, in the place of the one of its id where that stands."""
    name = FIELD[kind_of(entry)]
    entries = list(getattr(knowledge, name))
    old = next((item for item in entries if item.id == entry.id), None)
    place = place_of(knowledge, old) if old is not None else None
    if place is None:
        insert(entries, entry)
    else:
        entries.pop(place)
        entries.insert(_settled(entries, place, entry), entry)
    held = tuple(item for item in knowledge.held if item.entry.id != entry.id)
    return written(knowledge, {name: tuple(entries), "held": held}, author.change("release", entry.id, before=old, place=place))
