"""A curriculum: learners one after the other, each given the agent that the one before it made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.learner import Learner, Need, learn_once
from tutelage.practice import Practice


class Curriculum:
    """`Curriculum(Reflexion(), Exemplars(source="success"))`; in a study file `curriculum: [{reflexion: {}}, {exemplars: {}}]`.

    What a part notes is kept under its name (`reflexion.stuck`); of two parts of one name the second is `reflexion-2`.
    """

    name = "curriculum"

    def __init__(self, *learners: Learner, names: Sequence[str] | None = None) -> None:
        _check(learners)
        self.parts = tuple(zip(_apart(names or [_name(learner) for learner in learners]), learners, strict=True))
        self.needs: frozenset[Need] = frozenset().union(*(learner.needs for learner in learners))

    @classmethod
    def of(cls, parts: Sequence[tuple[str, Learner]]) -> Curriculum:
        """A curriculum whose parts have names of their own, as a study file gives them."""
        return cls(*(learner for _, learner in parts), names=[name for name, _ in parts])

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one: `reflexion+exemplars-fixed`."""
        return "+".join(name for name, _ in self.parts)

    def described(self) -> dict[str, Any]:
        """The settings of all parts, in their order."""
        return {self.name: [learner.described() for _, learner in self.parts]}

    def forecast_calls(self, n_tasks: int) -> int:
        """Those of all parts together."""
        return sum(learner.forecast_calls(n_tasks) for _, learner in self.parts)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent that the last part made. Raises what the parts raise."""
        for name, learner in self.parts:
            agent = await _learn_apart(name, learner, agent, practice)
        return agent


async def _learn_apart(name: str, learner: Learner, agent: Agent, practice: Practice) -> Agent:
    """Let one part learn; what it notes is put under its name, so that parts do not overwrite one another's facts."""
    earlier, practice.facts = practice.facts, {}
    try:
        return await learn_once(learner, agent, practice)
    finally:
        practice.facts = earlier | {f"{name}.{fact}": value for fact, value in practice.facts.items()}


def _check(learners: Sequence[Learner]) -> None:
    if not learners:
        raise InputError("name its learners, in order, in a list: curriculum: [reflexion, exemplars]", field="learners.curriculum")
    for learner in learners:
        if not isinstance(learner, Learner):
            raise InputError(f"the parts of a curriculum are learners, and one is {learner!r}", field="learners.curriculum")


def _name(learner: Learner) -> str:
    return str(getattr(learner, "label", learner.name))


def _apart(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second of a kind on."""
    seen: dict[str, int] = {}
    apart: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        apart.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return apart
