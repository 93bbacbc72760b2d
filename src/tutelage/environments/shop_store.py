"""The shop of one seed: its products, as rows and as a database in memory, and its rules. Built once a process for each seed."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tutelage.environments.shop_catalogue import BRANDS, GROUPS, Group, Row, Rule, Value
from tutelage.errors import InputError

_OPPOSITE = {"at least": "below", "at most": "above", "one of": "none of"}


@dataclass(frozen=True)
class Law:
    """A rule with its threshold. flipped: it holds where it did not."""

    rule: Rule
    threshold: Value | tuple[str, ...]
    flipped: bool = False

    def holds(self, row: Row) -> bool:
        """Whether a product has what the rule is about."""
        value = row[self.rule.column]
        if isinstance(self.threshold, tuple):
            fits = value in self.threshold
        elif self.rule.operator == "at least":
            fits = float(value) >= float(self.threshold)
        else:
            fits = float(value) <= float(self.threshold)
        return fits != self.flipped

    def words(self, group: Group) -> str:
        """The rule in a sentence."""
        column = group.column(self.rule.column)
        operator = _OPPOSITE[self.rule.operator] if self.flipped else self.rule.operator
        bound = ", ".join(self.threshold) if isinstance(self.threshold, tuple) else column.shown(self.threshold)
        return f"a {group.noun} {self.rule.claim} if its {column.label} is {operator} {bound}, and not otherwise"


@dataclass(frozen=True)
class Shop:
    """All groups of a seed. `rows[group][id]` is a product with `product_id`, `title`, `brand` and the group's columns."""

    seed: int
    products: int
    rows: dict[str, dict[str, Row]]
    thresholds: dict[tuple[str, str], Value | tuple[str, ...]]

    def law(self, group: str, rule: str, *, flipped: bool = False) -> Law:
        """A rule of a group as it holds in this shop."""
        named = next(one for one in GROUPS[group].rules if one.name == rule)
        return Law(named, self.thresholds[group, rule], flipped)

    @cached_property
    def database(self) -> bytes:
        """One table a group, as `sqlite3.Connection.serialize` gives it."""
        connection = sqlite3.connect(":memory:")
        try:
            for name, rows in self.rows.items():
                connection.execute(_create(GROUPS[name]))
                marks = ", ".join("?" * len(next(iter(rows.values()))))
                connection.executemany(f"INSERT INTO {name} VALUES ({marks})", [tuple(row.values()) for row in rows.values()])  # noqa: S608 -- our own names
            connection.commit()
            return connection.serialize()
        finally:
            connection.close()


@lru_cache(maxsize=16)
def open_shop(seed: int, products: int = 30) -> Shop:
    """The shop of a seed with so many products in each group (10 to 500). Raises `InputError` for another number."""
    if not 10 <= products <= 500:
        raise InputError(f"a group has 10 to 500 products, not {products}", field="products")
    rows = {name: _products(group, random.Random(f"{seed}/{name}"), products) for name, group in GROUPS.items()}
    thresholds = {
        (name, rule.name): random.Random(f"{seed}/{name}/{rule.name}").choice(rule.thresholds)
        for name, group in GROUPS.items()
        for rule in group.rules
    }
    return Shop(seed, products, rows, thresholds)


def _products(group: Group, rng: random.Random, count: int) -> dict[str, Row]:
    """Each value of a column falls to about as many products as any other, so every rule holds for some and not for others."""
    columns = {column.name: _dealt(column.values, rng, count) for column in group.columns}
    titles = rng.sample(
        [f"{brand} {model} {number}" for brand in BRANDS for model in group.models for number in range(100, 1000, 10)], count
    )
    numbers = rng.sample(range(1000, 10000), count)
    rows: dict[str, Row] = {}
    for at, (title, number) in enumerate(zip(titles, sorted(numbers), strict=True)):
        own = {name: values[at] for name, values in columns.items()}
        rows[f"{group.prefix}{number}"] = {"product_id": f"{group.prefix}{number}", "title": title, "brand": title.split()[0], **own}
    return rows


def _dealt(values: tuple[Value, ...], rng: random.Random, count: int) -> list[Value]:
    dealt = list((values * (count // len(values) + 1))[:count])
    rng.shuffle(dealt)
    return dealt


def _create(group: Group) -> str:
    kinds = [f"{column.name} {'REAL' if column.numeric else 'TEXT'}" for column in group.columns]
    return f"CREATE TABLE {group.name} (product_id TEXT PRIMARY KEY, title TEXT, brand TEXT, {', '.join(kinds)})"
