"""Streams: sessions worked on one after another over one memory that grows (AGILE, Feng et al. 2024, arXiv:2405.14751).

A session is one episode of an agent with an executor. Its memory S_i is an ordinary `Knowledge` snapshot, and the session is run by the
agent that knows S_i, so the agent's version names S_i, a store finds the session again, and nothing is run twice. S_{i+1} is S_i with what
the session wrote, a pure fold. Hence a stream that was interrupted, or split over processes, goes the same way as one in one piece, and any
session can be run again from its own S_i.

A session whose model failed writes nothing; it is tried again when the stream is run again, and so is what followed from it, where it
writes something then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from tutelage.agent import Agent
from tutelage.collector import Collector, Job
from tutelage.errors import InputError
from tutelage.executor import reward_of, writes_of
from tutelage.experience.store import Store
from tutelage.files import write_atomically
from tutelage.history import add
from tutelage.knowledge import Exemplar, Knowledge
from tutelage.practice import Practice
from tutelage.progress import Stage
from tutelage.records import Episode, Experience, Record, StopReason, Task, content_id


class SessionStream(Record):
    """A stream as a plan: the ids of its tasks in their order, and the seed and the attempt of its sessions.

    agent: the version of the agent that begins. memory: the id of S_0, what it knows then. first: the place of the first session.
    """

    tasks: tuple[str, ...]
    agent: str
    memory: str
    seed: int = 0
    attempt: int = 0
    first: int = 0


@dataclass(frozen=True)
class StreamSession:
    """One session of a stream. place: how many went before it. memory_id: the id of S_i. writes: what it added to the memory."""

    place: int
    task: Task
    experience: Experience
    memory_id: str
    writes: tuple[Exemplar, ...] = ()

    @property
    def asked(self) -> bool:
        """Whether it got advice."""
        return bool(self.experience.episode.advice)

    @property
    def score(self) -> float | None:
        """The grade's score; None: not graded."""
        return self.experience.grade.score

    @property
    def reward(self) -> float | None:
        """The score less the price of the advice; None: not graded."""
        return reward_of(self.experience)


@dataclass(frozen=True)
class StreamRun:
    """A stream as it went. agent: as it began. start: S_0. memory: what is known after the last session."""

    agent: Agent
    start: Knowledge
    sessions: tuple[StreamSession, ...]
    memory: Knowledge
    seed: int = 0
    attempt: int = 0

    @property
    def first(self) -> int:
        """The place of the first session."""
        return self.sessions[0].place if self.sessions else 0

    @property
    def plan(self) -> SessionStream:
        """What would run it again."""
        order = tuple(session.task.id for session in self.sessions)
        return SessionStream(
            tasks=order, agent=self.agent.version, memory=self.start.id, seed=self.seed, attempt=self.attempt, first=self.first
        )

    def snapshots(self) -> Iterator[Knowledge]:
        """S_0, S_1, ...: what was known before each session, and after the last."""
        knowledge = self.start
        yield knowledge
        for session in self.sessions:
            knowledge = grown(knowledge, session)
            yield knowledge

    def memory_at(self, place: int) -> Knowledge:
        """S_i: what was known before the session at this place. Raises `InputError` where there is none."""
        self.session(place)
        return next(knowledge for at, knowledge in enumerate(self.snapshots(), self.first) if at == place)

    def session(self, place: int) -> StreamSession:
        """The session at this place. Raises `InputError` where there is none."""
        found = next((session for session in self.sessions if session.place == place), None)
        if found is None:
            there = (
                f"the sessions {self.first} to {self.first + len(self.sessions) - 1}, and no {place}" if self.sessions else "no sessions"
            )
            raise InputError(f"the stream has {there}")
        return found


class Block(Record):
    """Sessions that follow one another: their number, how many are graded, and means over the graded ones (None: there is none).

    rate: the share that got advice. score: before the price of advice. total: the score less that price.
    """

    first: int
    sessions: int
    graded: int
    rate: float | None
    score: float | None
    total: float | None


def shuffled(tasks: Iterable[Task], seed: int) -> tuple[Task, ...]:
    """The tasks in an order that the seed and the tasks decide, however they stood before; a part of the tasks keeps its order."""
    return tuple(sorted(tasks, key=lambda task: content_id([seed, task.id])))


def paid(experience: Experience) -> float:
    """The price of the advice that an episode got, in units of reward."""
    return sum(advice.price for advice in experience.episode.advice)


async def run_stream(
    source: Collector | Practice,
    agent: Agent,
    tasks: Sequence[Task],
    *,
    seed: int | None = None,
    attempt: int = 0,
    memory: Knowledge | None = None,
    first: int = 0,
    arm: str = "",
) -> StreamRun:
    """Work on the tasks one after another; each session knows what those before it wrote.

    seed: of the sessions (default: the practice's own, else 0). attempt: tells streams over the same tasks apart; several may run side by
    side. memory: S_0 (default: what the agent knows). first: how many sessions of the stream went before, where it is continued from their
    memory. Sessions that the store holds are taken from there. Raises `InputError` for an agent without an executor, and as
    `Collector.run` and `Practice.collect` do.
    """
    if agent.executor is None:
        raise InputError("a stream needs an agent with an executor, whose sessions write the memory", field="executor")
    runner = _Runner(source, seed, attempt, arm)
    start = knowledge = agent.knowledge if memory is None else memory
    sessions: list[StreamSession] = []
    with runner.stage(arm or "stream", len(tasks)) as stage:
        for place, task in enumerate(tasks, first):
            session = await _run_session(runner, agent, task, knowledge, place)
            sessions.append(session)
            knowledge = grown(knowledge, session)
            stage.advance(_so_far(sessions))
    return StreamRun(agent, start, tuple(sessions), knowledge, runner.seed, attempt)


async def _run_session(runner: _Runner, agent: Agent, task: Task, knowledge: Knowledge, place: int) -> StreamSession:
    experience = await runner.run(knowing(agent, knowledge, place), task)
    return StreamSession(place, task, experience, knowledge.id, written(agent, task, experience))


def knowing(agent: Agent, knowledge: Knowledge, place: int) -> Agent:
    """The agent of one session: it knows S_i, and its place in the stream where that matters."""
    executor: Any = agent.executor
    if getattr(executor, "advice_first", None) is None:
        return agent.but(knowledge=knowledge)
    return agent.but(knowledge=knowledge, executor=executor.model_copy(update={"place": place}))


def written(agent: Agent, task: Task, experience: Experience) -> tuple[Exemplar, ...]:
    """What a session adds to the memory; nothing where its model failed. An executor of another kind may have a `writes_of` of its own."""
    if experience.episode.stop is StopReason.MODEL_ERROR:
        return ()
    own: Callable[[Episode, Task], tuple[Exemplar, ...]] = getattr(agent.executor, "writes_of", writes_of)
    return tuple(own(experience.episode, task))


def grown(knowledge: Knowledge, session: StreamSession) -> Knowledge:
    """S_{i+1} from S_i: screened, on the record, and alike whenever it is worked out."""
    if not session.writes:
        return knowledge
    episode = session.experience.episode
    return add(knowledge, session.writes, by="session", episodes=[episode.ref], when=session.experience.when)


class _Runner:
    """Runs sessions one at a time with what a collector or a practice has, without a bar for each."""

    def __init__(self, source: Collector | Practice, seed: int | None, attempt: int, arm: str) -> None:
        own = source.seed if isinstance(source, Practice) else 0
        self.seed, self.attempt, self._arm, self._loud = own if seed is None else seed, attempt, arm, source
        self._source = source.quietly(self.seed) if isinstance(source, Practice) else source.quietly()

    async def run(self, agent: Agent, task: Task) -> Experience:
        if isinstance(self._source, Practice):
            (experience,) = await self._source.collect(agent, [task], first_attempt=self.attempt)
        else:
            (experience,) = await self._source.run(agent, [Job(task, self.seed, self.attempt)], arm=self._arm)
        return experience

    def stage(self, label: str, total: int) -> Stage:
        return self._loud.stage("stream", total) if isinstance(self._loud, Practice) else self._loud.progress.stage(label, total)


def _so_far(sessions: Sequence[StreamSession]) -> str:
    rewards = [session.reward for session in sessions if session.reward is not None]
    return f"score {fmean(rewards):.3f}, advice {fmean(session.asked for session in sessions):.2f}" if rewards else ""


async def replay(run: StreamRun, place: int, collector: Collector) -> Experience:
    """Run a session again from its own S_i, taking nothing from the store or from kept replies.

    collector: whose grader, environment, advisor and budget are used. What the store holds stays as it is. The same session comes out
    where the model, the environment and the advisor answer alike under a seed. Raises `InputError` where there is no such session.
    """
    session, memory = run.session(place), run.memory_at(place)
    with Store(":memory:") as store:
        again = Collector(
            collector.grader,
            store=store,
            study=collector.study,
            environment=collector.environment,
            prices=collector.prices,
            advisor=collector.advisor,
        )
        again.meter = collector.meter
        (experience,) = await again.run(knowing(run.agent, memory, place), [Job(session.task, run.seed, run.attempt)])
    return experience


def blocks(sessions: StreamRun | Sequence[StreamSession], n: int) -> tuple[Block, ...]:
    """The stream in `n` parts that follow one another, as even as can be; fewer where there are fewer sessions."""
    found = sessions.sessions if isinstance(sessions, StreamRun) else sessions
    return tuple(_block(found[part.start : part.stop]) for part in parts(len(found), n))


def parts(total: int, n: int) -> list[range]:
    """`total` places in at most `n` ranges without an empty one, whose lengths differ by one at most, the longer ones first."""
    n = min(n, total)
    ends = [-(-total * part // n) for part in range(n + 1)] if n > 0 else []
    return [range(start, stop) for start, stop in pairwise(ends)]


def _block(sessions: Sequence[StreamSession]) -> Block:
    graded = [session for session in sessions if session.score is not None]
    return Block(
        first=sessions[0].place,
        sessions=len(sessions),
        graded=len(graded),
        rate=fmean(session.asked for session in graded) if graded else None,
        score=_mean(session.score for session in graded),
        total=_mean(session.reward for session in graded),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# -- files


class _Line(Record):
    """A session in a stream's file. memory: the id of S_i. episode: its `ref`. writes: ids of what it added."""

    place: int
    task: str
    memory: str
    episode: str
    asked: bool
    score: float | None
    reward: float | None
    writes: tuple[str, ...] = ()


def save_stream(run: StreamRun, path: str | Path) -> None:
    """Write a stream as JSON lines: the plan, then a line for each session. The episodes are the store's. Raises `StoreError`."""
    lines = [run.plan.model_dump(mode="json"), *(_line(session).model_dump(mode="json") for session in run.sessions)]
    write_atomically(Path(path), "".join(json.dumps(line) + "\n" for line in lines))


def _line(session: StreamSession) -> _Line:
    return _Line(
        place=session.place,
        task=session.task.id,
        memory=session.memory_id,
        episode=session.experience.episode.ref,
        asked=session.asked,
        score=session.score,
        reward=session.reward,
        writes=tuple(entry.id for entry in session.writes),
    )


def load_stream(path: str | Path, agent: Agent, tasks: Iterable[Task], collector: Collector, memory: Knowledge | None = None) -> StreamRun:
    """The stream in a file, its episodes taken from the collector's store; nothing is run.

    agent: the one that ran it. memory: S_0, where it was not what the agent knows. Raises `InputError` where the file is no stream, or
    where agent, tasks, memory or store are not those that it was run with.
    """
    path = Path(path)
    plan, lines = _read(path)
    start = knowledge = agent.knowledge if memory is None else memory
    if (agent.version, start.id) != (plan.agent, plan.memory):
        raise InputError(f"another agent, or another memory, ran this stream: agent {plan.agent}, memory {plan.memory}", file=path)
    by_id = {task.id: task for task in tasks}
    sessions: list[StreamSession] = []
    for number, line in enumerate(lines, 2):
        task = by_id.get(line.task)
        if task is None:
            raise InputError(f"the task {line.task} is not among the tasks that were given", file=path, line=number, field="task")
        session = _found(line, plan, agent, task, knowledge, collector)
        if session is None:
            raise InputError("the store does not hold this session, or it went otherwise", file=path, line=number, field="episode")
        sessions.append(session)
        knowledge = grown(knowledge, session)
    return StreamRun(agent, start, tuple(sessions), knowledge, plan.seed, plan.attempt)


def _read(path: Path) -> tuple[SessionStream, list[_Line]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError("there is no stream here; `tutelage run` writes them to RUN/streams/", file=path) from None
    number = 1
    try:
        plan = SessionStream.model_validate_json(lines[0] if lines else "")
        found: list[_Line] = []
        for number, line in enumerate(lines[1:], 2):  # noqa: B007 (the number of the line that fails)
            found.append(_Line.model_validate_json(line))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise InputError(
            f"not a stream of sessions: {first['msg']}", file=path, line=number, field=".".join(map(str, first["loc"])) or None
        ) from None
    return plan, found


def _found(line: _Line, plan: SessionStream, agent: Agent, task: Task, knowledge: Knowledge, source: Collector) -> StreamSession | None:
    """The session in the store; None where it is not there, or began with another memory."""
    version = knowing(agent, knowledge, line.place).version
    experience = source.store.find(source.study, version, task.id, plan.seed, plan.attempt, source.grader.name)
    if experience is None or knowledge.id != line.memory or experience.episode.ref != line.episode:
        return None
    return StreamSession(line.place, task, experience, line.memory, written(agent, task, experience))
