"""`tutelage inbox watch`: a person answers one question after the other."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import sleep

from rich.console import Console

from tutelage.commands.inbox import PREFIX, Place, answers_to, expert, forgive_input, open_inboxes, print_question, what_became
from tutelage.commands.knowledge import edit_text
from tutelage.commands.knowledge_view import safe
from tutelage.errors import InputError, StoreError
from tutelage.inbox import Inbox, Lease

PAUSE = 1.0
"""Seconds between two looks while nothing waits."""
LONGEST = 6000
"""Characters of the context that are shown."""

HELP = """A line is the answer. Or: /edit writes a longer one in $EDITOR, /skip leaves it to others,
/decline [WHY] closes it without an answer, /show prints it again, /quit ends. //TEXT answers /TEXT."""


def watch_inbox(run: str | None, *, by: str | None, minutes: float, until_empty: bool) -> None:
    """Take questions in hand one by one until Ctrl-C, /quit, the end of the input, or, if so wished, until nothing waits."""
    with open_inboxes(run) as places:
        if not places and not until_empty:
            raise InputError("no run in ./runs has asked anything yet; name the run to watch: tutelage inbox watch RUN", field="RUN")
        forgive_input()
        session = _Session(places, expert(by), minutes, until_empty)
        try:
            session.run()
        except (KeyboardInterrupt, EOFError):
            print()
        finally:
            session.give_back()
        print(f"{session.answered} answered")


@dataclass
class _Session:
    """What one person does at one terminal."""

    places: list[Place]
    by: str
    minutes: float
    until_empty: bool
    answered: int = 0
    skipped: list[str] = field(default_factory=list)
    console: Console = field(default_factory=Console)
    _secret: str = field(default_factory=lambda: secrets.token_hex(8))
    _told_empty: bool = False

    def run(self) -> None:
        """Until the person ends it."""
        print(HELP)
        going = True
        while going:
            taken = self._next()
            if taken is not None:
                self._told_empty = False
                with _in_hand(*taken, self.minutes) as lease:
                    going = self._one(taken[0], lease)
            elif self.until_empty:
                return
            else:
                self._wait()

    def _next(self) -> tuple[Inbox, Lease] | None:
        for place in self.places:
            if lease := place.inbox.claim(self.by, self.minutes, passed_over=self.skipped, session=self._secret):
                return place.inbox, lease
        return None

    def give_back(self) -> None:
        """Whatever is in hand: Ctrl-C may have come just when a question was taken."""
        for place in self.places:
            place.inbox.release_all(self._secret)

    def _wait(self) -> None:
        if not self._told_empty:
            print("nothing waits; the next question will be shown here. Ctrl-C ends", flush=True)
            self._told_empty = True
        sleep(PAUSE)

    def _one(self, inbox: Inbox, lease: Lease) -> bool:
        """Show the question and do what the person says; False ends the session."""
        print()
        print_question(self.console, lease.entry, LONGEST)
        while True:
            line = input("> ").strip()
            try:
                going = self._obey(inbox, lease, line)
            except InputError as refused:
                print(safe(refused.message))
                if inbox.renew(lease, self.minutes) is None:  # it is out of our hands: somebody else answered, or has it
                    return True
                continue
            if going is not None:
                return going

    def _obey(self, inbox: Inbox, lease: Lease, line: str) -> bool | None:
        """Whether to go on with the next question; None: this one stands."""
        word, _, rest = line.partition(" ")
        if line.startswith("//"):
            return self._answer(inbox, lease, line[1:])
        if word == "/edit":
            return self._answer(inbox, lease, edit_text(rest, ".txt"))
        if word == "/skip":
            self.skipped.append(lease.entry.id)
            return True
        if word == "/decline":
            inbox.decline(lease.entry.id, by=self.by, why=rest, lease=lease)
            print(f"declined {lease.entry.id[:PREFIX]}")
            return True
        if word == "/show":
            print_question(self.console, lease.entry)
            return None
        if word == "/quit":
            return False
        if word.startswith("/") or not line:
            wanted = answers_to(lease.entry.question)
            print(HELP + (f"\nanswer with: {safe(wanted)}" if wanted else ""))
            return None
        return self._answer(inbox, lease, line)

    def _answer(self, inbox: Inbox, lease: Lease, text: str) -> bool:
        kept = inbox.answer(lease.entry.id, text, by=self.by, lease=lease)
        self.answered += 1
        print(what_became(kept), flush=True)
        return True


@contextmanager
def _in_hand(inbox: Inbox, lease: Lease, minutes: float) -> Iterator[Lease]:
    """The lease is renewed while the person thinks, and given back however this ends."""
    ended = threading.Event()

    def renew() -> None:
        with suppress(StoreError):  # whatever the person does next says so again
            while not ended.wait(minutes * 60 / 3) and inbox.renew(lease, minutes):
                pass

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        inbox.release(lease)
