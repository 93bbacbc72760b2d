"""What a model gives to tokens: log-probabilities and entropies of chosen positions only, without the logits of all of them at once.

The logits of a batch are the largest tensor of language-model training (positions x vocabulary). Here only positions that bear loss
reach the output layer, `CHUNK` at a time, and each chunk's logits are computed again in the backward pass instead of being kept.
`score_tokens` is the one place to put a fused ("cut") cross-entropy into: hidden states, an output layer and targets in, one number a
token out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256
"""Positions whose logits exist at the same time."""


@dataclass(frozen=True)
class TokenScores:
    """Of M tokens, all float32. logprobs (M,): log softmax(logits / temperature) of the targets, with gradient. plain (M,): the same at
    temperature 1, entropy (M,): of the distribution at the temperature; both without gradient. values (M,): of the states before the
    tokens, where there is a value head.
    """

    logprobs: Tensor
    plain: Tensor
    entropy: Tensor
    values: Tensor | None = None


def score_tokens(
    hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, *, temperature: float = 1.0, chunk: int = CHUNK
) -> TokenScores:
    """Scores of targets (M,) from the hidden states (M, H) that predict them; head: hidden states -> logits. Gradients are exact."""
    parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    pieces = [_chunk(part, head, wanted, temperature) for part, wanted in parts]
    return TokenScores(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def _chunk(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    if not torch.is_grad_enabled():
        return _scores(hidden, head, targets, temperature)
    found: tuple[Tensor, Tensor, Tensor] = checkpoint(
        _scores, hidden, head, targets, temperature, use_reentrant=False, preserve_rng_state=False
    )
    return found


def _scores(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    raw = head(hidden).float()
    logits = raw if temperature == 1 else raw / temperature
    total = torch.logsumexp(logits, dim=-1)
    logprobs = _at(logits, targets) - total
    with torch.no_grad():
        plain = logprobs.detach() if temperature == 1 else _at(raw, targets) - torch.logsumexp(raw, dim=-1)
        entropy = total - ((logits - total[:, None]).exp_() * logits).sum(dim=-1)
    return logprobs, plain, entropy


def _at(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None]).squeeze(1)
