"""Samples that begin alike, computed once: a batch as rows of tokens in which shared beginnings stand a single time.

The samples of a row form a tree by their tokens (a trie): each token stands once for all samples that agree on everything up to it, and
attends to its ancestors and itself; its position is its depth. So a prompt is computed once, forwards and backwards, for all its
completions, and so is the longer beginning that two samples of one episode have in common. What each sample's tokens get is exactly
what they get alone.

A sample ends at the token before its last action token: whatever stands after it cannot reach the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.training.splitting import Work, least_work

Ints = NDArray[np.int64]


class Marked(Protocol):
    """L tokens, of which the action tokens bear loss: ids (L,), action (L,). The first is none of them."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens."""

    @property
    def action(self) -> tuple[bool, ...]:
        """Which of them bear loss."""


class _Tree:
    """The tokens of a row, each with its parent."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, ids: Sequence[int]) -> Ints:
        """The places of a sample's tokens, made where they are missing."""
        place, path = -1, []
        for token in ids:
            child = self._children.setdefault((place, token), len(self.ids))
            if child == len(self.ids):
                self.ids.append(token)
                self.parents.append(place)
            path.append(child)
            place = child
        return np.array(path, dtype=np.int64)


@dataclass(frozen=True)
class Row:
    """N tokens: ids (N,), parents (N,) (-1: none), and for each sample by its number the places (L,) of its tokens."""

    ids: Ints
    parents: Ints
    places: dict[int, Ints]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def branches(self) -> bool:
        """Whether it is a tree at all; a chain needs no mask of its own."""
        return bool((self.parents != np.arange(-1, len(self) - 1)).any())

    @cached_property
    def depths(self) -> Ints:
        """The position of each token in its sample (N,)."""
        depths = np.zeros(len(self), dtype=np.int64)
        for place, parent in enumerate(self.parents):
            depths[place] = 0 if parent < 0 else depths[parent] + 1
        return depths

    def sees(self) -> NDArray[np.bool_]:
        """Which token attends to which (N, N): its ancestors and itself."""
        allowed = np.zeros((len(self), len(self)), dtype=np.bool_)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                allowed[place] = allowed[parent]
            allowed[place, place] = True
        return allowed


@dataclass(frozen=True)
class MicroBatch:
    """B rows that go through the model at once, padded on the right to N tokens.

    ids, positions (B, N). mask (B, 1, N, N): which token attends to which; None: each to all before it. For the M action tokens of its
    samples: source (M,) is the place among the B x N hidden states that predicts the token, target (M,) the token, and token (M,) its
    number among the action tokens of the whole batch.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    source: Tensor
    target: Tensor
    token: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        tensors = (self.ids, self.positions, self.mask, self.source, self.target, self.token)
        return MicroBatch(*(None if tensor is None else tensor.to(device) for tensor in tensors))  # type: ignore[arg-type]


def empty_micro_batch() -> MicroBatch:
    """One token that predicts nothing, for a process that has to take part in a pass without having work."""
    nothing, one = torch.zeros(0, dtype=torch.int64), torch.zeros((1, 1), dtype=torch.int64)
    return MicroBatch(one, one, None, nothing, nothing, nothing)


def pack_rows(samples: Sequence[Marked], chosen: Sequence[int], *, work: Work, max_tokens: int, share: bool = True) -> list[Row]:
    """Rows for the chosen samples (those without an action token are left out), each of at most max_tokens unless one sample is longer.

    Samples share rows where that is least work.
    """
    return pack_units(samples, [(number,) for number in chosen], work=work, max_tokens=max_tokens, share=share)


def pack_units(samples: Sequence[Marked], units: Sequence[Sequence[int]], *, work: Work, max_tokens: int, share: bool = True) -> list[Row]:
    """As `pack_rows`; the samples of a unit, by their numbers, stay in one row however long it is."""
    inputs = {number: _input(samples[number]) for unit in units for number in unit if any(samples[number].action)}
    kept = [own for unit in units if (own := [number for number in unit if number in inputs])]
    kept.sort(key=lambda unit: ([inputs[number] for number in unit], unit))
    found = least_work([[inputs[number] for number in unit] for unit in kept], work, max_tokens if share else 0)
    return [_row({number: inputs[number] for place in places for number in kept[place]}) for places in found]


def _input(sample: Marked) -> tuple[int, ...]:
    """What stands before the last action token."""
    return sample.ids[: max(place for place, chosen in enumerate(sample.action) if chosen)]


def _row(inputs: dict[int, tuple[int, ...]]) -> Row:
    tree = _Tree()
    places = {number: tree.add(inputs[number]) for number in sorted(inputs, key=lambda number: (inputs[number], number))}
    return Row(np.array(tree.ids, dtype=np.int64), np.array(tree.parents, dtype=np.int64), places)


def gather_rows(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows that go through the model together: trees apart from chains, at most max_tokens with their padding, at most a quarter of it."""
    groups: list[list[Row]] = []
    for branching in (False, True):
        own: list[Row] = []
        for row in sorted((row for row in rows if row.branches == branching), key=len, reverse=True):
            padded = len(own[0]) * (len(own) + 1) if own else 0
            if padded > max_tokens or padded - sum(map(len, own)) - len(row) > padded / 4:
                groups.append(own)
                own = []
            own.append(row)
        groups += [own] if own else []
    return groups


def as_micro_batch(rows: Sequence[Row], samples: Sequence[Marked], first_token: Sequence[int]) -> MicroBatch:
    """The tensors of some rows. first_token (S,): the number of each sample's first action token among those of the whole batch."""
    width = max(map(len, rows))
    ids, positions = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row.ids
        positions[number, : len(row)] = row.depths
    mask = torch.from_numpy(_masks(rows, width)) if any(row.branches for row in rows) else None
    links = [link for number, row in enumerate(rows) for link in _links(row, number * width, samples, first_token)]
    source, target, token = (torch.from_numpy(np.concatenate(column)) for column in zip(*links, strict=True))
    if mask is None:
        positions = np.broadcast_to(np.arange(width), ids.shape).copy()
    return MicroBatch(torch.from_numpy(ids), torch.from_numpy(positions), mask, source, target, token)


def _masks(rows: Sequence[Row], width: int) -> NDArray[np.bool_]:
    masks = np.zeros((len(rows), 1, width, width), dtype=np.bool_)
    for number, row in enumerate(rows):
        masks[number, 0, : len(row), : len(row)] = row.sees()
        np.fill_diagonal(masks[number, 0], True)  # padding sees itself, so that no softmax is over nothing
    return masks


def _links(row: Row, start: int, samples: Sequence[Marked], first_token: Sequence[int]) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(source, target, token) of the action tokens of each sample of a row that starts at `start`."""
    for number, places in row.places.items():
        actions = np.flatnonzero(samples[number].action)
        numbers = first_token[number] + np.arange(len(actions))
        yield start + places[actions - 1], np.array(samples[number].ids, dtype=np.int64)[actions], numbers
