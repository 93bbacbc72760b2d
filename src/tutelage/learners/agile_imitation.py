"""Imitation for agents that work through actions (AGILE, Feng et al. 2024, arXiv:2405.14751): sessions to imitate, and training on them.

The sessions run through the agent's own executor and environment and are graded like any other. Each starts from a memory of its own,
built at random from what other training tasks teach. A teacher that follows an oracle's plan for the task acts (see `agile_teacher`);
where nobody knows plans, the agent's own sessions with a high enough reward take their place (rejection sampling; Yuan et al. 2023,
arXiv:2308.01825).

Loss falls on what the agent itself says, which is its actions. A context that was cleared is a row of its own. Differing from the paper,
whose sessions GPT-4 wrote: plans come from an oracle, and whether a session's memory teaches what it needs is balanced (`known`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from pydantic import Field

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.executor import AgileExecutor, reward_of
from tutelage.experience.conversations import native_specs, segment_turns
from tutelage.experience.views import by_task, successes
from tutelage.learner import Need
from tutelage.learners.agile_memories import Lessons, Memories
from tutelage.learners.agile_oracle import MultipleChoiceOracle, Oracle, Plan, ShopOracle
from tutelage.learners.agile_oracle_productqa import ProductQAOracle
from tutelage.learners.agile_teacher import BRANCHES, Branch, Taught, actions_of, branch_of, lead, moves
from tutelage.learners.sft import FORM
from tutelage.learners.supervised import learn_weights, render, tools_of, trainable_base
from tutelage.practice import Practice
from tutelage.records import Experience, Sampling, Task, ToolSpec, content_id
from tutelage.streams import run_stream, shuffled
from tutelage.suggest import unknown
from tutelage.training.rows import SFTRow
from tutelage.training.settings import read_settings
from tutelage.training.supervised import train_sft
from tutelage.training.supervised_job import PLACE_ONLY, Job, SFTSettings, Trained


@dataclass(frozen=True)
class Lesson:
    """A session to be run: the agent as it is taught, on a task, by a plan."""

    agent: Agent
    task: Task
    plan: Plan


async def imitation_sessions(
    agent: Agent,
    practice: Practice,
    oracle: Oracle,
    *,
    memories: Memories | None = None,
    random_advice: float = 0.0,
    seed: int = 0,
    per_task: int = 1,
) -> list[Experience]:
    """Taught sessions on the practice's tasks that the grader found right, in the order of the tasks.

    The sessions run through the agent's own executor, which must be an `AgileExecutor`, over memories drawn by the seed; sessions that
    would be the very same run once. random_advice: above 0, a session seeks advice with this probability, whatever it is shown, and
    answers right without it otherwise (the paper's weak start); at 0 it does so by need. The expert is the oracle: `Plan.advice`.

    Notes `sessions_taught`, `sessions_dropped` (that the grader found wrong, or did not grade), `sessions_by_branch` and `advice_rate` of
    those that stay. Raises `InputError` for another executor, tasks that the oracle knows nothing of, and limits too narrow for a session.
    """
    lessons = await _lessons(agent, practice, oracle, memories or Memories(), random_advice, seed, per_task)
    experiences = await practice.collect_each([(lesson.agent, lesson.task) for lesson in lessons])
    right = [(lesson, experience) for lesson, experience in zip(lessons, experiences, strict=True) if successes([experience])]
    branches = Counter(branch_of(experience.episode, lesson.plan) for lesson, experience in right)
    practice.note(
        sessions_taught=len(lessons),
        sessions_dropped=len(lessons) - len(right),
        sessions_by_branch={branch: branches[branch] for branch in BRANCHES if branches[branch]},
        advice_rate=branches["advice"] / len(right) if right else None,
    )
    return [experience for _, experience in right]


async def _lessons(
    agent: Agent, practice: Practice, oracle: Oracle, memories: Memories, random_advice: float, seed: int, per_task: int
) -> list[Lesson]:
    """The sessions to run, each once."""
    executor = taught_executor(agent)
    plans = [(task, oracle.plan(task)) for task in practice.tasks]
    tools = await _callable_tools(agent, practice)
    _check_steps(agent, executor, [plan for _, plan in plans], tools)
    pool, native = Lessons(plans), agent.load().native_tools
    found: dict[tuple[str, str], Lesson] = {}
    for task, plan in plans:
        for number in range(per_task):
            random = Random(f"imitation/{seed}/{task.id}/{number}")
            knowledge = pool.memory(task, plan, memories, random, agent.knowledge)
            ask = random.random() < random_advice if random_advice else None
            taught = Taught(executor, plan, native, tools, ask)
            pupil = agent.but(model=taught.teacher(), adapter=None, knowledge=knowledge, executor=taught, sampling=Sampling())
            found.setdefault((pupil.version, task.id), Lesson(pupil, task, plan))
    return list(found.values())


def taught_executor(agent: Agent) -> AgileExecutor:
    """The agent's executor as it is taught: it does not ask by itself, and each session is the first of a stream.

    Raises `InputError` where the agent has none, or one of another kind.
    """
    if not isinstance(agent.executor, AgileExecutor):
        raise InputError("imitation needs an agent that works through actions: give it an executor (tt.AgileExecutor)", field="executor")
    return agent.executor.model_copy(update={"ask_when": None, "place": 0})


def _check_steps(agent: Agent, executor: AgileExecutor, plans: Iterable[Plan], tools: Sequence[ToolSpec]) -> None:
    longest = max((length_of(executor, plan, tools) for plan in plans), default=0)
    if longest > agent.limits.steps:
        raise InputError(f"a session takes up to {longest} actions, and the agent may take {agent.limits.steps}", field="limits.steps")


def length_of(executor: AgileExecutor, plan: Plan, tools: Sequence[ToolSpec] = ()) -> int:
    """The most actions that a session by this plan takes."""
    there = actions_of(executor, tools)
    branches: tuple[Branch, ...] = ("known", "advice") if "seek_advice" in there else ("known",)
    return len(lead(executor)) + max(len(moves(plan, branch, there)) for branch in branches)


# -- rows


def imitation_rows(
    experiences: Iterable[Experience], tasks: Iterable[Task], *, tools: Sequence[ToolSpec] = (), native_tools: bool = False
) -> list[SFTRow]:
    """Sessions as demonstrations: a row for each context, whose loss falls on the actions alone.

    All sessions are kept, also those that say the same: they were shown other things. An action that failed stays, since what follows
    answers it, and bears no loss. tools, native_tools: for a model that takes tools itself, what it was given. Raises `InputError` for a
    session on a task that is not among `tasks`.
    """
    known = {task.id: task for task in tasks}
    rows: list[SFTRow] = []
    for experience in experiences:
        episode = experience.episode
        if episode.task_id not in known:
            raise InputError(f"task {episode.task_id} of a session is not among the tasks; give the tasks of the sessions", field="tasks")
        specs = native_specs(tools, known[episode.task_id]) if native_tools else ()
        for number, segment in enumerate(episode.segments):
            turns = segment_turns(segment)
            source = episode.ref if len(episode.segments) == 1 else f"{episode.ref}#{number}"
            row = SFTRow(prompt=segment.context, completion=turns.messages, tools=specs, without_loss=turns.failed, source=source)
            rows += [row] if row.learned else []
    return rows


# -- the learner

Keyed = list[tuple[str, SFTRow]]
Source = Literal["teacher", "own"]
PLACES = frozenset({"oracle", "folder", *PLACE_ONLY})


class Options(SFTSettings):
    """`SFTSettings`, of which the paper names 2 epochs, and where the sessions come from.

    source: a `teacher` that follows an oracle, or the agent's `own` sessions.

    Of the teacher: oracle: `shop`, `productqa` or `multiple_choice`. folder: of ProductQA's files. sure: the share of
    questions that are answered without help where the oracle cannot know (facts of ProductQA, multiple choice). sessions_per_task: each
    from another memory. memory_size: from so many to so many entries. known: see `Memories`. random_advice: above 0, the share of sessions
    that seek advice, at random.

    Of own sessions: streams: so many over all training tasks, each in another order, from what the agent knows. temperature: at which they
    are sampled (None: as the agent samples). reward: the score less the price of advice, from which a session is learned from. per_task: at
    most so many sessions of a task, the best first.

    validation: the share of the tasks whose rows choose the best weights and are not trained on.
    """

    num_train_epochs: float = Field(2.0, gt=0)
    source: Source = "teacher"
    oracle: str | None = None
    folder: str | None = None
    sure: float | None = Field(None, ge=0, le=1)
    sessions_per_task: int = Field(1, ge=1)
    memory_size: tuple[int, int] = (0, 8)
    known: float = Field(0.5, ge=0, le=1)
    random_advice: float = Field(0.0, ge=0, le=1)
    streams: int = Field(1, ge=1)
    temperature: float | None = Field(None, gt=0)
    reward: float = 0.5
    per_task: int = Field(1, ge=1)
    validation: float = Field(0.1, ge=0, lt=1)

    @property
    def memories(self) -> Memories:
        """What taught sessions start from."""
        return Memories(size=self.memory_size, known=self.known)


ORACLES = ("shop", "productqa", "multiple_choice")


class AgileImitation:
    """Imitate a teacher's sessions, or the best of the agent's own. The options are those of `Options`; a wrong one raises `InputError`.

    oracle: by its name, or an `Oracle`.
    """

    name = "agile_imitation"

    def __init__(self, oracle: str | Oracle | None = None, **options: Any) -> None:
        self.oracle = oracle if isinstance(oracle, Oracle) else None
        named = oracle.name if isinstance(oracle, Oracle) else oracle
        self.options = read_settings(Options, {"oracle": named, **options}, self.name)
        _check_options(self.options, own_oracle=self.oracle is not None)
        own = self.options.source == "own"
        self.needs = frozenset({Need.WEIGHTS, Need.GRADES}) if own else frozenset({Need.WEIGHTS, Need.REFERENCES})

    def described(self) -> dict[str, Any]:
        """The settings that decide what is learned."""
        named = self.options.oracle if self.oracle is None else self.oracle.described()
        return {self.name: {**self.options.model_dump(mode="json", exclude={*PLACES}), "oracle": named}}

    def forecast_calls(self, n_tasks: int) -> int:
        """Sessions that learning will run."""
        return n_tasks * (self.options.streams if self.options.source == "own" else self.options.sessions_per_task)

    async def learn(self, agent: Agent, practice: Practice) -> Agent:
        """The agent with weights that imitate the sessions; what it knows stays as it was.

        Where no session is good enough the agent is given back as it was, and the report says so. Raises what `imitation_sessions` and
        `train_sft` raise, and `InputError` for a model whose weights are not here.
        """
        base = await trainable_base(agent)
        keyed = await self.rows(agent, practice)
        practice.note(rows=len(keyed))
        if not keyed:
            practice.note(nothing_learned="no session reached the reward from which it is learned from, so there is nothing to imitate")
            return agent
        data = content_id([row.model_dump(mode="json", exclude={"source"}) for _, row in keyed])
        return await learn_weights(agent, practice, base, self, self.options, data, lambda job: self._train(job, practice, keyed))

    def _train(self, job: Job, practice: Practice, keyed: Keyed) -> Trained:
        """A row of the agent's own that the chat template cannot carry is left out; one of the teacher's is a mistake to mend."""
        items, validation = render(FORM, job, practice, keyed, self.options, forgiving=self.options.source == "own")
        return train_sft(job, items, self.options, validation=validation)

    async def rows(self, agent: Agent, practice: Practice) -> Keyed:
        """What is learned from: rows with the id of their question."""
        sessions = await (self._own(agent, practice) if self.options.source == "own" else self._taught(agent, practice))
        tools, native = await session_tools(agent, practice)
        known = {task.id: task for task in practice.tasks}
        return [
            (known[session.episode.task_id].input_id, row)
            for session in sessions
            for row in imitation_rows([session], [known[session.episode.task_id]], tools=tools, native_tools=native)
        ]

    async def _taught(self, agent: Agent, practice: Practice) -> list[Experience]:
        options = self.options
        return await imitation_sessions(
            agent,
            practice,
            self.oracle or make_oracle(options, practice),
            memories=options.memories,
            random_advice=options.random_advice,
            seed=practice.seed,
            per_task=options.sessions_per_task,
        )

    async def _own(self, agent: Agent, practice: Practice) -> list[Experience]:
        """The agent's own sessions in streams, as far as their rewards are high enough."""
        options = self.options
        trying = _sampling_at(agent, options.temperature)
        runs = [
            await run_stream(practice, trying, shuffled(practice.tasks, practice.seed + number), attempt=number)
            for number in range(options.streams)
        ]
        best = own_sessions([session.experience for run in runs for session in run.sessions], options.reward, options.per_task)
        practice.note(sessions_own=sum(len(run.sessions) for run in runs), sessions_kept=len(best))
        return best


async def _callable_tools(agent: Agent, practice: Practice) -> tuple[ToolSpec, ...]:
    """The tools that can be called in a session, beside its actions."""
    if not taught_executor(agent).tools:
        return ()
    return tuple(spec for specs in await tools_of(agent, practice) for spec in specs)


async def session_tools(agent: Agent, practice: Practice) -> tuple[list[ToolSpec], bool]:
    """(what the model is told of its actions and tools, whether it is given them as tools of its own)."""
    executor = taught_executor(agent)
    return [*executor.specs(), *await _callable_tools(agent, practice)], executor.form == "tools" and agent.load().native_tools


def own_sessions(experiences: Iterable[Experience], reward: float, per_task: int) -> list[Experience]:
    """Sessions whose score less the price of advice is `reward` or more; at most `per_task` of a task, the best first, of equals the first.

    Sessions that are not graded, or in which a reply was cut off, are left out.
    """
    graded = [experience for experience in experiences if experience.grade.score is not None and not _was_cut(experience)]
    good = [experience for experience in graded if _reward(experience) >= reward]
    return [experience for tried in by_task(good).values() for experience in sorted(tried, key=_reward, reverse=True)[:per_task]]


def _reward(experience: Experience) -> float:
    return reward_of(experience) or 0.0


def _was_cut(experience: Experience) -> bool:
    return any(step.completion.finish == "length" for step in experience.episode.steps)


def _sampling_at(agent: Agent, temperature: float | None) -> Agent:
    if temperature is None:
        return agent
    return agent.but(sampling=agent.sampling.model_copy(update={"temperature": temperature, "seed": None}))


def make_oracle(options: Options, practice: Practice) -> Oracle:
    """The oracle that the options name, for the practice's tasks and seed."""
    given = {} if options.sure is None else {"sure": options.sure}
    if options.oracle == "productqa":
        return ProductQAOracle(options.folder, seed=practice.seed, **given)
    return MultipleChoiceOracle(practice.tasks, seed=practice.seed, **given) if options.oracle == "multiple_choice" else ShopOracle()


def _check_options(options: Options, *, own_oracle: bool) -> None:
    """Raise `InputError` where options do not go together."""
    oracle = None if own_oracle else options.oracle
    if (options.source == "own") != (options.oracle is None):
        raise InputError("a teacher needs an oracle; own sessions need none (`source: own`)", field="oracle")
    if oracle is not None and oracle not in ORACLES:
        raise InputError(unknown("an oracle", oracle, ORACLES), field="oracle")
    for name, takers in {"folder": ("productqa",), "sure": ("productqa", "multiple_choice")}.items():
        if getattr(options, name) is not None and oracle not in takers:
            raise InputError(f"is an option of the oracle {' and '.join(takers)} only", field=name)
    if not 0 <= options.memory_size[0] <= options.memory_size[1]:
        raise InputError(f"two numbers, the least and the most, and this is {list(options.memory_size)}", field="memory_size")
