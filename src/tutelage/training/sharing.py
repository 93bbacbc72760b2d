"""Rows of SFT and DPO that begin alike, computed once: the tree rows of `packing.py` in place of a batch's rows.

Rows of one agent all begin with the same instructions and tools. Where a model takes a mask of its own (`trees.shares_soundly`), a batch
becomes passes of at most `max_tokens` tokens, each forwards and backwards on its own, and the losses of the passes add up to that of the
batch: what a step learns from stays the same, and a large batch needs no more memory than a small one. Dropout alone differs: of tokens
that are computed once it is drawn once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.training.batches import IGNORED, token_logprobs
from tutelage.training.packing import MicroBatch, Row, as_micro_batch, gather_rows, pack_units
from tutelage.training.splitting import Work
from tutelage.training.trees import Stretch, hidden_states, language_model_of, shares_soundly, work_of

MAX_TOKENS_CPU, MAX_TOKENS_GPU = 2048, 16_384
"""Of a pass, where the settings do not say."""


@dataclass(frozen=True)
class Pass:
    """Tree rows that go through the model at once. samples: all of the batch; rows: those that hold this pass's samples.

    targets: the learned labels of all samples, one sample after the other; they need not be what the samples read.
    """

    rows: tuple[Row, ...]
    samples: tuple[Stretch, ...]
    targets: tuple[int, ...]

    @property
    def held(self) -> list[int]:
        """The numbers of this pass's samples."""
        return sorted(number for row in self.rows for number in row.places)

    @property
    def tokens_computed(self) -> int:
        """What goes through the model, padding included."""
        return len(self.rows) * max(map(len, self.rows))

    def micro_batch(self) -> MicroBatch:
        """The tensors; `token` is the number of a token's sample."""
        counts = [sum(sample.action) for sample in self.samples]
        batch = as_micro_batch(self.rows, self.samples, np.cumsum([0, *counts[:-1]]).tolist())
        owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        return MicroBatch(batch.ids, batch.positions, batch.mask, batch.source, torch.tensor(self.targets)[batch.token], owner[batch.token])


@dataclass(frozen=True)
class Sharing:
    """How a model's rows are put together. work: what tokens cost it. max_tokens: of a pass; a row that is longer goes alone."""

    work: Work
    max_tokens: int

    @classmethod
    def of(cls, model: Any, max_tokens: int | None, autocast: torch.dtype | None = None) -> Sharing | None:
        """None where the model does not take trees. autocast: what it computes in; None: what its weights are in."""
        inner, training = language_model_of(model), model.training
        try:
            with nullcontext() if autocast is None else torch.autocast(inner.device.type, autocast):
                sound = shares_soundly(inner, lambda batch: micro_logprobs(model.eval(), batch))
        finally:
            model.train(training)
        if not sound:
            return None
        usual = MAX_TOKENS_GPU if inner.device.type == "cuda" else MAX_TOKENS_CPU
        return cls(work_of(model), max_tokens or usual)

    def passes(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], units: Sequence[Sequence[int]] | None = None) -> list[Pass]:
        """The passes of a batch of rows, each (ids, labels). units: numbers of rows that stay together (None: no two need to)."""
        samples = tuple(Stretch(tuple(ids), (False, *(label != IGNORED for label in labels[1:]))) for ids, labels in rows)
        together = units or [(number,) for number in range(len(samples))]
        trees = pack_units(samples, together, work=self.work, max_tokens=self.max_tokens)
        targets = tuple(label for _, labels in rows for label in labels[1:] if label != IGNORED)
        return [Pass(tuple(group), samples, targets) for group in gather_rows(trees, self.max_tokens)]


def micro_logprobs(model: Any, batch: MicroBatch) -> Tensor:
    """The log-probability of each action token of a micro-batch (M,)."""
    inner: Any = language_model_of(model)
    states = hidden_states(inner, batch).flatten(0, 1)[batch.source]
    return token_logprobs(inner, states, batch.target)


def pass_logprobs(model: Any, one: Pass, device: torch.device) -> tuple[Tensor, Tensor]:
    """(log-probabilities of a pass's learned tokens (M,), the number of the row that each belongs to (M,))."""
    batch = one.micro_batch().to(device)
    return micro_logprobs(model, batch), batch.token


class InPasses:
    """A mixin for TRL's trainers: batches of `passes` go forwards and backwards one by one; what goes through the model is counted.

    The trainer's `compute_loss` gives the share of a batch's loss that the passes it is given have.
    """

    keeper: Any
    accelerator: Any

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The loss of a batch, whose gradients are added up. `counts` are (tokens of its rows, tokens computed)."""
        theirs: Any = super()
        others = {name: value for name, value in inputs.items() if name != "counts"}
        self.keeper.count(*self.accelerator.reduce(inputs["counts"].to(self.accelerator.device)).tolist())
        parts = [{**others, "passes": [one]} for one in inputs["passes"]] if "passes" in inputs else [others]
        return torch.stack([theirs.training_step(model, part, num_items_in_batch) for part in parts]).sum()


def counts_of(rows: Sequence[tuple[Sequence[int], Sequence[int]]], computed: int) -> Tensor:
    """What `InPasses` counts of a batch."""
    return torch.tensor([sum(len(ids) for ids, _ in rows), computed])
