"""Changing what an agent knows, on the record: every change gives a new snapshot whose history says who did what, when and why.

The only doors through which entries come into a snapshot, so that each is screened and nothing that a person did is undone by a learner:
an entry that a person added, edited, weighed, released or pinned is left as it is by everyone else, and a text that a person removed or
edited away is not taken in again. Every earlier snapshot can be had back, since each change keeps what it replaced and where that stood.
How exemplars and reflections are chosen (`Retrieval`, `Recall`) and the measured evidence are settings of now, without history.
"""

from __future__ import annotations

from tutelage.history.carry import merge, people_part
from tutelage.history.changes import add, remove, remove_all, replace
from tutelage.history.compare import Difference, diff
from tutelage.history.entries import FIELD, faults, is_person, kind_of, protected, removed_by_people, text_of
from tutelage.history.people import demote, pin, promote, release, unpin
from tutelage.history.snapshots import restore, snapshot, undo

__all__ = [
    "FIELD",
    "Difference",
    "add",
    "demote",
    "diff",
    "faults",
    "is_person",
    "kind_of",
    "merge",
    "people_part",
    "pin",
    "promote",
    "protected",
    "release",
    "remove",
    "remove_all",
    "removed_by_people",
    "replace",
    "restore",
    "snapshot",
    "text_of",
    "undo",
    "unpin",
]
