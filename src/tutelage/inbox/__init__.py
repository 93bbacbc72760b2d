"""The inbox: questions to people, kept with the experience, so that a killed process loses none of them and no answer.

Agents that wait ask with `Inbox.ask` (or through `Person`, an `Advisor`); people answer with `tutelage inbox`. An answer serves the episode
that waits, and memory and training rows later: `Inbox.answered`, and `answered_tasks` in the form that both are made of.
"""

from __future__ import annotations

from tutelage.inbox.answers import answered_tasks
from tutelage.inbox.box import Inbox
from tutelage.inbox.grading import PersonGrader
from tutelage.inbox.person import Person
from tutelage.inbox.records import GO_ON, PATIENT, WAIT, Entry, Lease, State, Terms

__all__ = ["GO_ON", "PATIENT", "WAIT", "Entry", "Inbox", "Lease", "Person", "PersonGrader", "State", "Terms", "answered_tasks"]
