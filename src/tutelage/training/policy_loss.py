"""The losses of the policy gradient, token by token over M action tokens; sources and equations are in `policy_gradient.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tutelage.training.logprobs import TokenScores
from tutelage.training.policy_gradient import ImportanceMode, PolicyGradient


@dataclass
class Targets:
    """What an update aims at, for T action tokens each. weights: what a token counts in the loss. sample: the number of its sample.

    old: logprobs of the policy before the update (None: those of the first pass are). reference: of the base. sampled: the sampler's,
    before temperature, where it was another engine. importance: pi_trainer / pi_sampler, worked out in the first pass. returns,
    old_values: PPO's.
    """

    advantages: Tensor
    weights: Tensor
    sample: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    sampled: Tensor | None = None
    importance: Tensor | None = None
    returns: Tensor | None = None
    old_values: Tensor | None = None

    def at(self, tokens: Tensor) -> Targets:
        """Those of some tokens only."""
        return self._each(lambda value: value[tokens])

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in own.items() if value is not None})


def surrogate_loss(ratio: Tensor, advantages: Tensor, epsilon: float, upper: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - epsilon, 1 + upper) A)."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + upper) * advantages)


def clipped(ratio: Tensor, advantages: Tensor, epsilon: float, upper: float) -> Tensor:
    """Where the clip took the gradient away: the ratio has left the range in the direction in which the advantage pulls."""
    return ((ratio < 1 - epsilon) & (advantages < 0)) | ((ratio > 1 + upper) & (advantages > 0))


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The divergence from the reference, estimated at the sampled token without bias and never negative: r - log r - 1, r = pi_ref / pi."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - log_ratio - 1


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """Half the squared error of the values, or of the values kept within cliprange of the old ones, whichever is larger."""
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def importance_ratio(difference: Tensor, sample: Tensor, mode: ImportanceMode, clip_min: float | None, clip_max: float | None) -> Tensor:
    """pi_trainer / pi_sampler (M,) from the difference of logprobs (M,), truncated to its range or 0 outside it.

    In the sequence modes the ratio is that of the whole sample (its tokens bear one number in `sample` and stand in one call). An unknown
    logprob (NaN) leaves its token as it is. Source: TRL's `vllm_importance_sampling_mode`.
    """
    difference = difference.nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        _, own = torch.unique(sample, return_inverse=True)
        difference = torch.zeros(int(own.max()) + 1, device=own.device).index_add(0, own, difference)[own] if len(own) else difference
    ratio = difference.exp()
    if clip_min is None and clip_max is None:
        return ratio
    if mode.endswith("truncate"):
        return ratio.clamp(clip_min, clip_max)
    outside = ratio > (float("inf") if clip_max is None else clip_max)
    return ratio.masked_fill(outside | (ratio < (clip_min or 0.0)), 0.0)


@dataclass(frozen=True)
class Losses:
    """loss: the sum over tokens of weight x loss, with gradient. sums: over tokens, of what is reported, by name. importance (M,)."""

    loss: Tensor
    sums: dict[str, Tensor]
    ratio_max: Tensor
    importance: Tensor | None


def policy_losses(scores: TokenScores, aims: Targets, policy: PolicyGradient) -> Losses:
    """The loss of some tokens, whole samples at a time, and what there is to report of them."""
    old = scores.logprobs.detach() if aims.old is None else aims.old
    ratio = (scores.logprobs - old).exp()
    importance = _importance(scores, aims, policy)
    per_token = surrogate_loss(ratio, aims.advantages, policy.epsilon, policy.upper)
    if importance is not None:
        per_token = per_token * importance
    sums = {"ratio": ratio, "entropy": scores.entropy}
    sums["clip_fraction"] = clipped(ratio, aims.advantages, policy.epsilon, policy.upper)
    if aims.reference is not None:
        sums["kl"] = k3(scores.logprobs, aims.reference)
        if policy.kl_in_loss:
            kl = sums["kl"] * ratio if policy.use_bias_correction_kl else sums["kl"]
            per_token = per_token + policy.beta * kl
    if importance is not None:
        sums["importance"] = importance
    loss = (per_token * aims.weights).sum()
    if scores.values is not None and aims.returns is not None and aims.old_values is not None:
        sums["value_loss"] = value_loss(scores.values, aims.old_values, aims.returns, policy.cliprange_value)
        loss = loss + policy.vf_coef * (sums["value_loss"] * aims.weights).sum()
    counted = {name: value.detach().double().sum() for name, value in sums.items()}
    return Losses(loss, counted, ratio.detach().double().amax() if len(ratio) else counted["ratio"], importance)


def _importance(scores: TokenScores, aims: Targets, policy: PolicyGradient) -> Tensor | None:
    if aims.importance is not None or aims.sampled is None:
        return aims.importance
    difference = (scores.plain - aims.sampled) / policy.temperature
    bounds = policy.importance_sampling_clip_min, policy.importance_sampling_clip_max
    return importance_ratio(difference, aims.sample, policy.importance_sampling_mode, *bounds)
