"""A batch of samples as the trainer sees it: action tokens numbered through, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.errors import InputError
from tutelage.training.policy_gradient import (
    Floats,
    PolicyGradient,
    Sample,
    by_episode,
    confidence_weights,
    explained_variance,
    gae,
    group_advantages,
    token_weights,
    whiten,
)
from tutelage.training.policy_loss import Targets


@dataclass(frozen=True)
class Batch:
    """S samples with T action tokens, numbered in the order of the samples."""

    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample], max_length: int | None) -> Batch:
        """Checked samples. Raises `InputError` where there are none, or one is longer than the model's context."""
        if not samples:
            raise InputError("there are no samples to learn from: no episode was graded, or none has the tokens that the policy chose")
        for sample in samples:
            if max_length is not None and len(sample.ids) > max_length:
                raise InputError(
                    f"a sample of episode {sample.episode} has {len(sample.ids)} tokens, and the model's context is {max_length}; "
                    "lower the agent's limits"
                )
        by_episode(samples)
        return cls(tuple(samples))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Action tokens of each sample (S,)."""
        return np.array([sample.n_actions for sample in self.samples], dtype=np.int64)

    @cached_property
    def first_token(self) -> list[int]:
        """The number of each sample's first action token (S,)."""
        return [0, *np.cumsum(self.counts)[:-1].tolist()]

    @property
    def n_tokens(self) -> int:
        """All action tokens."""
        return int(self.counts.sum())

    def spread(self, values: Floats) -> Floats:
        """One value a sample (S,) -> one an action token (T,)."""
        return np.repeat(values, self.counts)

    def episode_tokens(self) -> list[NDArray[np.int64]]:
        """For each episode the numbers of its action tokens, in the order in which they were chosen."""
        spans = [np.arange(first, first + count) for first, count in zip(self.first_token, self.counts, strict=True)]
        return [np.concatenate([spans[place] for place in places]) for places in by_episode(self.samples).values()]

    def episode_rewards(self) -> dict[str, float]:
        """The reward of each episode, once."""
        return {sample.episode: sample.reward for sample in self.samples}

    def mean_weight(self) -> float:
        """How far the rewards are believed: the mean over episodes."""
        return float(np.mean([*{sample.episode: sample.weight for sample in self.samples}.values()]))

    def targets(self, policy: PolicyGradient, measured: dict[str, Floats], *, foreign: bool) -> tuple[Targets, dict[str, float]]:
        """What the update aims at, and what there is to report of it.

        measured (T,): by name `old`, `values` and `reference`, where the policy asks for them. foreign: another engine sampled.
        """
        weights = self.spread(token_weights(self.samples, policy.loss_type, policy.max_completion_length))
        parts: dict[str, Any] = {"weights": weights, "reference": measured.get("reference"), "sampled": self._sampled(policy, foreign)}
        facts: dict[str, float] = {}
        if policy.algorithm == "ppo":
            advantages, returns = self._gae(policy, measured)
            facts["explained_variance"] = explained_variance(measured["values"], returns)
            parts |= {"returns": returns, "old_values": measured["values"], "old": measured["old"]}
            parts["advantages"] = whiten(advantages) if policy.whiten_advantages else advantages
        else:
            parts["advantages"] = self.spread(group_advantages(self.samples, policy.scale_rewards))
        parts["advantages"] = parts["advantages"] * self.spread(confidence_weights(self.samples))
        rewards = [*self.episode_rewards().values()]
        facts |= {"reward": float(np.mean(rewards)), "reward_std": float(np.std(rewards)), "episodes": len(rewards)}
        facts |= {"weight": mean} if (mean := self.mean_weight()) < 1 else {}
        facts |= _of_advantages(parts["advantages"])
        tensors: dict[str, Any] = {
            name: value if value is None else torch.tensor(value, dtype=torch.float32) for name, value in parts.items()
        }
        return Targets(**tensors, sample=torch.from_numpy(np.repeat(np.arange(len(self.samples)), self.counts))), facts

    def _gae(self, policy: PolicyGradient, measured: dict[str, Floats]) -> tuple[Floats, Floats]:
        rewards = np.zeros(self.n_tokens)
        if policy.beta and policy.kl_in_reward:
            rewards -= policy.beta * (measured["old"] - measured["reference"])
        advantages, returns = np.zeros(self.n_tokens), np.zeros(self.n_tokens)
        for reward, tokens in zip(self.episode_rewards().values(), self.episode_tokens(), strict=True):
            if not len(tokens):
                continue
            rewards[tokens[-1]] += reward
            advantages[tokens], returns[tokens] = gae(rewards[tokens], measured["values"][tokens], policy.gamma, policy.lam)
        return advantages, returns

    def _sampled(self, policy: PolicyGradient, foreign: bool) -> Floats | None:
        """The sampler's logprobs (T,), NaN where unknown; None where nothing is to be corrected."""
        wanted = foreign if policy.importance_sampling_correction == "auto" else policy.importance_sampling_correction
        if not wanted:
            return None
        if all(sample.sampled_logprobs is None for sample in self.samples):
            raise InputError(
                "the samples come from another engine and have no logprobs, so what it does differently cannot be corrected; "
                "sample with logprobs, or set importance_sampling_correction: false",
                field="importance_sampling_correction",
            )
        found = [np.array(sample.sampled_logprobs or [np.nan] * len(sample.ids), dtype=float) for sample in self.samples]
        return np.concatenate([values[list(sample.action)] for values, sample in zip(found, self.samples, strict=True)])


def _of_advantages(advantages: Floats) -> dict[str, float]:
    if not len(advantages):
        return {"advantage_mean": 0.0, "advantage_std": 0.0}
    return {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std())}
