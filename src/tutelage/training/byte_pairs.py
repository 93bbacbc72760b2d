"""Byte-pair encoding (Sennrich et al. 2016) learned on from words that are already cut into tokens, in place of characters."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

Pair = tuple[str, str]


def learn_merges(words: Iterable[tuple[Sequence[str], int]], room: int, *, least: int = 2, known: Collection[str] = ()) -> list[Pair]:
    """Up to `room` pairs to join, most frequent first (equally frequent ones by their text).

    words: each as its tokens, with how often it occurs. Each pair makes a token that is neither in `known` nor made by an earlier pair, so
    merges applied one after the other give what BPE gives that knows them all: none can bring about an earlier one.
    """
    table, taken = _Pairs(words), set(known)
    merges: list[Pair] = []
    while len(merges) < room and (pair := table.most_frequent(least)) is not None:
        joined = "".join(pair)
        if joined not in taken:
            table.join(pair)
            taken.add(joined)
            merges.append(pair)
    return merges


class _Pairs:
    """Words as tokens, with how often each pair of neighbours occurs, and in which words."""

    def __init__(self, words: Iterable[tuple[Sequence[str], int]]) -> None:
        self._words = [(list(tokens), count) for tokens, count in words]
        self._counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for number in range(len(self._words)):
            self._count(number, 1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, least: int) -> Pair | None:
        """The pair that occurs most often, `least` times or more; each is given once, unless joining others changes how often it occurs."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._counts[pair]:  # else it has changed since, and stands there again
                return pair if -count >= least else None
        return None

    def join(self, pair: Pair) -> None:
        """Make one token of the pair wherever it stands."""
        changed: set[Pair] = set()
        for number in self._where.pop(pair):
            changed |= self._count(number, -1)
            tokens, count = self._words[number]
            self._words[number] = (_joined(tokens, pair), count)
            changed |= self._count(number, 1)
        for other in changed - {pair}:
            heapq.heappush(self._heap, (-self._counts[other], other))

    def _count(self, number: int, sign: int) -> set[Pair]:
        tokens, count = self._words[number]
        pairs = list(pairwise(tokens))
        for pair in pairs:
            self._counts[pair] += sign * count
            if sign > 0:
                self._where[pair].add(number)
        return set(pairs)


def _joined(tokens: Sequence[str], pair: Pair) -> list[str]:
    found: list[str] = []
    place = 0
    while place < len(tokens):
        both = tuple(tokens[place : place + 2]) == pair
        found.append("".join(pair) if both else tokens[place])
        place += 2 if both else 1
    return found
