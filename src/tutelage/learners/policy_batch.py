"""What one step of reinforcement learning gathers, and which engine samples it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from tutelage.errors import InputError
from tutelage.learners.policy_state import Row
from tutelage.learners.rollouts import NO_ROLLOUTS, Group, Rollouts
from tutelage.model import Model, load_model
from tutelage.records import Experience, Task
from tutelage.training.base import Base
from tutelage.training.policy_gradient import Sample


@dataclass
class Batch:
    """What a step gathered: all groups, those that are learned from, and where the deck stands."""

    drawn: int
    kept: list[Group] = field(default_factory=list)
    all: Rollouts = NO_ROLLOUTS
    experiences: list[Experience] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    rounds: int = 0
    measured: dict[str, JsonValue] = field(default_factory=dict)

    def take(self, tasks: Sequence[Task], experiences: Sequence[Experience], rollouts: Rollouts, min_std: float | None) -> None:
        """One round. min_std: keep only groups that differ more (None: all)."""
        self.rounds += 1
        self.seen |= {task.id for task in tasks}
        self.experiences += experiences
        self.all = self.all + rollouts
        self.kept += [group for group in rollouts.groups if min_std is None or group.informative(min_std)]

    @property
    def samples(self) -> list[Sample]:
        """Those that are learned from."""
        return [sample for group in self.kept for sample in group.samples]

    @property
    def facts(self) -> Row:
        """What a row says of it; rewards and lengths are those of all groups, the dropped ones too."""
        rollouts = self.all
        row: Row = {
            "reward": rollouts.reward_mean,
            "reward_std": rollouts.reward_std,
            "reward_min": min(rollouts.rewards, default=None),
            "reward_max": max(rollouts.rewards, default=None),
            "episodes": len(rollouts.rewards),
            "groups": len(rollouts.groups),
            "dropped": len(rollouts.groups) - len(self.kept),
            "rounds": self.rounds,
            "truncated": rollouts.truncated,
            "tokens_per_answer": rollouts.tokens_per_episode,
            "left_out": {reason.value: count for reason, count in rollouts.left_out.items()},
        }
        return {**row, **self.measured}


def choose_engine(model: str | Model, base: Base, rollout: str, *, on_gpu: bool = False) -> tuple[str | Model, str]:
    """(the model that samples, its kind): for `auto` torch where it has a GPU and else the agent's own engine, or the one that is named.

    Raises `InputError` where the base did not come from a GGUF file, or the agent's model takes tools in its own way.
    """
    name = model if isinstance(model, str) else model.name
    own = name.partition(":")[0]
    wanted = ("hf" if on_gpu else own) if rollout == "auto" else rollout
    if wanted == own:
        return model, own
    if load_model(model).native_tools:
        raise InputError("a model that takes tools itself reads other prompts than the other engine; use rollout: auto", field="rollout")
    if wanted == "hf":
        return f"hf:{base.gguf or base.folder}", "hf"
    if base.gguf is None:
        raise InputError(f"{base.name} did not come from a GGUF file, and llama.cpp reads no other; use rollout: hf", field="rollout")
    return f"gguf:{base.gguf}", "gguf"


def samples_otherwise(model: str | Model, engine: str, trained_in: str) -> bool:
    """Whether what samples gives tokens other probabilities than the trainer does, by more than the last bits of float32.

    Another engine does, and so does `hf` where it or the trainer computes in a shorter format: also where both have the same, for they add
    up in another order, and what is rounded to 8 bits then differs.
    """
    return engine != "hf" or {getattr(load_model(model), "number_format", "float32"), trained_in} != {"float32"}
