"""The blocks of the cut cross-entropy (see `cut_cross_entropy.py` for what is computed and why so)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LOW = -1e30
"""Below every logit; finite, so that what is rescaled by it stays a number."""


@dataclass(frozen=True)
class Blocks:
    """How many tokens, and how many entries of the vocabulary, are computed at a time."""

    tokens: int
    vocabulary: int

    @classmethod
    def of(cls, device: torch.device, tokens: int) -> Blocks:
        """On a CPU a block is 2 MiB (of float32) and stays in the cache; on a GPU 256 MiB. Fewer tokens leave room for more vocabulary."""
        most, size = (4096, 1 << 26) if device.type == "cuda" else (512, 1 << 19)
        return cls(most, size // min(max(tokens, most // 4), most))


@dataclass(frozen=True)
class Way:
    """What is computed, and how. dtype: of matrix products; wide: of sums."""

    scale: float
    softcap: float | None
    temperature: float
    statistics: bool
    skip_below: float | None
    dtype: torch.dtype
    wide: torch.dtype
    blocks: Blocks
    states_learn: bool
    layer_learns: bool
    keeps: bool

    @property
    def factor(self) -> float:
        """What z' is but for the cap."""
        return self.scale / self.temperature

    def tiles(self, tokens: int, vocabulary: int) -> Iterator[tuple[slice, list[slice]]]:
        """A slice of the vocabulary, and all slices of the tokens."""
        rows = [slice(start, min(start + self.blocks.tokens, tokens)) for start in range(0, tokens, self.blocks.tokens)]
        for start in range(0, vocabulary, self.blocks.vocabulary):
            yield slice(start, min(start + self.blocks.vocabulary, vocabulary)), rows

    def logits(self, states: Tensor, part: Tensor, bias: Tensor | None, out: Tensor) -> Tensor | None:
        """Put the logits of states (n, H) for a part (v, H) of the vocabulary into out (n, v). What z' is but for the factor, if not 1."""
        _product(states, part.T, out)
        if bias is not None:
            out.add_(bias)
        if self.softcap is None:
            if self.factor != 1:
                out.mul_(self.factor)
            return None
        out.mul_(self.scale / self.softcap).tanh_()
        slope = 1 - out.square() if self.states_learn or self.layer_learns else None
        out.mul_(self.softcap / self.temperature)
        return slope

    def slope_at(self, logits: Tensor) -> Tensor | float:
        """The same from logits at the temperature."""
        return 1.0 if self.softcap is None else 1 - (logits * (self.temperature / self.softcap)).square()

    def skips(self, block: Tensor, total: Tensor | float = 1.0) -> bool:
        """Whether a block (n, v) may be left out of the gradient. total: what its entries are shares of."""
        return self.skip_below is not None and bool((block.abs().sum(1) < self.skip_below * total).all())


class _Space:
    """Memory for blocks, used again for each."""

    def __init__(self, way: Way, tokens: int, vocabulary: int, device: torch.device) -> None:
        size = min(way.blocks.tokens, tokens) * min(way.blocks.vocabulary, vocabulary)
        self._all = torch.empty(size, dtype=way.wide, device=device)

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Room for a block, with whatever stood there."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        return self._all[: shape[0] * shape[1]].view(shape)


class _Own:
    """Where the targets of some tokens lie in a part of the vocabulary."""

    def __init__(self, targets: Tensor, columns: slice) -> None:
        self.inside = ((targets >= columns.start) & (targets < columns.stop))[:, None]
        self._places = (targets - columns.start).clamp(0, columns.stop - columns.start - 1)[:, None]

    def taken(self, block: Tensor, elsewhere: Tensor) -> Tensor:
        """(n,): of a block (n, v) what stands at the targets; of tokens whose targets lie elsewhere, that."""
        return torch.where(self.inside, block.gather(1, self._places), elsewhere[:, None]).squeeze(1)

    def put(self, block: Tensor, values: Tensor | float) -> None:
        """Put values (n, 1), or one for all, there."""
        there = block.gather(1, self._places)
        block.scatter_(1, self._places, torch.where(self.inside, values, there))


class _Sums:
    """Of N tokens, over the part of the vocabulary that has been seen: relative to the largest logit so far (`top`)."""

    def __init__(self, way: Way, targets: Tensor) -> None:
        self.way, self.targets = way, targets
        self.top = torch.full(targets.shape, _LOW, dtype=way.wide, device=targets.device)
        self.target, self.total, self.weighted, self.plain = (torch.zeros_like(self.top) for _ in range(4))

    def add(self, rows: slice, block: Tensor, own: _Own) -> Tensor:
        """Count a block of logits, which becomes exp(logits - top). By how much all that was summed before has shrunk: (n,)."""
        before, total, weighted, plain = (sums[rows] for sums in (self.top, self.total, self.weighted, self.plain))
        self.target[rows] = own.taken(block, self.target[rows])
        top = torch.maximum(before, block.amax(1))
        step = before - top
        shrunk = step.exp()
        block.sub_(top[:, None])
        if self.way.statistics:
            if self.way.temperature != 1:
                plain.mul_((step * self.way.temperature).exp()).add_((block * self.way.temperature).exp_().sum(1))
            raised = block.exp()
            weighted.add_(total * step).mul_(shrunk).add_(block.mul_(raised).sum(1))
            block.copy_(raised)
        else:
            block.exp_()
        total.mul_(shrunk).add_(block.sum(1))
        before.copy_(top)
        return shrunk

    @property
    def logprobs(self) -> Tensor:
        """(N,), of the targets. Differences first: of large logits a log-sum-exp would be rounded."""
        return self.target - self.top - self.total.log()

    def statistics(self, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities at temperature 1, entropies at the temperature), (N,) each; nothing where they were not asked for."""
        if not self.way.statistics:
            return logprobs.new_empty(0), logprobs.new_empty(0)
        entropy = self.total.log() - self.weighted / self.total
        if self.way.temperature == 1:
            return logprobs.clone(), entropy
        return self.way.temperature * (self.target - self.top) - self.plain.log(), entropy


class Cut(torch.autograd.Function):
    """hidden (N, H), weight (V, H), bias (V,) or None, targets (N,) -> log-probabilities, plain ones, entropies."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, way: Way) -> tuple[Tensor, ...]:
        """Go through the vocabulary once."""
        ctx.set_materialize_grads(False)
        with torch.autocast(hidden.device.type, enabled=False):
            sums = _Sums(way, targets)
            pull, kept = _gather(way, sums, hidden, weight, bias)
            logprobs = sums.logprobs
            if pull is not None:
                _add_targets(way, pull, weight, sums, logprobs)
                pull = pull.to(hidden.dtype)
        needed = [hidden, weight, bias, targets, sums.top, sums.total, sums.target] if way.layer_learns else [None] * 7
        ctx.save_for_backward(pull, *needed, *kept)
        ctx.way = way
        plain, entropy = sums.statistics(logprobs)
        ctx.mark_non_differentiable(plain, entropy)
        return logprobs, plain, entropy

    @staticmethod
    def backward(ctx: Any, given: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Pass back what was gathered, and go through it once more where the layer learns."""
        if given is None:
            return (None,) * 5
        way: Way = ctx.way
        pull, hidden, weight, bias, targets, top, total, target, *kept = ctx.saved_tensors
        with torch.autocast(given.device.type, enabled=False):
            to_states = None if pull is None else (pull * given[:, None]).to(pull.dtype)
            if not way.layer_learns:
                return to_states, None, None, None, None
            back = _Back(way, hidden, weight, bias, targets, top, total, target, kept)
            to_weight, to_bias = back.gradients(given.to(way.wide), weight=ctx.needs_input_grad[1], bias=ctx.needs_input_grad[2])
        return to_states, to_weight, to_bias, None, None


def _gather(way: Way, sums: _Sums, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, list[Tensor]]:
    """Go through the vocabulary once. (sum over v != t of exp(z_v - top) z'_v w_v, but for the factor: (N, H) if wanted; blocks to keep).

    A block is kept as (exp(z - top) z' without the targets, top), in the order of `Way.tiles`.
    """
    states = hidden.to(way.dtype)
    pull = torch.zeros(hidden.shape, dtype=way.wide, device=hidden.device) if way.states_learn else None
    space, kept = _Space(way, len(hidden), len(weight), hidden.device), list[Tensor]()
    for columns, all_rows in way.tiles(len(hidden), len(weight)):
        part = weight[columns].to(way.dtype)
        for rows in all_rows:
            block, own = space.block(rows, columns), _Own(sums.targets[rows], columns)
            slope = way.logits(states[rows], part, None if bias is None else bias[columns], block)
            shrunk = sums.add(rows, block, own)
            if slope is not None:
                block.mul_(slope)
            own.put(block, 0.0)
            if pull is not None:
                pull[rows].mul_(shrunk[:, None])
                if not way.skips(block, sums.total[rows]):
                    _add_product(pull[rows], block.to(way.dtype), part)
            if way.keeps:
                kept += [block.to(way.dtype, copy=True), sums.top[rows].clone()]
    return pull, kept


def _add_targets(way: Way, pull: Tensor, weight: Tensor, sums: _Sums, logprobs: Tensor) -> None:
    """Make of what `_gather` gives what log-probabilities pass back to the hidden states."""
    missing = -torch.expm1(logprobs) * way.slope_at(sums.target) * way.factor
    for rows in next(iter(way.tiles(len(pull), 1)))[1]:
        pull[rows].mul_((-way.factor / sums.total[rows])[:, None])
        pull[rows].addcmul_(weight[sums.targets[rows]].to(way.wide), missing[rows][:, None])


@dataclass(frozen=True)
class _Back:
    """The gradient of the output layer. top, total, target (N,): as `_Sums` left them. kept: what `_gather` kept."""

    way: Way
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    top: Tensor
    total: Tensor
    target: Tensor
    kept: Sequence[Tensor]

    def gradients(self, given: Tensor, *, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        """Of weight and bias, where wanted. given (N,): the gradient of the log-probabilities."""
        way, states, scaled = self.way, self.hidden.to(self.way.dtype), given * -self.way.factor
        to_weight = torch.empty_like(self.weight) if weight else None
        to_bias = torch.zeros_like(self.bias) if bias and self.bias is not None else None
        space = _Space(way, len(states), len(self.weight), states.device)
        numbers = iter(range(0, len(self.kept), 2))
        for columns, all_rows in way.tiles(len(states), len(self.weight)):
            part = self.weight[columns].to(way.dtype)
            gathered, begun = None if to_weight is None else _room(to_weight[columns], way.wide), False
            for rows in all_rows:
                block = self._shares(rows, columns, part, space, next(numbers, None))
                if way.skips(block):
                    continue
                if gathered is not None:
                    _add_product(gathered, block.T.to(way.dtype), (states[rows] * scaled[rows, None]).to(way.dtype), anew=not begun)
                    begun = True
                if to_bias is not None:
                    to_bias[columns] += torch.mv(block.T, scaled[rows])
            if to_weight is not None and gathered is not None and not (begun and gathered.dtype == to_weight.dtype):
                to_weight[columns] = gathered if begun else 0
        return to_weight, to_bias

    def _shares(self, rows: slice, columns: slice, part: Tensor, space: _Space, number: int | None) -> Tensor:
        """(n, v): p z', and at the targets (p - 1) z', each but for the factor."""
        block = space.block(rows, columns)
        if number is None:
            slope = self.way.logits(self.hidden[rows].to(self.way.dtype), part, None if self.bias is None else self.bias[columns], block)
            block.sub_(self.top[rows, None]).exp_().mul_(self.total[rows, None].reciprocal())
            if slope is not None:
                block.mul_(slope)
        else:
            torch.mul(self.kept[number], ((self.kept[number + 1] - self.top[rows]).exp() / self.total[rows])[:, None], out=block)
        missing = torch.expm1(self.target[rows] - self.top[rows] - self.total[rows].log()) * self.way.slope_at(self.target[rows])
        _Own(self.targets[rows], columns).put(block, missing[:, None])
        return block


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(out: Tensor, left: Tensor, right: Tensor, *, anew: bool = False) -> None:
    """Add the product to out, whatever it held if anew."""
    if anew:
        _product(left, right, out)
    elif left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out.add_(left @ right)


def _room(part: Tensor, wide: torch.dtype) -> Tensor:
    """What to add a part of a gradient up in: itself, or where it is of another type something beside it."""
    return part if part.dtype == wide else torch.empty_like(part, dtype=wide)
