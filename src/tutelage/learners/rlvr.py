"""RLVR: reinforcement learning with verifiable rewards. Any grader is the reward.

Sources: GRPO (Shao et al. 2024, arXiv:2402.03300), PPO (Schulman et al. 2017, arXiv:1707.06347), DAPO (Yu et al. 2025, arXiv:2503.14476).
Attempts at one task are graded; those above the others become more likely, token by token. What differs from the usual: the agent learns
in its own episodes, with its tools, its environment and its knowledge in the prompt, and what tools and the environment say bears no loss.
"""

from __future__ import annotations

from typing import Any, Literal

from tutelage.agent import Agent
from tutelage.learner import Need
from tutelage.learners.policy import train_policy
from tutelage.learners.policy_settings import read_policy_settings
from tutelage.learners.rewards import make_reward
from tutelage.practice import Practice


class RLVR:
    """Reinforcement learning with the study's grader as reward, or with `reward`.

    algorithm: `grpo` (attempts at a task are compared with each other) or `ppo` (with a learned value function). reward: a grader as a
    study file names one, or `graded_tool_call`; the best step is still chosen by the study's own grader. settings: those of
    `learners.policy_settings.Loop`, `training.policy_gradient.PolicyGradient` and `training.settings.TrainSettings`; a wrong one raises
    `InputError`.
    """

    name = "rlvr"
    needs = frozenset({Need.WEIGHTS, Need.GRADES})

    def __init__(self, algorithm: Literal["grpo", "ppo"] = "grpo", *, reward: Any = None, **settings: Any) -> None:
        self.settings = read_policy_settings({"algorithm": algorithm, **settings}, self.name)
        self.reward = None if reward is None else make_reward(reward)

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return f"{self.name}-{self.settings.policy.algorithm}"

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        return {self.name: {**self.settings.described(), "reward": self.reward and self.reward.name}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes, at most: as if every round of dynamic sampling were needed."""
        return self.settings.forecast_episodes(n_tasks)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights it learned. Raises what `train_policy` raises; running again continues."""
        rewarded = practice
        if self.reward is not None:
            for task in practice.tasks:
                self.reward.check(task)
            rewarded = practice.apart(self.reward, environment=practice.environment)
        return (await train_policy(agent, rewarded, self.settings, by=self.name, judge=practice)).agent
