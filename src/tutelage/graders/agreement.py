"""Several people's labels of the same items: their majority, where they contradict themselves, and how far they agree.

A vote is one person's label of one item. A person who gave one item two different labels has, on that item, no vote: which of them was
meant cannot be known. Such cases are counted. The same label given twice counts once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.records import Record

Label = str | float
Metric = Literal["nominal", "ordinal", "interval"]
Ballots = Mapping[str, Mapping[str, Label]]
"""item -> annotator -> label; contradictions are left out."""
Floats = NDArray[np.float64]


class Vote(NamedTuple):
    """One person's label of one item."""

    item: str
    annotator: str
    label: Label


class Contradiction(Record):
    """One person's different labels of one item, in the order given."""

    item: str
    annotator: str
    labels: tuple[Label, ...]


class Majority(Record):
    """The label of each item that more people chose than any other.

    tied: items without one, because two labels lead together. unlabelled: items whose every vote contradicts another of the same person.
    """

    labels: dict[str, Label]
    tied: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


class Agreement(Record):
    """How far people agree with each other, as far as their labels allow to say; None: not at all.

    pairs: share of like labels among pairs of people on the same item, each item weighed by its votes as in `krippendorff`, which is
    corrected for chance (1: always alike, 0: as by chance, below: worse). compared: items with two votes or more.
    """

    items: int
    annotators: int
    votes: int
    compared: int
    pairs: float | None
    krippendorff: float | None
    metric: Metric
    tied: int
    contradictions: tuple[Contradiction, ...] = ()


def contradictions(votes: Iterable[Vote]) -> tuple[Contradiction, ...]:
    """Who labelled the same item differently, in the order of first votes."""
    given = _given(votes)
    return tuple(
        Contradiction(item=item, annotator=annotator, labels=tuple(labels))
        for item, people in given.items()
        for annotator, labels in people.items()
        if len(labels) > 1
    )


def ballots(votes: Iterable[Vote]) -> Ballots:
    """One vote at most for each person and item; items whose votes all fell away stand there empty."""
    return {
        item: {annotator: next(iter(labels)) for annotator, labels in people.items() if len(labels) == 1}
        for item, people in _given(votes).items()
    }


def _given(votes: Iterable[Vote]) -> dict[str, dict[str, dict[Label, None]]]:
    given: defaultdict[str, defaultdict[str, dict[Label, None]]] = defaultdict(lambda: defaultdict(dict))
    for vote in votes:
        given[vote.item][vote.annotator][vote.label] = None
    return {item: dict(people) for item, people in given.items()}


def majority(votes: Iterable[Vote]) -> Majority:
    """The majority's label of each item; a single vote is one. A tie is no label."""
    labels: dict[str, Label] = {}
    tied, unlabelled = [], []
    for item, people in ballots(votes).items():
        ranked = Counter(people.values()).most_common(2)
        if not ranked:
            unlabelled.append(item)
        elif len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            tied.append(item)
        else:
            labels[item] = ranked[0][0]
    return Majority(labels=labels, tied=tuple(tied), unlabelled=tuple(unlabelled))


def agreement(votes: Iterable[Vote], metric: Metric = "nominal") -> Agreement:
    """All that is to be said beside a majority. Raises `InputError` where the metric does not fit the labels."""
    votes = list(votes)
    cast = ballots(votes)
    table = _coincidences(cast)
    return Agreement(
        items=len(cast),
        annotators=len({annotator for people in cast.values() for annotator in people}),
        votes=sum(len(people) for people in cast.values()),
        compared=sum(len(people) > 1 for people in cast.values()),
        pairs=float(np.trace(table.pairs) / table.pairs.sum()) if len(table.labels) else None,
        krippendorff=_krippendorff(table, metric),
        metric=metric,
        tied=len(majority(votes).tied),
        contradictions=contradictions(votes),
    )


def krippendorff_alpha(votes: Iterable[Vote], metric: Metric = "nominal") -> float | None:
    """Krippendorff's alpha (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"); missing votes are allowed.

    1 - observed / expected disagreement, for labels that differ in name (`nominal`), in rank (`ordinal`), or by their distance
    (`interval`; the last two need numbers). None where no item has two votes, or all labels are alike: then nothing shows that they
    could differ. Raises `InputError` for texts under a metric that needs numbers.
    """
    return _krippendorff(_coincidences(ballots(votes)), metric)


class _Table(NamedTuple):
    """Labels (L,) of items with two votes or more, sorted, and how often each pair of them met on an item (L, L)."""

    labels: tuple[Label, ...]
    pairs: Floats


def _coincidences(cast: Ballots) -> _Table:
    pairable = [list(people.values()) for people in cast.values() if len(people) > 1]
    labels = sorted({label for votes in pairable for label in votes}, key=lambda label: (isinstance(label, str), label))
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(pairable), len(labels)))
    for row, votes in enumerate(pairable):
        for label in votes:
            counts[row, place[label]] += 1
    weights = 1 / (counts.sum(axis=1, keepdims=True) - 1)
    return _Table(tuple(labels), counts.T @ (counts * weights) - np.diag((counts * weights).sum(axis=0)))


def _krippendorff(table: _Table, metric: Metric) -> float | None:
    distance = _distances(table, metric)
    totals = table.pairs.sum(axis=1)
    expected = totals @ distance @ totals
    if expected == 0:
        return None
    return float(1 - (totals.sum() - 1) * (table.pairs * distance).sum() / expected)


def _distances(table: _Table, metric: Metric) -> Floats:
    """The squared difference of any two labels (L, L)."""
    if metric == "nominal":
        return 1 - np.eye(len(table.labels))
    if texts := [label for label in table.labels if isinstance(label, str)]:
        raise InputError(f"the metric `{metric}` needs numbers as labels, and one is `{texts[0]}`; use `nominal`", field="metric")
    if metric == "interval":
        scale = np.array([float(label) for label in table.labels])
    else:  # the distance of two ranks is the number of labels between their middles
        totals = table.pairs.sum(axis=1)
        scale = np.cumsum(totals) - totals / 2
    return np.asarray((scale[:, None] - scale[None, :]) ** 2)


def cohen_kappa(first: Sequence[Label | None], second: Sequence[Label | None]) -> float | None:
    """Cohen's kappa (Cohen 1960) of two people's labels of the same items; items that either left out (None) do not count.

    None where nothing is left, or both give one and the same label throughout. Raises `InputError` where the lengths differ.
    """
    if len(first) != len(second):
        raise InputError(f"both must label the same items, and they have {len(first)} and {len(second)}")
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    n = len(pairs)
    ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    if by_chance == 1:
        return None
    return (sum(a == b for a, b in pairs) / n - by_chance) / (1 - by_chance)
