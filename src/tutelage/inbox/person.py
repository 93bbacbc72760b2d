"""A person as an advisor, through the inbox."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.advice import Advice, Advisor, Question
from tutelage.errors import InputError
from tutelage.inbox.box import Inbox
from tutelage.inbox.records import GO_ON, PATIENT, WAIT, Terms


class Person:
    """An expert who answers in the inbox.

    to: who is asked, by the name under which that person answers; "": whoever is there. others: the experts that `terms.fallback` may name,
    asked when this one declines or the time is up; another `Person` may be one of them.
    """

    def __init__(self, inbox: Inbox, terms: Terms = PATIENT, *, to: str = "", others: Mapping[str, Advisor] | None = None) -> None:
        self.inbox, self.terms, self.to = inbox, terms, to
        self._others = dict(others or {})
        if terms.fallback not in (GO_ON, WAIT, *self._others):
            known = ", ".join((GO_ON, WAIT, *self._others))
            raise InputError(f"no expert is called `{terms.fallback}`. Known: {known}", field="fallback")

    @property
    def name(self) -> str:
        """`person`, or `person:` and the name."""
        return f"person:{self.to}" if self.to else "person"

    @property
    def price(self) -> float:
        """Units of reward for an answer."""
        return self.terms.price

    async def ask(self, question: Question) -> Advice | None:
        """Wait for the person's answer as the terms say, then do what they say where none came."""
        advice = await self.inbox.ask(question.model_copy(update={"to": self.to}), self.terms)
        if advice is not None or self.terms.fallback not in self._others:
            return advice
        return await self._others[self.terms.fallback].ask(question)
