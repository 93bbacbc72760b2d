"""The settings of learning by reinforcement: those of the loop, of the policy gradient and of training, given side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tutelage.errors import InputError
from tutelage.records import Record
from tutelage.suggest import unknown
from tutelage.training.policy_gradient import PolicyGradient, described
from tutelage.training.settings import SPEED_ONLY, Kind, TrainSettings, read_settings


class Loop(Record):
    """How rollouts and updates alternate.

    steps: each is one batch of rollouts, then its update. tasks_per_step: tasks a batch; num_generations: attempts at each (a group).

    dynamic_sampling: groups whose rewards do not differ (standard deviation not above `min_reward_std`) teach nothing; they are dropped and
    further tasks drawn, in up to `max_rounds` rounds a step, until the batch is full (None: on for grpo, off for ppo, which needs no
    groups). mask_truncated_completions: episodes that were cut off bear no loss, though their reward still counts in their group; by
    default they are learned from with the grade that they have. min_confidence: leave out episodes that the grader is less sure of, where
    it says how sure it is (a judge; None: none); those that it abstained from are always left out. weigh_by_confidence: multiply the
    advantage of the others by that confidence.

    validation: the share of the training tasks that is held out to choose the best step by the greedy score (None: a tenth where that is
    `MIN_VALIDATION` tasks or more, else none, and the last step is returned). eval_steps: steps between evaluations; one is made before
    the first step and one after the last. patience: stop after so many evaluations in a row without a better score (None: never).

    rollout: what samples: `hf` (torch), `gguf` (llama.cpp, with importance correction), or `auto`: the agent's own.
    save_steps: steps between checkpoints; what was sampled since the last one is not sampled again when an interrupted run goes on.
    """

    steps: int = Field(100, gt=0)
    tasks_per_step: int = Field(8, gt=0)
    num_generations: int = Field(8, gt=0)
    dynamic_sampling: bool | None = None
    min_reward_std: float = Field(1e-6, ge=0)
    max_rounds: int = Field(4, gt=0)
    mask_truncated_completions: bool = False
    min_confidence: float | None = Field(None, ge=0, le=1)
    weigh_by_confidence: bool = False
    validation: float | None = Field(None, ge=0, lt=1)
    eval_steps: int = Field(10, gt=0)
    patience: int | None = Field(None, gt=0)
    rollout: Literal["auto", "hf", "gguf"] = "auto"
    save_steps: int = Field(1, gt=0)


MIN_VALIDATION = 8
"""Fewer tasks would choose the best step by chance; they are held out only where the setting asks for it."""

DEFAULTS: dict[str, Any] = {"learning_rate": 5e-5, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_length": 4096}
"""Where reinforcement differs from `TrainSettings`: smaller steps that do not fade, and room for episodes of several turns."""


@dataclass(frozen=True)
class PolicySettings:
    """The three groups of settings."""

    loop: Loop
    policy: PolicyGradient
    train: TrainSettings

    @property
    def dynamic(self) -> bool:
        """Whether groups that teach nothing are replaced."""
        return self.policy.algorithm == "grpo" if self.loop.dynamic_sampling is None else self.loop.dynamic_sampling

    def described(self) -> dict[str, Any]:
        """All that decides what is learned."""
        unused = {"min_confidence": self.loop.min_confidence is None, "weigh_by_confidence": not self.loop.weigh_by_confidence}
        left_out = {"save_steps", *(name for name, is_unused in unused.items() if is_unused)}  # so that they are no new settings
        loop = self.loop.model_dump(mode="json", exclude=left_out) | {"dynamic_sampling": self.dynamic}
        return {**loop, **described(self.policy), **self.train.model_dump(mode="json", exclude=set(SPEED_ONLY))}

    def forecast_episodes(self, n_tasks: int) -> int:
        """How many episodes there are at most: as if every round of every step were needed."""
        loop = self.loop
        rounds = loop.max_rounds if self.dynamic else 1
        held_out = n_validation(loop, n_tasks)
        a_step = min(loop.tasks_per_step * rounds, n_tasks - held_out) * loop.num_generations
        return loop.steps * a_step + held_out * (2 + (loop.steps - 1) // loop.eval_steps)


def read_policy_settings(given: Mapping[str, Any], what: str, defaults: Mapping[str, Any] | None = None) -> PolicySettings:
    """The settings from what a user wrote, whichever group each belongs to.

    defaults: of the learner, in place of the general ones. Raises `InputError` naming the setting, and the ones that are like it.
    """
    groups: tuple[type[Record], ...] = (Loop, PolicyGradient, TrainSettings)
    known = [name for group in groups for name in group.model_fields]
    for name in given:
        if name not in known:
            raise InputError(unknown(f"a setting of {what}", name, known), field=name)
    merged = {**DEFAULTS, **(defaults or {}), **given}
    settings = PolicySettings(_of(Loop, merged, what), _of(PolicyGradient, merged, what), _of(TrainSettings, merged, what))
    _check(settings)
    return settings


def n_validation(loop: Loop, n_tasks: int) -> int:
    """How many of the training tasks are held out; at least one is left to train on."""
    if loop.validation is None:
        tenth = round(n_tasks / 10)
        return tenth if tenth >= MIN_VALIDATION else 0
    return min(max(1, round(n_tasks * loop.validation)), n_tasks - 1) if loop.validation > 0 else 0


def _of(kind: type[Kind], merged: Mapping[str, Any], what: str) -> Kind:
    return read_settings(kind, {name: value for name, value in merged.items() if name in kind.model_fields}, what)


def _check(settings: PolicySettings) -> None:
    loop = settings.loop
    if loop.num_generations < 2 and settings.policy.algorithm == "grpo":
        raise InputError("grpo compares the attempts at one task with each other and needs 2 or more", field="num_generations")
    if loop.num_generations < 2 and settings.dynamic:
        raise InputError("dynamic sampling compares the attempts at one task with each other and needs 2 or more", field="num_generations")
