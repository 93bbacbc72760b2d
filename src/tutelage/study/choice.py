"""Which arm is worth it: better than the baseline beyond doubt, and of two such arms within noise of each other the cheaper,
unless only the dearer is shown to beat what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tutelage.records import Record
from tutelage.study.results import ArmReport, UseCost
from tutelage.study.statistics import ALPHA, Comparison

SAVING = 0.1
"""A cheaper arm must save this share of the cost of use before it is preferred to one with a higher score."""


class Choice(Record):
    """The arm worth it. `rival` is the other of the two best arms, `against_rival` the comparison (chosen minus rival).

    `saving` is the share of the cost of use that the chosen arm saves against a rival with a higher score, and `measure` what it saves
    ("fewer tokens"); None where the chosen arm itself has the highest score. `unbeaten`: what needs no model, that the chosen arm is
    shown to beat and a cheaper rival, which would else have been chosen, is not.
    """

    arm: str
    rival: str | None = None
    against_rival: Comparison | None = None
    saving: float | None = None
    measure: str = ""
    unbeaten: tuple[str, ...] = ()


def is_better(arm: ArmReport) -> bool:
    """Significantly above the baseline, after correction for the number of arms."""
    return arm.p_holm is not None and arm.p_holm < ALPHA and arm.delta is not None and arm.delta > 0


def is_worse(arm: ArmReport) -> bool:
    """Significantly below the baseline, after correction for the number of arms."""
    return arm.p_holm is not None and arm.p_holm < ALPHA and arm.delta is not None and arm.delta < 0


def choose(
    arms: Sequence[ArmReport],
    compare: Callable[[str, str], Comparison],
    beaten: Callable[[str], frozenset[str]] = lambda arm: frozenset(),
) -> Choice | None:
    """The arm worth it; None where none is better than the first arm, the baseline.

    `compare(one, other)` is the paired comparison of two arms by name, other minus one. `beaten(arm)`: which of the answers that need no
    model the arm is shown to beat; a cheaper arm that beats fewer of them is not preferred.
    """
    better = sorted((arm for arm in arms[1:] if is_better(arm)), key=lambda arm: arm.score or 0.0, reverse=True)
    if not better:
        return None
    if len(better) == 1:
        return Choice(arm=better[0].name)
    best, second = better[0], better[1]
    within_noise = not differs(compare(best.name, second.name))
    saving, measure = saved(second.use, best.use)
    cheaper = within_noise and saving >= SAVING
    unbeaten = tuple(sorted(beaten(best.name) - beaten(second.name))) if cheaper else ()
    if unbeaten or not cheaper:
        return Choice(arm=best.name, rival=second.name, against_rival=compare(second.name, best.name), unbeaten=unbeaten)
    return Choice(arm=second.name, rival=best.name, against_rival=compare(best.name, second.name), saving=saving, measure=measure)


def differs(comparison: Comparison) -> bool:
    """True where two sides can be told apart."""
    return comparison.p is not None and comparison.p < ALPHA


def saved(cheap: UseCost, dear: UseCost) -> tuple[float, str]:
    """Share of the cost of a task that `cheap` saves against `dear`, and what it is measured in: money where it is known, else tokens."""
    if cheap.usd is not None and dear.usd:
        return 1 - cheap.usd / dear.usd, "less money"
    mine, theirs = _tokens(cheap), _tokens(dear)
    return (1 - mine / theirs if mine is not None and theirs else 0.0), "fewer tokens"


def _tokens(use: UseCost) -> float | None:
    return None if use.tokens_in is None or use.tokens_out is None else use.tokens_in + use.tokens_out
