"""Reading what a shop's customer is told: lenient in form, strict in content.

Yes or no, numbers with their units (2,400 g is 2.4 kg), one of several choices, and sets of product ids. An answer that says several
things where one was asked for is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping

from tutelage.graders.text import fold, short
from tutelage.records import Grade

_BOTH = re.compile(r"\b(?:yes\W+(?:(?:and|or)\W+)?no|no\W+(?:(?:and|or)\W+)?yes)\b")
_EVADED = re.compile(r"\W*no (?:idea|information|answer|data|way to (?:know|tell)|knowledge)\b")
_LEADING = re.compile(r"\W*(?:(?:the |short |final )*answer(?: is)?\W+)?(yes|no)\b")
_TRAILING = re.compile(r"\b(yes|no)\W*$")
_NOTHING = re.compile(r"\b(?:none|nothing|no|not|sorry|empty|zero|0)\b|n't\b")
_QUANTITY = re.compile(r"(?<![\w.])([€$]?)\s?(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?![\d])\s?(€|\"|°\s?[a-z]|[a-z]+[2²]?(?:-[a-z]+)?)?")
_SPELLED = {"aluminum": "aluminium", "fiberglass": "fibreglass", "-": " "}
_ROUNDED = 0.005
"""Relative difference that a converted unit may have: 24 in are 61 cm."""

_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("g", "gram", "grams"), ("mass", 1.0)),
    **dict.fromkeys(("kg", "kilogram", "kilograms", "kilo", "kilos"), ("mass", 1000.0)),
    **dict.fromkeys(("mm", "millimetre", "millimetres", "millimeter", "millimeters"), ("length", 1.0)),
    **dict.fromkeys(("cm", "centimetre", "centimetres", "centimeter", "centimeters"), ("length", 10.0)),
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), ("length", 1000.0)),
    **dict.fromkeys(("in", "inch", "inches", '"'), ("length", 25.4)),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), ("time", 1.0)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), ("time", 60.0)),
    **dict.fromkeys(("month", "months"), ("term", 1.0)),
    **dict.fromkeys(("year", "years"), ("term", 12.0)),
    **dict.fromkeys(("l", "litre", "litres", "liter", "liters"), ("volume", 1.0)),
    **dict.fromkeys(("ml", "millilitre", "millilitres", "milliliter", "milliliters"), ("volume", 0.001)),
    **dict.fromkeys(("wh", "watt-hour", "watt-hours"), ("energy", 1.0)),
    **dict.fromkeys(("w", "watt", "watts"), ("power", 1.0)),
    **dict.fromkeys(("eur", "euro", "euros", "€"), ("money", 1.0)),
    **dict.fromkeys(("lm", "lumen", "lumens"), ("flux", 1.0)),
    **dict.fromkeys(("k", "kelvin"), ("colour", 1.0)),
    **dict.fromkeys(("hz", "hertz"), ("rate", 1.0)),
    **dict.fromkeys(("nit", "nits"), ("luminance", 1.0)),
    **dict.fromkeys(("c", "°c", "celsius"), ("heat", 1.0)),
    **dict.fromkeys(("m2", "m²"), ("area", 1.0)),
    "denier": ("strength", 1.0),
    "$": ("dollars", 1.0),
    "usd": ("dollars", 1.0),
    "lb": ("pounds", 1.0),
    "oz": ("ounces", 1.0),
}


def read_yes_no(answer: str) -> str | None:
    """`yes` or `no` where the answer begins or ends with it and does not say both; else None."""
    text = fold(answer)
    if _BOTH.search(text) or _EVADED.match(text):
        return None
    said = {found[1] for found in (_LEADING.match(text), _TRAILING.search(text)) if found}
    return said.pop() if len(said) == 1 else None


def without(answer: str, names: Iterable[str]) -> str:
    """The answer in folded form without these names, whose numbers would be taken for what was asked."""
    text = fold(answer)
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(fold(name), " ")
    return text


def says_quantity(answer: str, value: float, unit: str) -> bool:
    """Whether the answer gives this value: in its unit or one that converts to it, or as the only bare number. It may give no other."""
    text = re.sub(r"\bip[\s-]?(?=\d)", "", fold(answer).replace("\N{MINUS SIGN}", "-"))
    dimension, factor = _UNITS.get(fold(unit), ("", 1.0))
    bare: list[float] = []
    measured: list[bool] = []
    for sign, digits, word in _QUANTITY.findall(text):
        number = float(digits.replace(",", ""))
        kind, own = _UNITS.get((word or sign).replace(" ", ""), ("", 1.0))
        if not kind:
            bare.append(number)
        elif kind == dimension:
            measured.append(math.isclose(number * own, value * factor, rel_tol=1e-9 if own == factor else _ROUNDED))
    if measured:
        return all(measured)
    return len(set(bare)) == 1 and math.isclose(bare[0], value, rel_tol=1e-9)


def says_choice(answer: str, value: str, choices: Collection[str]) -> bool:
    """Whether the answer names this one of the choices and no other."""
    text = _plain(answer)
    named = set()
    for choice in sorted(choices, key=len, reverse=True):
        text, count = re.subn(rf"(?<!\w){re.escape(_plain(choice))}(?!\w)", " ", text)
        if count:
            named.add(choice)
    return named == {value}


def _plain(text: str) -> str:
    text = fold(text)
    for written, meant in _SPELLED.items():
        text = text.replace(written, meant)
    return text


def read_ids(answer: str, pattern: str, titles: Mapping[str, str]) -> frozenset[str] | None:
    """The product ids in the answer, written as ids or as titles (`titles[title]` is its id); None where it names no product and does
    not say that there is none.
    """
    ids = {found.upper() for found in re.findall(pattern, answer, re.IGNORECASE)}
    text = fold(answer)
    for title in sorted(titles, key=len, reverse=True):
        if fold(title) in text:
            ids.add(titles[title])
            text = text.replace(fold(title), " ")
    return frozenset(ids) if ids or _NOTHING.search(text) else None


def grade_ids(expected: frozenset[str], got: frozenset[str] | None, answer: str) -> Grade:
    """1 where the sets are equal; precision and recall as parts (of an empty set: 1 where both are empty, else 0)."""
    named = got or frozenset()
    right = len(expected & named)
    both_empty = got is not None and not expected and not named
    parts: dict[str, float | None] = {
        "precision": right / len(named) if named else float(both_empty),
        "recall": right / len(expected) if expected else float(both_empty),
    }
    score = float(got == expected)
    return Grade(score=score, words="correct" if score else missed(", ".join(sorted(expected)) or "none", answer), parts=parts)


def grade_if(right: bool, expected: str, answer: str) -> Grade:
    """1 or 0, and what was expected."""
    return Grade(score=float(right), words="correct" if right else missed(expected, answer))


def missed(expected: str, answer: str) -> str:
    """What was expected and what came."""
    return f"expected {short(expected)}, got {short(answer)}"
