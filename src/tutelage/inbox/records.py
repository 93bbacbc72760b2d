"""What the inbox holds: a question with its terms, who has it in hand, and what came of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field, field_validator

from tutelage.advice import Advice, Question
from tutelage.errors import InputError
from tutelage.records import Record

GO_ON = "go_on"
WAIT = "wait"


class Terms(Record):
    """How a question is put.

    price: what an answer costs the episode, in units of reward. price_usd: what the person is paid, in US dollars. seconds: how long the
    agent waits (None: without end). fallback: what it does when the time is up: `go_on` without, `wait` all the same, or the name of
    another expert, who is asked then. A question that is declined goes to the other expert at once, or the agent goes on.
    """

    price: float = Field(default=0.0, allow_inf_nan=False)
    price_usd: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    fallback: str = GO_ON

    @field_validator("fallback")
    @classmethod
    def _not_empty(cls, name: str) -> str:
        if not name.strip():
            raise InputError(f"say `{GO_ON}`, `{WAIT}`, or the name of another expert", field="fallback")
        return name


PATIENT = Terms()
"""Costs nothing, and the agent waits without end."""


class State(StrEnum):
    """What became of a question."""

    OPEN = "open"
    """It waits for an answer."""
    ANSWERED = "answered"
    """It was answered while the agent could use the answer."""
    DECLINED = "declined"
    """An expert said that nobody should answer."""
    LAPSED = "lapsed"
    """The time was up and the agent did without. An answer may still be kept, and is late."""


class Entry(Record):
    """A question in the inbox. answer: the one there is, late or not. late: the agent had done without by then. taken: when the answer was
    taken over, and charged. closed_by, closed_why: of a question that was declined.
    """

    number: int
    id: str
    question: Question
    terms: Terms
    state: State
    asked: datetime
    deadline: datetime | None = None
    leased_by: str = ""
    leased_until: datetime | None = None
    answer: Advice | None = None
    late: bool = False
    taken: datetime | None = None
    closed_by: str = ""
    closed_why: str = ""

    def holder(self, now: datetime) -> str:
        """Who has the question in hand; "" where nobody has, or the lease has run out."""
        return self.leased_by if self.leased_until is not None and self.leased_until > now else ""


class Lease(Record):
    """One expert has one question in hand until then. token: makes two sessions of one person two experts."""

    entry: Entry
    by: str
    token: str
    until: datetime
