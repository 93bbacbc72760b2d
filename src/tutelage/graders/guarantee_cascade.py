"""Thresholds for judges that are asked one after another: the first that is sure enough decides, else a person is asked.

Source: Jung, Brahman and Choi 2024 (arXiv:2407.18370), the cascade. Different from it: delta is split over the levels unless told
otherwise, because calibrating each of L levels at delta leaves only 1 - L * delta for all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.graders.guarantee import Calibration, Confidences, Corrects, calibrate_evidence, check_enough, check_levels, read_evidence
from tutelage.records import Record


class CascadeLevel(Record):
    """One judge of a cascade. calibration: on the items that no earlier level accepted.

    `reached` and `decided` count labelled items that came to it and that it decided; share: decided, of all items; cost: of one item
    that comes to it.
    """

    calibration: Calibration
    reached: int
    decided: int
    share: float
    cost: float


class CascadeCalibration(Record):
    """Thresholds for a cascade of judges; `left` items went to a person. cost_per_item: expected, people included.

    `split_delta` True claims: with probability at least 1 - delta, every level's accepted verdicts, and so the cascade's, disagree with
    people at a rate of at most alpha. False, as in the paper, claims this with 1 - delta for each level by itself, so that only
    1 - levels * delta is left for the whole. See `calibrate_cascade` for what the claim needs.
    """

    alpha: float
    delta: float
    split_delta: bool
    n: int
    levels: tuple[CascadeLevel, ...]
    left: int
    left_share: float
    cost_per_item: float

    def decides(self, confidences: Sequence[float | None]) -> int | None:
        """The first level (from 0) whose confidence is enough; None: a person is asked."""
        pairs = zip(self.levels, confidences, strict=True)
        return next((place for place, (level, confidence) in enumerate(pairs) if level.calibration.accepts(confidence)), None)


def calibrate_cascade(
    levels: Sequence[tuple[Confidences, Corrects]],
    alpha: float,
    delta: float,
    *,
    costs: Sequence[float] | None = None,
    person_cost: float = 0.0,
    split_delta: bool = True,
    min_items: int | None = None,
    parts_N: Sequence[int] | None = None,  # noqa: N803
) -> CascadeCalibration:
    """Thresholds for judges asked one after another; each level is (confidence_N, correct_N) on the same N items, in the same order.

    Level i is calibrated on the items that no earlier level accepted, at delta / levels each (union bound), or at delta each where
    `split_delta` is False. costs: of one item at each level; a level is paid for every item that reaches it. A level that has too few
    items left, or no threshold, decides nothing.

    Given an earlier walk, the items below the confidence at which it stopped are still independent draws; those at that very confidence
    (one item, or a tie) were chosen by its errors. Where the next judge is right just where this one errs, that favours it a little. For
    a claim without this gap give each level items of its own: parts_N says which level (from 0) an item calibrates.
    """
    check_levels(alpha, delta, 1 if min_items is None else min_items)
    if not levels:
        raise InputError("a cascade needs one judge at least", field="levels")
    read = [read_evidence(confidence, correct) for confidence, correct in levels]
    n = len(read[0])
    prices = [0.0] * len(levels) if costs is None else [float(cost) for cost in costs]
    parts = None if parts_N is None else np.asarray(parts_N)
    _check_cascade([len(evidence) for evidence in read], prices, parts)
    each = delta / len(levels) if split_delta else delta
    check_enough(n, alpha, each, min_items)
    found, left = [], np.ones(n, np.bool_)
    for place, (evidence, price) in enumerate(zip(read, prices, strict=True)):
        used = left if parts is None else left & (parts == place)
        calibration = calibrate_evidence(evidence.only(used), alpha, each, min_items)
        decided = left & np.array([calibration.accepts(value) for value in evidence.confidence], dtype=np.bool_)
        reached, count = int(left.sum()), int(decided.sum())
        found.append(CascadeLevel(calibration=calibration, reached=reached, decided=count, share=count / n, cost=price))
        left = left & ~decided
    asked = int(left.sum())
    paid = sum(level.reached * level.cost for level in found) + asked * person_cost
    return CascadeCalibration(
        alpha=alpha,
        delta=delta,
        split_delta=split_delta,
        n=n,
        levels=tuple(found),
        left=asked,
        left_share=asked / n,
        cost_per_item=paid / n,
    )


def _check_cascade(lengths: Sequence[int], costs: Sequence[float], parts: NDArray[Any] | None) -> None:
    if len(set(lengths)) > 1:
        raise InputError(f"every level needs the same items, and they have {', '.join(map(str, lengths))}", field="levels")
    if len(costs) != len(lengths) or not all(cost >= 0 and math.isfinite(cost) for cost in costs):
        raise InputError(f"one cost of 0 or more for each of the {len(lengths)} levels is needed", field="costs")
    if parts is not None and (parts.shape != (lengths[0],) or not np.isin(parts, np.arange(len(lengths))).all()):
        raise InputError(f"each item needs the number of a level, 0 to {len(lengths) - 1}", field="parts")
