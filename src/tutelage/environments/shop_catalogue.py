"""What the shop sells: groups of products with their columns, and the hidden rules that no table says.

The catalogue itself is `shop_catalogue.toml`. A rule is a threshold of this shop's own; which threshold holds is drawn by the seed, so
that no model can know it beforehand.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Value = str | int | float
Row = dict[str, Value]
Operator = Literal["at least", "at most", "one of"]


@dataclass(frozen=True)
class Column:
    """A column. values: what products have, in ascending order for numbers. label: what people call it (of a
    column of yes and no: what the product comes with). unit: of its numbers.
    """

    name: str
    label: str
    values: tuple[Value, ...]
    unit: str = ""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return not isinstance(self.values[0], str)

    @property
    def flag(self) -> bool:
        """Whether its values are yes and no."""
        return set(self.values) == {"yes", "no"}

    def shown(self, value: Value) -> str:
        """A value with its unit: `2.5 kg`."""
        return f"{value:g} {self.unit}".strip() if not isinstance(value, str) else value


@dataclass(frozen=True)
class Rule:
    """A hidden rule: a product has `claim` only where its column is at least, at most or one of a threshold.

    thresholds: of which the seed chooses one. asks: questions whose answer is yes where the rule holds; `{title}` is the product.
    """

    name: str
    claim: str
    column: str
    operator: Operator
    thresholds: tuple[Value, ...] | tuple[tuple[str, ...], ...]
    asks: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A table of products. noun: what one of them is called. prefix: of its product ids."""

    name: str
    noun: str
    prefix: str
    models: tuple[str, ...]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _group(name: str, table: dict[str, Any]) -> Group:
    columns = tuple(Column(**{key: _frozen(value) for key, value in column.items()}) for column in table.pop("columns"))
    rules = tuple(Rule(**{key: _frozen(value) for key, value in rule.items()}) for rule in table.pop("rules"))
    return Group(name, columns=columns, rules=rules, **{key: _frozen(value) for key, value in table.items()})


_CATALOGUE = tomllib.loads(Path(__file__).with_name("shop_catalogue.toml").read_text(encoding="utf-8"))
BRANDS: tuple[str, ...] = tuple(_CATALOGUE.pop("brands"))
GROUPS: dict[str, Group] = {name: _group(name, table) for name, table in _CATALOGUE.items()}
