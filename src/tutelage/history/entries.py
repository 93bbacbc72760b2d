"""Questions about entries and who may change them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tutelage.errors import InputError
from tutelage.knowledge import Change, Entry, Exemplar, Insight, Knowledge, Reflection
from tutelage.screening import Origin, copied, screen, words

FIELD = {"exemplar": "exemplars", "insight": "insights", "reflection": "reflections"}
"""The field of `Knowledge` for each kind of entry."""

_WEIGHED = frozenset({"add", "edit", "promote", "demote", "merge", "release"})
_ORIGINS: dict[str, Origin] = {"user": "user", "tool": "tool", "assistant": "assistant", "system": "entry"}


def is_person(by: str) -> bool:
    """Whether `by` names a person: `person` or `person:NAME`."""
    return by.partition(":")[0] == "person"


def kind_of(entry: Entry) -> str:
    """`exemplar`, `insight` or `reflection`."""
    return type(entry).__name__.lower()


def text_of(entry: Entry) -> str:
    """All the words of an entry that a model would read."""
    if isinstance(entry, Insight):
        return entry.text
    if isinstance(entry, Reflection):
        return "\n".join(part for part in (entry.text, entry.trajectory) if part)
    return "\n".join(part for message in entry.messages for part in (message.text, *(call.arguments for call in message.tool_calls)))


def faults(entry: Entry, untrusted: Iterable[str] = ()) -> tuple[str, ...]:
    """Why an entry must be held for a person; empty where nothing was found.

    Each part of an exemplar is screened by its origin: what a user or a tool wrote may not command the reader, while an assistant's
    message may call tools, unless it is what an agent noted, which may repeat an expert or a tool. untrusted: what tools and users wrote;
    an insight or the words of a reflection that repeat twelve consecutive words of it are held. Exemplars and trajectories contain such
    text by nature.
    """
    if isinstance(entry, Exemplar):
        return _exemplar_faults(entry)
    if isinstance(entry, Insight):
        return (*screen(entry.text), *_copies(entry.text, untrusted))
    return tuple(
        dict.fromkeys(
            (
                *screen(entry.text),
                *screen(entry.trajectory, "trajectory"),
                *screen(entry.task_text, "user"),
                *_copies(entry.text, untrusted),
            )
        )
    )


def _exemplar_faults(exemplar: Exemplar) -> tuple[str, ...]:
    if not screen(text_of(exemplar)):  # the strictest screen over all parts at once: what passes it passes each screen of a part
        return ()
    return tuple(dict.fromkeys(reason for origin, text in _parts(exemplar) for reason in screen(text, origin)))


def _parts(exemplar: Exemplar) -> Iterator[tuple[Origin, str]]:
    for message in exemplar.messages:
        origin: Origin = "entry" if exemplar.origin == "noted" and message.role == "assistant" else _ORIGINS[message.role]
        yield origin, message.text
        for call in message.tool_calls:
            yield origin, call.arguments


def _copies(text: str, untrusted: Iterable[str]) -> tuple[str, ...]:
    run = copied(text, untrusted)
    if run is None:
        return ()
    shown = run if len(run) <= 60 else f"{run[:57]}..."
    return (f"repeats {len(run.split())} words that a tool or a user wrote: `{shown}`",)


def protected(knowledge: Knowledge) -> frozenset[str]:
    """Ids of the entries that only a person may change: pinned, added, edited, weighed or released by one."""
    mine = {change.entry_id for change in knowledge.history if change.action in _WEIGHED and change.by_person}
    return frozenset(mine) | knowledge.pinned


def removed_by_people(knowledge: Knowledge) -> frozenset[str]:
    """Texts that a person removed, or edited away, and that do not stand: no learner brings them back."""
    gone = [text_of(change.before) for change in knowledge.history if _takes_away(change) and change.before is not None]
    if not gone:
        return frozenset()
    here = {plain_text(entry) for entry in knowledge.entries}
    return frozenset(text for text in gone if _plain(text) not in here)


def _takes_away(change: Change) -> bool:
    return change.before is not None and change.action in ("remove", "edit", "merge") and change.by_person


def unwanted(knowledge: Knowledge, by: str) -> frozenset[str]:
    """`removed_by_people` for comparison, so that case or a full stop do not bring a text back; nothing for a person."""
    return frozenset() if is_person(by) else frozenset(map(_plain, removed_by_people(knowledge)))


def is_unwanted(entry: Entry, texts: frozenset[str]) -> bool:
    """Whether the entry's text is among those of `unwanted`."""
    return bool(texts) and plain_text(entry) in texts


def plain_text(entry: Entry) -> str:
    """The words of an entry for comparison."""
    return _plain(text_of(entry))


def _plain(text: str) -> str:
    return " ".join(words(text)) or text


def standing(knowledge: Knowledge, entry_id: str) -> Entry:
    """The entry of that id among those that may be shown. Raises `InputError` where there is none."""
    entry = knowledge.find(entry_id)
    if entry is None:
        raise InputError(f"there is no entry `{entry_id}`; `tutelage knowledge list` shows the ids")
    return entry


def held_entry(knowledge: Knowledge, entry_id: str) -> Entry | None:
    """The entry of that id among those that are held."""
    return next((item.entry for item in knowledge.held if item.entry.id == entry_id), None)
