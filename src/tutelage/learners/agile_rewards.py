"""From streams to the proxy rewards of all that was tried in them (see `agile_advantage.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tutelage.knowledge import Exemplar, Knowledge
from tutelage.learners.agile_advantage import (
    FEATURES,
    SessionState,
    Similar,
    Value,
    fit_value,
    proxy_rewards,
    returns_to_go,
    state_advantage,
    state_features,
)
from tutelage.records import Task
from tutelage.streams import StreamSession, grown
from tutelage.training.policy_gradient import Floats

StateAdvantage = Literal["similarity", "value", "none"]


@dataclass(frozen=True)
class Fork:
    """One place of a stream: S_i, the session that the stream went on with, and all attempts at it from S_i."""

    memory: Knowledge
    session: StreamSession
    tried: tuple[StreamSession, ...]

    @cached_property
    def entries(self) -> tuple[Exemplar, ...]:
        """What S_i holds."""
        return self.memory.exemplars

    def after(self, tried: StreamSession) -> tuple[Exemplar, ...]:
        """What S_{i+1} holds, or would hold, after this attempt."""
        return grown(self.memory, tried).exemplars


Walk = Sequence[Fork]
"""A stream: its places in their order."""
Rewards = list[list[float | None]]
"""Of one stream: by place, then by attempt; None where an attempt is not graded."""


def proxied(walks: Sequence[Walk], how: StateAdvantage, similar: Similar, *, beta: float = 0.1, ridge: float = 1.0) -> list[Rewards]:
    """The proxy reward of everything that was tried, by stream."""
    if how == "value":
        return _by_value(walks, similar, ridge)
    beta = beta if how == "similarity" else 0.0
    return [_by_similarity(walk, similar, beta) for walk in walks]


def _by_similarity(walk: Walk, similar: Similar, beta: float) -> Rewards:
    tasks = [fork.session.task for fork in walk]
    return [
        [_plus(tried.reward, _credit(fork, tried, tasks[place + 1 :], similar, beta)) for tried in fork.tried]
        for place, fork in enumerate(walk)
    ]


def _credit(fork: Fork, tried: StreamSession, to_come: Sequence[Task], similar: Similar, beta: float) -> float:
    return state_advantage(SessionState(tried.task, fork.entries, tried.asked), to_come, similar, beta) if beta else 0.0


def _plus(reward: float | None, more: float) -> float | None:
    return None if reward is None else reward + more


# -- a fitted value function of memory


def _by_value(walks: Sequence[Walk], similar: Similar, ridge: float) -> list[Rewards]:
    """Every stream by a V that was fitted on the others, so that luck in it does not explain itself away; a lone one by its own."""
    states = [_states(walk, similar) for walk in walks]
    rewards: list[Rewards] = []
    for number, walk in enumerate(walks):
        others = [own for other, own in enumerate(states) if other != number or len(walks) == 1]
        value = _fitted([state for own in others for state in own], ridge)
        rewards.append([_changes(walk, place, value, similar) for place in range(len(walk))])
    return rewards


def _states(walk: Walk, similar: Similar) -> list[tuple[Floats, float]]:
    """Each graded session's S_i, and what was earned from there on."""
    returns = returns_to_go([fork.session.reward for fork in walk])
    return [
        (state_features(fork.entries, [fork.session.task, *_graded_after(walk, place)], similar), returns[place])
        for place, fork in enumerate(walk)
        if fork.session.reward is not None
    ]


def _graded_after(walk: Walk, place: int) -> list[Task]:
    """The questions still to come that were graded: others earn nothing that is known."""
    return [fork.session.task for fork in walk[place + 1 :] if fork.session.reward is not None]


def _fitted(states: Sequence[tuple[Floats, float]], ridge: float) -> Value:
    if not states:
        return Value((0.0,) * len(FEATURES))
    return fit_value([features for features, _ in states], [earned for _, earned in states], ridge)


def _changes(walk: Walk, place: int, value: Value, similar: Similar) -> list[float | None]:
    """r~ of each attempt at one place."""
    fork, after = walk[place], _graded_after(walk, place)
    before = value(state_features(fork.entries, [fork.session.task, *after], similar))
    return [
        reward
        for tried in fork.tried
        for reward in proxy_rewards([tried.reward], [before, value(state_features(fork.after(tried), after, similar))])
    ]
