"""The inbox's rows: how they are chosen, and how they become records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Row, Select, case, or_, select

from tutelage.advice import Advice, Question
from tutelage.errors import StoreError
from tutelage.experience.tables import inbox_answers as answers
from tutelage.experience.tables import inbox_charges as charges
from tutelage.experience.tables import inbox_questions as questions
from tutelage.inbox.records import Entry, State, Terms


def entries() -> Select[Any]:
    """Every question with its answer and charge, where there are such."""
    told = (answers.c.answer, answers.c.note, answers.c.who, answers.c.late, answers.c.created_at.label("answered_at"))
    paid = (charges.c.price.label("paid"), charges.c.price_usd.label("paid_usd"), charges.c.created_at.label("taken_at"))
    joined = questions.outerjoin(answers, answers.c.question_id == questions.c.id).outerjoin(
        charges, charges.c.question_id == questions.c.id
    )
    return select(questions, *told, *paid).select_from(joined)


def free(by: str, now: str) -> list[ColumnElement[bool]]:
    """The conditions of a question that this expert may take in hand."""
    unleased = or_(questions.c.leased_until.is_(None), questions.c.leased_until <= now)
    return [questions.c.state == State.OPEN.value, unleased, questions.c.addressee.in_(["", by])]


def next_free(by: str, now: str, passed_over: list[str]) -> Select[Any]:
    """The number of the question to take next: the oldest that somebody still waits for, then those whose time is up.

    Its row is locked where the database locks rows (SQLite lets one writer in at a time), and rows that others have locked are passed over.
    """
    overdue = case((questions.c.deadline_at <= now, 1), else_=0)
    chosen = select(questions.c.number).where(*free(by, now), questions.c.id.not_in(passed_over))
    return chosen.order_by(overdue, questions.c.number).limit(1).with_for_update(skip_locked=True)


def to_entry(row: Row[Any], place: str) -> Entry:
    """The record that a row of `entries` holds."""
    return Entry(
        number=row.number,
        id=row.id,
        question=_question(row.body, place),
        terms=Terms(price=row.price, price_usd=row.price_usd, seconds=row.seconds, fallback=row.fallback),
        state=State(row.state),
        asked=datetime.fromisoformat(row.created_at),
        deadline=_when(row.deadline_at),
        leased_by=row.leased_by,
        leased_until=_when(row.leased_until),
        answer=_advice(row),
        late=bool(row.late),
        taken=_when(row.taken_at),
        closed_by=row.closed_by,
        closed_why=row.closed_why,
    )


def _advice(row: Row[Any]) -> Advice | None:
    """The answer at the price that was charged, or else at the one that stands."""
    if row.answer is None:
        return None
    charged = row.taken_at is not None
    return Advice(
        question_id=row.id,
        answer=row.answer,
        by=f"person:{row.who}",
        when=datetime.fromisoformat(row.answered_at),
        note=row.note,
        price=row.paid if charged else row.price,
        price_usd=row.paid_usd if charged else row.price_usd,
    )


def _question(body: str, place: str) -> Question:
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        raise StoreError(f"{place}: a stored question cannot be read by this version of tutelage: {error}") from None


def _when(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
