"""The policy gradient without weights: samples, settings, advantages. Nothing here needs torch; the losses are in `policy_loss.py`.

Sources: PPO (Schulman et al. 2017, arXiv:1707.06347) with GAE (2015, arXiv:1506.02438); GRPO (Shao et al. 2024, arXiv:2402.03300); Dr. GRPO
(Liu et al. 2025, arXiv:2503.20783); DAPO (Yu et al. 2025, arXiv:2503.14476). Settings bear the names that TRL gives them.

    GRPO    A_e = (r_e - mean of the group) / (std of the group + 1e-4), the same for every token that episode e chose
    PPO     delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1},   return_t = A_t + V_t
    both    minimise the weighted sum over tokens of -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A), rho = pi / pi_old

Different from TRL: what counts is the episode, not the row. An episode whose context was cleared, or whose turns were prompted anew, is
several samples of one return: it enters its group's mean once, weighs as one sequence, and its advantages run through all its samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tutelage.errors import InputError
from tutelage.records import Record

Floats = NDArray[np.float64]
ScaleRewards = Literal["group", "batch", "none"]
LossType = Literal["grpo", "dapo", "bnpo", "dr_grpo"]
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

STD_FLOOR = 1e-4
"""Added to a standard deviation of rewards before it divides (as TRL does)."""


@dataclass(frozen=True)
class Sample:
    """One stretch of tokens that the policy read and wrote under one context, L tokens long.

    ids (L,): prompt, completions and observations as they were sampled, never tokenised again. action (L,): the tokens that the policy
    chose; loss falls there and nowhere else. sampled_logprobs (L,): what the sampler gave its choices, natural logs of softmax(logits),
    that is before the temperature; read at action tokens only, NaN where unknown; None: none are known. group: the task, whose episodes
    are compared with each other. episode: samples of one episode stand in the order in which they happened and share its reward, the
    return of the whole episode. weight: in [0, 1], how far the reward is to be believed; advantages are multiplied by it.
    """

    ids: tuple[int, ...]
    action: tuple[bool, ...]
    group: str
    episode: str
    reward: float
    sampled_logprobs: tuple[float, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.action), len(self.ids if self.sampled_logprobs is None else self.sampled_logprobs)}
        if len(lengths) > 1:
            raise ValueError(f"ids, action and sampled_logprobs differ in length in episode {self.episode}: {sorted(lengths)}")
        if self.action and self.action[0]:
            raise ValueError(f"the first token of a sample of episode {self.episode} has nothing before it that could have chosen it")
        if not isfinite(self.reward):
            raise InputError(f"the reward of episode {self.episode} on task {self.group} is {self.reward}; a reward is a finite number")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of episode {self.episode} is {self.weight}, and must lie between 0 and 1")

    @property
    def n_actions(self) -> int:
        """How many tokens the policy chose."""
        return sum(self.action)


class PolicyGradient(Record):
    """How samples become an update of the weights. Learning rate, warm-up, gradient clipping and LoRA are in `TrainSettings`.

    scale_rewards: GRPO divides by the standard deviation of the `group`, of the `batch`, or not at all (`none`, Dr. GRPO). loss_type:
    `dapo` and `bnpo` weigh all action tokens of the batch the same (TRL's bnpo does so within a micro-batch; here no result depends on
    how a batch is split, so the two are one), `grpo` takes the mean of each episode and then of the episodes, `dr_grpo` divides by
    episodes x max_completion_length. epsilon, epsilon_high: the clip range below and above 1 (None: the same).

    beta: weight of the divergence from the base model, by the k3 estimator; use_bias_correction_kl multiplies it by the ratio, so that
    its gradient is that of the reverse divergence. num_iterations: optimiser steps on one batch. temperature T: the policy that sampled
    is softmax(logits / T), and so is the one in the ratio; sample without top-p or min-p, which the ratio knows nothing of.

    importance_sampling_correction: weigh tokens by pi_trainer / pi_sampler where another engine sampled; `auto`: where the caller of
    `update` says that one did. Both are compared before temperature and the difference is divided by it, which is exact at temperature 1
    and leaves out the ratio of the normalisers elsewhere. importance_sampling_mode: truncate to [clip_min, clip_max], or mask what lies
    outside, by token or by sample.

    PPO only: gamma and lam (GAE), cliprange_value, vf_coef, whiten_advantages, value_learning_rate of the value head (None: the policy's),
    detach_value (the value head's error does not reach the backbone), kl_in_reward (beta times log pi / pi_base is taken off the reward
    of each token instead of being part of the loss).

    max_tokens_per_micro_batch: so many tokens pass through the model at once, at most, except one sample that is longer (None: 1,024 on a
    CPU, 16,384 on a GPU); halved where memory runs out. share_prefixes: compute a common beginning of samples once, forwards and
    backwards, where that is less work.
    """

    algorithm: Literal["grpo", "ppo"] = "grpo"
    scale_rewards: ScaleRewards = "group"
    loss_type: LossType = "dapo"
    max_completion_length: int = Field(512, gt=0)
    epsilon: float = Field(0.2, gt=0, lt=1)
    epsilon_high: float | None = Field(None, gt=0)
    beta: float = Field(0.0, ge=0)
    use_bias_correction_kl: bool = True
    num_iterations: int = Field(1, gt=0)
    temperature: float = Field(1.0, gt=0)
    importance_sampling_correction: Literal["auto"] | bool = "auto"
    importance_sampling_mode: ImportanceMode = "token_truncate"
    importance_sampling_clip_max: float | None = Field(3.0, gt=0)
    importance_sampling_clip_min: float | None = Field(None, ge=0)
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    cliprange_value: float = Field(0.2, gt=0)
    vf_coef: float = Field(0.1, ge=0)
    whiten_advantages: bool = True
    value_learning_rate: float | None = Field(None, gt=0)
    detach_value: bool = False
    kl_in_reward: bool = False
    max_tokens_per_micro_batch: int | None = Field(None, gt=0)
    share_prefixes: bool = True

    @property
    def upper(self) -> float:
        """The clip range above 1."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def kl_in_loss(self) -> bool:
        """Whether the divergence from the base is a part of the loss."""
        return self.beta > 0 and not (self.algorithm == "ppo" and self.kl_in_reward)


def by_episode(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """The places of each episode's samples, in order. Raises `InputError` where those of one episode differ in reward, group or weight."""
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.episode, []).append(place)
    for episode, own in places.items():
        if len({(samples[place].group, samples[place].reward, samples[place].weight) for place in own}) > 1:
            raise InputError(f"the samples of episode {episode} have several groups, rewards or weights; an episode has one return")
    return places


def group_advantages(samples: Sequence[Sample], scale_rewards: ScaleRewards = "group") -> Floats:
    """GRPO's advantage of each sample (S,): its episode's reward against the mean of its group, each episode counted once.

    Standard deviations are those of a sample (n - 1), as TRL takes them; a group of one episode has the advantage 0.
    """
    episodes = by_episode(samples)
    rewards = {episode: samples[own[0]].reward for episode, own in episodes.items()}
    groups: dict[str, list[float]] = {}
    for episode, own in episodes.items():
        groups.setdefault(samples[own[0]].group, []).append(rewards[episode])
    means = {group: float(np.mean(values)) for group, values in groups.items()}
    whole = _std([*rewards.values()])
    stds = {group: _std(values) if scale_rewards == "group" else whole for group, values in groups.items()}
    centred = np.array([sample.reward - means[sample.group] for sample in samples], dtype=np.float64)
    if scale_rewards == "none":
        return centred
    return centred / (np.array([stds[sample.group] for sample in samples]) + STD_FLOOR)


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def informative(rewards: Sequence[float], epsilon: float = 0.0) -> bool:
    """Dynamic sampling: whether the rewards of one task's episodes differ enough to learn from.

    The standard deviation over the G rewards themselves (divided by G, as in DAPO and SRL) exceeds epsilon.
    """
    return len(rewards) > 1 and float(np.std(rewards)) > epsilon and max(rewards) > min(rewards)


def confidence_weights(samples: Sequence[Sample]) -> Floats:
    """What each sample's advantage is multiplied by (S,). Means and deviations of rewards, and the value function, count all alike."""
    return np.array([sample.weight for sample in samples], dtype=np.float64)


def gae(rewards: Floats, values: Floats, gamma: float = 1.0, lam: float = 0.95) -> tuple[Floats, Floats]:
    """Advantages (T,) and returns (T,) of one episode's T action tokens; values (T,) are of the state before each; the end is worth 0."""
    advantages = np.zeros_like(rewards)
    following, next_value = 0.0, 0.0
    for place in reversed(range(len(rewards))):
        delta = rewards[place] + gamma * next_value - values[place]
        following = advantages[place] = delta + gamma * lam * following
        next_value = values[place]
    return advantages, advantages + values


def whiten(values: Floats) -> Floats:
    """Mean 0, variance 1 (of a sample, n - 1), over all action tokens of a batch; fewer than two values become 0."""
    if len(values) < 2:
        return np.zeros_like(values)
    whitened: Floats = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-8)
    return whitened


def token_weights(samples: Sequence[Sample], loss_type: LossType, max_completion_length: int) -> Floats:
    """What one action token of each sample (S,) weighs in the loss, which is the sum of all tokens' losses times their weights.

    Episodes with no action token are left out of the count of episodes: there is nothing of them to weigh.
    """
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.episode] += sample.n_actions
    n_episodes, n_tokens = sum(count > 0 for count in tokens.values()), sum(tokens.values())
    if not n_tokens:
        return np.zeros(len(samples))
    if loss_type == "grpo":
        return np.array([1 / (n_episodes * max(tokens[sample.episode], 1)) for sample in samples])
    whole = n_episodes * max_completion_length if loss_type == "dr_grpo" else n_tokens
    return np.full(len(samples), 1 / whole)


def explained_variance(values: Floats, returns: Floats) -> float:
    """1 - var(returns - values) / var(returns): 1 for a perfect value function, 0 for a constant; NaN where all returns are equal."""
    spread = float(np.var(returns)) if len(returns) else 0.0
    return 1 - float(np.var(returns - values)) / spread if spread > 0 else float("nan")


def described(policy: PolicyGradient) -> dict[str, Any]:
    """The settings that decide what is learned: those that change only speed and memory are left out."""
    return policy.model_dump(mode="json", exclude={"max_tokens_per_micro_batch", "share_prefixes"})
