"""Where SRL's expert solutions come from: references, a file, the agent's own successes, or a stronger model that the grader checks.

Every solution ends up as `StepRow`s. Those in words are asked as the agent is asked, without what it knows: exemplars would show whole
solutions, the task's own among them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.experience.expert_steps import episode_steps
from tutelage.experience.views import best_per_task, first_messages, successes
from tutelage.graders.load import grade_episode
from tutelage.learners.asking import ask_all
from tutelage.learners.supervised import tools_of, trying
from tutelage.model import Model, load_model
from tutelage.practice import Practice
from tutelage.records import Experience, Message, Sampling, Task
from tutelage.screening import fence
from tutelage.tasks import reference_messages
from tutelage.tool_protocol import render_call
from tutelage.training.row_files import read_step_rows
from tutelage.training.rows import StepRow
from tutelage.training.steps_text import split_steps, step_rows

SOLVE_CLAUSE = """\
Solve it in numbered steps, one below the other: `1. Title: what is done and what comes of it`, `2. Title: ...`. Each step does one thing. \
After the last step, state the answer in the form that is asked for."""

REWRITE_ASK = """\
Below are a task and its solution. Write the solution anew in numbered steps, one below the other: `1. Title: what is done and what comes \
of it`, `2. Title: ...`. Each step does one thing. Change nothing of what is found, and end with the answer in the form that the task asks \
for. Write the steps and nothing else."""

CALL_BEGIN = re.compile(r"\s*<tool_call>")

TEACHER_TOKENS = 1_024
"""A teacher has room for at least so many tokens, whatever the agent has."""


@dataclass(frozen=True)
class Expert:
    """One solution as rows, which share a task. acts: its steps are an agent's commands, else those of a text."""

    rows: tuple[StepRow, ...]
    acts: bool = False


@dataclass
class Experts:
    """The solutions of a source, in the order of its tasks, and what was counted on the way. why_none: what to say where there is none."""

    found: list[Expert] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    why_none: str = ""

    def add_text(self, task: Task, text: str, agent: Agent, *, last: bool) -> None:
        """A solution in words; one of a single step has nothing to be led up to, and is counted only."""
        steps = split_steps(text)
        if len(steps) < 2:
            self.counts["solutions_of_one_step"] += 1
            return
        prompt = first_messages(agent, task, (), native_tools=True, bare=True)
        self.found.append(Expert(tuple(step_rows(prompt, steps, task.id, last=last, source=task.source or task.id))))

    def add_call(self, task: Task, message: Message, agent: Agent) -> None:
        """A solution that is a call, or several at once: one step."""
        specs = (*(item.spec for item in agent.tools), *task.tools)
        prompt = first_messages(agent, task, specs, native_tools=agent.load().native_tools, bare=True)
        target = "\n".join(map(render_call, message.tool_calls))
        row = StepRow(prompt=prompt, target=target, task_id=task.id, number=1, source=task.source or task.id)
        self.found.append(Expert((row,), acts=True))

    def add_actions(self, experience: Experience) -> None:
        """An episode with tool calls: each turn that acts is a step."""
        rows = episode_steps([experience], threshold=float("-inf"))
        if rows:
            self.found.append(Expert(tuple(rows), acts=True))


def reference_experts(tasks: Iterable[Task], agent: Agent, *, last: bool) -> Experts:
    """The tasks' references: in words of two steps or more, or a call, which is a step by itself; other tasks are counted.

    Raises `InputError` where no task has such a one.
    """
    experts = Experts()
    for task in tasks:
        messages = reference_messages(task) or ()
        if len(messages) == 1 and messages[0].tool_calls:
            experts.add_call(task, messages[0], agent)
        elif len(messages) == 1:
            experts.add_text(task, messages[0].text, agent, last=last)
        else:
            experts.counts["tasks_without_solution"] += 1
    if not experts.found:
        short = experts.counts["solutions_of_one_step"]
        said = "all references in words have one step only" if short else "no task has a reference in words, or as a call"
        raise InputError(f"{said}; write solutions in steps as references, or set source to file, teacher or success", field="source")
    return experts


def file_experts(path: str, agent: Agent, practice: Practice) -> Experts:
    """The solutions in a file of steps. Raises `SealedError` where a question belongs to the test split, and `InputError` for a bad row.

    A question that has no system message of its own is asked under the agent's instructions.
    """
    rows = read_step_rows(path)
    asked = [tuple(message for message in row.prompt if message.role != "system") for row in rows]
    practice.apart(practice.grader, tasks=[Task(messages=messages, source=row.source) for messages, row in zip(asked, rows, strict=True)])
    by_task: dict[str, list[StepRow]] = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(_under(row, agent.instructions.strip()))
    return Experts([Expert(tuple(own), acts=all(CALL_BEGIN.match(row.target) for row in own)) for own in by_task.values()])


def _under(row: StepRow, instructions: str) -> StepRow:
    if not instructions or any(message.role == "system" for message in row.prompt):
        return row
    return row.model_copy(update={"prompt": (Message(role="system", content=instructions), *row.prompt)})


async def success_experts(agent: Agent, practice: Practice, *, attempts: int, temperature: float, threshold: float, last: bool) -> Experts:
    """The agent's own successes, the best one of each training task."""
    experts = Experts()
    tried = await practice.collect(trying(agent, attempts, temperature if attempts > 1 else None), attempts=attempts)
    by_id = {task.id: task for task in practice.tasks}
    for experience in best_per_task(successes(tried, threshold)).values():
        if _acts(experience):
            experts.add_actions(experience)
        else:
            experts.add_text(by_id[experience.episode.task_id], experience.episode.answer or "", agent, last=last)
    experts.why_none = (
        f"of {len(tried)} episodes of the agent none reached a score of {threshold:g} in two steps or more: raise attempts, lower the "
        "threshold, or set source to reference, file or teacher"
    )
    return experts


@dataclass(frozen=True)
class Teacher:
    """A stronger model that solves the training tasks; what the grader accepts is learned from.

    It is given the agent's instructions, tools and knowledge and, where there are no tools, is asked for numbered steps. A solution that
    the grader accepts but that has one step only is rewritten into steps by the teacher, and graded again.
    """

    model: str | Model
    attempts: int
    temperature: float
    threshold: float
    last: bool

    async def experts(self, agent: Agent, practice: Practice) -> Experts:
        """Its solutions. Raises `InputError` where its tool calls are not of the agent's form."""
        experts, tasks = Experts(), {task.id: task for task in practice.tasks}
        tried = await practice.collect(self.agent(agent, practice), attempts=self.attempts)
        best = best_per_task(successes(tried, self.threshold))
        experts.counts["tasks_not_solved_by_teacher"] = len(tasks) - len(best)
        experts.counts["teacher_episodes_not_graded"] = sum(experience.grade.score is None for experience in tried)
        acting = [experience for experience in best.values() if _acts(experience)]
        if acting:
            self._check_form(agent)
        for experience in acting:
            experts.add_actions(experience)
        written = [experience for experience in best.values() if not _acts(experience)]
        for experience, text in await self._in_steps(practice, written, tasks, experts.counts):
            experts.add_text(tasks[experience.episode.task_id], text, agent, last=self.last)
        experts.why_none = self._why_none(tried)
        return experts

    def agent(self, agent: Agent, practice: Practice) -> Agent:
        """The teacher at the agent's place."""
        acts = agent.tools or practice._collector.environment or any(task.tools for task in practice.tasks)
        parts = [agent.instructions.strip(), "" if acts else SOLVE_CLAUSE]
        sampling = agent.sampling.model_copy(update={"max_tokens": max(agent.sampling.max_tokens, TEACHER_TOKENS)})
        own = agent.but(model=self.model, adapter=None, instructions="\n\n".join(filter(None, parts)), sampling=sampling)
        return trying(own, self.attempts, self.temperature if self.attempts > 1 else None)

    async def _in_steps(
        self, practice: Practice, solved: Sequence[Experience], tasks: dict[str, Task], counts: Counter[str]
    ) -> list[tuple[Experience, str]]:
        """The text of each solution, rewritten where it had one step and the grader accepts what the teacher made of it."""
        texts = [experience.episode.answer or "" for experience in solved]
        short = [place for place, text in enumerate(texts) if len(split_steps(text)) < 2]
        questions = [_rewrite_question(tasks[solved[place].episode.task_id], texts[place]) for place in short]
        replies = await ask_all(practice, self.model, questions, Sampling(max_tokens=TEACHER_TOKENS), "rewriting") if short else []
        for place, reply in zip(short, replies, strict=True):
            episode = solved[place].episode.model_copy(update={"answer": reply})
            score = (await grade_episode(practice.grader, tasks[episode.task_id], episode)).score
            accepted = bool(reply) and score is not None and score >= self.threshold
            texts[place] = reply if accepted and reply else texts[place]
            counts["solutions_rewritten" if accepted else "rewritten_solutions_refused"] += 1
        return list(zip(solved, texts, strict=True))

    def _check_form(self, agent: Agent) -> None:
        """Calls in the prompt's text and calls in the model's own format make different prompts: steps of one do not teach the other."""
        theirs, own = load_model(self.model).native_tools, agent.load().native_tools
        if theirs != own:
            raise InputError(
                f"the teacher {'takes' if theirs else 'does not take'} tools in a format of its own, and the agent "
                f"{'does' if own else 'does not'}; load the teacher so that it does as the agent does (endpoint:NAME?native_tools="
                f"{str(own).lower()})",
                field="teacher",
            )

    def _why_none(self, tried: Sequence[Experience]) -> str:
        scores = [experience.grade.score for experience in tried if experience.grade.score is not None]
        best = f"the best score is {max(scores):g}" if scores else "none was graded"
        words = next((x.grade.words for x in tried if x.grade.words and (x.grade.score is None or x.grade.score < self.threshold)), "")
        said = f"; the grader said of the first that it refused: {words}" if words else ""
        return f"of the teacher's {len(tried)} solutions none reached a score of {self.threshold:g} in two steps or more; {best}{said}"


async def native_task(task: Task, agent: Agent, practice: Practice) -> Task:
    """The task with the tools declared that a model with a format of its own is told of; elsewhere the prompt describes them in words."""
    if not agent.load().native_tools:
        return task
    own, of_environment = await tools_of(agent, practice)
    return task.model_copy(update={"tools": (*own, *of_environment, *task.tools)})


def _acts(experience: Experience) -> bool:
    return any(step.calls for step in experience.episode.steps)


def _rewrite_question(task: Task, solution: str) -> list[Message]:
    parts = [REWRITE_ASK, "The task:", fence(task.text, "user"), "The solution:", fence(solution, "model")]
    return [Message(role="user", content="\n\n".join(parts))]
