"""The task source `multi_step`: a number whose digits are changed step by step, with an expert's solution.

    tasks = multi_step_tasks(200, seed=0, steps=6)

    Start with the number 4821 and carry out these steps in order:        1. reverse: 1284
    1. reverse: write the digits in the opposite order                    2. raise: 2395
    2. raise: add 1 to every digit; 9 becomes 1                           #### 2395
    ...

Every step is easy and one answer is right, but the whole cannot be guessed, since each step builds on all those before it (`chance_level`
says how often the best guess is right). The more steps, the harder. No digit is ever 0, so that numbers are equal where their texts are.

Where the expert's solution stands: it is the task's `reference`, in the form that GSM8K made common, lines of steps and then `#### ANSWER`.
The grader `numeric` reads the number after that mark, in answers and references alike; exemplars and SFT show the solution as it is, and
SRL takes it apart. The agent sees the question alone.

`form="signs"` writes the same tasks in few signs, for models whose tokens are characters: `4821 1r 2u` and `1. r1284`, `2. u2395`,
`#### 2395`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from tutelage.errors import InputError
from tutelage.records import Message, Task, content_id
from tutelage.suggest import unknown

Form = Literal["words", "signs"]
Side = Literal["any", "train", "test"]

TEST_SHARE = 5
"""One in so many questions belongs to the side `test`."""

_TRIES = 50  # for each task asked for: short chains over short numbers repeat themselves
_ASK = """\
Start with the number {start} and carry out these steps in order:
{listed}

Write one line for each step, with its number, its name and the number that it gives. Then write #### and the last number."""


@dataclass(frozen=True)
class Operation:
    """A change of digits: its name, its sign (one letter), what it does in words, and how."""

    name: str
    sign: str
    words: str
    apply: Callable[[str], str]


def _shifted(digits: str, by: int) -> str:
    return "".join(str((int(digit) - 1 + by) % 9 + 1) for digit in digits)


OPERATIONS = (
    Operation("reverse", "r", "write the digits in the opposite order", lambda digits: digits[::-1]),
    Operation("swap", "s", "exchange the first digit and the second digit", lambda digits: digits[1] + digits[0] + digits[2:]),
    Operation("rotate", "t", "move the first digit to the end", lambda digits: digits[1:] + digits[0]),
    Operation("raise", "u", "add 1 to every digit; 9 becomes 1", lambda digits: _shifted(digits, 1)),
    Operation("lower", "d", "take 1 from every digit; 1 becomes 9", lambda digits: _shifted(digits, -1)),
    Operation("mirror", "m", "replace every digit by 10 minus that digit", lambda digits: "".join(str(10 - int(each)) for each in digits)),
    Operation("bump", "b", "add 1 to the last digit; 9 becomes 1", lambda digits: digits[:-1] + _shifted(digits[-1], 1)),
)
_UNDO = {frozenset(pair) for pair in ("r", "s", "m", "ud")}
"""Steps that take each other back do not follow one another."""


def multi_step_tasks(
    n: int,
    seed: int,
    *,
    steps: int | Sequence[int] = 6,
    digits: int = 4,
    operations: Sequence[str] | None = None,
    form: Form = "words",
    side: Side = "any",
) -> tuple[Task, ...]:
    """`n` different tasks, drawn by `seed`; `kind` is the number of steps.

    steps: how many, or several numbers from which each task draws. operations: names out of `OPERATIONS` (None: all). form: in words, or
    in `signs`. side: every question belongs to one side, by a hash of itself, so that tasks of the side `test` are different from those of
    the side `train` whatever seed, steps and form they were drawn with. Raises `InputError` for impossible options, and where there are
    fewer than `n`.
    """
    counts = (steps,) if isinstance(steps, int) else tuple(steps)
    chosen = _chosen(operations)
    _check(n, counts, digits, chosen, form, side)
    random = Random(f"multi_step/{seed}")
    found: dict[tuple[str, str], Task] = {}
    for _ in range(_TRIES * n):
        if len(found) == n:
            return tuple(found.values())
        start, chain = _draw(random, random.choice(counts), digits, chosen)
        key = start, "".join(operation.sign for operation in chain)
        if key not in found and side in ("any", side_of(*key)):
            found[key] = _task(start, chain, form, f"multi_step?seed={seed}:{len(found) + 1}")
    if len(found) == n:
        return tuple(found.values())
    raise InputError(f"only {len(found)} different tasks were found, and {n} are asked for; take more steps or digits", field="n")


def side_of(start: str, signs: str) -> str:
    """Which side a question belongs to: that of the number `start` and the signs of its steps."""
    return "test" if int(content_id([start, signs]), 16) % TEST_SHARE == 0 else "train"


def chance_level(steps: int, digits: int = 4, operations: Sequence[str] | None = None, *, draws: int = 20_000, seed: int = 0) -> float:
    """How often the best guess is right that knows the question but carries no step out: the share of the commonest way from start to end.

    Two chains are one way where they do the same to every number. Measured over `draws` chains, so what is rarer than 1 in `draws` shows
    as that.
    """
    random, chosen = Random(f"multi_step/chance/{seed}"), _chosen(operations)
    _check(1, (steps,), digits, chosen, "signs", "any")
    probes = ["123456789"[:digits], *("".join(random.choice("123456789") for _ in range(digits)) for _ in range(8))]
    chains = (_draw(random, steps, digits, chosen)[1] for _ in range(draws))
    ways = Counter(tuple(_results(probe, chain)[-1] for probe in probes) for chain in chains)
    return ways.most_common(1)[0][1] / draws


def _draw(random: Random, steps: int, digits: int, operations: Sequence[Operation]) -> tuple[str, list[Operation]]:
    """A start and a chain in which no step takes the one before it back."""
    chain: list[Operation] = []
    while len(chain) < steps:
        operation = random.choice(operations)
        if not chain or frozenset((operation.sign, chain[-1].sign)) not in _UNDO:
            chain.append(operation)
    return "".join(random.choice("123456789") for _ in range(digits)), chain


def _results(start: str, chain: Sequence[Operation]) -> list[str]:
    """The number after each step."""
    return list(_carry_out(start, chain))


def _carry_out(number: str, chain: Sequence[Operation]) -> Iterator[str]:
    for operation in chain:
        number = operation.apply(number)
        yield number


def _task(start: str, chain: Sequence[Operation], form: Form, source: str) -> Task:
    results = _results(start, chain)
    numbered = list(enumerate(zip(chain, results, strict=True), 1))
    if form == "words":
        listed = "\n".join(f"{number}. {operation.name}: {operation.words}" for number, (operation, _) in numbered)
        question = _ASK.format(start=start, listed=listed)
        lines = [f"{number}. {operation.name}: {result}" for number, (operation, result) in numbered]
    else:
        question = " ".join([start, *(f"{number}{operation.sign}" for number, (operation, _) in numbered)])
        lines = [f"{number}. {operation.sign}{result}" for number, (operation, result) in numbered]
    return Task(
        messages=(Message(role="user", content=question),),
        reference="\n".join([*lines, f"#### {results[-1]}"]),
        kind=f"{len(chain)} steps",
        source=source,
    )


def _chosen(names: Sequence[str] | None) -> tuple[Operation, ...]:
    known = {operation.name: operation for operation in OPERATIONS}
    for name in names or ():
        if name not in known:
            raise InputError(unknown("an operation", name, known), field="operations")
    return OPERATIONS if names is None else tuple(known[name] for name in dict.fromkeys(names))


def _check(n: int, steps: Sequence[int], digits: int, operations: Sequence[Operation], form: str, side: str) -> None:
    if n < 1:
        raise InputError(f"at least one task is needed, and n is {n}", field="n")
    if not steps or min(steps) < 1:
        raise InputError(f"a task has one step or more, and here are {list(steps)}", field="steps")
    if digits < 2:
        raise InputError(f"two digits are needed to exchange any, and here are {digits}", field="digits")
    if not operations or (len(operations) == 1 and frozenset(operations[0].sign) in _UNDO and max(steps) > 1):
        raise InputError("name two operations or more; most take themselves back when they are done twice", field="operations")
    for field, value, options in (("form", form, ("words", "signs")), ("side", side, ("any", "train", "test"))):
        if value not in options:
            raise InputError(unknown(f"a {field}", value, options), field=field)
