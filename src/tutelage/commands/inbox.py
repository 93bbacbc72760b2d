"""Reading and answering the questions that agents put to people."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tutelage.advice import PREFERENCES, Advice, Question
from tutelage.commands.knowledge import edit_text, person
from tutelage.commands.knowledge_view import safe
from tutelage.errors import InputError
from tutelage.inbox import GO_ON, WAIT, Entry, Inbox, State

PREFIX = 8
"""Characters of an id that are shown."""
SHOWN = 100
"""Characters of a question that a table shows."""
STORE = "experience.sqlite"


@dataclass(frozen=True)
class Place:
    """An inbox and what the person calls it."""

    name: str
    inbox: Inbox


@contextmanager
def open_inboxes(run: str | None) -> Iterator[list[Place]]:
    """The inbox that `run` names, or those of all runs in ./runs that have asked anything. Raises `InputError` where there is none."""
    names = [run] if run is not None else [str(path.parent) for path in sorted(Path("runs").glob(f"*/{STORE}")) if _was_asked(path)]
    places: list[Place] = []
    try:
        for name in names:
            inbox = Inbox(_store(name))
            places.append(Place(inbox.name if "://" in name else name, inbox))  # an inbox's own name hides a password
        yield places
    finally:
        for place in places:
            place.inbox.close()


def _store(run: str) -> str:
    if "://" in run:
        return run
    path = Path(run) / STORE if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"there is no run (no {path}); give the folder that `tutelage run` wrote", field="RUN")
    return str(path)


def _was_asked(path: Path) -> bool:
    """Looked up without opening it as a store, which would bring an older one up to date."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as raw:
            return raw.execute("SELECT 1 FROM inbox_questions LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


def expert(name: str | None) -> str:
    """Who answers: the name that was given, or the system's user."""
    return person(name).removeprefix("person:")


def forgive_input() -> None:
    """Bytes that are no text do not end a session."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


# -- reading


def list_questions(run: str | None, *, all_: bool, as_json: bool) -> None:
    """Print what waits, or everything, one table for each run."""
    now = datetime.now(UTC)
    shown = 0
    with open_inboxes(run) as places:
        for place in places:
            found = place.inbox.entries(None if all_ else State.OPEN)
            shown += len(found)
            if as_json:
                for entry in found:
                    print(json.dumps({"run": place.name, **entry.model_dump(mode="json")}, ensure_ascii=False))
            elif found:
                _print_table(place.name if run is None else "", found, now)
    if not shown and not as_json:
        print("nothing waits" if run is not None else "nothing waits in ./runs; name another place: tutelage inbox list RUN")


def _print_table(name: str, entries: Sequence[Entry], now: datetime) -> None:
    """Columns in which nothing stands are left out, so that the questions have room."""
    cells = {
        "id": [entry.id[:PREFIX] for entry in entries],
        "kind": ["" if entry.question.kind == "advice" else entry.question.kind for entry in entries],
        "asked": [duration((now - entry.asked).total_seconds()) for entry in entries],
        "left": [_left(entry, now) for entry in entries],
        "price": [_price(entry) for entry in entries],
        "who": [_who(entry, now) for entry in entries],
        "question": [one_line(entry.question.text) for entry in entries],
    }
    shown = {title: column for title, column in cells.items() if any(column)}
    columns = (Column(title, ratio=1, overflow="fold") if title == "question" else Column(title, max_width=18) for title in shown)
    table = Table(*columns, box=None, pad_edge=False, expand=True)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*(Text(safe(cell)) for cell in row))
    console = Console()
    if name:
        console.print(Text(safe(name), style="bold"))
    console.print(table)


def show_question(prefix: str, run: str | None) -> None:
    """Print one question whole."""
    with chosen(prefix, run) as (_, entry):
        print_question(Console(), entry)


def print_question(console: Console, entry: Entry, longest: int | None = None) -> None:
    """Words that others wrote stand behind a bar, so that they cannot be taken for ours. longest: characters of the context shown."""
    now = datetime.now(UTC)
    question = entry.question
    facts = [f"{question.kind} {entry.id}", _state(entry, now) or State.OPEN, f"asked {_moment(entry.asked)}"]
    asker = [f"agent {question.agent_version}" if question.agent_version else "", f"task {question.task_id}" if question.task_id else ""]
    console.print(Text(safe(", ".join([*facts, *filter(None, asker)])), style="bold"))
    console.print(Text(safe("; ".join(_terms(entry)))))
    if question.context:
        quote(console, "what the agent shows", question.context, longest)
    quote(console, "question", question.text)
    if wanted := answers_to(question):
        console.print(Text(safe(f"answer with: {wanted}")))
    if entry.answer is not None:
        _print_answer(console, entry, entry.answer)
    if entry.state is State.DECLINED:
        quote(console, f"declined by {entry.closed_by}", entry.closed_why or "(no reason given)")


def _print_answer(console: Console, entry: Entry, answer: Advice) -> None:
    late = ", too late for the agent" if entry.late else ", taken over" if entry.taken else ", not taken over yet"
    quote(console, f"answer of {answer.by}, {_moment(answer.when)}{late}", answer.answer)
    if answer.note:
        quote(console, "note", answer.note)


def quote(console: Console, title: str, text: str, longest: int | None = None) -> None:
    """A text that others wrote: no control characters, no markup, a bar before each line."""
    if longest is not None and len(text) > longest:
        half, left = longest // 2, len(text) - longest
        text = f"{text[:half]}\n[... {left} characters left out: tutelage inbox show has them ...]\n{text[-half:]}"
    console.print(Text(f"{safe(title)}:"))
    for line in safe(text.replace("\r\n", "\n")).split("\n"):
        for part in Text(line).wrap(console, max(console.width - 2, 10)) or [Text("")]:
            part.rstrip()
            console.print(Text("| ").append_text(part), soft_wrap=True)


def answers_to(question: Question) -> str:
    """What may be answered; "" where any words may."""
    if question.kind == "grade" and not question.choices:
        return "right, wrong, or a number from 0 to 1"
    return ", ".join(question.choices or (PREFERENCES if question.kind == "preference" else ()))


def _terms(entry: Entry) -> list[str]:
    to = f"for {entry.question.to}" if entry.question.to else ""
    return [part for part in (to, f"price {_price(entry) or 'none'}", _waits(entry)) if part]


def _waits(entry: Entry) -> str:
    if entry.state is not State.OPEN:
        return "nobody waits for it any more"
    if entry.question.kind != "advice":
        return "no time limit" if entry.deadline is None else f"wanted by {_moment(entry.deadline)}"
    if entry.deadline is None:
        return "the agent waits without end"
    fallback = {GO_ON: "then goes on without", WAIT: "and goes on waiting then"}
    return f"the agent waits until {_moment(entry.deadline)}, {fallback.get(entry.terms.fallback, f'then asks {entry.terms.fallback}')}"


def _state(entry: Entry, now: datetime) -> str:
    """What became of it, or who has it in hand; empty for what simply waits."""
    if entry.state is not State.OPEN:
        return f"{entry.state}, late answer" if entry.late else str(entry.state)
    holder = entry.holder(now)
    return f"{holder} has it" if holder else ""


def _who(entry: Entry, now: datetime) -> str:
    return _state(entry, now) or (f"for {entry.question.to}" if entry.question.to else "")


def _left(entry: Entry, now: datetime) -> str:
    if entry.deadline is None or entry.state is not State.OPEN:
        return ""
    left = (entry.deadline - now).total_seconds()
    return duration(left) if left > 0 else "overdue"


def _price(entry: Entry) -> str:
    price = f"{entry.terms.price:g}" if entry.terms.price else ""
    usd = f"${entry.terms.price_usd:g}" if entry.terms.price_usd else ""
    return " + ".join(filter(None, (price, usd)))


def duration(seconds: float) -> str:
    """A length of time in the unit that fits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _moment(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def one_line(text: str) -> str:
    """A text on one line, shortened."""
    line = " ".join(safe(text).split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


# -- answering


@contextmanager
def chosen(prefix: str, run: str | None) -> Iterator[tuple[Inbox, Entry]]:
    """The one question whose id begins so. Raises `InputError` where there is none or several."""
    with open_inboxes(run) as places:
        found = [(place.inbox, entry) for place in places for entry in place.inbox.find(prefix)] if prefix else []
        exact = [pair for pair in found if pair[1].id == prefix]
        if not found:
            where = run if run is not None else "./runs; if it is elsewhere, say --run RUN"
            raise InputError(f"no question's id begins with `{safe(prefix)}` in {where}. `tutelage inbox list` shows the ids", field="ID")
        if len(found) > 1 and len(exact) != 1:
            ids = ", ".join(sorted({entry.id for _, entry in found})[:5])
            raise InputError(f"`{prefix}` begins several ids: {ids}. Write more of it, or name the run with --run", field="ID")
        yield (exact or found)[0]


def answer_question(prefix: str, text: str | None, run: str | None, *, by: str | None, note: str) -> None:
    """Keep an answer, and say what becomes of it."""
    with chosen(prefix, run) as (inbox, entry):
        said = text if text is not None else _typed(entry)
        print(what_became(inbox.answer(entry.id, said, by=expert(by), note=note)))


def _typed(entry: Entry) -> str:
    """An answer from standard input, or out of the editor where that is a terminal."""
    if not sys.stdin.isatty():
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as broken:
            raise InputError(f"standard input is not UTF-8 text: {broken.reason}", field="TEXT") from None
    print_question(Console(), entry)
    return edit_text("", ".txt")


def what_became(entry: Entry) -> str:
    """One line on an answer that was kept."""
    if entry.late:
        return f"kept {entry.id[:PREFIX]}, too late for the agent, which has done without it; memory and training can still use it"
    return f"answered {entry.id[:PREFIX]}: {one_line(entry.answer.answer) if entry.answer else ''}"


def decline_question(prefix: str, run: str | None, *, by: str | None, note: str) -> None:
    """Close a question without an answer."""
    with chosen(prefix, run) as (inbox, entry):
        inbox.decline(entry.id, by=expert(by), why=note)
        print(f"declined {entry.id[:PREFIX]}")
