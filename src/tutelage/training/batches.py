"""Token rows as the batches that TRL's trainers take, and the log-probabilities of their learned tokens.

Packed, the rows of a batch share lines of one length: each row's positions begin at 0, from which transformers makes a mask that keeps the
rows of a line from seeing each other (`find_packed_sequence_indices`). What the loss is does not change, only how much is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tutelage.training.cut_cross_entropy import cut_logprobs
from tutelage.training.output_layer import OutputLayer
from tutelage.training.trees import language_model_of

IGNORED = -100
PACKS = frozenset({"llama", "qwen2", "qwen3", "mistral"})
"""Architectures whose attention honours restarted positions, and that have no other way for rows to see each other."""


def packs(config: Any) -> bool:
    """Whether rows can share a line in a model of this configuration."""
    return config.model_type in PACKS and config._attn_implementation in ("sdpa", "eager")


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Places of rows, line by line: longest first, each into the fullest line that still has room (best-fit decreasing)."""
    lines: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fitting = [line for line, left in enumerate(room) if left >= lengths[place]]
        if fitting:
            line = min(fitting, key=lambda line: room[line])
            lines[line].append(place)
            room[line] -= lengths[place]
        else:
            lines.append([place])
            room.append(capacity - lengths[place])
    return lines


@dataclass(frozen=True)
class Batch:
    """input_ids, labels (IGNORED where no loss falls) and owner (which row a token belongs to, -1 for padding): each (lines, length).

    inputs: what the model takes beside the ids: position_ids where rows share lines, else attention_mask.
    """

    input_ids: Tensor
    labels: Tensor
    owner: Tensor
    inputs: dict[str, Tensor]

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int, *, packing: bool) -> Batch:
        """The batch of rows, each (ids, labels). Packed lines are no longer than the longest row."""
        lengths = [len(ids) for ids, _ in rows]
        lines = best_fit(lengths, max(lengths)) if packing else [[place] for place in range(len(rows))]
        width = max(sum(lengths[place] for place in line) for line in lines)
        input_ids, labels, owner, positions = (torch.full((len(lines), width), fill) for fill in (pad, IGNORED, -1, 0))
        for number, line in enumerate(lines):
            start = 0
            for place in line:
                span = slice(start, start := start + lengths[place])
                ids, targets = rows[place]
                input_ids[number, span] = torch.tensor(ids)
                labels[number, span] = torch.tensor([IGNORED, *targets[1:]])  # nothing comes before the first token to predict it from
                owner[number, span] = place
                positions[number, span] = torch.arange(lengths[place])
            positions[number, start:] = torch.arange(width - start)  # padding is a row of its own
        inputs = {"position_ids": positions} if packing else {"attention_mask": (owner >= 0).long()}
        return cls(input_ids, labels, owner, inputs)


def labels_of(ids: Sequence[int], mask: Sequence[bool]) -> list[int]:
    """The ids where the loss falls, IGNORED elsewhere."""
    return [token if learned else IGNORED for token, learned in zip(ids, mask, strict=True)]


def label_logprobs(model: Any, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Log-probability of each label given what stands before it, 0 where ignored: (lines, length - 1).

    Only the positions that bear loss go through the output layer, and their logits are never there as a whole (`cut_cross_entropy.py`).
    inputs: of the model, without labels.
    """
    inner: Any = language_model_of(model)
    hidden = inner.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    learned = targets != IGNORED
    found = token_logprobs(inner, hidden[learned], targets[learned])
    return found.new_zeros(targets.shape).masked_scatter(learned, found)


def token_logprobs(model: Any, states: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each of M ids given the hidden state (M, H) that predicts it, by the model's output layer: (M,), float32."""
    return cut_logprobs(states, OutputLayer.of(model), ids)


def fused_logprobs(model: Any, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """As `label_logprobs`, by the fused output layer that TRL's trainers add to their model (on a GPU, and in several processes)."""
    return cast(Tensor, model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs)


def sum_by_owner(logprobs: Tensor, owner: Tensor, count: int) -> Tensor:
    """The sum over each row's tokens: (count,). logprobs (lines, length - 1) belong to the tokens `owner[:, 1:]`."""
    whose = owner[:, 1:]
    own = whose >= 0
    return logprobs.new_zeros(count).index_add(0, whose[own], logprobs[own])
