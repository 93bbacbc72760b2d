"""AGILE: an agent that learns end to end when to ask, what to remember and what to answer.

Source: Feng et al. 2024 (arXiv:2405.14751). A session is one question worked on through actions (see `tutelage.executor`); sessions follow
one another over a memory that grows. First the agent imitates, then its policy is optimised session by session: sample streams with the
current weights, r_i = score - price * advice, the proxy reward r~_i = r_i + A_i for what the session brings into memory
(`agile_advantage.py`), an update on the sessions as independent samples, and again. Loss falls on the tokens of actions only.

Different from the source: LoRA and larger learning rates by default; GRPO beside PPO, whose groups are attempts from one and the same
memory; the weights with the best total score on a greedy stream over held-out tasks are returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.learner import Learner, Need, learn_once
from tutelage.learners.agile_streams import StreamSampler, StreamSettings
from tutelage.learners.policy import train_with
from tutelage.learners.policy_settings import PolicySettings, n_validation, read_policy_settings
from tutelage.practice import Practice
from tutelage.training.settings import read_settings

NO_USE = {
    "tasks_per_step": "a step has `streams` of so many `sessions` each",
    "dynamic_sampling": "no sessions of a stream are drawn again",
    "max_rounds": "no sessions of a stream are drawn again",
}
"""Settings of the loop that streams leave nothing to do for, and why."""


class Agile:
    """Learn to ask, to remember and to answer, for the price that the agent's executor names.

    algorithm: `ppo` (a value head; one attempt a session unless `num_generations` says otherwise) or `grpo` (by default 4 attempts from the
    same memory are compared with each other). imitation: options of `AgileImitation`, to begin with; None: the agent is learned on as it
    is, with the adapter that it may wear. settings: those of `StreamSettings` and, as in RLVR, `learners.policy_settings.Loop`,
    `training.policy_gradient.PolicyGradient` and `training.settings.TrainSettings`. A wrong one raises `InputError`.
    """

    name = "agile"

    def __init__(
        self, algorithm: Literal["ppo", "grpo"] = "ppo", *, imitation: Mapping[str, Any] | Learner | None = None, **settings: Any
    ) -> None:
        for setting, why in NO_USE.items():
            if setting in settings:
                raise InputError(f"has no use here: {why}", field=setting)
        own = {name: settings.pop(name) for name in tuple(settings) if name in StreamSettings.model_fields}
        defaults = {"dynamic_sampling": False, "num_generations": 4 if algorithm == "grpo" else 1}
        self.streams = read_settings(StreamSettings, own, self.name)
        self.settings: PolicySettings = read_policy_settings({"algorithm": algorithm, **settings}, self.name, defaults)
        self.imitation = _imitation(imitation)
        others = frozenset[Need]() if self.imitation is None else self.imitation.needs
        self.needs = frozenset({Need.WEIGHTS, Need.GRADES}) | others

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return f"{self.name}-{self.settings.policy.algorithm}"

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        settings = {name: value for name, value in self.settings.described().items() if name not in NO_USE}
        return {self.name: {**settings, **self.streams.model_dump(mode="json"), "imitation": self.imitation and self.imitation.described()}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Sessions, those of imitation included."""
        loop = self.settings.loop
        held_out = n_validation(loop, n_tasks)
        a_step = self.streams.streams * min(self.streams.sessions, n_tasks - held_out) * loop.num_generations
        judging = held_out * (2 + (loop.steps - 1) // loop.eval_steps)
        return loop.steps * a_step + judging + (self.imitation.forecast_calls(n_tasks) if self.imitation else 0)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights it learned, its knowledge as it was.

        Raises `InputError` for an agent without an executor, or one that seeks advice where there is nobody to ask, and what
        `learners.policy.train_policy` raises; running again continues.
        """
        _check(agent, practice)
        begun = await self._imitate(agent, practice)
        sampler = StreamSampler.of(begun, practice, self.settings, self.streams)
        trained = await train_with(sampler, begun, practice, self.settings, by=self.name)
        practice.note(price=_price(agent))
        return trained.agent

    async def _imitate(self, agent: Agent, practice: Practice) -> Agent:
        """The agent that optimisation begins with; what imitation notes is kept under `imitation.`."""
        if self.imitation is None:
            return agent
        earlier, practice.facts = practice.facts, {}
        try:
            return await learn_once(self.imitation, agent, practice)
        finally:
            practice.facts = earlier | {f"imitation.{fact}": value for fact, value in practice.facts.items()}


def _imitation(given: Mapping[str, Any] | Learner | None) -> Learner | None:
    if given is None or isinstance(given, Learner):
        return given
    from tutelage.learners.agile_imitation import AgileImitation  # an agent that is learned on as it is needs no oracle

    return AgileImitation(**given)


def _price(agent: Agent) -> float:
    price: float = getattr(agent.executor, "price", 0.0)
    return price


def _check(agent: Agent, practice: Practice) -> None:
    if agent.executor is None:
        raise InputError("the agent works on sessions through actions: give it an executor (tt.AgileExecutor)", field="executor")
    names = {getattr(action, "name", action) for action in getattr(agent.executor, "actions", ())}
    if "seek_advice" in names and practice.advisor is None:
        raise InputError("the agent may seek advice and there is nobody to ask: name an advisor, or take seek_advice away", field="advisor")
