"""Questions about a shop of three kinds: facts, searches, and reasoning that needs a hidden rule. Endless streams, without repeats."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from tutelage.environments.shop_catalogue import GROUPS, Column, Group, Row, Value
from tutelage.environments.shop_store import Law, Shop

KINDS = ("fact", "search", "reasoning")
_FACTS = ("What is the {label} of the {title}?", "Tell me the {label} of the {title}.", "I need to know the {label} of the {title}.")
_FLAGS = ("Does the {title} come with {label}?", "Is the {title} sold with {label}?", "Do I get {label} with the {title}?")
_SEARCHES = (
    "List every {noun} {conditions}.",
    "I want a {noun} {conditions}. Which do you have?",
    "Name all you have of: {noun} {conditions}.",
)
_TRIES = 1_000
"""Searches that are drawn for one that is new and has a fit answer."""
_MOST_FOUND = 6
_EMPTY_SHARE = 0.1
"""Share of searches that find nothing."""


@dataclass(frozen=True)
class Question:
    """A question with what it is graded by. short: the answer as it should be given. long: what an expert would say."""

    kind: str
    group: str
    text: str
    answer: dict[str, JsonValue]
    short: str
    long: str
    about: dict[str, JsonValue]


Flipped = Callable[[], bool]


def facts(shop: Shop, groups: Sequence[str], rng: random.Random) -> Iterator[Question]:
    """Each product's every column, worded in one way, then all again in the next."""
    pairs = [(group, row, column) for group in groups for row in shop.rows[group].values() for column in GROUPS[group].columns]
    rng.shuffle(pairs)
    first = rng.randrange(len(_FACTS))
    for wording in range(len(_FACTS)):
        for group, row, column in pairs:
            yield _fact(group, row, column, (first + wording + len(str(row["title"]))) % len(_FACTS))


def _fact(group: str, row: Row, column: Column, wording: int) -> Question:
    templates = _FLAGS if column.flag else _FACTS
    title, value = str(row["title"]), row[column.name]
    text = templates[wording].format(label=column.label, title=title)
    return Question(
        kind="fact",
        group=group,
        text=text,
        answer=_fact_answer(column, value),
        short=column.shown(value),
        long=_fact_words(column, title, value),
        about={"product": row["product_id"], "column": column.name},
    )


def _fact_answer(column: Column, value: Value) -> dict[str, JsonValue]:
    if column.flag:
        return {"type": "yes_no", "value": value}
    if column.numeric:
        return {"type": "number", "value": value, "unit": column.unit}
    return {"type": "choice", "value": value, "choices": list(column.values)}


def _fact_words(column: Column, title: str, value: Value) -> str:
    if column.flag:
        return f"{str(value).capitalize()}. The {title} comes {'with' if value == 'yes' else 'without'} {column.label}."
    return f"The {column.label} of the {title} is {column.shown(value)}."


def reasonings(shop: Shop, groups: Sequence[str], rng: random.Random, flipped: Flipped, contrary: float = 0.0) -> Iterator[Question]:
    """Every rule with every product; for each rule the answers yes and no take turns while there are both.

    contrary: so many of the rules, drawn by the shop's seed, are the opposite of what they would be.
    """
    bags = [_Bag(shop, group, rule.name, rng, contrary) for group in groups for rule in GROUPS[group].rules]
    while bags:
        rng.shuffle(bags)
        for bag in list(bags):
            question = bag.next(flipped())
            if question is None:
                bags.remove(bag)
            else:
                yield question


class _Bag:
    """The questions about one rule that are left, by whether the rule (as it was at first) holds."""

    def __init__(self, shop: Shop, group: str, rule: str, rng: random.Random, contrary: float) -> None:
        self.shop, self.group = shop, GROUPS[group]
        self.contrary = random.Random(f"{shop.seed}/{group}/{rule}/contrary").random() < contrary
        self.law = shop.law(group, rule)
        self.wanted = rng.random() < 0.5
        self.left: dict[bool, list[tuple[Row, str]]] = {True: [], False: []}
        rows, asks = list(shop.rows[group].values()), self.law.rule.asks
        for wording in range(len(asks)):
            rng.shuffle(rows)
            for row in rows:
                ask = asks[(wording + len(str(row["title"]))) % len(asks)]
                self.left[self.law.holds(row)].append((row, ask))
        for pairs in self.left.values():
            pairs.reverse()

    def next(self, flipped: bool) -> Question | None:
        """The next question; None where none is left."""
        wanted = self.wanted if self.left[self.wanted] else not self.wanted
        if not self.left[wanted]:
            return None
        self.wanted = not wanted
        row, ask = self.left[wanted].pop()
        law = Law(self.law.rule, self.law.threshold, flipped != self.contrary)
        return _reasoning(self.group, law, row, ask)


def _reasoning(group: Group, law: Law, row: Row, ask: str) -> Question:
    title, column = str(row["title"]), group.column(law.rule.column)
    said = "yes" if law.holds(row) else "no"
    seen = f"the {column.label} of the {title} is {column.shown(row[column.name])}"
    return Question(
        kind="reasoning",
        group=group.name,
        text=ask.format(title=title),
        answer={"type": "yes_no", "value": said},
        short=said,
        long=f"{said.capitalize()}. In this shop {law.words(group)}; {seen}.",
        about={"product": row["product_id"], "rule": law.rule.name, **({"flipped": True} if law.flipped else {})},
    )


@dataclass(frozen=True)
class _Condition:
    words: str
    column: str
    low: float | None = None
    high: float | None = None
    equal: Value | None = None

    def holds(self, row: Row) -> bool:
        value = row[self.column]
        if self.equal is not None:
            return value == self.equal
        return (self.low is None or float(value) >= self.low) and (self.high is None or float(value) <= self.high)


def searches(shop: Shop, groups: Sequence[str], rng: random.Random) -> Iterator[Question]:
    """Products that satisfy one to three conditions; a tenth finds none of them, the others 1 to 6. Ends where nothing new is found."""
    seen: set[str] = set()
    while True:
        empty = rng.random() < _EMPTY_SHARE
        question = _new_search(shop, groups, rng, seen, empty=empty) or _new_search(shop, groups, rng, seen, empty=not empty)
        if question is None:
            return
        seen.add(question.text)
        yield question


def _new_search(shop: Shop, groups: Sequence[str], rng: random.Random, seen: set[str], *, empty: bool) -> Question | None:
    made = (_search(shop, rng.choice(list(groups)), rng, empty=empty) for _ in range(_TRIES))
    return next((question for question in made if question is not None and question.text not in seen), None)


def _search(shop: Shop, name: str, rng: random.Random, *, empty: bool) -> Question | None:
    """A search, unless it finds too many products; `empty`: it must find none."""
    group = GROUPS[name]
    conditions = [_condition(column, rng) for column in rng.sample(group.columns, rng.choice((1, 2, 2, 3)))]
    template = rng.choice(_SEARCHES)
    found = [row for row in shop.rows[name].values() if all(condition.holds(row) for condition in conditions)]
    if len(found) > _MOST_FOUND or (not found) != empty:
        return None
    ids = sorted(str(row["product_id"]) for row in found)
    named = ", ".join(f"{row['title']} ({row['product_id']})" for row in found)
    return Question(
        kind="search",
        group=name,
        text=template.format(noun=group.noun, conditions=" and ".join(condition.words for condition in conditions)),
        answer={"type": "ids", "value": list(ids)},
        short=", ".join(ids) or "none",
        long=f"These fit: {named}." if found else f"None: no {group.noun} fits.",
        about={},
    )


def _condition(column: Column, rng: random.Random) -> _Condition:
    value = rng.choice(column.values)
    if column.flag:
        return _Condition(f"that comes {'with' if value == 'yes' else 'without'} {column.label}", column.name, equal=value)
    if not column.numeric:
        return _Condition(f"whose {column.label} is {value}", column.name, equal=value)
    if rng.random() < 0.5:
        return _Condition(f"whose {column.label} is at least {column.shown(value)}", column.name, low=float(value))
    return _Condition(f"whose {column.label} is at most {column.shown(value)}", column.name, high=float(value))
