"""The weights of a run of reinforcement learning: the trainer that changes them, and the adapters that agents wear meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tutelage.adapter import Adapter, read_adapter
from tutelage.agent import Agent
from tutelage.learners.policy_settings import PolicySettings
from tutelage.learners.policy_state import State
from tutelage.training.base import Base, DType, name_of
from tutelage.training.extra import needs_train
from tutelage.training.policy_gradient import Sample

if TYPE_CHECKING:
    from tutelage.training.trainer import PolicyTrainer


_TIMES = {"seconds", "steps"}
"""Reported by the trainer, and by the loop under clearer names."""


@dataclass(frozen=True)
class Weights:
    """The trainer, and the folder of adapters. own: what the agent wore to begin with. facts: kept with each adapter."""

    trainer: PolicyTrainer
    folder: Path
    own: Adapter | None
    facts: Mapping[str, JsonValue]

    @classmethod
    def open(
        cls, base: Base, agent: Agent, settings: PolicySettings, folder: Path, run: str, seed: int, facts: Mapping[str, JsonValue]
    ) -> Weights:
        """Load the base. folder: of the practice. Raises `MissingExtra` without torch, `InputError` where settings and base do not fit."""
        with needs_train("learning with weights"):
            from tutelage.training.trainer import PolicyTrainer
        policy = settings.policy
        if "max_completion_length" not in policy.model_fields_set:
            policy = policy.model_copy(update={"max_completion_length": agent.sampling.max_tokens})
        checkpoints, planned = folder / "checkpoints" / run, settings.loop.steps
        trainer = PolicyTrainer(base, settings.train, policy, checkpoints, adapter=agent.adapter, seed=seed, total_updates=planned)
        return cls(trainer, folder / "adapters", agent.adapter, facts)

    @property
    def on_gpu(self) -> bool:
        """Whether the trainer works on a GPU."""
        return self.trainer.network.device.type == "cuda"

    @property
    def number_format(self) -> DType:
        """What the trainer computes in."""
        return name_of(self.trainer.formats.computed)

    def restore(self) -> State | None:
        """Go on from the last checkpoint, where there is one."""
        kept = self.trainer.restore()
        if kept is None:
            return None
        state = State.model_validate(kept)
        if state.adapter is not None and not (self.folder / state.adapter).is_dir():
            self.save(state.step)
        return state

    def update(self, samples: Sequence[Sample], step: int, *, foreign: bool) -> tuple[dict[str, float], str]:
        """(what is to report, the id of the new adapter). Raises `Diverged`."""
        metrics = self.trainer.update(samples, foreign=foreign)
        return {name: value for name, value in metrics.items() if name not in _TIMES}, self.save(step)

    def save(self, step: int) -> str:
        """Save the current weights as an adapter; its id is by their content."""
        return self.trainer.save_adapter(self.folder, {**self.facts, "step": step}).id

    def checkpoint(self, state: State) -> None:
        """Keep all that is needed to go on from here."""
        self.trainer.checkpoint(state.model_dump(mode="json"))

    def adapter(self, which: str | None) -> Adapter | None:
        """An adapter of this run (None: what the agent wore to begin with)."""
        return self.own if which is None else read_adapter(self.folder / which)

    def remove(self, ids: set[str]) -> None:
        """Let go of adapters that nothing needs."""
        for which in ids:
            shutil.rmtree(self.folder / which, ignore_errors=True)
