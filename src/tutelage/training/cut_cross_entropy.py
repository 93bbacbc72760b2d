"""Cut cross-entropy (Wijmans et al. 2024, arXiv:2411.09009): log-probabilities of tokens without the logits of the whole vocabulary.

    log p_t = z_t - log sum_v exp z_v        d log p_t / d h = (1 - p_t) z'_t w_t - sum_{v != t} p_v z'_v w_v

z: logits at the temperature T; z' = dz / d(h . w): scale / T, times 1 - tanh^2 where logits are capped. The vocabulary is gone through
once, block by block, with running sums; no more than a block of logits exists at a time.

Different from the paper: what a token's log-probability passes back to its hidden state depends on no other token, so the sum on the right
is gathered in the forward pass already (rescaled as the maximum grows, as attention is in FlashAttention, Dao et al. 2022), and logits are
computed again only for a layer that learns. Where it is frozen, as under LoRA, that is no more work than the plain loss is. Sums are
float32 throughout; the gradient's filter is off unless asked for, and looks at a block's whole probability instead of its entries, so that
it cannot drop a flat distribution. Repeats exactly.

On CUDA the paper's own package is used where it is installed and can answer: half precision, a frozen layer without a bias (the package
sums gradients of the layer in half precision, in an order that is not fixed), and nothing but log-probabilities asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor

from tutelage.training.cut_blocks import Blocks, Cut, Way
from tutelage.training.output_layer import OutputLayer

KEPT_BYTES = 192 << 20
"""Where a layer learns and the logits of all tokens are no larger (1,024 tokens of 49,152), they are kept for the backward pass and not
computed again."""
FILTER = 2.0**-12
"""The paper's bound below which the gradient of a probability is lost in bfloat16."""


@dataclass(frozen=True)
class CutScores:
    """Of M tokens, float32. logprobs (M,): at the temperature, with gradient. Without gradient: plain (M,), at temperature 1, and entropy
    (M,), of the distribution at the temperature; both None where they were not asked for.
    """

    logprobs: Tensor
    plain: Tensor | None = None
    entropy: Tensor | None = None


def cut_logprobs(
    hidden: Tensor, layer: OutputLayer, targets: Tensor, *, temperature: float = 1.0, skip_below: float | None = None
) -> Tensor:
    """Log-probability of each target (M,) given the hidden state (M, H) that predicts it: (M,). skip_below: see `cut_scores`."""
    package = _package() if hidden.device.type == "cuda" else None
    if package is None or not _answers(hidden, layer):
        return cut_scores(hidden, layer, targets, temperature=temperature, statistics=False, skip_below=skip_below).logprobs
    return by_package(package, hidden, layer, targets, temperature=temperature, skip_below=skip_below)


def cut_scores(
    hidden: Tensor,
    layer: OutputLayer,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    statistics: bool = True,
    skip_below: float | None = None,
    blocks: Blocks | None = None,
    keep: int = KEPT_BYTES,
) -> CutScores:
    """Scores of targets (M,) from the hidden states (M, H) that predict them; gradients reach hidden states, weight and bias.

    statistics: plain log-probabilities and entropies too. skip_below: leave blocks out of the gradient in which for every token the
    probabilities (at its target: what is missing to 1) sum up to less than this; None: none; the paper's bound is `FILTER`. keep: in bytes,
    see `KEPT_BYTES`. Computes in the type of autocast where that is on, else in that of the hidden states. Raises `IndexError` for a
    target outside the vocabulary.
    """
    if targets.numel() and not bool(((targets >= 0) & (targets < len(layer.weight))).all()):
        raise IndexError(f"a target is not in the vocabulary of {len(layer.weight)}")
    learns = torch.is_grad_enabled()
    layer_learns = learns and (layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad))
    dtype = _computed(hidden)
    way = Way(
        scale=layer.scale,
        softcap=layer.softcap,
        temperature=temperature,
        statistics=statistics,
        skip_below=skip_below,
        dtype=dtype,
        wide=torch.float64 if dtype == torch.float64 else torch.float32,
        blocks=blocks or Blocks.of(hidden.device, len(hidden)),
        states_learn=learns and hidden.requires_grad,
        layer_learns=layer_learns,
        keeps=layer_learns and len(targets) * len(layer.weight) * dtype.itemsize <= keep,
    )
    logprobs, plain, entropy = cast(tuple[Tensor, Tensor, Tensor], Cut.apply(hidden, layer.weight, layer.bias, targets, way))  # type: ignore[no-untyped-call]
    return CutScores(logprobs, plain, entropy) if statistics else CutScores(logprobs)


def _computed(hidden: Tensor) -> torch.dtype:
    """What matrices are multiplied in."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


# The paper's package

Package = Callable[..., Tensor]


@cache
def _package() -> Package | None:
    """`cut_cross_entropy.linear_cross_entropy`, where it and Triton are installed."""
    try:
        from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found]
    except ImportError:
        return None
    return cast(Package, linear_cross_entropy)


def _answers(hidden: Tensor, layer: OutputLayer) -> bool:
    """Whether the package can do it: see above."""
    learns = torch.is_grad_enabled() and layer.weight.requires_grad
    half = _computed(hidden) in (torch.bfloat16, torch.float16)
    return len(hidden) > 0 and half and layer.bias is None and not learns


def by_package(
    package: Package, hidden: Tensor, layer: OutputLayer, targets: Tensor, *, temperature: float = 1.0, skip_below: float | None = None
) -> Tensor:
    """`cut_logprobs` by `cut_cross_entropy.linear_cross_entropy` (25.1).

    It knows a cap and no scale: c / T tanh(x s / T / (c / T)) is what c tanh(x s / c) / T is.
    """
    dtype, factor = _computed(hidden), layer.scale / temperature
    with torch.autocast(hidden.device.type, enabled=False):
        states = hidden.to(dtype) if factor == 1 else (hidden * factor).to(dtype)
        softcap = None if layer.softcap is None else layer.softcap / temperature
        return -package(states, layer.weight, targets, softcap=softcap, reduction="none", shift=False, filter_eps=skip_below).float()
