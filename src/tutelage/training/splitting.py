"""Which sequences to compute together as one tree, so that the whole costs least work. No torch is needed here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What a row of N tokens costs: per_token x N + per_pair x N^2 (layers, and attention)."""

    per_token: float = 1.0
    per_pair: float = 0.0

    def of(self, tokens: int) -> float:
        """The cost of a row."""
        return self.per_token * tokens + self.per_pair * tokens * tokens


def least_work(units: Sequence[Sequence[Tokens]], work: Work, max_tokens: int) -> list[list[int]]:
    """Places of units, tree by tree, in the order of their tokens; of equal work the smaller trees.

    A unit is one or more sequences that stay in one tree. A tree has at most max_tokens unless it is a single unit. Of all ways to cut the
    ordered units into trees, the one with the least work, by dynamic programming over where the last tree begins.
    """
    ranked = sorted({sequence for unit in units for sequence in unit})
    rank = {sequence: place for place, sequence in enumerate(ranked)}
    common = [_in_common(one, other) for one, other in pairwise(ranked)]
    ranks = [sorted({rank[sequence] for sequence in unit}) for unit in units]
    order = sorted(range(len(units)), key=lambda place: (ranks[place], place))
    lengths = [len(sequence) for sequence in ranked]
    cost, begin = [0.0] + [float("inf")] * len(order), [0] * (len(order) + 1)
    for first in range(len(order)):
        tree = _Size(lengths, common)
        for end in range(first + 1, len(order) + 1):
            tree.add(ranks[order[end - 1]])
            if tree.tokens > max_tokens and end > first + 1:
                break
            whole = cost[first] + work.of(tree.tokens)
            if whole <= cost[end]:
                cost[end], begin[end] = whole, first
    return _cut(order, begin)


def _cut(order: Sequence[int], begin: Sequence[int]) -> list[list[int]]:
    trees: list[list[int]] = []
    end = len(order)
    while end:
        trees.append(list(order[begin[end] : end]))
        end = begin[end]
    return trees[::-1]


class _Size:
    """How many tokens a tree of some of the sequences has: each token once for all sequences that agree up to it.

    lengths: of the sequences in their order; common: how much each has in common with the next one.
    """

    def __init__(self, lengths: Sequence[int], common: Sequence[int]) -> None:
        self.lengths, self.common = lengths, common
        self.tokens = 0
        self._held: list[int] = []

    def add(self, ranks: Sequence[int]) -> None:
        """Put sequences in, by their places in the order."""
        for rank in ranks:
            place = bisect_left(self._held, rank)
            before = self._held[place - 1] if place else None
            after = self._held[place] if place < len(self._held) else None
            if after == rank:
                continue
            shared = [min(self.common[low:high]) for low, high in ((before, rank), (rank, after)) if low is not None and high is not None]
            self.tokens += self.lengths[rank] - max(shared, default=0)
            self._held.insert(place, rank)


def _in_common(one: Tokens, other: Tokens) -> int:
    """The length of the common beginning, by halving: comparing slices is quicker than a loop over tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
