"""The four operations on a list of insights: reading them out of a model's reply, and applying them. Both are pure functions.

Source: ExpeL (Zhao et al. 2023, arXiv:2308.10144), section on insight extraction. A new insight starts at importance 2; AGREE and EDIT add
1, REMOVE takes 1 away (3 where the list is full: cap + 5 or more); at 0 it is dropped; the list is sorted by importance. They are applied
in the order REMOVE, AGREE, EDIT, ADD. Different from it: a list of cap + 5 takes in nothing more, so that it is bounded; one reply
touches an insight once; and what was done with each operation, or why nothing was, comes back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tutelage.knowledge import Insight
from tutelage.screening import words

Kind = Literal["agree", "remove", "edit", "add"]
Done = Literal["agreed", "demoted", "removed", "edited", "added"]

ORDER: tuple[Kind, ...] = ("remove", "agree", "edit", "add")
"""The order of application, whatever the order in the reply."""
MAX_OPERATIONS = 4
"""So many of a reply are read; further ones are dropped."""
SLACK = 5
"""A list is full when it is so much longer than its cap."""
NEW_COUNT = 2
"""The importance of a new insight."""
MIN_WORDS = 3
"""Behind a rule of so many words or more, a REMOVE or AGREE may say further ones."""
MAX_CHARS = 800
"""A longer text is no rule: the operation is malformed."""


@dataclass(frozen=True)
class Operation:
    """One line of a reply. number: from 1, as the list was shown (None: an ADD without one). text: of the rule, or the new one."""

    kind: Kind
    number: int | None
    text: str


@dataclass(frozen=True)
class Reading:
    """What a reply holds. malformed: lines that begin like an operation and are none. dropped: operations beyond the fourth, and further
    ones on the same rule.
    """

    operations: tuple[Operation, ...] = ()
    malformed: tuple[str, ...] = ()
    dropped: tuple[Operation, ...] = ()


def parse_operations(text: str) -> tuple[Operation, ...]:
    """The operations in a reply: the first four, one a rule. Any text can be read; see `read_operations` for what was passed over."""
    return read_operations(text).operations


def read_operations(text: str) -> Reading:
    """The operations in a reply, and what was passed over.

    A line each: `AGREE 2: text`, `REMOVE 2: text`, `EDIT 2: new text`, `ADD 5: new text` or `ADD: new text`, in any case, with bullets,
    numbering, bold, quotes or code marks around it; where nothing follows the colon, the next line is the text. Other lines are ignored,
    as are quotations (`>`) and what a model wrote while thinking (between `<think>` and `</think>`).
    """
    found: list[Operation] = []
    malformed: list[str] = []
    lines = text.rpartition("</think>")[2].partition("<think>")[0].splitlines()
    for place, line in enumerate(lines):
        head = _begin(line)
        if head is None:
            continue
        kind, rest = head
        operation = _operation(kind, rest, lines[place + 1] if place + 1 < len(lines) else "")
        if operation is not None:
            found.append(operation)
        elif _meant(line, kind, rest):
            malformed.append(line.strip()[:MAX_CHARS])
    kept, dropped = _one_a_rule(found)
    return Reading(tuple(kept), tuple(malformed), tuple(dropped))


_DECORATION = " \t#*+•\u2013\u2014-_`~\"'(["
_PLACE = re.compile(r"\(?\d{1,3}[.)]\s")
_KEYWORD = re.compile(r"(agree|remove|edit|add)\b(.*)", re.IGNORECASE)
_RULE = r"(?:(?:rule|insight|number|no)\b[^\w:\uff1a]{0,3})?"
_NUMBERED = re.compile(rf"[^\w:\uff1a]{{0,9}}{_RULE}(\d{{1,9}})\W{{0,3}}?(?:[:\uff1a]|[.)\]\u2013\u2014-](?=\s))", re.IGNORECASE)
_BARE = re.compile(r"\W{0,4}?[:\uff1a]")


def _begin(line: str) -> tuple[Kind, str] | None:
    """The keyword that the line begins with, and what follows it."""
    bare = line.strip().lstrip(_DECORATION)
    if place := _PLACE.match(bare):
        bare = bare[place.end() :].lstrip(_DECORATION)
    found = _KEYWORD.match(bare)
    if found is None:
        return None
    kind: Kind = found[1].lower()  # type: ignore[assignment]  # one of the four, by the pattern
    return kind, found[2]


def _operation(kind: Kind, rest: str, next_line: str) -> Operation | None:
    mark = _NUMBERED.match(rest) or (_BARE.match(rest) if kind == "add" else None)
    if mark is None:
        return None
    text = plain(rest[mark.end() :])
    if not text and _begin(next_line) is None:
        text = plain(next_line)
    if not words(text) or len(text) > MAX_CHARS:
        return None
    return Operation(kind, int(mark[1]) if mark.re is _NUMBERED else None, text)


def _meant(line: str, kind: Kind, rest: str) -> bool:
    """Whether a line that is no operation was meant as one: its keyword is in capitals, or a colon or a number follows."""
    return kind.upper() in line or re.match(r"\s*\d|\W{0,4}[:\uff1a]", rest) is not None


_IMPORTANCE = re.compile(r"\s*\(importance -?\d{1,9}[^()]{0,40}\)$")


def plain(text: str) -> str:
    """The text in one line, without marks around it and without the importance that the list shows beside a rule."""
    text = " ".join(text.split())
    for mark in ("**", "__", "`", '"'):
        if text.count(mark) % 2:  # one of a pair: the other stood before the keyword, or is missing
            text = text.removeprefix(mark) if text.startswith(mark) else text.removesuffix(mark)
    text = text.strip()
    for mark in ("**", "__", "*", "_", "`", '"'):
        inside = text[len(mark) : -len(mark)]
        if text.startswith(mark) and text.endswith(mark) and inside and mark not in inside:
            text = inside.strip()
    return _IMPORTANCE.sub("", text)


def _one_a_rule(operations: Iterable[Operation]) -> tuple[list[Operation], list[Operation]]:
    """At most four, and of several on one rule the first; the others."""
    kept: list[Operation] = []
    dropped: list[Operation] = []
    seen: set[int | str | None] = set()
    for operation in operations:
        rule = same(operation.text) if operation.kind == "add" else operation.number
        (dropped if rule in seen or len(kept) >= MAX_OPERATIONS else kept).append(operation)
        seen.add(rule)
    return kept, dropped


@dataclass(frozen=True)
class Outcome:
    """What became of one operation. done: None where nothing was done, and `why` says why. before, after: the insight (None: not there)."""

    operation: Operation
    done: Done | None = None
    before: Insight | None = None
    after: Insight | None = None
    why: str = ""


@dataclass(frozen=True)
class Applied:
    """The list after all operations, most important first, and what became of each of them, in the order of application."""

    insights: tuple[Insight, ...]
    outcomes: tuple[Outcome, ...]


def apply_operations(insights: Sequence[Insight], operations: Iterable[Operation], cap: int) -> tuple[Insight, ...]:
    """The list after all operations, most important first (equals as they stood).

    It is never longer than `cap + 5`, or than it was; every importance is above 0. Numbers are positions in `insights`, from 1.

    Which rule is meant: the one with the same words (case, punctuation, accents and blanks set aside), wherever it stands. A number alone
    is not enough; but a REMOVE or AGREE may say more behind the words of the rule of its number (a reason), where that has three words or
    more. EDIT goes by its number; one to the words of a rule that exists counts as AGREE with that rule. An ADD with the words of a rule
    that exists is dropped.
    """
    return work_out(insights, operations, cap).insights


def work_out(insights: Sequence[Insight], operations: Iterable[Operation], cap: int, *, kept: Collection[str] = ()) -> Applied:
    """As `apply_operations`, with what became of each operation. kept: ids of insights that may be agreed with and not else be changed."""
    rules, given = _Rules(insights, cap, kept), list(operations)
    outcomes = [rules.apply(operation) for kind in ORDER for operation in given if operation.kind == kind]
    return Applied(rules.sorted(), tuple(outcomes))


def same(text: str) -> str:
    """What is equal in two texts that are the same rule: their words."""
    return " ".join(words(text))


class _Rules:
    """The list while operations are applied: in the order as given, so that numbers hold; what fell to 0 is dropped at the end."""

    def __init__(self, insights: Sequence[Insight], cap: int, kept: Collection[str]) -> None:
        self._now, self._kept = list(insights), kept
        self._shown = len(self._now)
        self._words = [same(insight.text) for insight in self._now]
        self._most = cap + SLACK
        self._weight = 3 if len(self._now) >= self._most else 1
        self._touched: set[int] = set()

    def sorted(self) -> tuple[Insight, ...]:
        return tuple(sorted(self._left(), key=lambda insight: -insight.count))

    def apply(self, operation: Operation) -> Outcome:
        if operation.kind == "add":
            return self._add(operation)
        place = self._place(operation)
        if place is None:
            return Outcome(operation, why="no rule has these words" if operation.kind != "edit" else "there is no rule of this number")
        if place in self._touched:
            return Outcome(operation, before=self._now[place], why="another operation of the reply is on this rule")
        agrees = operation.kind == "agree" or self._words[place] == same(operation.text)
        if operation.kind == "remove":
            return self._change(operation, place, "demoted", {"count": self._now[place].count - self._weight})
        if agrees:
            return self._change(operation, place, "agreed", {"count": self._now[place].count + 1})
        return self._change(operation, place, "edited", {"count": self._now[place].count + 1, "text": operation.text})

    def _left(self) -> Iterator[Insight]:
        return (insight for insight in self._now if insight.count > 0 or insight.id in self._kept)

    def _place(self, operation: Operation) -> int | None:
        """Where the meant rule stands: by its words, the one of the number before others; an EDIT to other words by its number."""
        said = same(operation.text)
        numbered = operation.number - 1 if operation.number and 1 <= operation.number <= self._shown else None
        if numbered is not None and (self._words[numbered] == said or (operation.kind == "edit" and said not in self._words)):
            return numbered
        if said in self._words:
            return self._words.index(said)
        if numbered is None or operation.kind == "edit":
            return None
        rule = self._words[numbered]
        return numbered if rule.count(" ") >= MIN_WORDS - 1 and said.startswith(f"{rule} ") else None

    def _change(self, operation: Operation, place: int, done: Done, update: dict[str, object]) -> Outcome:
        before = self._now[place]
        if done != "agreed" and before.id in self._kept:
            return Outcome(operation, before=before, why="only a person may change this rule")
        self._touched.add(place)
        after = self._now[place] = before.model_copy(update=update)
        self._words[place] = same(after.text)
        if after.count <= 0:
            return Outcome(operation, "removed", before=before)
        return Outcome(operation, done, before=before, after=after)

    def _add(self, operation: Operation) -> Outcome:
        new = Insight(text=operation.text, count=NEW_COUNT)
        if same(operation.text) in self._words:
            return Outcome(operation, why="the rule is there already")
        if any(insight.id == new.id for insight in self._now):
            return Outcome(operation, why="these are the earlier words of a rule that was reworded")
        if sum(1 for _ in self._left()) >= self._most:
            return Outcome(operation, why="the list is full")
        self._now.append(new)
        self._words.append(same(new.text))
        return Outcome(operation, "added", after=new)
