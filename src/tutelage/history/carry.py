"""What people did, carried from one snapshot into another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from tutelage.history.changes import add
from tutelage.history.entries import FIELD, is_unwanted, kind_of, plain_text, protected, removed_by_people, text_of, unwanted
from tutelage.history.record import NOWHERE, Author, exchange, hold, insert, set_pin, take_out, written
from tutelage.knowledge import Change, Entry, Insight, Knowledge


def people_part(knowledge: Knowledge) -> Knowledge:
    """What people did, to `merge` into a fresh learning: their entries, pins and removals, with only their changes as history."""
    kept = protected(knowledge)
    fields: dict[str, Any] = {name: tuple(item for item in getattr(knowledge, name) if item.id in kept) for name in FIELD.values()}
    mine = tuple(change for change in knowledge.history if change.by_person)
    waiting = {change.entry_id for change in mine if change.action == "hold"}
    held = tuple(item for item in knowledge.held if item.entry.id in waiting)
    return Knowledge(**fields, pinned=knowledge.pinned, held=held, history=mine)


def merge(mine: Knowledge, theirs: Knowledge) -> Knowledge:
    """`mine` with the entries of `theirs` that it lacks, and with what people did there, each under its author's name.

    What a person removed there goes, and stays out; what a person changed there takes the place of what no person touched here. Their
    entries are not screened again (a person may have released them), all others are. For text from elsewhere use `add`, which screens
    everything. Snapshots of `mine` can still be had back; those of `theirs` cannot.
    """
    authors = _Authors(theirs)
    merged = _without_removed(mine, theirs)
    merged = _with_entries(merged, theirs, authors)
    for item in theirs.held:
        if merged.find(item.entry.id) != item.entry:
            merged = hold(merged, item.entry, item.reasons, authors.of(item.entry.id))
    for entry_id in sorted(theirs.pinned - merged.pinned):
        if merged.find(entry_id) is not None:
            merged = set_pin(merged, entry_id, authors.of(entry_id, person=True), pinned=True)
    return merged


class _Authors:
    """Who touched each entry of a snapshot last, and which person did."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.last = {change.entry_id: change for change in knowledge.history}
        self.people = {change.entry_id: change for change in knowledge.history if change.by_person}

    def of(self, entry_id: str, *, person: bool = False) -> Author:
        change = self.people.get(entry_id) or (None if person else self.last.get(entry_id))
        return _author(change) if change else Author("person" if person else "merge")


def _author(change: Change) -> Author:
    return Author(change.by, change.episodes, change.note, change.when)


def _without_removed(mine: Knowledge, theirs: Knowledge) -> Knowledge:
    """Carry the removals of people over; what stood nowhere here is noted, so that no learner brings it back."""
    gone = removed_by_people(theirs)
    by_text = {text_of(change.before): change for change in theirs.history if change.before is not None and change.by_person}
    for text in sorted(gone, key=lambda text: by_text[text].when):
        change = by_text[text]
        assert change.before is not None  # noqa: S101 (by_text holds only those)
        author, entry = _author(change), change.before
        twins = [item for item in getattr(mine, FIELD[kind_of(entry)]) if plain_text(item) == plain_text(entry)]
        for twin in twins:
            mine = mine if twin.id in protected(mine) else take_out(mine, twin, author)
        if not twins and not is_unwanted(entry, unwanted(mine, "")):
            mine = written(mine, {}, author.change("remove", entry.id, before=entry, place=NOWHERE))
    return mine


def _with_entries(mine: Knowledge, theirs: Knowledge, authors: _Authors) -> Knowledge:
    safe, here = protected(theirs), protected(mine)
    known = {entry.id: entry for entry in mine.entries}
    fresh = [entry for entry in theirs.entries if entry.id not in known]
    mine = _put_in_all(mine, [(entry, authors.of(entry.id, person=True)) for entry in fresh if entry.id in safe])
    others = [(authors.of(entry.id), entry) for entry in fresh if entry.id not in safe]
    for author, group in groupby(others, key=lambda pair: pair[0]):
        mine = add(mine, [entry for _, entry in group], by=author.by, episodes=author.episodes, note=author.note, when=author.when)
    for entry in theirs.entries:
        if entry.id in known and entry.id in safe - here and (entry != known[entry.id] or entry.id not in theirs.pinned):
            mine = exchange(mine, known[entry.id], entry, authors.of(entry.id, person=True), _verb(known[entry.id], entry))
    return mine


def _verb(old: Entry, new: Entry) -> Any:
    if isinstance(old, Insight) and isinstance(new, Insight) and old.text == new.text and old.count != new.count:
        return "promote" if new.count > old.count else "demote"
    return "edit"


def _put_in_all(knowledge: Knowledge, entries: Iterable[tuple[Entry, Author]]) -> Knowledge:
    taken: dict[str, list[Any]] = {kind: list(getattr(knowledge, name)) for kind, name in FIELD.items()}
    changes: list[Change] = []
    for entry, author in entries:
        insert(taken[kind_of(entry)], entry)
        changes.append(author.change("add", entry.id))
    return written(knowledge, {FIELD[kind]: tuple(items) for kind, items in taken.items()}, *changes)
