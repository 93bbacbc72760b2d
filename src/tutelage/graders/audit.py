"""Does a judge still deserve its certificate? A random sample of accepted verdicts goes to people; the promise is tested all the time.

The hypothesis is that the judge keeps its promise: whatever has happened, the next audited verdict disagrees with people with probability
alpha at most. Against it stands an e-process (Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference"): a wealth
that begins at 1 and cannot be expected to grow while the promise holds, so that by Ville's inequality it ever reaches 1 / delta with
probability delta at most. It may therefore be looked at after every label, for ever. When it gets there, the certificate is withdrawn.

The wealth is shared among bets. Each bet names a rate q > alpha and a first label s, and multiplies at each label from s on by
q / alpha (a disagreement) or (1 - q) / (1 - alpha). The rates are a few multiples of alpha's odds; the first labels have the weights
SPAN / ((s + SPAN - 1) (s + SPAN)), which sum to 1. Bets on a late start are what catches a judge that was good for long and then changed:
a single bet from the first label would first have to win back all that it lost in good times. They cost some delay where the judge is bad
from the beginning.

What is needed: which verdicts are audited must not depend on the verdict (`drawn_for_audit`), and the labels must come in an order that
does not depend on them. Where people answer the easy ones first and never the others, the sample is no longer random.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.records import Record

ODDS = (1.3, 1.7, 2.5, 4.0, 8.0)
"""The rates bet on, as multiples of alpha's odds."""
SPAN = 100
"""Among about so many first labels half of the wealth is spread."""
Floats = NDArray[np.float64]


class Audit(Record):
    """One person's look at one accepted verdict: `agrees` with the judge or not."""

    item: str
    agrees: bool
    annotator: str = ""
    when: datetime | None = None


class Monitor(Record):
    """The state of the test after n audited verdicts, of which `disagreements` went against the judge.

    log_bets: logarithm of what the bets on each rate hold. peak: the largest wealth so far. withdrawn_at: the number (from 1) of the label
    that took the certificate; it never comes back, whatever follows.
    """

    alpha: float
    delta: float
    n: int = 0
    disagreements: int = 0
    log_bets: tuple[float | None, ...] = (None,) * len(ODDS)
    peak: float = 1.0
    withdrawn_at: int | None = None

    @property
    def withdrawn(self) -> bool:
        """Whether the promise was refuted."""
        return self.withdrawn_at is not None

    @property
    def rate(self) -> float | None:
        """The observed share of disagreements."""
        return self.disagreements / self.n if self.n else None

    @property
    def wealth(self) -> float:
        """The evidence against the promise now: 1 is none, 1 / delta withdraws."""
        bets = np.array([[-np.inf if bet is None else bet for bet in self.log_bets]])
        return float(_wealth(bets, self.n)[0])

    @property
    def p_value(self) -> float:
        """An anytime-valid p-value of the promise (1 / peak)."""
        return 1 / self.peak

    def after(self, agrees: bool) -> Monitor:
        """The state after one more label."""
        before = np.array([[-np.inf if bet is None else bet for bet in self.log_bets]])
        bets = _bet(before, np.array([not agrees]), self.n + 1, self.alpha)
        wealth = float(_wealth(bets, self.n + 1)[0])
        caught = self.withdrawn_at is None and wealth >= 1 / self.delta
        return self.model_copy(
            update={
                "n": self.n + 1,
                "disagreements": self.disagreements + (not agrees),
                "log_bets": tuple(float(bet) for bet in bets[0]),
                "peak": max(self.peak, wealth),
                "withdrawn_at": self.n + 1 if caught else self.withdrawn_at,
            }
        )


def start_monitor(alpha: float, delta: float) -> Monitor:
    """A monitor of the promise "at most alpha", withdrawing wrongly with probability delta at most. Raises `InputError`."""
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise InputError(f"must lie between 0 and 1, both excluded, and is {value}", field=name)
    return Monitor(alpha=alpha, delta=delta)


def replay(audits: Iterable[Audit], alpha: float, delta: float) -> Monitor:
    """The monitor after these audits, in the order in which they were made.

    An item counts once: an equal second look adds nothing. Raises `InputError` where a second look at an item says the opposite, because
    what was once counted cannot be taken back.
    """
    monitor, seen = start_monitor(alpha, delta), dict[str, bool]()
    for audit in audits:
        if seen.setdefault(audit.item, audit.agrees) != audit.agrees:
            raise InputError(
                f"item `{audit.item}` was audited twice with opposite results; keep the first, and begin a new audit if needed"
            )
        if len(seen) > monitor.n:
            monitor = monitor.after(audit.agrees)
    return monitor


def drawn_for_audit(item: str, rate: float, salt: str = "") -> bool:
    """Whether the verdict on this item goes to a person: a share `rate` of all items, fixed by a hash of `salt` and the item's id.

    Nobody can choose, and everybody can check. A larger rate keeps all that a smaller one draws. Give each certificate a salt of its
    own (its id), else the same items are drawn every time. Raises `InputError` for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise InputError(f"a share between 0 and 1 is needed, and this is {rate}", field="rate")
    digest = hashlib.sha256(f"{len(salt)}:{salt}{item}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def simulate_withdrawals(
    alpha: float, delta: float, rate: float, *, limit: int, times: int = 1_000, good: tuple[float, int] = (0.0, 0), seed: int = 0
) -> NDArray[np.int64]:
    """At which label (from 1) each of `times` simulated judges loses its certificate; 0: not within `limit` labels.

    They disagree at `rate`, after first disagreeing at rate good[0] for good[1] labels. What a certificate's power is before one label is
    paid for.
    """
    start_monitor(alpha, delta)
    drawn, bets = np.random.default_rng(seed), np.full((times, len(ODDS)), -np.inf)
    caught = np.zeros(times, np.int64)
    for number in range(1, limit + 1):
        disagrees = drawn.random(times) < (good[0] if number <= good[1] else rate)
        bets = _bet(bets, disagrees, number, alpha)
        caught[(caught == 0) & (_wealth(bets, number) >= 1 / delta)] = number
    return caught


def _bet(bets: Floats, disagrees: NDArray[np.bool_], number: int, alpha: float) -> Floats:
    """The bets (M, R) after label `number` (from 1): those on this first label join, then all are paid."""
    odds = np.array(ODDS) * alpha / (1 - alpha)
    rates = odds / (1 + odds)
    joined = np.logaddexp(bets, math.log(SPAN / ((number + SPAN - 1) * (number + SPAN) * len(ODDS))))
    paid: Floats = joined + np.where(disagrees[:, None], np.log(rates / alpha), np.log((1 - rates) / (1 - alpha)))
    return paid


def _wealth(bets: Floats, n: int) -> Any:
    """All bets together (M,), with the wealth of those that have not begun; finite, however sure it is."""
    return np.exp(np.minimum(bets, 690.0)).sum(axis=1) + SPAN / (n + SPAN)
