"""What differs between two snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.history.entries import text_of
from tutelage.knowledge import Entry, Insight, Knowledge


@dataclass(frozen=True)
class Difference:
    """From one snapshot to another. edited, recounted: pairs (before, after); an entry may be in both. pinned, unpinned: ids."""

    added: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()
    edited: tuple[tuple[Entry, Entry], ...] = ()
    recounted: tuple[tuple[Insight, Insight], ...] = ()
    pinned: tuple[str, ...] = ()
    unpinned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.edited, self.recounted, self.pinned, self.unpinned))


def diff(a: Knowledge, b: Knowledge) -> Difference:
    """What changed from a to b: the entries that may be shown, and the pins.

    An entry whose id is its content (an exemplar) is known to be edited by the history of either.
    """
    old = {entry.id: entry for entry in a.entries}
    new = {entry.id: entry for entry in b.entries}
    renamed = _renamed(a, b, old, new)
    pairs = [(old[name], new[name]) for name in old if name in new] + [(old[one], new[other]) for one, other in renamed.items()]
    return Difference(
        added=tuple(entry for name, entry in new.items() if name not in old and name not in renamed.values()),
        removed=tuple(entry for name, entry in old.items() if name not in new and name not in renamed),
        edited=tuple((one, other) for one, other in pairs if text_of(one) != text_of(other)),
        recounted=tuple((x, y) for x, y in pairs if isinstance(x, Insight) and isinstance(y, Insight) and x.count != y.count),
        pinned=tuple(sorted(b.pinned - a.pinned - set(renamed.values()))),
        unpinned=tuple(sorted(a.pinned - b.pinned - set(renamed))),
    )


def _renamed(a: Knowledge, b: Knowledge, old: dict[str, Entry], new: dict[str, Entry]) -> dict[str, str]:
    """Ids in a that stand in b under another id, because their entry was edited on the way (in either direction)."""
    found: dict[str, str] = {}
    later, forward = (b, True) if len(b.history) >= len(a.history) else (a, False)
    earlier = a if forward else b
    became: dict[str, str] = {}
    for change in later.history[len(earlier.history) :]:
        if change.before is not None and change.before.id != change.entry_id:
            became[change.entry_id] = became.pop(change.before.id, change.before.id)
    for last, first in became.items():
        one, other = (first, last) if forward else (last, first)
        if one in old and one not in new and other in new and other not in old:
            found[one] = other
    return found
