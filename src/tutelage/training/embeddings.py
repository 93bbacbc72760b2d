"""Learned embedding propagation: what a base model's embeddings learned, carried to a model that was tuned from it.

Tikhomirov and Chernyshev, "Facilitating large language model Russian adaptation with Learned Embedding Propagation" (2024,
arXiv:2412.21140). Of either model the rows of a new vocabulary begin as means of the rows of their old sub-tokens:

    A = base's old embeddings in the new vocabulary        B = instruct's old embeddings in the new vocabulary
    D = argmin |A D - B|                                   new instruct embeddings = base's trained embeddings @ D

for the input table and the output table apart (once where they are one). D tells how tuning changed the space of embeddings. The three
projections differ in the rows that it is found from:

    conversion   all rows of the new vocabulary
    overlap      the rows of tokens that are in both vocabularies
    swap         none: D is the identity, and the trained rows are put in as they are

Special tokens are copied from the instruct model, and take no part in finding D: in many base models they were never trained. Where the
rows show fewer directions than there are, many D fit equally well, and theirs would be the smallest one, which drops all that training
brought about in the directions not shown; here it is the one nearest to the identity, which leaves that as it is. Where D is unique the
two are the same. All is done in float64, by a QR decomposition over blocks of rows, so that memory does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.training.tokenizer_training import Parts, Vocabulary

Projection = Literal["conversion", "overlap", "swap"]
Rows = NDArray[Any]
"""(tokens, width), of any floating type."""
BLOCK = 4096
"""Rows that are in memory in float64 at once."""


@dataclass(frozen=True)
class Table:
    """Embeddings of an old vocabulary. rows: (old tokens, width). parts: which of them each token of the new vocabulary is made of."""

    rows: Rows
    parts: Parts

    def convert(self, ids: Sequence[int]) -> Rows:
        """Rows of these tokens of the new vocabulary, float64: a token's own where it is an old one, else the mean of its sub-tokens'."""
        parts = [self.parts[number] for number in ids]
        found = np.zeros((len(parts), self.rows.shape[1]))
        lengths = np.array([len(part) for part in parts])
        places = np.repeat(np.arange(len(parts)), lengths)
        flat = np.array([number for part in parts for number in part], dtype=np.intp)
        np.add.at(found, places, self.rows[flat].astype(np.float64))
        return np.asarray(found / np.maximum(lengths, 1)[:, None])

    def converted(self) -> Rows:
        """The whole table in the new vocabulary, in the type of the old one. Tokens of one part are copied bit for bit."""
        found = np.empty((len(self.parts), self.rows.shape[1]), dtype=self.rows.dtype)
        for ids in _blocks(range(len(self.parts))):
            found[ids] = self.convert(ids)
        return found


@dataclass(frozen=True)
class Alignment:
    """How the base's embeddings become the instruct model's. matrix: D, (width, width), float64.

    rows: that it was found from. rank: how many directions they show. residual: |A D - B| / |B|; apart: |A - B| / |B|, what swap leaves.
    note: what was done where the rows do not settle D.
    """

    matrix: Rows
    rows: int
    rank: int
    residual: float
    apart: float
    note: str = ""

    def apply(self, rows: Rows) -> Rows:
        """rows @ D, (tokens, width), in float32."""
        parts = [rows[ids].astype(np.float64) @ self.matrix for ids in _blocks(range(len(rows)))]
        return np.concatenate(parts).astype(np.float32)


def align(pairs: Iterable[tuple[Rows, Rows]], width: int) -> Alignment:
    """D from blocks of rows of A and B, each (some, width). Raises `InputError` for rows that are not finite."""
    root, rows, size = np.zeros((0, 2 * width)), 0, 0.0
    for ours, theirs in pairs:
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise InputError("an embedding holds NaN or infinity; the weights are damaged")
        rows, size = rows + len(ours), size + float(np.sum(theirs**2))
        root = np.asarray(np.linalg.qr(np.concatenate([root, np.concatenate([ours, theirs - ours], axis=1)]), mode="r"))
    change, rank = _least_squares(root[:, :width], root[:, width:], rows)
    left = float(np.linalg.norm(root[:, :width] @ change - root[:, width:]))
    whole = size**0.5 or 1.0
    return Alignment(
        np.eye(width) + change, rows, rank, left / whole, float(np.linalg.norm(root[:, width:])) / whole, _words(rows, rank, width)
    )


def _least_squares(ours: Rows, wanted: Rows, rows: int) -> tuple[Rows, int]:
    """The smallest X of those for which |ours X - wanted| is least, and the rank."""
    width = ours.shape[1]
    if not len(ours):
        return np.zeros((width, width)), 0
    found, _, rank, _ = np.linalg.lstsq(ours, wanted, rcond=np.finfo(np.float64).eps * max(rows, width))
    return found, int(rank)


def _words(rows: int, rank: int, width: int) -> str:
    if not rows:
        return "there were no rows to align by: the trained rows were put in as they are (swap)"
    if rank < width:
        return (
            f"the {rows} rows show {rank} of {width} directions: of all projections that fit them equally well the one nearest to no "
            "change was taken, so that what was trained in the other directions stays as it is"
        )
    return ""


@dataclass(frozen=True)
class Shared:
    """What base and instruct model have in common, as ids of the new vocabulary.

    ordinary: tokens of text. common: those of them that are old. special: added tokens, with the instruct model's old ids.
    """

    ordinary: tuple[int, ...]
    common: tuple[int, ...]
    special: Mapping[int, int]

    @classmethod
    def of(cls, new: Vocabulary, instruct: Vocabulary) -> Shared:
        """By the new vocabulary and the instruct model's old one."""
        common = tuple(number for token, number in new.ordinary.items() if token in instruct.ordinary)
        special = {number: instruct.added[token] for token, number in new.added.items() if token in instruct.added}
        return cls(tuple(new.ordinary.values()), common, special)

    def rows_for(self, projection: Projection) -> tuple[int, ...]:
        """The tokens that D is found from."""
        return {"conversion": self.ordinary, "overlap": self.common, "swap": ()}[projection]


def propagate(trained: Rows, base: Table, instruct: Table, shared: Shared, projection: Projection) -> tuple[Rows, Alignment]:
    """The instruct model's table in the new vocabulary, float32, and how it was aligned.

    trained: the base's table in the new vocabulary after training. Raises `InputError` where the tables do not fit together.
    """
    widths = {trained.shape[1], base.rows.shape[1], instruct.rows.shape[1]}
    if len(widths) > 1:
        listed = ", ".join(map(str, sorted(widths)))
        raise InputError(f"the tables have different widths: {listed}. One model was not tuned from the other")
    alignment = _alignment(base, instruct, shared, projection)
    found = trained.astype(np.float32) if projection == "swap" else alignment.apply(trained)
    for number, old in shared.special.items():
        found[number] = instruct.rows[old]
    return found, alignment


def _alignment(base: Table, instruct: Table, shared: Shared, projection: Projection) -> Alignment:
    ids = shared.rows_for(projection) or shared.ordinary
    pairs = ((base.convert(some), instruct.convert(some)) for some in _blocks(ids))
    width = base.rows.shape[1]
    if projection != "swap":
        return align(pairs if shared.rows_for(projection) else (), width)
    apart = _apart(pairs)
    return Alignment(np.eye(width), 0, 0, apart, apart)


def _apart(pairs: Iterable[tuple[Rows, Rows]]) -> float:
    sums = [(float(np.sum((ours - theirs) ** 2)), float(np.sum(theirs**2))) for ours, theirs in pairs]
    return float((sum(one for one, _ in sums) / (sum(other for _, other in sums) or 1.0)) ** 0.5)


def _blocks(ids: Sequence[int]) -> Iterator[list[int]]:
    return (list(ids[start : start + BLOCK]) for start in range(0, len(ids), BLOCK))
