"""The inbox itself. Every method is one transaction: what it reports survives the death of the process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from sqlalchemy import Select, func, insert, select, update

from tutelage.advice import Advice, Kind, Question, read_answer
from tutelage.errors import InputError
from tutelage.experience.database import Database
from tutelage.experience.store import to_json
from tutelage.experience.tables import inbox_answers as answers
from tutelage.experience.tables import inbox_charges as charges
from tutelage.experience.tables import inbox_questions as questions
from tutelage.inbox.queries import entries, next_free, to_entry
from tutelage.inbox.records import PATIENT, WAIT, Entry, Lease, State, Terms

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at a question that waits: they grow by half each time. A person is slower than that."""

LEASE_MINUTES = 10.0
_NOBODY: dict[str, Any] = {"lease": "", "leased_by": "", "leased_until": None}


class Inbox:
    """Questions that wait for people, and their answers.

    place: the file or URL of a store, or an open `Database`. Several processes, threads and tasks may ask and answer at once; each process
    opens the inbox itself. clock: the time now, with its time zone; where several machines share a store, their clocks should agree to
    within a fraction of a lease. Raises `StoreError` where the store cannot be written or read.
    """

    def __init__(self, place: str | Path | Database, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = place if isinstance(place, Database) else Database(place)
        self.name = self._database.name
        self._clock = clock

    def close(self) -> None:
        """Close the store's connection; every method raises `StoreError` afterwards."""
        self._database.close()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- asking

    async def ask(self, question: Question, terms: Terms = PATIENT) -> Advice | None:
        """Put the question, wait, take the answer over, and be charged for it, once.

        None where it was declined, and where the time is up. For advice that is settled then: the agent does without, a later answer is
        kept but not used, and asking again gives None at once, so that a repeated episode goes the same way. A grade or a preference stays
        open, and asking again takes the answer that came meanwhile. Cancelled, or killed: the question stays, and asking again goes on
        waiting, from now on.
        """
        state = self.put(question, terms).state
        waits = terms.seconds is not None and terms.fallback != WAIT
        until = monotonic() + (terms.seconds or 0.0) if waits else float("inf")
        pause = FIRST_PAUSE
        while state is State.OPEN and (left := until - monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)
            state = self._state(question.id)
        return self._settle(question.id)

    def put(self, question: Question, terms: Terms = PATIENT) -> Entry:
        """Lay a question in the inbox. One that is there is not laid in again; while it is open, the newest terms hold."""
        now = self._clock()
        deadline = None if terms.seconds is None else _text(now + timedelta(seconds=min(terms.seconds, 1e9)))
        asked = {**terms.model_dump(), "deadline_at": deadline}
        with self._database.writing():
            self._database.execute(self._insert(question, {**asked, "created_at": _text(now)}))
            still_open = (questions.c.id == question.id) & (questions.c.state == State.OPEN.value)
            self._database.execute(update(questions).where(still_open).values(**asked))
            return self._locked(question.id)

    def _insert(self, question: Question, values: dict[str, Any]) -> Any:
        own = {"id": question.id, "kind": question.kind, "task_id": question.task_id, "addressee": question.to, "body": to_json(question)}
        unset = {"state": State.OPEN.value, **_NOBODY, "closed_by": "", "closed_why": ""}
        return self._database.insert(questions).values(**own, **unset, **values).on_conflict_do_nothing()

    def _state(self, question_id: str) -> State:
        ((state,),) = self._database.rows(select(questions.c.state).where(questions.c.id == question_id))
        return State(state)

    def _settle(self, question_id: str) -> Advice | None:
        """Take the answer over, or have done without it."""
        with self._database.writing():
            entry = self._locked(question_id)
            if entry.state is State.ANSWERED:
                return entry.answer if entry.taken else self._charge(entry)
            if entry.state is State.OPEN and entry.question.kind == "advice":
                self._change(question_id, state=State.LAPSED.value)
            return None

    def _charge(self, entry: Entry) -> Advice | None:
        now = _text(self._clock())
        values = {"question_id": entry.id, "price": entry.terms.price, "price_usd": entry.terms.price_usd, "created_at": now}
        self._database.execute(insert(charges).values(**values))
        return entry.answer

    # -- answering

    def claim(
        self, by: str, minutes: float = LEASE_MINUTES, *, passed_over: Sequence[str] = (), session: str | None = None
    ) -> Lease | None:
        """Take the next question in hand, so that nobody else answers it for so long; None where nothing waits for this expert.

        Questions to an expert by name come to that expert alone. passed_over: ids that are not wanted. session: a secret of the caller,
        with which `release_all` gives back whatever it has in hand.
        """
        _check_expert(by, minutes)
        with self._database.writing():
            rows = self._database.execute(next_free(by, _text(self._clock()), list(passed_over)))
            if not rows:
                return None
            entry = self._one(entries().where(questions.c.number == rows[0].number))
            lease = Lease(entry=entry, by=by, token=session or secrets.token_hex(8), until=self._clock() + timedelta(minutes=minutes))
            self._change(entry.id, lease=lease.token, leased_by=by, leased_until=_text(lease.until))
            return lease

    def renew(self, lease: Lease, minutes: float = LEASE_MINUTES) -> Lease | None:
        """Keep the question in hand from now on for so long; None where it is not this lease's any more."""
        until = self._clock() + timedelta(minutes=minutes)
        return lease.model_copy(update={"until": until}) if self._change_leased(lease, leased_until=_text(until)) else None

    def release(self, lease: Lease) -> None:
        """Give the question back; somebody else's lease of it stays."""
        self._change_leased(lease, **_NOBODY)

    def release_all(self, session: str) -> None:
        """Give back whatever was taken in hand under this session."""
        with self._database.writing():
            self._database.execute(update(questions).where(questions.c.lease == session).values(**_NOBODY))

    def _change_leased(self, leased: Lease, **values: Any) -> bool:
        own = (questions.c.id == leased.entry.id) & (questions.c.lease == leased.token)
        with self._database.writing():
            return bool(self._database.execute(update(questions).where(own).values(**values).returning(questions.c.number)))

    def answer(self, question_id: str, answer: str, *, by: str, note: str = "", lease: Lease | None = None) -> Entry:
        """Keep an answer, with who gave it and when. It is late where the agent has done without meanwhile.

        The same answer by the same person once more changes nothing. Raises `InputError` for an answer that the question does not allow,
        for a question that has an answer, and for one that another expert has in hand.
        """
        _check_expert(by)
        with self._database.writing():
            entry = self._locked(question_id)
            said = read_answer(entry.question, answer)
            if entry.answer is not None:
                _refuse_another(entry.answer, said, by)
                return entry
            self._refuse_held(entry, by, lease)
            late = entry.state is not State.OPEN
            values = {"question_id": entry.id, "answer": said, "note": note.replace("\x00", "").strip(), "who": by, "late": late}
            self._database.execute(insert(answers).values(**values, created_at=_text(self._clock())))
            state = entry.state if late else State.ANSWERED
            self._change(entry.id, state=state.value, **_NOBODY)
            return self._one(entries().where(questions.c.id == entry.id))

    def decline(self, question_id: str, *, by: str, why: str = "", lease: Lease | None = None) -> Entry:
        """Say that nobody should answer: whoever waits goes on without, or asks another expert. Raises `InputError` as `answer` does."""
        _check_expert(by)
        with self._database.writing():
            entry = self._locked(question_id)
            if entry.state is not State.OPEN:
                raise InputError(f"the question is {entry.state} already; there is nothing to decline", field="ID")
            self._refuse_held(entry, by, lease)
            closed = {"closed_by": by, "closed_why": why.replace("\x00", "").strip()}
            self._change(entry.id, state=State.DECLINED.value, **closed, **_NOBODY)
            return self._one(entries().where(questions.c.id == entry.id))

    def _refuse_held(self, entry: Entry, by: str, lease: Lease | None) -> None:
        """Another session has it in hand. Without a lease, one's own other session does not count."""
        row = self._database.execute(select(questions.c.lease).where(questions.c.id == entry.id))[0]
        holder = entry.holder(self._clock())
        mine = row.lease == lease.token if lease is not None else holder == by
        if holder and not mine:
            until = entry.leased_until.astimezone().strftime("%H:%M:%S") if entry.leased_until else ""
            raise InputError(f"{holder} has this question in hand until {until}; take another, or try again then", field="ID")

    # -- reading

    def entry(self, question_id: str) -> Entry:
        """The question of that id. Raises `InputError` where there is none."""
        return self._found(self._database.rows(entries().where(questions.c.id == question_id)), question_id)

    def find(self, prefix: str) -> list[Entry]:
        """The questions whose id begins so, in the order of asking."""
        return self._read(entries().where(questions.c.id.startswith(prefix, autoescape=True)))

    def entries(self, state: State | None = None) -> list[Entry]:
        """All questions, or those of one state, in the order of asking."""
        return self._read(entries().where(questions.c.state == state.value) if state else entries())

    def answered(self, *, kind: Kind | None = None, task_id: str | None = None, late: bool = True) -> Iterator[Entry]:
        """Every question that has an answer, in the order of the answers: for memory and training rows. late: with those of no use then."""
        query = entries().where(answers.c.id.is_not(None)).order_by(answers.c.id)
        if kind is not None:
            query = query.where(questions.c.kind == kind)
        if task_id is not None:
            query = query.where(questions.c.task_id == task_id)
        if not late:
            query = query.where(answers.c.late.is_(False))
        return (to_entry(row, self.name) for row in self._database.rows(query))

    def charged(self) -> tuple[float, float]:
        """What has been charged so far: units of reward, and US dollars."""
        sums = (func.coalesce(func.sum(column), 0.0) for column in (charges.c.price, charges.c.price_usd))
        price, usd = list(self._database.rows(select(*sums))[0])
        return float(price), float(usd)

    def _read(self, query: Select[Any]) -> list[Entry]:
        return [to_entry(row, self.name) for row in self._database.rows(query.order_by(questions.c.number))]

    # -- within a transaction

    def _locked(self, question_id: str) -> Entry:
        """The question, which nobody else changes until the transaction ends."""
        self._database.execute(select(questions.c.number).where(questions.c.id == question_id).with_for_update())
        return self._one(entries().where(questions.c.id == question_id), question_id)

    def _one(self, query: Select[Any], question_id: str = "") -> Entry:
        return self._found(self._database.execute(query), question_id)

    def _found(self, rows: Sequence[Any], question_id: str) -> Entry:
        if not rows:
            raise InputError(f"no question has the id `{question_id}`; `tutelage inbox list` shows the ids", field="ID")
        return to_entry(rows[0], self.name)

    def _change(self, question_id: str, **values: Any) -> None:
        self._database.execute(update(questions).where(questions.c.id == question_id).values(**values))


def _refuse_another(kept: Advice, said: str, by: str) -> None:
    if (kept.answer, kept.by) != (said, f"person:{by}"):
        when = kept.when.astimezone().strftime("%Y-%m-%d %H:%M")
        raise InputError(f"{kept.by.removeprefix('person:')} answered this on {when}; that answer stands, nothing was changed", field="ID")


def _check_expert(by: str, minutes: float = LEASE_MINUTES) -> None:
    if not by.strip():
        raise InputError("say who answers: the name is kept with the answer", field="by")
    if not 0 < minutes < 1e6:
        raise InputError(f"is a number of minutes above 0, and this is {minutes}", field="minutes")


def _text(when: datetime) -> str:
    """All times alike, so that they compare as texts."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")
