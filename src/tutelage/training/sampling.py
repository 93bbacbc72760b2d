"""Drawing tokens from a model's distribution: temperature, then top-p, then min-p.

Each row brings its own random number in [0, 1), so what is drawn for it does not depend on its neighbours in the batch: the token is the
first, in the order of the vocabulary, at which the running sum of the probabilities passes that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tutelage.errors import ModelFailed
from tutelage.records import Sampling

_NUCLEUS = 64  # so many of the likeliest tokens are sorted first; more where they hold too little


@dataclass(frozen=True)
class Cuts:
    """The sampling settings of B rows, each as a column (B, 1). any_*: whether some row uses them at all."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    any_warm: bool
    any_top_p: bool
    any_min_p: bool

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> Cuts:
        """One row for each sampling."""

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        warm = [item for item in samplings if item.temperature > 0]
        return cls(
            column([item.temperature for item in samplings]),
            column([item.top_p for item in samplings]),
            column([item.min_p for item in samplings]),
            any_warm=bool(warm),
            any_top_p=any(item.top_p < 1 for item in warm),
            any_min_p=any(item.min_p > 0 for item in warm),
        )


def draw(logits: torch.Tensor, cuts: Cuts, uniforms: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids (B,), their logprobs (B,)) from logits (B, V).

    Logprobs are natural logs of the model's own distribution, before temperature and cuts. A temperature of 0 takes the likeliest token.
    Raises `ModelFailed` where the logits are not numbers.
    """
    logits = logits.float()
    total = logits.logsumexp(-1)
    if not bool(total.isfinite().all()):
        raise ModelFailed("the model computes NaN or infinity; its weights diverged, or dtype=float16 is too narrow for them")
    ids = logits.argmax(-1)
    if cuts.any_warm:
        ids = torch.where(cuts.temperature[:, 0] > 0, _drawn(distribution(logits, cuts), uniforms), ids)
    return ids, logits.gather(1, ids[:, None])[:, 0] - total


def distribution(logits: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """What is drawn from, (B, V), not normalised after the cuts. Rows of temperature 0 are as at temperature 1, uncut."""
    warm = cuts.temperature > 0
    probabilities = torch.softmax(logits / torch.where(warm, cuts.temperature, 1.0), -1)
    kept = probabilities
    if cuts.any_top_p:
        kept = _nucleus(probabilities, torch.where(warm, cuts.top_p, 1.0))
    if cuts.any_min_p:  # relative to the likeliest token, which top-p keeps: the two cuts may be made in either order
        least = torch.where(warm, cuts.min_p, 0.0) * probabilities.amax(-1, keepdim=True)
        kept = torch.where(probabilities >= least, kept, 0.0)
    return kept


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Only the likeliest tokens that together hold `top_p`; rows with 1 are left alone."""
    rows = (top_p[:, 0] < 1).nonzero()[:, 0]
    chosen, wanted = probabilities[rows], top_p[rows].double()
    size = chosen.shape[-1]
    count = min(_NUCLEUS, size)
    while True:
        top, ids = chosen.topk(count)
        running = top.double().cumsum(-1)
        if count == size or bool((running[:, -1:] >= wanted).all()):
            break
        count = min(8 * count, size)
    within = running - top.double() < wanted
    within[:, 0] = True
    cut = torch.zeros_like(chosen).scatter(1, ids, torch.where(within, top, 0.0))
    return probabilities.index_copy(0, rows, cut)


def _drawn(weights: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    running = weights.cumsum(-1, dtype=torch.float64)
    points = torch.tensor(uniforms, dtype=torch.float64, device=weights.device)[:, None] * running[:, -1:]
    return torch.searchsorted(running, points, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)
