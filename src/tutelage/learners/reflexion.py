"""Reflexion: after a failed attempt the agent writes what to do differently, and tries again with these words in its prompt.

Source: Shinn et al. 2023 (arXiv:2303.11366). Act with memory; grade; on failure, write a short reflection and put it to the task's memory;
try again until it is solved or the trials are used up. Shown are the last omega reflections. Different from it: all unsolved tasks are
tried in one round after another, so that what a task sees depends on no timing and an interrupted run continues exactly; reflections may
be carried to similar tasks; and with the strategy `none` it is the plain retry that any gain has to be compared with, at equal attempts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.history import add, remove, replace
from tutelage.knowledge import Knowledge, Recall, Reflection, Retrieval
from tutelage.learner import Need
from tutelage.learners.asking import ask_all
from tutelage.learners.exemplars import success_exemplar
from tutelage.learners.self_tests import SelfTests
from tutelage.learners.trajectory import SHORTEST, Verdict, outside_texts, shorten, verdict, write_trajectory
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Episode, Experience, Message, Record, Sampling, Task
from tutelage.screening import fence
from tutelage.suggest import unknown

Strategy = Literal["none", "last_attempt", "reflections", "last_attempt_and_reflections"]
Keep = Literal["reflections", "successes", "both"]
Judge = Callable[[Task, Experience], Awaitable[Verdict]]

WORDS_CHARS = 2_000
"""So many characters of what was wrong are shown to the one who reflects."""

_SYSTEM = """\
You help an agent do better at its next attempt at a task that it has failed."""

_ASK = """\
Write a plan for the next attempt in two to four sentences: which idea, step or check was missing, and what exactly to do instead, naming \
concrete actions. Do not retell the attempt and do not describe the surroundings. Write the plan only."""


class Options(Record):
    """What decides how `Reflexion` learns.

    trials: attempts per task in all, the first included. strategy: what is shown at the next attempt: `none` (a plain retry),
    `last_attempt` (the trajectory itself), `reflections`, or `last_attempt_and_reflections`. omega: how many reflections on the task
    (Reflexion: 1 for programming, 3 otherwise). carry: on a task without reflections of its own, show the last ones on so many similar
    tasks, found by `carry_by`. threshold: the score of a success. skip: ids or kinds of tasks that are not tried.

    reflect_with: the model that writes the reflections (None: the agent's own). max_chars: of a trajectory. reflection_tokens: at most so
    many for a reflection. retry_temperature: of the retries of an agent that samples greedily, which would else repeat itself wherever
    its prompt stays the same; the learned agent keeps its own sampling. (The parts of a workflow keep theirs.)

    self_tests: let the model write so many tests for its code (Reflexion: 6), which stand in for the grader within the loop.

    keep: what the learned agent knows afterwards: its reflections, its successes as exemplars (shown as `retrieval` says), or both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    trials: int = Field(default=4, ge=1)
    strategy: Strategy = "reflections"
    omega: int = Field(default=3, ge=0)
    carry: int = Field(default=0, ge=0)
    carry_by: Literal["text", "meaning", "fused"] = "meaning"
    threshold: float = 1.0
    skip: tuple[str, ...] = ()
    reflect_with: str | Model | None = None
    max_chars: int = Field(default=6_000, ge=SHORTEST)
    reflection_tokens: int = Field(default=256, ge=1)
    retry_temperature: float | None = Field(default=None, gt=0)
    self_tests: int = Field(default=0, ge=0)
    keep: Keep = "reflections"
    retrieval: Retrieval = Retrieval(choose="text", k=3)

    @property
    def reflects(self) -> bool:
        """Whether reflections are written."""
        return self.strategy in ("reflections", "last_attempt_and_reflections")

    @property
    def shows_attempt(self) -> bool:
        """Whether the last attempt itself is shown."""
        return self.strategy in ("last_attempt", "last_attempt_and_reflections")

    def reads_after(self, number: int) -> bool:
        """Whether what is learned from attempt `number` (from 0) is shown to anyone: at a next attempt, or carried to other tasks."""
        return number + 1 < self.trials or self.carry > 0


@dataclass(frozen=True)
class Gathered:
    """The learned agent, and every trial: by round, then in the order of the tasks."""

    agent: Agent
    experiences: tuple[Experience, ...]


class Reflexion:
    """Try again with reflections on what went wrong. The options are those of `Options`; a wrong one raises `InputError`.

    An attempt that is not graded is neither a success nor a failure: its task is not reflected on and not tried again, and is counted
    (`ungraded`); an ungraded attempt that went round in circles, or took more than 30 actions, has failed.
    """

    name = "reflexion"

    def __init__(self, trials: int = 4, strategy: Strategy = "reflections", **options: Any) -> None:
        self.options = _read_options({"trials": trials, "strategy": strategy, **options})
        self.needs: frozenset[Need] = frozenset() if self.options.self_tests else frozenset({Need.GRADES})

    @property
    def label(self) -> str:
        """The name of the arm where nobody gives one."""
        return "retry" if self.options.strategy == "none" else self.name

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        model = self.options.reflect_with
        named = None if model is None else load_model(model).name
        return {self.name: {**self.options.model_dump(mode="json", exclude={"reflect_with"}), "reflect_with": named}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Episodes, reflections and questions for tests, at most: as if no task were ever solved."""
        options = self.options
        reflections = sum(options.reads_after(number) for number in range(options.trials)) if options.reflects else 0
        return n_tasks * (options.trials + reflections + bool(options.self_tests))

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with what it kept of its trials. Raises `BudgetExceeded` and `ModelUnavailable`; running again continues."""
        return (await self.gather(agent, practice)).agent

    async def gather(self, agent: Agent, practice: Practice) -> Gathered:
        """As `learn`, with all trials. Notes what happened: `solved_by_attempt` are tasks whose latest attempt, after 1, 2, ... attempts,
        was graded a success.
        """
        return await _Run(self.options, agent, practice, knowledge=agent.knowledge).gather()


@dataclass(frozen=True)
class _Attempt:
    task: Task
    experience: Experience
    verdict: Verdict

    @property
    def episode(self) -> Episode:
        return self.experience.episode


@dataclass
class _Run:
    """The state of one learning: what is known so far, and what was counted."""

    options: Options
    agent: Agent
    practice: Practice
    knowledge: Knowledge
    tests: SelfTests | None = None
    experiences: list[Experience] = field(default_factory=list)
    solved: dict[str, _Attempt] = field(default_factory=dict)
    graded_success: dict[str, bool] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    async def gather(self) -> Gathered:
        options = self.options
        if options.reflects and options.reflect_with is not None:
            load_model(options.reflect_with)  # a model that cannot be had is found out before anything is spent
        tasks = [task for task in self.practice.tasks if not {task.id, task.kind} & {*options.skip}]
        if options.self_tests and tasks:
            self.tests = await SelfTests.written_by(
                self.agent, self.practice, tasks, options.self_tests, threshold=options.threshold, max_tokens=2 * options.reflection_tokens
            )
        solved_by: list[JsonValue] = []
        waiting = tasks
        for number in range(options.trials):
            failed = await self._round(waiting, number) if waiting else []
            solved_by.append(sum(self.graded_success.values()))
            if options.reads_after(number):
                await self._reflect(failed, number)
            waiting = [attempt.task for attempt in failed]
        self._note(tasks, solved_by)
        return Gathered(self.agent.but(knowledge=self._kept()), tuple(self.experiences))

    async def _round(self, tasks: Sequence[Task], number: int) -> list[_Attempt]:
        """Try each task once; the failed attempts."""
        experiences = await self.practice.collect(self._trying(number), tasks, first_attempt=number)
        verdicts = await asyncio.gather(*(self._judge(task, experience) for task, experience in zip(tasks, experiences, strict=True)))
        attempts = [_Attempt(*row) for row in zip(tasks, experiences, verdicts, strict=True)]
        self.experiences += experiences
        for attempt in attempts:
            self._count(attempt)
        return [attempt for attempt in attempts if attempt.verdict.solved is False]

    async def _judge(self, task: Task, experience: Experience) -> Verdict:
        return await self.tests.judge(task, experience) if self.tests else verdict(experience, self.options.threshold)

    def _trying(self, number: int) -> Agent:
        """The agent with what is known so far; its first attempt is the very one that it makes without learning."""
        agent, temperature = self.agent.but(knowledge=self._informed()), self.options.retry_temperature
        if number == 0 or temperature is None or agent.sampling.temperature > 0:
            return agent
        return agent.but(sampling=agent.sampling.model_copy(update={"temperature": temperature, "seed": None}))

    def _informed(self) -> Knowledge:
        """What is known, with the way in which reflections are recalled where there are any."""
        options = self.options
        recall = Recall(omega=options.omega, carry=options.carry, by=options.carry_by)
        return self.knowledge.model_copy(update={"recall": recall}) if self.knowledge.reflections else self.knowledge

    def _count(self, attempt: _Attempt) -> None:
        task_id, score = attempt.task.id, attempt.experience.grade.score
        self.graded_success[task_id] = score is not None and score >= self.options.threshold
        if attempt.verdict.solved:
            self.solved[task_id] = attempt
        self.counts["ungraded"] += attempt.verdict.solved is None
        self.counts["stuck"] += attempt.verdict.stuck

    async def _reflect(self, failed: Sequence[_Attempt], number: int) -> None:
        """Take in what was learned from failed attempts, in the order of the tasks."""
        if self.options.strategy == "none" or not failed:
            return
        texts = await self._plans(failed) if self.options.reflects else [""] * len(failed)
        for attempt, text in zip(failed, texts, strict=True):
            self._remember(attempt, text, number)

    async def _plans(self, failed: Sequence[_Attempt]) -> list[str]:
        """What to do differently, for each attempt; empty where the model said nothing or could not be asked."""
        shown = {reflection.id: reflection.text for reflection in self.knowledge.reflections}
        questions = [
            reflection_question(
                self.agent.instructions,
                attempt.task,
                attempt.episode,
                attempt.verdict.words,
                notes=[shown[id] for id in attempt.episode.shown if shown.get(id)],
                max_chars=self.options.max_chars,
            )
            for attempt in failed
        ]
        sampling = Sampling(max_tokens=self.options.reflection_tokens)
        replies = await ask_all(self.practice, self.options.reflect_with or self.agent, questions, sampling, "reflections")
        self.counts["reflections_failed"] += replies.count(None)
        self.counts["reflections_empty"] += replies.count("")
        return [reply or "" for reply in replies]

    def _remember(self, attempt: _Attempt, text: str, number: int) -> None:
        options, task = self.options, attempt.task
        trajectory = write_trajectory(task, attempt.episode, options.max_chars) if options.shows_attempt else ""
        if not text and not trajectory:
            return
        reflection = Reflection(
            task_id=task.id,
            input_id=task.input_id,
            task_text=task.text,
            attempt=number,
            text=text,
            trajectory=trajectory,
            kind=task.kind,
        )
        said_by_others = outside_texts(task, attempt.episode)
        self.knowledge = add(self.knowledge, [reflection], by=Reflexion.name, episodes=[attempt.episode.ref], untrusted=said_by_others)
        if self.knowledge.find(reflection.id) is None:
            held = any(item.entry.id == reflection.id for item in self.knowledge.held)
            self.counts["reflections_held" if held else "reflections_refused"] += 1
            return
        self.counts["reflections_written"] += bool(text)
        self.knowledge = _only_last_attempt(self.knowledge, reflection)

    def _kept(self) -> Knowledge:
        keep, known = self.options.keep, self._informed()
        if keep == "reflections":
            return known
        if keep == "successes":
            known = self.agent.knowledge
        for attempt in self.solved.values():
            case = success_exemplar(attempt.task, attempt.episode)
            known = add(known, [case], by=Reflexion.name, episodes=[attempt.episode.ref])
        return known.model_copy(update={"retrieval": self.options.retrieval}) if self.solved else known

    def _note(self, tasks: Sequence[Task], solved_by: list[JsonValue]) -> None:
        names = ["stuck", "ungraded"]
        if self.options.strategy != "none":
            names += ["reflections_written", "reflections_empty", "reflections_failed", "reflections_held", "reflections_refused"]
        facts: dict[str, JsonValue] = {name: self.counts[name] for name in names}
        facts |= {"attempts": len(self.experiences), "skipped": len(self.practice.tasks) - len(tasks)}
        if self.options.strategy == "none" and self._trying(1).sampling.temperature == 0 and self.agent.workflow is None:
            facts["greedy_retries_repeat_themselves"] = True
        if self.tests:
            facts |= self.tests.facts(tasks)
        self.practice.note(solved_by_attempt=solved_by, practice_tasks=len(tasks), **facts)


def reflection_question(
    instructions: str, task: Task, episode: Episode, words: str, *, notes: Sequence[str] = (), max_chars: int = 6_000
) -> list[Message]:
    """What the one who reflects is asked. words: what was wrong. notes: the reflections that the agent had at this attempt."""
    sections = {
        "The agent's instructions:": instructions.strip(),
        "The task:": fence(shorten(task.text, max_chars), "user"),
        "The failed attempt:": write_trajectory(task, episode, max_chars),
        "What was wrong with it:": fence(shorten(words.strip() or "The task was not solved.", WORDS_CHARS), "grader"),
        "The plans that it had, and that did not suffice:": "\n".join(f"- {note}" for note in notes),
    }
    asked = "\n\n".join([*(f"{heading}\n{body}" for heading, body in sections.items() if body), _ASK])
    return [Message(role="system", content=_SYSTEM), Message(role="user", content=asked)]


def _only_last_attempt(knowledge: Knowledge, last: Reflection) -> Knowledge:
    """Of the attempts at one task only the last is shown itself; of those before it the reflection alone stays, if there is one."""
    for earlier in knowledge.reflections:
        if earlier.input_id != last.input_id or earlier.id == last.id or not earlier.trajectory:
            continue
        if earlier.text:
            alone = earlier.model_copy(update={"trajectory": ""})
            knowledge = replace(knowledge, earlier.id, alone, by=Reflexion.name, note="a later attempt is shown")
        else:
            knowledge = remove(knowledge, earlier.id, by=Reflexion.name, note="a later attempt is shown")
    return knowledge


def _read_options(options: dict[str, Any]) -> Options:
    for name in options:
        if name not in Options.model_fields:
            raise InputError(unknown("an option of reflexion", name, Options.model_fields), field=f"learners.reflexion.{name}")
    if isinstance(options.get("skip"), str):
        options = {**options, "skip": (options["skip"],)}
    try:
        return Options(**options)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}, and here is {first['input']!r}", field=f"learners.reflexion.{place}") from None
