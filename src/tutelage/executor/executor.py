"""The executor itself: the settings, and the running of one session."""

from __future__ import annotations

from tutelage.agent import Agent, Scene
from tutelage.executor.outcome import advice_entries, confidence_of, reward_of, writes_of
from tutelage.executor.settings import Settings
from tutelage.executor.sitting import Sitting
from tutelage.knowledge import Exemplar
from tutelage.records import Episode, Task

__all__ = ["AgileExecutor", "confidence_of", "reward_of", "writes_of"]


class AgileExecutor(Settings):
    """Runs an agent's sessions as actions that the model chooses; see `Settings` for the options.

    What a session writes is not put into the agent's knowledge here: whoever runs a stream does that for the next session.
    """

    @property
    def name(self) -> str:
        """`agile`."""
        return "agile"

    async def run(self, agent: Agent, task: Task, scene: Scene) -> Episode:
        """Work on the task, once. Raises as `run_episode` does, as the advisor does, and `InputError` where a setting does not fit."""
        return await Sitting(self, agent, task, scene).episode()

    def writes_of(self, episode: Episode, task: Task) -> tuple[Exemplar, ...]:
        """The entries that a session of this executor adds to memory; nothing but the episode and the task decides them."""
        written = writes_of(episode, task)
        return written if written or not self.keep_advice else advice_entries(episode, task)
