"""How answers to reasoning puzzles are graded: the verifiers of `reasoning-gym`, and where ours replace or limit them.

The package's `score_answer` mixes three things: whether the answer is right, consolation (.01 to .25 for anything that can be read, more
for a number near by), and true partial credit. Here the first counts 1; the third counts as it is, for the families in `PARTIAL`; all
else is 0. Looked at family by family, version 0.1.25:

- `chain_sum`, `gcd` and all others that use the default give length of reference / length of answer where the answer contains the
  reference (so -987654 earns .14 where 5 is right); `calendar_arithmetic`, `time_intervals`, `rectangle_count`, `coin_flip`,
  `complex_arithmetic` and `polynomial_equations` pay for being near; `game_of_life` pays .9 for an empty board, `prime_factorization` .5
  for the number itself, `rubiks_cube` for faces that were never scrambled, `spell_backward` and `emoji_mystery` for single characters,
  which agree by chance. All these count 0 here.
- `game_of_life_halting` takes any text for right, `puzzle24` any four numbers in range and 24.9 for 24, `number_sorting` numbers that are
  off by 1, `figlet_font` 10 right letters of a longer word, `complex_arithmetic` the answer "nan": replaced or limited here.
- `binary_matrix`, `spiral_matrix`, `string_insertion` and `n_queens` run the answer as Python (`eval`), and so does sympy in `countdown`,
  `puzzle24` and `polynomial_multiplication`: replaced, or let through only what `expressions.is_harmless` allows. So do the integrals,
  which take an integral that is not worked out for an answer, and give such ones as reference: replaced, and those puzzles left out.
- `propositional_logic` takes a repeated premise for a conclusion, and anything where the premises contradict each other. Left as it is.

Besides, what equals the reference but for blanks is right, and so is yes, no, true or false in any case.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from typing import Any

from tutelage.environments.expressions import exact_value, is_harmless, is_integral
from tutelage.errors import InputError, MissingExtra
from tutelage.suggest import unknown

Entry = Mapping[str, Any]

PARTIAL = {
    "boxnet": "share of the boxes brought to their targets",
    "futoshiki": "share of the blanks filled in rightly",
    "knight_swap": "solved, in more moves than needed: needed / made",
    "knights_knaves": ".3 + .7 times the share of people judged rightly, where any is",
    "letter_jumble": "share of words at the right place",
    "mini_sudoku": "share of the blanks filled in rightly",
    "quantum_lock": "opened, in more steps than needed: .5",
    "sentence_reordering": "share of words at the right place",
    "shortest_path": "a path, but not a shortest one: .5",
    "sudoku": "share of the blanks filled in rightly",
    "tower_of_hanoi": "solved, in more moves than needed: needed / made",
    "word_ladder": "a ladder with words that the list does not know: half for each",
    "word_sorting": "share of words at the right place, at least .2 where all words are there",
}
"""The families whose partial credit counts, and what it is."""

LEFT_OUT = {"composite": "it mixes other families: name these instead"}

EXAMPLES = {"graph_color": "possible_answer", "propositional_logic": "example_answer", "rubiks_cube": "example_correct_answer"}
"""Where a family has no one right answer, the metadata's example of one."""

_CONSOLATION = 0.05  # what is paid for a readable but wrong answer, also by families with true partial credit
_NEARLY = {"complex_arithmetic": 0.999, "polynomial_equations": 0.999}  # rounding; off by .001 and .01
_LONGEST = 4000
_GUARDS = {
    "coin_flip": r"[\d./ -]{1,40}",  # a Fraction of "1e999999999" would never end
    "complex_arithmetic": r"[-+0-9.ij() ]{1,60}",  # "nan" is taken for right
    "rubiks_cube": r"(?:[^\d]|(?<!\d)\d(?!\d))*",  # "R999999999" is written out
}
_WORDS = {"yes", "no", "true", "false"}
_TUPLES = {"arc_agi", "rearc"}  # they compare with tuples, which JSON does not know


def package() -> Any:
    """`reasoning_gym`; raises `MissingExtra` where it is absent."""
    try:
        return import_module("reasoning_gym")
    except ImportError:
        raise MissingExtra("reasoning-gym", "pip install 'tutelage[reasoning]'", why="the environment `reasoning`") from None


def families() -> tuple[str, ...]:
    """The names of all families that can be asked for."""
    package()
    return tuple(sorted(import_module("reasoning_gym.factory").DATASETS.keys() - LEFT_OUT.keys()))


def open_family(family: str, options: Mapping[str, Any], *, seed: int = 0, size: int = 1) -> Any:
    """The package's dataset. Raises `InputError` for an unknown family or option, or a value that the family refuses."""
    if family in LEFT_OUT:
        raise InputError(f"`{family}` cannot be asked for: {LEFT_OUT[family]}", field="family")
    if family not in families():
        raise InputError(unknown("a family of puzzles", family, families()), field="family")
    try:
        return package().create_dataset(family, seed=seed, size=size, **options)
    except (TypeError, ValueError, AssertionError) as wrong:
        raise InputError(f"{family} does not take these options: {wrong}", field=f"family.{family}") from None


def verify(family: str, options: Mapping[str, Any], answer: str, entry: Entry) -> tuple[float, float | None]:
    """The score in [0, 1], and the package's own raw score (None where it was not asked).

    entry: `question`, `answer` (None: none is known) and `metadata`, as the package makes them or read back from JSON.
    """
    if not answer.strip() or len(answer) > max(_LONGEST, 4 * len(entry["answer"] or "")):
        return 0.0, None
    if entry["answer"] is not None and _same(answer, entry["answer"]):
        return 1.0, 1.0
    if own := _OWN.get(family):
        return own(answer, entry), None
    if not _may_be_verified(family, answer):
        return 0.0, None
    raw = _raw_score(family, json.dumps(options, sort_keys=True), answer, entry)
    return _counted(family, raw), raw


def _counted(family: str, raw: float) -> float:
    if raw >= _NEARLY.get(family, 1 - 1e-9):
        return 1.0
    return raw if family in PARTIAL and raw > _CONSOLATION else 0.0


def _same(answer: str, reference: str) -> bool:
    """Equal but for blanks and empty lines; yes, no, true and false in any case."""
    if reference.lower() in _WORDS:
        return answer.strip().lower() == reference.lower()
    return _tokens(answer) == _tokens(reference) != []


def _tokens(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def _may_be_verified(family: str, answer: str) -> bool:
    if family == "polynomial_multiplication":
        return is_harmless(answer)
    return family not in _GUARDS or re.fullmatch(_GUARDS[family], answer) is not None


def _raw_score(family: str, options: str, answer: str, entry: Entry) -> float:
    """The package's score; 0 where its verifier fails on the answer, or gives no number."""
    entry = {**entry, "metadata": _as_tuples(entry["metadata"])} if family in _TUPLES else dict(entry)
    try:
        with redirect_stdout(StringIO()):  # one of them prints
            raw = float(_scorer(family, options).score_answer(answer, entry))
    except Exception:  # noqa: BLE001 -- verifiers of the package fail on answers that they did not expect, each in its own way
        return 0.0
    return min(1.0, max(0.0, raw)) if math.isfinite(raw) else 0.0


@cache
def _scorer(family: str, options: str) -> Any:
    return open_family(family, json.loads(options))


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


# --- our own verifiers, in place of the package's


def _equal_only(answer: str, entry: Entry) -> float:
    return 0.0  # equality was looked at before


def _one_of_the_boards(answer: str, entry: Entry) -> float:
    return float(any(_same(answer, board) for board in entry["metadata"]["valid_answers"]))


def _makes(target: Callable[[Entry], int]) -> Callable[[str, Entry], float]:
    """Whether an expression gives the target and uses exactly the numbers given, each once."""

    def score(answer: str, entry: Entry) -> float:
        read = exact_value(answer)
        return float(read is not None and read[0] == target(entry) and sorted(read[1]) == sorted(entry["metadata"]["numbers"]))

    return score


def _integral(answer: str, entry: Entry) -> float:
    about = entry["metadata"]
    return float(is_integral(answer.replace("^", "**"), about["integrand"], about["variable"]))


def _same_numbers(answer: str, entry: Entry) -> float:
    try:
        given, expected = ast.literal_eval(answer.strip()), ast.literal_eval(entry["answer"])
        return float([float(number) for number in given] == [float(number) for number in expected])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return 0.0


def _same_word(answer: str, entry: Entry) -> float:
    return float(answer.replace(" ", "").strip().lower() == entry["answer"].strip().lower())


def _blanks_filled(answer: str, entry: Entry) -> float:
    """The share of the puzzle's blanks that hold the solution's number; 0 where the grid has another shape or changes what was given."""
    puzzle, solution = entry["metadata"]["puzzle"], entry["metadata"]["solution"]
    grid = [row for line in answer.splitlines() if (row := [int(digit) for digit in re.findall(r"[0-9_]", line.replace("_", "0"))])]
    if [len(row) for row in grid] != [len(row) for row in solution]:
        return 0.0
    cells = [cell for rows in zip(puzzle, grid, solution, strict=True) for cell in zip(*rows, strict=True)]
    if any(given not in (0, written) for given, written, _ in cells):
        return 0.0
    blanks = [written == right for given, written, right in cells if given == 0]
    return sum(blanks) / len(blanks) if blanks else 1.0


_OWN: dict[str, Callable[[str, Entry], float]] = {
    "binary_matrix": _equal_only,
    "spiral_matrix": _equal_only,
    "string_insertion": _equal_only,
    "game_of_life_halting": _equal_only,
    "figlet_font": _same_word,
    "n_queens": _one_of_the_boards,
    "number_sorting": _same_numbers,
    "puzzle24": _makes(lambda entry: 24),
    "countdown": _makes(lambda entry: int(entry["metadata"]["target"])),
    "sudoku": _blanks_filled,
    "mini_sudoku": _blanks_filled,
    "futoshiki": _blanks_filled,
    "simple_integration": _integral,
    "intermediate_integration": _integral,
}
