"""Where the rollouts of a step come from, and what weights are judged by: the one part in which ways of reinforcement differ.

Here: several attempts at each of the next tasks. Groups whose rewards do not differ are dropped and further tasks drawn in their place
(dynamic sampling; DAPO, Yu et al. 2025, arXiv:2503.14476, and SRL). Streams of sessions over one memory are in `agile_streams.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import JsonValue

from tutelage.agent import Agent
from tutelage.errors import GraderError
from tutelage.learners.policy_batch import Batch
from tutelage.learners.policy_report import refuse_ungraded
from tutelage.learners.policy_settings import PolicySettings, n_validation
from tutelage.learners.policy_state import Deck, Row, State, split_tasks
from tutelage.learners.rollouts import Reading, read_rollouts
from tutelage.memory import Memory
from tutelage.practice import Practice
from tutelage.records import Experience, Task

Measure = Callable[[Sequence[Experience]], Mapping[str, JsonValue]]
"""What a learner wants to know of a step's episodes; it goes into the step's row."""


@dataclass(frozen=True)
class Judged:
    """What held-out tasks say of some weights: the score, tokens an episode, and what else there is to know."""

    score: float
    tokens: float
    facts: Row = field(default_factory=dict)


class Sampler(Protocol):
    """Gathers the rollouts of a step and judges weights. What it gives depends on its arguments and its own settings alone."""

    @property
    def train(self) -> Sequence[Task]:
        """The tasks that are learned from."""
        ...

    @property
    def held_out(self) -> Sequence[Task]:
        """The tasks that weights are judged by; none: they are not judged, and the last weights are taken."""
        ...

    @property
    def graders(self) -> list[str]:
        """The names of the graders that give the rewards and judge the weights."""
        ...

    @property
    def earned(self) -> str:
        """The number of a step's row that says what its episodes earned."""
        ...

    def described(self) -> dict[str, Any]:
        """Its own settings that decide what is learned."""
        ...

    async def gather(self, explorer: Agent, step: int, drawn: int, reading: Reading) -> Batch:
        """The rollouts of the step after `step` steps. explorer: wears the current weights and samples from them.

        drawn: where the batch before left off. Raises `GraderError` where nothing is graded, and what collecting raises.
        """
        ...

    async def judge(self, greedy: Agent) -> Judged:
        """The score on the held-out tasks. Raises `GraderError` where none is graded, and what collecting raises."""
        ...

    def facts(self, state: State) -> Row:
        """What the report should state of a run beside what it states of every one."""
        ...


@dataclass
class TaskSampler:
    """Attempts at single tasks. memory: what the agent knows. judging: whose grader scores the held-out tasks."""

    memory: Memory
    practice: Practice
    judging: Practice
    settings: PolicySettings
    train: Sequence[Task]
    held_out: Sequence[Task]
    measure: Measure | None = None

    def __post_init__(self) -> None:
        self.deck = Deck(self.train, self.practice.seed)
        self.names = names_of(self.practice)

    @classmethod
    def of(
        cls,
        memory: Memory,
        practice: Practice,
        judging: Practice,
        settings: PolicySettings,
        validation: Sequence[Task] | None,
        measure: Measure | None,
    ) -> TaskSampler:
        """With a share of the practice's tasks held out, or those of `validation`."""
        train, own = held_apart(practice, settings, validation is None)
        return cls(memory, practice, judging, settings, train, own if validation is None else validation, measure)

    @property
    def graders(self) -> list[str]:
        """The practice's, and the one that judges."""
        return [self.practice.grader.name, self.judging.grader.name]

    @property
    def earned(self) -> str:
        """Their reward itself."""
        return "reward"

    def described(self) -> dict[str, Any]:
        """Nothing beside the settings that all ways share."""
        return {}

    async def gather(self, explorer: Agent, step: int, drawn: int, reading: Reading) -> Batch:
        """A full batch of groups that differ, or what there is after `max_rounds` rounds."""
        loop, dynamic = self.settings.loop, self.settings.dynamic
        batch = Batch(drawn=drawn)
        first = step * loop.num_generations  # other random numbers in each step
        for _ in range(loop.max_rounds if dynamic else 1):
            tasks, batch.drawn = self.deck.draw(batch.drawn, loop.tasks_per_step - len(batch.kept), batch.seen)
            if not tasks:
                break
            experiences = await self.practice.collect(explorer, tasks, loop.num_generations, first_attempt=first, memory=self.memory)
            rollouts = read_rollouts(experiences, reading, self.names)
            batch.take(tasks, experiences, rollouts, loop.min_reward_std if dynamic else None)
            refuse_ungraded(batch.all)
            if len(batch.kept) >= loop.tasks_per_step:
                break
        batch.measured = dict(self.measure(batch.experiences)) if self.measure else {}
        return batch

    async def judge(self, greedy: Agent) -> Judged:
        """The mean score on the held-out tasks."""
        experiences = await self.judging.collect(greedy, self.held_out)
        scores = [experience.grade.score for experience in experiences if experience.grade.score is not None]
        if not scores:
            raise GraderError(f"none of the {len(self.held_out)} held-out tasks is graded: {experiences[0].grade.words}")
        return Judged(sum(scores) / len(scores), mean_tokens(experiences))

    def facts(self, state: State) -> Row:
        """Nothing more."""
        return {}


def held_apart(practice: Practice, settings: PolicySettings, share: bool = True) -> tuple[list[Task], list[Task]]:
    """(the practice's tasks to learn from, those held out), by the settings and the seed. share: False holds nothing out."""
    held_out = n_validation(settings.loop, len(practice.tasks)) if share else 0
    return split_tasks(practice.tasks, held_out, practice.seed)


def names_of(practice: Practice) -> dict[str, str]:
    """Task id -> what people call it."""
    return {task.id: task.source or task.id for task in practice.tasks}


def mean_tokens(experiences: Sequence[Experience]) -> float:
    """Tokens that an episode sampled, on average."""
    return sum(experience.episode.usage.tokens_out for experience in experiences) / len(experiences)
