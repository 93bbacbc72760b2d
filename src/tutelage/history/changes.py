"""The doors for learners and people alike: add, remove, replace."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from tutelage.errors import InputError
from tutelage.history.entries import FIELD, faults, held_entry, is_person, is_unwanted, kind_of, protected, standing, text_of, unwanted
from tutelage.history.record import Author, drop_held, exchange, hold, holding, insert, take_out, written
from tutelage.knowledge import Action, Change, Entry, Held, Insight, Knowledge
from tutelage.records import content_id


def add(
    knowledge: Knowledge,
    entries: Iterable[Entry],
    *,
    by: str,
    episodes: Iterable[str] = (),
    note: str = "",
    when: datetime | None = None,
    untrusted: Iterable[str] = (),
) -> Knowledge:
    """Take entries in, at the end of their kind; an insight stands behind the last that counts at least as much.

    What the screen finds fault with is held instead (also what a person adds: they may `release` it). An entry that is there already or is
    held already is passed over, and so is one whose text a person removed, unless a person adds it. An insight whose id is that of
    another one, which began with the same words and was edited since, is given an id of its own. untrusted: what tools and users wrote;
    see `faults`.
    """
    author, sources = Author(by, tuple(episodes), note, when or datetime.now(UTC)), tuple(untrusted)
    taken: dict[str, list[Any]] = {kind: list(getattr(knowledge, name)) for kind, name in FIELD.items()}
    held, changes = list(knowledge.held), list(knowledge.history)
    known = _Known(knowledge)
    refused = unwanted(knowledge, by)
    for given in entries:
        entry = None if is_unwanted(given, refused) else known.new(given)
        if entry is None:
            continue
        if reasons := faults(entry, sources):
            held.append(Held(entry=entry, reasons=reasons))
            changes.append(holding(author, reasons).change("hold", entry.id))
        else:
            insert(taken[kind_of(entry)], entry)
            changes.append(author.change("add", entry.id))
    fields: dict[str, Any] = {FIELD[kind]: tuple(items) for kind, items in taken.items()}
    return knowledge.model_copy(update={**fields, "held": tuple(held), "history": tuple(changes)})


class _Known:
    """What is there already: ids, and the words of insights."""

    def __init__(self, knowledge: Knowledge) -> None:
        here = (*knowledge.entries, *(item.entry for item in knowledge.held))
        self.ids = {entry.id for entry in here}
        self.rules = {entry.text for entry in here if isinstance(entry, Insight)}

    def new(self, entry: Entry) -> Entry | None:
        """The entry as it comes in; None where it is there already."""
        if isinstance(entry, Insight):
            if entry.text in self.rules:
                return None
            self.rules.add(entry.text)
            while entry.id in self.ids:
                entry = entry.model_copy(update={"id": content_id(["insight", entry.text, entry.id])})
        elif entry.id in self.ids:
            return None
        self.ids.add(entry.id)
        return entry


def remove(
    knowledge: Knowledge,
    entry_id: str,
    *,
    by: str,
    episodes: Iterable[str] = (),
    note: str = "",
    action: Literal["remove", "merge"] = "remove",
    held: bool = False,
) -> Knowledge:
    """Take an entry out: the one that stands, or else the one that is held (with `held` only that one).

    A learner's wish to remove a protected entry changes nothing. Raises `InputError` where there is no such entry.
    """
    author = Author(by, tuple(episodes), note)
    waiting = held_entry(knowledge, entry_id)
    if waiting is not None and (held or knowledge.find(entry_id) is None):
        return drop_held(knowledge, waiting, author)
    if held:
        raise InputError(f"no entry `{entry_id}` is held; `tutelage knowledge list` shows what is")
    entry = standing(knowledge, entry_id)
    if not is_person(by) and entry_id in protected(knowledge):
        return knowledge
    return take_out(knowledge, entry, author, action)


def remove_all(knowledge: Knowledge, entry_ids: Iterable[str], *, by: str, episodes: Iterable[str] = (), note: str = "") -> Knowledge:
    """Take many entries out at once; what is protected from `by`, and what does not stand, is passed over."""
    author = Author(by, tuple(episodes), note, datetime.now(UTC))
    unwelcome = set(entry_ids) - (frozenset() if is_person(by) else protected(knowledge))
    fields: dict[str, Any] = {}
    changes = [author.change("unpin", entry.id) for entry in knowledge.entries if entry.id in unwelcome & knowledge.pinned]
    for name in FIELD.values():
        kept, gone = _parted(getattr(knowledge, name), unwelcome, author)
        fields[name] = kept
        changes += gone
    return written(knowledge, {**fields, "pinned": knowledge.pinned - unwelcome}, *changes) if changes else knowledge


def _parted(entries: tuple[Any, ...], unwelcome: set[str], author: Author) -> tuple[tuple[Any, ...], list[Change]]:
    """What stays, and the removals of the rest, the last first, so that each place is that at its time."""
    gone = [
        author.change("remove", entry.id, before=entry, place=place)
        for place, entry in reversed(list(enumerate(entries)))
        if entry.id in unwelcome
    ]
    return tuple(entry for entry in entries if entry.id not in unwelcome), gone


def replace(
    knowledge: Knowledge,
    entry_id: str,
    entry: Entry,
    *,
    by: str,
    action: Action = "edit",
    episodes: Iterable[str] = (),
    note: str = "",
    untrusted: Iterable[str] = (),
) -> Knowledge:
    """Put another entry of the same kind in an entry's place; an insight moves past those that now count less, or more.

    A learner's wish to change a protected one changes nothing, but it may `agree` with it (the same text, a count that is not lower), and
    it does not bring back a text that a person removed. Where the new entry, or an insight in the same words, stands already, the old
    one is merged into it. What the screen finds fault with is held, and the old entry stays.

    Raises `InputError`: no such entry, or another kind.
    """
    old = standing(knowledge, entry_id)
    if type(entry) is not type(old):
        raise InputError(f"an entry of kind {kind_of(old)} cannot become one of kind {kind_of(entry)}")
    if entry == old or not (is_person(by) or _may_change(knowledge, old, entry, by, action)):
        return knowledge
    author = Author(by, tuple(episodes), note)
    if (twin := _twin(knowledge, old, entry)) is not None:
        return take_out(knowledge, old, Author(by, author.episodes, note or f"the same as {twin.id}"), "merge")
    reasons = faults(entry, tuple(untrusted)) if text_of(entry) != text_of(old) else ()
    if reasons:
        return hold(knowledge, entry, reasons, author)
    return exchange(knowledge, old, entry, author, action)


def _twin(knowledge: Knowledge, old: Entry, new: Entry) -> Entry | None:
    """Another entry than `old` that is what `new` would be: of its id, or an insight in the same words."""
    if isinstance(new, Insight):
        return next((item for item in knowledge.insights if item.id != old.id and (item.text == new.text or item.id == new.id)), None)
    return knowledge.find(new.id) if new.id != old.id else None


def _may_change(knowledge: Knowledge, old: Entry, new: Entry, by: str, action: Action) -> bool:
    """Whether a learner may put `new` in the place of `old`."""
    if text_of(new) != text_of(old) and is_unwanted(new, unwanted(knowledge, by)):
        return False
    if old.id not in protected(knowledge):
        return True
    return (
        action == "agree"
        and isinstance(old, Insight)
        and isinstance(new, Insight)
        and (new.text, new.id) == (old.text, old.id)
        and new.count >= old.count
    )
