"""What the arms of a run have learned, kept by what it was learned from: arms that begin alike learn their beginning once."""

from __future__ import annotations

from pathlib import Path

from tutelage.agent import Agent
from tutelage.practice import Learned
from tutelage.study.executors import executor_changes
from tutelage.study.learned import LearnedAgent, keep_adapter, read_learned, wearing, write_learned


class RunShelf:
    """`RUN/parts/FINGERPRINT.json`, weights in `RUN/adapters`. What people change in `RUN/agents` stays out of it."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def find(self, fingerprint: str, agent: Agent) -> Learned | None:
        """What was learned from the very same things, put on `agent`, with which learning began; None where nothing was, or it is lost."""
        kept = read_learned(self._path(fingerprint), fingerprint, agent)
        return None if kept is None else Learned(wearing(agent, kept), kept.cost, kept.facts, kept.episodes)

    def keep(self, fingerprint: str, learned: Learned, begun_with: Agent) -> Agent:
        """Keep it; the agent, whose weights now lie with the run."""
        agent = keep_adapter(learned.agent, begun_with, self.run)
        path = self._path(fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_learned(
            path,
            LearnedAgent(
                fingerprint=fingerprint,
                arm="part",
                seed=0,
                cost=learned.cost,
                episodes=dict(learned.episodes),
                knowledge=agent.knowledge,
                adapter=agent.adapter,
                executor=executor_changes(agent, begun_with),
                agent=agent.described(),
                facts=learned.facts,
            ),
        )
        return agent

    def _path(self, fingerprint: str) -> Path:
        return self.run / "parts" / f"{fingerprint}.json"
