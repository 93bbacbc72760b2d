"""Simple functions to write, made from families with a parameter: the description, inputs and a reference implementation of our own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Args = tuple[Any, ...]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = ("apple", "tea", "river", "a", "stone", "cloud", "ant", "lamp", "zebra", "go", "winter", "tea", "sun", "banana", "kite", "oak")


@dataclass(frozen=True)
class Family:
    """One kind of function.

    signature: arguments and result, as in `def`. words: the description for one parameter. solve: the reference implementation, the
    parameter first. draw: inputs at random. edge: an input at the border, tested always.
    """

    name: str
    signature: str
    params: tuple[Any, ...]
    words: Callable[[Any], str]
    solve: Callable[..., Any]
    draw: Callable[[Random], Args]
    edge: Args


def _numbers(random: Random, low: int = -20, high: int = 40) -> Args:
    return ([random.randint(low, high) for _ in range(random.randint(3, 9))],)


def _naturals(random: Random) -> Args:
    return (random.randint(1, 5000),)


def _text(random: Random) -> Args:
    return (" ".join(random.choice(_WORDS) for _ in range(random.randint(2, 7))),)


def _mixed_case(random: Random) -> Args:
    (text,) = _text(random)
    return ("".join(letter.upper() if random.random() < 0.3 else letter for letter in text),)


def _runs(random: Random) -> Args:
    return ("".join(random.choice("aabc") * random.randint(1, 4) for _ in range(random.randint(2, 6))),)


def _two_texts(random: Random) -> Args:
    return tuple("".join(random.choice(_LETTERS) for _ in range(random.randint(1, 6))) for _ in range(2))


def _grid(random: Random) -> Args:
    width = random.randint(2, 4)
    return ([[random.randint(0, 9) for _ in range(width)] for _ in range(random.randint(2, 4))],)


def _rotated(k: int, items: list[int]) -> list[int]:
    shift = k % len(items) if items else 0
    return items[shift:] + items[:shift]


def _shifted(k: int, text: str) -> str:
    return "".join(_LETTERS[(_LETTERS.index(letter) + k) % 26] if letter in _LETTERS else letter for letter in text)


def _digits_in(base: int, number: int) -> int:
    total = 0
    while number:
        total, number = total + number % base, number // base
    return total


def _steps_to_one(k: int, number: int) -> int:
    steps = 0
    while number > 1:
        number = number // k if number % k == 0 else number - 1
        steps += 1
    return steps


def _encoded(singles: bool, text: str) -> str:
    runs: list[tuple[str, int]] = []
    for letter in text:
        count = runs.pop()[1] if runs and runs[-1][0] == letter else 0
        runs.append((letter, count + 1))
    return "".join(f"{letter}{count}" if count > 1 or singles else letter for letter, count in runs)


def _unique(keep: str, items: list[int]) -> list[int]:
    ordered = items if keep == "first" else items[::-1]
    unique = list(dict.fromkeys(ordered))
    return unique if keep == "first" else unique[::-1]


def _running(kind: str, items: list[int]) -> list[int]:
    functions: dict[str, Callable[[list[int]], int]] = {"maximum": max, "minimum": min, "sum": sum, "product": math.prod}
    return [functions[kind](items[: end + 1]) for end in range(len(items))]


def _interleaved(order: str, one: str, other: str) -> str:
    first, second = (one, other) if order == "first" else (other, one)
    shared = min(len(first), len(second))
    return "".join(a + b for a, b in zip(first, second, strict=False)) + first[shared:] + second[shared:]


def _top_words(k: int, text: str) -> list[str]:
    return sorted(Counter(text.split()), key=lambda word: (-text.split().count(word), word))[:k]


def _turned(kind: str, grid: list[list[int]]) -> list[list[int]]:
    if kind == "clockwise":
        return [list(row) for row in zip(*grid[::-1], strict=True)]
    if kind == "counterclockwise":
        return [list(row) for row in zip(*grid, strict=True)][::-1]
    if kind == "upside down":
        return grid[::-1]
    return [row[::-1] for row in grid]


def _weighted(pair: tuple[int, int], items: list[int]) -> int:
    even, odd = pair
    return even * sum(items[::2]) - odd * sum(items[1::2])


FAMILIES = (
    Family(
        "count_multiples", "(numbers: list[int]) -> int", (2, 3, 4, 5, 6, 7, 8, 9),
        lambda k: f"Count how many of the numbers are divisible by {k}. Zero is divisible by every number.",
        lambda k, numbers: sum(number % k == 0 for number in numbers), _numbers, ([],),
    ),
    Family(
        "rotate_list", "(items: list[int]) -> list[int]", (1, 2, 3, 4, 5, 7, -1, -2),
        lambda k: f"Rotate the list {'left' if k > 0 else 'right'} by {abs(k)} places. "
        "A list that is shorter goes round more often.",
        _rotated, _numbers, ([],),
    ),
    Family(
        "shift_letters", "(text: str) -> str", tuple(range(1, 13)),
        lambda k: f"Replace each lower-case letter by the one {k} places later in the alphabet, going on at a after z. "
        "Every other character stays.",
        _shifted, _mixed_case, ("xyz, A!",),
    ),
    Family(
        "join_long_words", "(text: str) -> str", tuple((k, mark) for k in (2, 3, 4) for mark in ("-", "+", "/")),
        lambda pair: f"Keep the words (separated by blanks) that have more than {pair[0]} letters, and join them with `{pair[1]}`, "
        "in their order.",
        lambda pair, text: pair[1].join(word for word in text.split() if len(word) > pair[0]), _text, ("",),
    ),
    Family(
        "sum_every", "(numbers: list[int]) -> int", (2, 3, 4, 5),
        lambda k: f"Add up every number whose place in the list is a multiple of {k}, where the first number has place 1.",
        lambda k, numbers: sum(numbers[k - 1 :: k]), _numbers, ([],),
    ),
    Family(
        "mask_vowels", "(text: str) -> str", ("*", "#", "_", "?", ""),
        lambda mark: f"Replace every vowel (a, e, i, o, u, upper case too) by {f'`{mark}`' if mark else 'nothing: remove it'}.",
        lambda mark, text: "".join(mark if letter in "aeiouAEIOU" else letter for letter in text), _mixed_case, ("",),
    ),
    Family(
        "running", "(numbers: list[int]) -> list[int]", ("maximum", "minimum", "sum", "product"),
        lambda kind: f"For each place in the list give the {kind} of all numbers from the beginning up to and including that place.",
        _running, lambda random: _numbers(random, -5, 9), ([],),
    ),
    Family(
        "chunks", "(items: list[int]) -> list[list[int]]", (2, 3, 4, 5),
        lambda k: f"Cut the list into pieces of {k} items, in their order. The last piece may be shorter.",
        lambda k, items: [items[at : at + k] for at in range(0, len(items), k)], _numbers, ([],),
    ),
    Family(
        "frequent_letters", "(text: str) -> list[str]", (2, 3, 4),
        lambda k: f"Give the letters that occur at least {k} times, as lower-case letters in alphabetical order. Upper and lower case are "
        "the same letter; blanks do not count.",
        lambda k, text: sorted(letter for letter, count in Counter(text.lower()).items() if letter.isalpha() and count >= k),
        _mixed_case, ("",),
    ),
    Family(
        "digit_sum", "(number: int) -> int", (2, 3, 5, 7, 8, 9, 10, 16),
        lambda base: f"Write the number in base {base} and add up its digits (each digit counts with its value).",
        _digits_in, _naturals, (0,),
    ),
    Family(
        "clamp", "(numbers: list[int]) -> list[int]", ((0, 10), (-5, 5), (1, 20), (3, 15), (-10, 0)),
        lambda pair: f"Replace every number below {pair[0]} by {pair[0]} and every number above {pair[1]} by {pair[1]}; the others stay.",
        lambda pair, numbers: [min(max(number, pair[0]), pair[1]) for number in numbers], _numbers, ([],),
    ),
    Family(
        "remove_repeats", "(items: list[int]) -> list[int]", ("first", "last"),
        lambda keep: f"Remove repeated items so that each stands there once: keep its {keep} occurrence. The order of what is kept stays.",
        _unique, lambda random: _numbers(random, 0, 4), ([],),
    ),
    Family(
        "top_words", "(text: str) -> list[str]", (1, 2, 3, 4),
        lambda k: f"Give the {k} most frequent words (separated by blanks), the most frequent first; of equally frequent words the one "
        "that comes first in the alphabet. There may be fewer words.",
        _top_words, _text, ("",),
    ),
    Family(
        "interleave", "(one: str, other: str) -> str", ("first", "second"),
        lambda order: f"Take the characters of the two texts in turn, beginning with the {order} text. When one text is used up, the rest "
        "of the longer one follows.",
        _interleaved, _two_texts, ("", "ab"),
    ),
    Family(
        "steps_to_one", "(number: int) -> int", (2, 3, 4, 5, 6, 7),
        lambda k: f"Count the steps until the number is 1: in each step divide it by {k} if it is divisible by {k}, else subtract 1. "
        "For 1 or less the answer is 0.",
        _steps_to_one, _naturals, (1,),
    ),
    Family(
        "encode_runs", "(text: str) -> str", (True, False),
        lambda singles: "Replace every run of equal letters by the letter and the length of the run"
        + (", also where the length is 1." if singles else "; a letter that stands alone stays without a number."),
        _encoded, _runs, ("",),
    ),
    Family(
        "turn_grid", "(grid: list[list[int]]) -> list[list[int]]", ("clockwise", "counterclockwise", "upside down", "mirrored"),
        lambda kind: {
            "clockwise": "Turn the grid (a list of rows) by 90 degrees clockwise.",
            "counterclockwise": "Turn the grid (a list of rows) by 90 degrees counterclockwise.",
            "upside down": "Reverse the order of the rows of the grid; each row stays as it is.",
            "mirrored": "Reverse each row of the grid; the order of the rows stays.",
        }[kind],
        _turned, _grid, ([[1, 2]],),
    ),
    Family(
        "weigh_places", "(numbers: list[int]) -> int", ((1, 1), (2, 1), (1, 2), (3, 2), (2, 5)),
        lambda pair: f"Multiply the numbers at even places (the first has place 0) by {pair[0]} and those at odd places by {pair[1]}; "
        "give the sum of the former minus the sum of the latter.",
        _weighted, _numbers, ([],),
    ),
)  # fmt: skip
"""The families; a task for each parameter."""
