"""Texts that say the same as another one, by meaning or by words."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from tutelage.retrieval.bm25 import word_overlap, words
from tutelage.retrieval.embedders import Embedder, load_embedder

BLOCK = 1_024
"""Rows of similarities computed at once."""
SAME_WORDS = 0.8
"""Two texts with this overlap of words say the same only where this share of them is in the same order."""
ROUNDING = 1e-6
COMPARED = 200
"""Words of a text whose order is compared."""
_NEGATIONS = frozenset({"no", "not", "never", "none", "nothing", "neither", "nor", "without", "except", "unless", "cannot", "avoid"})
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATED = re.compile(r"n['\u2019]t\b")


class Pair(NamedTuple):
    """Two texts by position, the earlier one first, and how alike they are (at most 1)."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float, embedder: str | Embedder | None = None) -> list[Pair]:
    """All pairs of texts at least so alike, in the order of the second text.

    threshold: cosine of the embedder's vectors, or overlap of words (Jaccard) without one. Two texts that differ in a number, in a
    negation or in the order of the same words are no pair, however alike they are.
    """
    found = _alike_by_words(texts, threshold) if embedder is None else _alike_by_meaning(texts, threshold, embedder)
    meant = (pair for pair in found if _same_sense(texts[pair.first], texts[pair.second]))
    return sorted(meant, key=lambda pair: (pair.second, pair.first))


def _same_sense(one: str, other: str) -> bool:
    """False where numbers or a negation differ, or the same words come in another order: vectors and bags of words are blind to these."""
    if _marks(one) != _marks(other):
        return False
    first, second = words(one)[:COMPARED], words(other)[:COMPARED]
    if word_overlap(frozenset(first), frozenset(second)) < SAME_WORDS:
        return True
    return SequenceMatcher(None, first, second, autojunk=False).ratio() >= SAME_WORDS


def _marks(text: str) -> tuple[tuple[str, ...], bool]:
    """The numbers of a text, and whether it negates."""
    negates = not _NEGATIONS.isdisjoint(words(text)) or _NEGATED.search(text.casefold()) is not None
    return tuple(sorted(_NUMBER.findall(text))), negates


def _alike_by_meaning(texts: Sequence[str], threshold: float, embedder: str | Embedder) -> Iterator[Pair]:
    if len(texts) < 2:
        return
    vectors = load_embedder(embedder).embed(texts)
    for start in range(0, len(texts), BLOCK):
        block = vectors[start : start + BLOCK] @ vectors[: start + BLOCK].T
        for row, first in np.argwhere(block >= threshold - ROUNDING).tolist():
            if first < start + row:
                yield Pair(first, start + row, float(block[row, first]))


def _alike_by_words(texts: Sequence[str], threshold: float) -> Iterator[Pair]:
    """Texts that overlap so much share one of their rarest words (prefix filtering, Bayardo, Ma and Srikant 2007)."""
    bags = [frozenset(words(text)) for text in texts]
    frequency = Counter(word for bag in bags for word in bag)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for place, bag in enumerate(bags):
        rarest = sorted(bag, key=lambda word: (frequency[word], word))
        prefix = rarest[: len(bag) - math.ceil(threshold * len(bag) - 1e-9) + 1]
        for other in sorted({other for word in prefix for other in seen[word]}):
            overlap = word_overlap(bags[other], bag)
            if overlap >= threshold:
                yield Pair(other, place, overlap)
        for word in prefix:
            seen[word].append(place)
