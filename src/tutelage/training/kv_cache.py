"""Keys and values of sequences: a batch whose rows come and go, and a tree of computed beginnings that sequences share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Of every layer the keys and the values of one stretch of T tokens, each (heads, T, width)."""
_ROOM = 64  # tokens by which a batch's buffers grow


class RowsLayer(DynamicLayer):
    """One layer of a batch, (rows, heads, columns, width), in buffers with room to grow: a token is written, not all tokens copied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Empty buffers of the shape that the first tokens have."""
        self.adopt(key_states[:, :, :0], value_states[:, :, :0])

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, length: int | None = None) -> None:
        """Take buffers of which the first `length` columns are filled (by default all)."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._rooms = [keys, values]
        self._show(keys.shape[2] if length is None else length)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        if end > self._rooms[0].shape[2]:
            self._rooms = [_widened(room, start, end + _ROOM) for room in self._rooms]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        return self._show(end)

    def keep(self, rows: Sequence[int], left: int) -> None:
        """Only these rows, in this order, without their first `left` columns. A row's new place is never beyond its old one."""
        for room in self._rooms:
            for place, row in enumerate(rows):
                if place != row:
                    room[place] = room[row]
        keys, values = (room[: len(rows), :, left:] for room in self._rooms)
        self.adopt(keys, values, self.length - left)

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.length = length
        self.keys, self.values = keys, values = self._rooms[0][:, :, :length], self._rooms[1][:, :, :length]
        return keys, values


def _widened(room: torch.Tensor, filled: int, columns: int) -> torch.Tensor:
    wider = room.new_zeros(*room.shape[:2], columns, room.shape[3])
    wider[:, :, :filled] = room[:, :, :filled]
    return wider


class RowsCache(Cache):
    """The layers of a batch whose rows end at the same column; what lies left of a row's beginning is zero, and masked by who uses it."""

    def __init__(self, rows: Sequence[Sequence[Layers]] = (), width: int = 0) -> None:
        """rows: of each the stretches that it begins with, together at most `width` tokens; they are put at the right end."""
        if not any(rows):
            super().__init__(layer_class_to_replicate=RowsLayer)
            return
        example = next(stretch for row in rows for stretch in row)
        super().__init__(layers=[RowsLayer() for _ in example])
        for number, layer in enumerate(self._own):
            keys, values = (_gathered([[stretch[number][part] for stretch in row] for row in rows], width) for part in (0, 1))
            layer.adopt(keys, values, width)

    def keep(self, rows: Sequence[int], left: int = 0) -> None:
        """Only these rows, in this order, without their first `left` columns. A row's new place is never beyond its old one."""
        for layer in self._own:
            layer.keep(rows, left)

    def stretch(self, row: int, start: int, stop: int) -> Layers:
        """The columns from `start` to before `stop` of a row: views, to be copied by who keeps them."""
        shown = ((layer.keys, layer.values) for layer in self._own)
        return [(k[row, :, start:stop], v[row, :, start:stop]) for k, v in shown if k is not None and v is not None]

    @property
    def _own(self) -> list[RowsLayer]:
        return cast(list[RowsLayer], self.layers)


def _gathered(rows: Sequence[Sequence[torch.Tensor]], width: int) -> torch.Tensor:
    example = next(stretch for row in rows for stretch in row)
    heads, _, size = example.shape
    room = example.new_zeros(len(rows), heads, width + _ROOM, size)
    for target, stretches in zip(room, rows, strict=True):
        column = width - sum(stretch.shape[1] for stretch in stretches)
        for stretch in stretches:
            target[:, column : column + stretch.shape[1]] = stretch
            column += stretch.shape[1]
    return room


@dataclass(eq=False)
class _Node:
    """A stretch of tokens after its parent's, with its keys and values. used: when it was last of use."""

    ids: tuple[int, ...]
    layers: Layers
    children: dict[int, _Node] = field(default_factory=dict)
    used: int = 0

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for pair in self.layers for part in pair)


class PrefixTree:
    """Computed beginnings of sequences; sequences that begin alike share what they have in common. room: bytes kept by `trim`."""

    def __init__(self, room: int) -> None:
        self.room, self.bytes = room, 0
        self._root = _Node((), [])
        self._clock = 0

    def known(self, ids: Sequence[int]) -> int:
        """How many of the first tokens are there."""
        return sum(matched for _, _, matched in self._path(ids))

    def stretches(self, ids: Sequence[int], length: int) -> list[Layers]:
        """What is stored of the first `length` tokens, which must be there, in pieces."""
        self._clock += 1
        pieces: list[Layers] = []
        for _, node, matched in self._path(ids[:length]):
            node.used = self._clock
            pieces.append([(keys[:, :matched], values[:, :matched]) for keys, values in node.layers])
        return pieces

    def add(self, ids: Sequence[int], layers: Layers) -> None:
        """Store a sequence; `layers` holds all of it, and of what is known already nothing is copied."""
        self._clock += 1
        last, place = self._root, 0
        for parent, node, matched in list(self._path(ids)):  # all of it, before it is cut
            last, place = (node if matched == len(node.ids) else _split(parent, node, matched)), place + matched
        if place < len(ids):
            own: Layers = [(keys[:, place:].clone(), values[:, place:].clone()) for keys, values in layers]
            last.children[ids[place]] = made = _Node(tuple(ids[place:]), own, used=self._clock)
            self.bytes += made.bytes

    def trim(self) -> None:
        """Forget the ends that were of no use for longest, until the rest fits into `room`."""
        while self.bytes > self.room:
            parent, oldest = min(_leaves(self._root), key=lambda pair: pair[1].used)
            del parent.children[oldest.ids[0]]
            self.bytes -= oldest.bytes

    def _path(self, ids: Sequence[int]) -> Iterator[tuple[_Node, _Node, int]]:
        """The nodes along a sequence: (parent, node, how many of its tokens agree: all of them, save perhaps in the last)."""
        parent, place = self._root, 0
        while place < len(ids) and (node := parent.children.get(ids[place])) is not None:
            matched = common(node.ids, ids[place:])
            yield parent, node, matched
            if matched < len(node.ids):
                return
            parent, place = node, place + matched


def _split(parent: _Node, node: _Node, place: int) -> _Node:
    """Cut a node in two; returns the upper half. Copies, so that either half frees its memory when it goes."""
    upper = _Node(node.ids[:place], [(k[:, :place].clone(), v[:, :place].clone()) for k, v in node.layers], used=node.used)
    parent.children[node.ids[0]] = upper
    node.layers = [(k[:, place:].clone(), v[:, place:].clone()) for k, v in node.layers]
    node.ids = node.ids[place:]
    upper.children[node.ids[0]] = node
    return upper


def _leaves(node: _Node) -> Iterator[tuple[_Node, _Node]]:
    """(parent, leaf) of every leaf below."""
    for below in node.children.values():
        if below.children:
            yield from _leaves(below)
        else:
            yield node, below


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(place for place in range(shorter) if one[place] != other[place])
