"""SRL: supervised reinforcement learning. Every step of an expert's solution is a task of its own, and the reward says how near one came.

Source: Deng et al. 2025 (arXiv:2510.25992). From the question and the expert's steps before, the agent thinks freely and writes the next
step; the reward looks at the step alone (`srl_format.similarity_reward`). So a model learns from solutions that it could never have found,
and without imitating their every word. Updates are GRPO's with dynamic sampling and no divergence penalty. Best before RLVR:
`Curriculum(SRL(), RLVR())`.

Different from the source: LoRA and larger learning rates by default; prompts with a spread of rewards of at most `min_reward_std` = .01 are
passed over (the source does not give its value); the words of the prompts are ours.

The instructions to think and to write one step alone stand in the practised steps, as part of their system message, and not in the agent:
a whole task is asked afterwards just as it was before, and the learned agent differs from the given one in its adapter only.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, JsonValue

from tutelage.agent import Agent, Limits
from tutelage.errors import InputError
from tutelage.knowledge import Knowledge
from tutelage.learner import Need
from tutelage.learners.policy import train_policy
from tutelage.learners.policy_settings import PolicySettings, n_validation, read_policy_settings
from tutelage.learners.policy_state import Row
from tutelage.learners.srl_experts import Expert, Experts, Teacher, file_experts, native_task, reference_experts, success_experts
from tutelage.learners.srl_format import COMMAND_CLAUSE, TEXT_CLAUSE, StepGrader
from tutelage.learners.supervised import check_file, file_id, trainable_base
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Experience, Message, Record, Task
from tutelage.training.rows import StepRow
from tutelage.training.settings import read_settings

Source = Literal["reference", "file", "success", "teacher"]

DEFAULTS: dict[str, Any] = {"dynamic_sampling": True, "min_reward_std": 0.01}
"""Where SRL differs from the other ways of reinforcement."""

STEPS_A_SOLUTION = 6
"""So many steps a solution is taken to have where calls are forecast before any solution was seen."""


class Options(Record):
    """Where SRL's solutions come from.

    source: the training tasks' `reference`s (in words, or a call, which is one step), a `file` (JSON Lines: `question` or `prompt`, with
    `steps` or `solution`), the agent's own `success`es, or a `teacher`: the name of a model that solves the training tasks. attempts:
    episodes a task, of the teacher (None: 1) or of the agent (None: 4); more than one are sampled at `temperature`. threshold: the score
    from which the grader accepts.

    last: whether the last step of a solution in words is practised too; it states the answer, which RLVR can judge (of a file's solutions
    it never is). clause: what the agent is asked for, in place of the usual words.
    """

    source: Source = "reference"
    file: str | None = None
    teacher: Any = None
    attempts: int | None = Field(None, ge=1)
    threshold: float = 1.0
    last: bool = False
    clause: str | None = None


class SRL:
    """Learn from expert solutions step by step.

    The options are those of `Options`, and beside them the settings of RLVR (`learners.policy_settings.Loop`,
    `training.policy_gradient.PolicyGradient`, `training.settings.TrainSettings`). Held out for choosing the best weights are whole
    solutions, scored by the step reward. Rollouts have the agent's instructions, but not its knowledge, and run no tool. A wrong option
    raises `InputError`.
    """

    name = "srl"

    def __init__(
        self, source: Source = "reference", *, file: str | None = None, teacher: str | Model | None = None, **options: Any
    ) -> None:
        own = {"source": source, "file": file, "teacher": teacher}
        own |= {name: options.pop(name) for name in tuple(options) if name in Options.model_fields}
        self.settings: PolicySettings = read_policy_settings(options, self.name, DEFAULTS)
        self.options = read_settings(Options, own, self.name)
        check_file(source, file)
        if (source == "teacher") != (teacher is not None):
            way_out = "name the teacher's model, such as endpoint:NAME" if teacher is None else "set source to `teacher`, or leave it out"
            raise InputError(way_out, field="teacher")
        needs = {"reference": {Need.REFERENCES}, "file": set[Need](), "success": {Need.GRADES}, "teacher": {Need.GRADES, Need.TEACHER}}
        self.needs = frozenset({Need.WEIGHTS, *needs[source]})

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned; the file by its content, the teacher by its model's own name."""
        options = self.options
        given = {
            "file": options.file and file_id(options.file),
            "teacher": None if options.teacher is None else load_model(options.teacher).name,
        }
        return {self.name: {**options.model_dump(mode="json", exclude={*given}), **given, **self.settings.described()}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes, at most: those that find solutions, and those of every step of training with all rounds of dynamic sampling."""
        asking = self.attempts if self.options.source in ("success", "teacher") else 0
        return n_tasks * asking + self.settings.forecast_episodes(n_tasks * STEPS_A_SOLUTION)

    @property
    def attempts(self) -> int:
        """Episodes a task in search of solutions."""
        return self.options.attempts or (4 if self.options.source == "success" else 1)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with the weights it learned; as it was where neither it nor the teacher found a solution, and the report says so.

        Raises `InputError` for weights that are not here and where nobody gives solutions of two steps or more, and what `train_policy`
        raises; running again continues.
        """
        await trainable_base(agent)
        experts = await self._experts(agent, practice)
        practice.note(**experts.counts)
        if not experts.found:
            practice.note(nothing_learned=experts.why_none)
            return agent
        train, held_out = await self._tasks(experts.found, agent, practice)
        practice.note(solutions=len(experts.found), instances=len(train) + len(held_out))
        stepwise = practice.apart(StepGrader(), tasks=train)
        trained = await train_policy(stepping(agent), stepwise, self.settings, by=self.name, validation=held_out, measure=measure_steps)
        practice.note(**_first_and_last(trained.history))
        return agent.but(adapter=trained.agent.adapter)

    async def _experts(self, agent: Agent, practice: Practice) -> Experts:
        options, temperature = self.options, self.settings.policy.temperature
        if options.source == "reference":
            return reference_experts(practice.tasks, agent, last=options.last)
        if options.source == "file":
            return file_experts(str(options.file), agent, practice)
        if options.source == "success":
            return await success_experts(
                agent, practice, attempts=self.attempts, temperature=temperature, threshold=options.threshold, last=options.last
            )
        load_model(options.teacher)  # a model that cannot be had is found out before anything is spent
        return await Teacher(options.teacher, self.attempts, temperature, options.threshold, options.last).experts(agent, practice)

    async def _tasks(self, experts: Sequence[Expert], agent: Agent, practice: Practice) -> tuple[list[Task], list[Task]]:
        """(to train on, held out): the steps as tasks. Solutions of one question stay together."""
        held = _held_out(experts, n_validation(self.settings.loop, sum(len(expert.rows) for expert in experts)), practice.seed)
        split: tuple[list[Task], list[Task]] = [], []
        for expert in experts:
            clause = self.options.clause if self.options.clause is not None else COMMAND_CLAUSE if expert.acts else TEXT_CLAUSE
            for row in expert.rows:
                task = step_task(row, clause)
                split[row.task_id in held].append(await native_task(task, agent, practice) if expert.acts else task)
        return split


def step_task(row: StepRow, clause: str) -> Task:
    """A step as a task: what it is found from, with the clause at the end of the system message; the reference is the expert's step."""
    said = [message for message in row.prompt if message.role != "system"]
    system = [message for message in row.prompt if message.role == "system"]
    asked = [Message(role="system", content=clause)] if clause.strip() else []
    return Task(messages=(*system, *asked, *said), reference=row.target, kind="step", source=row.source)


def stepping(agent: Agent) -> Agent:
    """The agent as it practises a step: one turn, in which no tool runs. Its instructions stand in the step's own system message."""
    return agent.but(instructions="", tools=(), knowledge=Knowledge(), stop_on_tool=False, limits=Limits(steps=1))


def measure_steps(experiences: Sequence[Experience]) -> Row:
    """The share of replies whose form is broken, and the mean similarity of the steps in the others."""
    graded = [experience.grade for experience in experiences if "similarity" in experience.grade.parts]
    similar = [value for grade in graded if (value := grade.parts["similarity"]) is not None]
    return {
        "broken_format": (len(graded) - len(similar)) / len(graded) if graded else None,
        "similarity": fmean(similar) if similar else None,
    }


def _held_out(experts: Sequence[Expert], n_rows: int, seed: int) -> set[str]:
    """The tasks whose solutions are held out: so many that their steps come to `n_rows`, and one task at least stays."""
    sizes: dict[str, int] = {}
    for expert in experts:
        sizes[expert.rows[0].task_id] = sizes.get(expert.rows[0].task_id, 0) + len(expert.rows)
    held: set[str] = set()
    for task_id in Random(f"{seed}/srl held out").sample(sorted(sizes), len(sizes) - 1):
        if sum(sizes[each] for each in held) >= n_rows:
            break
        held.add(task_id)
    return held


def _first_and_last(history: Sequence[Row]) -> dict[str, JsonValue]:
    """Each measure as [first step, last step]; the last is a mean over the steps of training, not over held-out ones."""
    facts: dict[str, JsonValue] = {}
    for name in ("broken_format", "similarity"):
        values = [row.get(name) for row in history]
        if values:
            facts[name] = [values[0], values[-1]]
    return facts
