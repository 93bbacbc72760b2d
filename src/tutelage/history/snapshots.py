"""Earlier snapshots, and going back to them."""

from __future__ import annotations

from typing import Any

from tutelage.errors import InputError
from tutelage.history.entries import FIELD, held_entry, kind_of
from tutelage.history.record import BACK, NOWHERE, Author, drop_held, exchange, hold, put_in, reasons_for, set_pin, take_out
from tutelage.knowledge import Change, Entry, Held, Knowledge


def snapshot(knowledge: Knowledge, n: int) -> Knowledge:
    """What the first n changes made: the entries in their order, counts, pins and what was held.

    Raises `InputError` where n is not from 0 to the number of changes.
    """
    _check(knowledge, n)
    state = _State(knowledge)
    for number in range(len(knowledge.history), n, -1):
        state.take_back(knowledge.history[number - 1], knowledge.history[: number - 1])
    return state.written(knowledge, n)


class _State:
    """A snapshot taken apart, so that many changes are taken back quickly."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.lists: dict[str, list[Any]] = {kind: list(getattr(knowledge, name)) for kind, name in FIELD.items()}
        self.held = {item.entry.id: item for item in knowledge.held}
        self.pinned = set(knowledge.pinned)

    def written(self, knowledge: Knowledge, n: int) -> Knowledge:
        history = knowledge.history[:n]
        held_at = {change.entry_id: number for number, change in enumerate(history) if change.action == "hold"}
        fields: dict[str, Any] = {FIELD[kind]: tuple(entries) for kind, entries in self.lists.items()}
        ids = {entry.id for entries in self.lists.values() for entry in entries}
        return knowledge.model_copy(
            update={
                **fields,
                "pinned": frozenset(self.pinned),
                "held": tuple(sorted(self.held.values(), key=lambda item: held_at.get(item.entry.id, NOWHERE))),
                "evidence": {name: evidence for name, evidence in knowledge.evidence.items() if name in ids},
                "history": history,
            }
        )

    def take_back(self, change: Change, earlier: tuple[Change, ...]) -> None:
        name = change.entry_id
        if change.action in ("pin", "unpin"):
            (self.pinned.discard if change.action == "pin" else self.pinned.add)(name)
        elif change.action == "hold":
            self.held.pop(name, None)
        elif change.action == "release":
            self._unrelease(change, earlier)
        elif change.before is None:
            self._pop(name)
        elif change.place is None and change.action == "remove":
            self._hold_again(change.before, earlier)
        elif change.place != NOWHERE:
            self._put_back(change, change.before)

    def _put_back(self, change: Change, before: Entry) -> None:
        place = change.place
        if change.action != "remove" and (found := self._pop(change.entry_id)) is not None:
            place = found[1] if place is None else place
            if change.entry_id in self.pinned:
                self.pinned = self.pinned - {change.entry_id} | {before.id}
        entries = self.lists[kind_of(before)]
        entries.insert(len(entries) if place is None else place, before)

    def _unrelease(self, change: Change, earlier: tuple[Change, ...]) -> None:
        found = self._pop(change.entry_id)
        if found is not None:
            self._hold_again(found[0], earlier)
        if change.before is not None:
            entries = self.lists[kind_of(change.before)]
            entries.insert(len(entries) if change.place is None else change.place, change.before)

    def _hold_again(self, entry: Entry, earlier: tuple[Change, ...]) -> None:
        self.held[entry.id] = Held(entry=entry, reasons=reasons_for(entry.id, earlier))

    def _pop(self, entry_id: str) -> tuple[Any, int] | None:
        for entries in self.lists.values():
            for place in range(len(entries) - 1, -1, -1):
                if entries[place].id == entry_id:
                    return entries.pop(place), place
        return None


def undo(knowledge: Knowledge, *, by: str, steps: int = 1) -> Knowledge:
    """Take back the last changes, as new changes: the history keeps all. Undone again, it goes further back; `restore` goes forward.

    Raises `InputError` where fewer changes are left to undo.
    """
    open_numbers: list[int] = []
    for number, change in enumerate(knowledge.history, 1):
        undone = BACK.match(change.note)
        if undone is None or undone["number"] is None:
            open_numbers.append(number)
        elif int(undone["number"]) in open_numbers:
            open_numbers.remove(int(undone["number"]))
    if not 1 <= steps <= len(open_numbers):
        raise InputError(f"{len(open_numbers)} changes can be undone, and {steps} are asked for; `tutelage knowledge history` shows them")
    for number in reversed(open_numbers[-steps:]):
        knowledge = _inverted(knowledge, number, Author(by, note=f"undoes change {number}"))
    return knowledge


def restore(knowledge: Knowledge, n: int, *, by: str) -> Knowledge:
    """Go to what the first n changes made, as new changes: the history keeps all. Raises `InputError` as `snapshot` does."""
    _check(knowledge, n)
    author = Author(by, note=f"back to snapshot {n}")
    for number in range(len(knowledge.history), n, -1):
        knowledge = _inverted(knowledge, number, author)
    return knowledge


def _inverted(knowledge: Knowledge, number: int, author: Author) -> Knowledge:
    """Take back change `number` (from 1) where all later ones are taken back already."""
    change = knowledge.history[number - 1]
    entry, before = knowledge.find(change.entry_id), change.before
    if change.action in ("pin", "unpin"):
        return set_pin(knowledge, change.entry_id, author, pinned=change.action == "unpin")
    if change.action == "hold":
        waiting = held_entry(knowledge, change.entry_id)
        return knowledge if waiting is None else drop_held(knowledge, waiting, author)
    if change.action == "remove" and change.place is None and before is not None:
        return hold(knowledge, before, reasons_for(before.id, knowledge.history[: number - 1]), author)
    if change.place == NOWHERE:
        return knowledge
    if before is None or (entry is not None and change.action != "remove"):
        return _without(knowledge, change, entry, number, author)
    return put_in(knowledge, before, author, change.place)


def _without(knowledge: Knowledge, change: Change, entry: Entry | None, number: int, author: Author) -> Knowledge:
    """Without what a change put in: the entry before it stands again, and what was released is held again."""
    if entry is None:
        return knowledge
    if change.before is None:
        knowledge = take_out(knowledge, entry, author)
    else:
        knowledge = exchange(knowledge, entry, change.before, author, "edit", change.place)
    if change.action == "release":
        knowledge = hold(knowledge, entry, reasons_for(entry.id, knowledge.history[: number - 1]), author)
    return knowledge


def _check(knowledge: Knowledge, n: int) -> None:
    if not 0 <= n <= len(knowledge.history):
        raise InputError(
            f"there is no snapshot {n}; the history has {len(knowledge.history)} changes, so from 0 to {len(knowledge.history)}"
        )
